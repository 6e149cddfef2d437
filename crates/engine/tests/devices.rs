//! What the rules promise about devices: checkpoints, yielding, several devices at once.

mod rules;

use std::collections::BTreeSet;

use plexus_engine::{
    Answer, Command, JobReason, JobSpec, JobState, Misfit, Params, Priority, ReceiptOutcome, Rejection,
    Release, WorkerReason,
};
use protocol::{Amount, JobId, LeaseId, PublicKey, WorkerOffer};
use rules::{AUDIT, CLIENT, MARKET, World, key, spec, world};

#[test]
fn what_a_checkpoint_committed_is_never_run_again() {
    let mut world = world(&[1, 2]);
    let mut large = spec(10, AUDIT);
    large.stages[0].package_units = Some(10);
    let job = world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (first, units) = world.receipt_of_first(lease, 4, 0);
    let rest = world.checkpoint(lease, 4).expect("six units are left");
    // The same receipt again, because its answer was lost: the same answer, and nothing is split twice.
    let again = Command::Commit {
        receipt: first.into(),
        signature: protocol::Signature([0; 64]),
        units,
        seed: protocol::Hash([0; 32]),
    };
    let events = world.run(again).expect("the first answer again");
    assert!(matches!(events.answer, Answer::Receipt { rest: Some(same), .. } if same == rest));
    assert_eq!(events.events, []);
    let rest = world.checkpoint(rest, 1).expect("five units are left");
    assert_eq!(world.state.workers()[&key(1)].leases.iter().collect::<Vec<_>>(), [&rest]);
    assert_eq!(world.state.jobs()[&job].leased_units, 5);
    // The worker dies. The next one computes the other five only.
    world.advance(40_000);
    world.announce(key(3));
    let units: Vec<u64> = {
        let lease =
            world.lease(key(3), 9).into_iter().find(|id| world.check_of(*id).is_none()).expect("five wait");
        let lease = &world.state.leases()[&lease];
        world.state.lease_units(lease).into_iter().flat_map(|run| run.units()).collect()
    };
    assert_eq!(units, [5, 6, 7, 8, 9]);
    world.announce(key(2));
    world.announce(key(4));
    world.finish(&[key(2), key(3), key(4)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    let runs: Vec<_> =
        world.state.jobs()[&job].accepted.iter().map(|(first, run)| (*first, run.count)).collect();
    assert_eq!(runs, [(0, 4), (4, 1), (5, 5)]);
    assert_eq!(
        world.state.jobs()[&job].workers[&key(1)].units,
        5,
        "and the first worker is paid for its five"
    );
}

#[test]
fn only_the_first_units_of_an_active_package_are_a_checkpoint() {
    let mut world = world(&[1, 2]);
    let mut large = spec(4, AUDIT);
    large.stages[0].package_units = Some(4);
    world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (mut receipt, mut units) = world.receipt(lease, 0);
    (receipt.units, units) = (2, units.split_off(2));
    let others = world.commit_receipt(receipt, units);
    assert!(matches!(others, Err(Rejection::ReceiptInvalid(_))), "the last units: {others:?}");
    let (mut receipt, _) = world.receipt(lease, 0);
    receipt.units = 0;
    let none = world.commit_receipt(receipt, vec![]);
    assert!(matches!(none, Err(Rejection::ReceiptInvalid(_))), "no units: {none:?}");
    world.commit(lease, 0).expect("all units are taken");
    // A check is made as a whole.
    let check = world.lease(key(2), 1)[0];
    let (receipt, units) = world.receipt_of_first(check, 1, 0);
    assert!(matches!(world.commit_receipt(receipt, units), Err(Rejection::ReceiptInvalid(_))));
    world.commit(check, 0).expect("the whole check is taken");
    // A late receipt is for all units or none.
    let mut large = spec(4, AUDIT);
    large.stages[0].package_units = Some(4);
    world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (part, part_units) = world.receipt_of_first(lease, 1, 0);
    let (whole, whole_units) = world.receipt(lease, 0);
    world.advance(40_000);
    assert!(matches!(world.commit_receipt(part, part_units), Err(Rejection::LeaseExpired(_))));
    world.commit_receipt(whole, whole_units).expect("late, and its units are untouched");
}

fn with_class(units: u64, priority: Priority) -> JobSpec {
    JobSpec { priority, ..spec(units, AUDIT) }
}

fn beat(world: &mut World, worker: PublicKey) -> Vec<LeaseId> {
    let leases = world.state.workers()[&worker].leases.iter().copied().collect();
    match world.run(Command::Heartbeat { worker, instance: "one".into(), leases }).expect("it is live").answer
    {
        Answer::Heard { lost, yields } if lost.is_empty() => yields,
        other => panic!("{other:?}"),
    }
}

fn job_of(world: &World, lease: LeaseId) -> JobId {
    world.state.leases()[&lease].job
}

#[test]
fn a_higher_class_reclaims_devices_and_nothing_that_was_finished_runs_again() {
    let mut world = world(&[1, 2]);
    let mut long = with_class(20, Priority::Low);
    long.stages[0].package_units = Some(10);
    let low = world.submit(long);
    let (first, second) = (world.lease(key(1), 1)[0], world.lease(key(2), 1)[0]);
    let urgent = world.submit(with_class(1, Priority::Urgent));
    assert_eq!(beat(&mut world, key(1)), [], "not at once: a device may be free in a moment");
    world.advance(2_000);
    let asked = [(1, first), (2, second)].map(|(n, lease)| (key(n), lease, beat(&mut world, key(n))));
    let victims: Vec<_> = asked.iter().filter(|(_, _, yields)| !yields.is_empty()).collect();
    let [(worker, lease, yields)] = victims[..] else { panic!("one device for one unit: {asked:?}") };
    assert_eq!((yields, *lease), (&vec![second], second), "the lease that was granted last loses least");
    let (worker, lease) = (*worker, *lease);
    let rest = world.checkpoint(lease, 3).expect("seven units are left");
    assert_eq!(beat(&mut world, worker), [rest], "the rest is to be given back");
    let generation = world.state.leases()[&rest].generation;
    let back = Command::Release { worker, lease: rest, generation, release: Release::Returned };
    world.run(back).expect("it is theirs");
    let next = world.lease(worker, 1)[0];
    assert_eq!(job_of(&world, next), urgent, "the device is for the job that reclaimed it");
    world.commit(next, 0).expect("done");
    // The units given back count no attempt, and the same worker may have them again.
    let queue = &world.state.jobs()[&low].queues[0];
    assert_eq!(
        queue.waiting.iter().map(|run| (run.first, run.count, run.attempts)).collect::<Vec<_>>(),
        [(13, 7, 0)]
    );
    assert_eq!(queue.waiting[0].avoid, []);
    world.finish(&[key(1), key(2)]);
    assert_eq!(world.state.jobs()[&low].state, JobState::Done);
    let runs: Vec<_> = world.state.jobs()[&low].accepted.keys().copied().collect();
    assert_eq!(runs, [0, 10, 13], "ten, three and seven units");
}

#[test]
fn who_does_not_heed_loses_the_lease_and_is_not_blamed() {
    let mut world = world(&[1]);
    let mut long = with_class(4, Priority::Normal);
    long.stages[0].package_units = Some(4);
    let low = world.submit(long);
    let lease = world.lease(key(1), 1)[0];
    let (late, units) = world.receipt(lease, 0);
    world.submit(with_class(1, Priority::High));
    world.advance(2_000);
    for _ in 0..10 {
        world.now_ms += 1_000;
        assert!(beat(&mut world, key(1)).len() <= 1, "a heartbeat does not keep it");
        world.run(Command::AdvanceTime).expect("time passes");
    }
    assert!(!world.state.leases().contains_key(&lease));
    assert_eq!(world.state.jobs()[&low].queues[0].waiting[0].attempts, 0);
    world.commit_receipt(late, units).expect("its work is not thrown away while nobody else has the units");
}

#[test]
fn equal_classes_and_idle_devices_leave_everybody_alone() {
    let mut world = world(&[1, 2]);
    world.submit(with_class(2, Priority::High));
    world.lease(key(1), 1);
    world.submit(with_class(3, Priority::High));
    world.advance(5_000);
    assert_eq!(beat(&mut world, key(1)), [], "the same class");
    world.submit(with_class(1, Priority::Urgent));
    world.advance(5_000);
    assert_eq!(beat(&mut world, key(1)), [], "the second worker is idle and can have it");
}

fn gang(units: u64, devices: u32) -> JobSpec {
    let mut spec = spec(units, AUDIT);
    spec.stages[0].devices = devices;
    spec
}

#[test]
fn units_that_run_together_start_together_or_not_at_all() {
    let mut world = world(&[1, 2]);
    let job = world.submit(gang(3, 3));
    assert_eq!(world.lease(key(1), 1), []);
    assert_eq!(
        world.state.job_reason(job, world.now_ms),
        Some(JobReason::TooFewDevices { needed: 3, fitting: 2 })
    );
    world.announce(key(3));
    let told = world.state.worker_reason(key(2), world.now_ms);
    assert_eq!(told, Some(WorkerReason::NextRequest));
    // One request starts all three; the others fetch theirs.
    let mut units = BTreeSet::new();
    assert_eq!(world.state.leases().len(), 0);
    for worker in [3, 1, 2] {
        let leases = world.lease(key(worker), 1);
        assert_eq!(world.state.leases().len(), 3, "all at once");
        let [lease] = leases[..] else { panic!("one unit a device: {leases:?}") };
        let lease = &world.state.leases()[&lease];
        assert_eq!(lease.worker, key(worker));
        units.extend(world.state.lease_units(lease));
    }
    assert_eq!(units.len(), 3);
    world.finish(&[key(1), key(2), key(3)]);
}

#[test]
fn a_reserved_device_only_takes_what_ends_before() {
    let mut world = world(&[1, 2]);
    // Units of 500 us are known by now; then one that takes two seconds is under way.
    world.submit(spec(8, AUDIT));
    world.finish(&[key(1), key(2)]);
    let mut slow = spec(1, AUDIT);
    slow.stages[0].time_ms_max = 2_000;
    world.submit(slow);
    let busy = world.lease(key(1), 1)[0];
    let job = world.submit(gang(2, 2));
    let mut long = spec(1, AUDIT);
    long.stages[0].time_ms_max = 60_000;
    let long = world.submit(long);
    let mut short = spec(1, AUDIT);
    short.stages[0].time_ms_max = 1_000;
    let short = world.submit(short);
    let start_ms = world.now_ms + 2_000;
    let lease = world.lease(key(2), 1)[0];
    assert_eq!(job_of(&world, lease), short, "backfill: it may end before the second device is free");
    assert_eq!(
        world.state.job_reason(job, world.now_ms),
        Some(JobReason::Gathering { needed: 2, free: 0, start_ms })
    );
    world.commit(lease, 0).expect("done");
    assert_eq!(world.lease(key(2), 1), []);
    let told = world.state.worker_reason(key(2), world.now_ms);
    assert_eq!(told, Some(WorkerReason::Reserved { job, start_ms }));
    world.commit(busy, 0).expect("done");
    // Checks come first; then both devices are free, and the units start together.
    for worker in [1, 2] {
        for lease in world.lease(key(worker), 1) {
            assert!(world.check_of(lease).is_some() || job_of(&world, lease) == job);
            world.commit(lease, 0).expect("done");
        }
    }
    world.finish(&[key(1), key(2)]);
    assert!(world.state.jobs()[&long].state.ended());
}

#[test]
fn an_offer_that_nobody_fetches_is_withdrawn() {
    let mut world = world(&[1, 2]);
    let job = world.submit(gang(2, 2));
    let mine = world.lease(key(1), 1)[0];
    world.advance(9_000);
    beat(&mut world, key(1));
    // The second worker does not know of its lease.
    let alive = Command::Heartbeat { worker: key(2), instance: "one".into(), leases: vec![] };
    world.run(alive).expect("it is live");
    world.advance(1_000);
    assert_eq!(world.state.leases().keys().collect::<Vec<_>>(), [&mine], "the one that was fetched goes on");
    assert_eq!(world.state.jobs()[&job].waiting_units(), 1);
    world.finish(&[key(1), key(2)]);
}

#[test]
fn a_busy_worker_may_ask_for_other_jobs_alone() {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1);
    world.announce(key(1));
    let others = |world: &mut World| {
        let instance = "one".to_owned();
        let command = Command::RequestLeases { worker: key(1), instance, packages_max: 8, others_only: true };
        match world.run(command).expect("the worker is known").answer {
            Answer::Leases(leases) => leases,
            other => panic!("{other:?}"),
        }
    };
    let mut small = spec(10, AUDIT);
    small.stages[0].package_units = Some(1);
    let long = world.submit(small.clone());
    let held = world.lease(key(1), 1);
    assert_eq!(world.state.leases()[&held[0]].job, long);
    assert_eq!(others(&mut world), [], "there is no other job");
    let short = world.submit(small);
    let taken = others(&mut world);
    assert_eq!(taken.len(), 1, "then it holds one of that job too");
    assert_eq!(world.state.leases()[&taken[0]].job, short);
    assert_eq!(others(&mut world), []);
}

fn critical(units: u64, replicas: u32) -> JobSpec {
    let mut spec = spec(units, AUDIT);
    spec.stages[0].replicas = replicas;
    spec
}

#[test]
fn losing_a_critical_units_worker_costs_no_time() {
    let mut world = world(&[1, 2, 3]);
    let job = world.submit(critical(1, 2));
    assert_eq!(world.state.jobs()[&job].money.escrowed, Amount(2_002), "the unit and its replica");
    let first = world.lease(key(1), 1)[0];
    let second = world.lease(key(2), 1)[0];
    assert_eq!(world.lease(key(3), 1), [], "two compute it");
    // The replica is done before the first one, who then dies: its result is the unit's, and a third one checks it.
    assert_eq!(world.commit(second, 0), Ok(ReceiptOutcome::Checking));
    assert!(world.state.leases().contains_key(&first));
    world.run(Command::Leave { worker: key(1), instance: "one".into(), drain: false }).expect("gone");
    let entry = &world.state.jobs()[&job];
    assert_eq!(
        (entry.checking_units, entry.waiting_units()),
        (1, 0),
        "nothing is computed again from the beginning"
    );
    let check = world.lease(key(3), 1)[0];
    world.commit(check, 0).expect("taken");
    let entry = &world.state.jobs()[&job];
    assert_eq!((entry.state.clone(), entry.accepted[&0].worker), (JobState::Done, key(2)));
    assert_eq!(world.state.accounts()[&key(2)].earned, world.state.accounts()[&key(3)].earned);
    assert_eq!(entry.money.refunded, Amount::ZERO);
}

#[test]
fn a_replica_under_way_goes_on_as_the_units_worker() {
    let mut world = world(&[1, 2, 3]);
    let job = world.submit(critical(1, 2));
    let first = world.lease(key(1), 1)[0];
    let second = world.lease(key(2), 1)[0];
    let generation = world.state.leases()[&first].generation;
    let release = Release::Failed { code: "device_failed".into(), detail: "lost".into() };
    world.run(Command::Release { worker: key(1), lease: first, generation, release }).expect("released");
    assert!(world.check_of(second).is_none(), "the unit is the second worker's now");
    assert_eq!(world.state.jobs()[&job].leased_units, 1);
    world.commit(second, 0).expect("taken under the lease it has");
    let third = world.lease(key(3), 1)[0];
    world.commit(third, 0).expect("taken");
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn a_replica_that_lies_does_not_win() {
    let mut world = world(&[1, 2, 3, 4]);
    world.announce(MARKET);
    let job = world.submit(critical(1, 3));
    let [first, second, third] = [1, 2, 3].map(|n| world.lease(key(n), 1)[0]);
    world.commit(second, 1).expect("journaled");
    world.commit(third, 0).expect("journaled");
    world.commit(first, 0).expect("journaled");
    world.finish(&[key(1), key(3), key(4), MARKET]);
    let entry = &world.state.jobs()[&job];
    assert_eq!((entry.state.clone(), entry.accepted[&0].worker), (JobState::Done, key(1)));
    assert_eq!(world.state.accounts().get(&key(2)).map(|account| account.earned), None, "a lie is not paid");
    assert!(world.state.accounts()[&key(3)].earned > Amount::ZERO);
}

#[test]
fn what_a_worker_holds_goes_into_the_memory_it_lends() {
    let mut world = world(&[1]);
    let memory = |mib: u64| {
        let mut spec = spec(4, AUDIT);
        spec.stages[0].requirements.memory_bytes = mib << 20;
        spec
    };
    let offer = WorkerOffer { memory_bytes: 100 << 20, ..WorkerOffer::default() };
    let announce = Command::Announce {
        worker: key(7),
        instance: "one".into(),
        device: rules::device(),
        version: "test".into(),
        offer,
    };
    world.run(announce).expect("announced");
    let large = world.submit(memory(101));
    assert_eq!(world.lease(key(7), 9), []);
    let lacks = Misfit::Memory { needed: 101 << 20, offered: 100 << 20 };
    let told = world.state.worker_reason(key(7), world.now_ms);
    assert_eq!(told, Some(WorkerReason::NoJobFits { jobs: 1, lacks }));
    let [first, second, third] = [60, 60, 40].map(|mib| world.submit(memory(mib)));
    let mut held: Vec<_> = world.lease(key(7), 9).iter().map(|lease| job_of(&world, *lease)).collect();
    held.sort();
    held.dedup();
    assert!(held == [first, third] || held == [second, third], "{held:?}: 60 and 40 MiB, never 120");
    world.finish(&[key(1), key(7)]);
    assert!(world.state.jobs()[&large].state.ended(), "who does not say what it lends may try");
}

#[test]
fn a_late_receipt_puts_no_paused_job_back_in_line() {
    let mut world = world(&[1, 2]);
    let mut large = spec(4, AUDIT);
    large.stages[0].package_units = Some(2);
    let job = world.submit(large);
    let lease = world.lease(key(1), 1)[0];
    let (receipt, units) = world.receipt(lease, 0);
    world.run(Command::Pause { job, by: CLIENT, paused: true }).expect("it is theirs");
    world.advance(40_000);
    for worker in [1, 2] {
        world.announce(key(worker));
    }
    world.commit_receipt(receipt, units).expect("its units are untouched");
    let given = world.lease(key(2), 9);
    assert!(
        given.iter().all(|lease| world.check_of(*lease).is_some()),
        "nothing new of a paused job: {given:?}"
    );
    world.run(Command::Pause { job, by: CLIENT, paused: false }).expect("it is theirs");
    world.finish(&[key(1), key(2)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}
