//! What the rules promise, one behaviour a test.

mod rules;

use plexus_engine::{
    Answer, Command, JobReason, JobState, Misfit, Params, Policy, ReceiptOutcome, Rejection, Release,
    Submission, WorkerReason,
};
use protocol::{Amount, Hash, LeaseId};
use rules::{AUDIT, CLIENT, MARKET, World, device, key, spec, world, world_with};

#[test]
fn a_unit_checked_by_another_owner_is_paid_and_the_rest_of_the_escrow_returns() {
    let mut world = world(&[1, 2]);
    let job = world.submit(spec(1, AUDIT));
    assert_eq!(world.state.jobs()[&job].money.escrowed, Amount(2_002), "a unit and one check");
    let lease = world.lease(key(1), 1)[0];
    assert_eq!(world.commit(lease, 0), Ok(ReceiptOutcome::Checking));
    assert_eq!(world.lease(key(1), 1), [], "nobody checks themselves");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("the check is taken");
    let state = &world.state;
    assert_eq!(state.jobs()[&job].state, JobState::Done);
    // 1 001 in shares of 90, 5 and 5 %: the provider gets what rounding leaves.
    assert_eq!(state.accounts()[&key(1)].earned, Amount(901));
    assert_eq!(state.accounts()[&key(2)].earned, Amount(901));
    assert_eq!((state.ledger().burned, state.ledger().treasury), (Amount(100), Amount(100)));
    assert_eq!(state.ledger().refunded, Amount::ZERO);
}

#[test]
fn trust_grows_and_untouched_check_money_is_refunded() {
    let mut world = world_with(Params::default(), &[1, 2]);
    let mut single = spec(60, AUDIT);
    single.stages[0].package_units = Some(1);
    let job = world.submit(single);
    world.finish(&[key(1), key(2)]);
    let done = &world.state.jobs()[&job];
    assert_eq!(done.state, JobState::Done);
    let verification = done.verification;
    assert_eq!(verification.checked + verification.sampled_out, 60);
    assert!(verification.checked >= 20, "ten packages of each of two workers are always checked");
    assert!(verification.sampled_out > 0, "trusted work is not always checked");
    assert_eq!(done.money.refunded, Amount(1_001 * (60 - verification.checked)));
}

#[test]
fn a_lie_is_outvoted_run_again_and_not_paid() {
    let mut world = world(&[1, 2, 3]);
    let job = world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 1).expect("the lie is journaled");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("the check is taken");
    assert_eq!(world.state.jobs()[&job].verification.disputed, 1);
    assert_eq!(world.state.jobs()[&job].verification.rejected, 0, "nobody loses on one opinion");
    let third = world.lease(key(3), 1);
    // The job's money for checks is used up, so the third opinion is the market's own.
    assert_eq!(third, []);
    world.announce(MARKET);
    let third = world.lease(MARKET, 1)[0];
    world.commit(third, 0).expect("the third opinion is taken");
    assert_eq!(world.state.jobs()[&job].verification.rejected, 1);
    assert_eq!(world.state.accounts().get(&key(1)), None, "the liar got nothing");
    assert_eq!(world.state.accounts()[&key(2)].earned, Amount(901), "the right checker is paid");
    assert_eq!(world.lease(key(1), 1), [], "the liar does not get the unit again");
    world.finish(&[key(2), key(3), MARKET]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn a_lying_checker_does_not_hurt_an_honest_worker() {
    let mut world = world(&[1, 2, 3]);
    world.announce(MARKET);
    let job = world.submit(spec(4, AUDIT));
    let leases = world.lease(key(1), 1);
    world.commit(leases[0], 0).expect("the receipt is taken");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 2).expect("the lie is journaled");
    world.finish(&[key(1), key(3), MARKET]);
    let done = &world.state.jobs()[&job];
    assert_eq!((done.state.clone(), done.verification.rejected), (JobState::Done, 0));
    assert_eq!(world.state.streak(key(2)), 0);
    assert_eq!(world.state.accounts().get(&key(2)), None, "a wrong opinion is not paid");
}

#[test]
fn a_quorum_needs_that_many_owners() {
    let mut world = world(&[1, 2]);
    let session = Command::DelegateSession { wallet: key(1), session: key(101), expires_at_ms: 1_000_000 };
    world.run(session).expect("delegated");
    world.announce(key(101));
    let job = world.submit(spec(2, Policy::Quorum { agree: 3 }));
    let leases = world.lease(key(1), 2);
    for lease in leases {
        world.commit(lease, 0).expect("taken");
    }
    assert_eq!(world.lease(key(101), 9), [], "a second worker of the same owner is no second opinion");
    for lease in world.lease(key(2), 9) {
        world.commit(lease, 0).expect("taken");
    }
    assert_eq!(world.state.jobs()[&job].accepted_units, 0);
    assert_eq!(
        world.state.job_reason(job, world.now_ms),
        Some(JobReason::NoChecker { checking: 2, online: 3 })
    );
    world.announce(key(3));
    for lease in world.lease(key(3), 9) {
        world.commit(lease, 0).expect("taken");
    }
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn an_expired_lease_is_taken_by_another_worker() {
    let mut world = world(&[1]);
    let job = world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    let (receipt, units) = world.receipt(lease, 0);
    world.advance(40_000);
    world.announce(key(2));
    let again = world.lease(key(2), 1);
    assert_eq!(again.len(), 1, "the units wait again");
    assert_eq!(world.commit_receipt(receipt, units), Err(Rejection::LeaseExpired(lease)));
    assert_eq!(world.state.leases()[&again[0]].generation, 2);
    assert_eq!(world.state.jobs()[&job].leased_units, 1);
}

#[test]
fn a_late_receipt_counts_while_nobody_else_has_the_units() {
    let mut world = world(&[1]);
    let job = world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    let (receipt, units) = world.receipt(lease, 0);
    world.advance(40_000);
    assert_eq!(world.commit_receipt(receipt, units), Ok(ReceiptOutcome::Checking));
    world.finish(&[key(2)]);
    assert_eq!(world.state.accounts()[&key(1)].earned, Amount(901));
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn heartbeats_keep_a_lease_but_not_for_ever() {
    let mut world = world(&[1]);
    world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    for _ in 0..3 {
        world.advance(10_000);
        let beat =
            Command::Heartbeat { worker: key(1), instance: "one".into(), leases: vec![lease, LeaseId(99)] };
        let answer = world.run(beat).expect("alive").answer;
        assert_eq!(answer, Answer::Heard { lost: vec![LeaseId(99)], yields: vec![] });
    }
    // 30 s and twice the unit's one second are over now.
    world.advance(3_000);
    assert!(world.state.leases().is_empty());
}

#[test]
fn a_receipt_is_refused_where_it_does_not_belong() {
    let mut world = world(&[1, 2]);
    world.submit(spec(4, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    let (good, units) = world.receipt(lease, 0);
    let check = |world: &mut World, change: &dyn Fn(&mut protocol::Receipt), expected: Rejection| {
        let mut receipt = good.clone();
        change(&mut receipt);
        assert_eq!(world.commit_receipt(receipt, units.clone()), Err(expected));
    };
    check(&mut world, &|r| r.worker = key(2), Rejection::LeaseForeign(lease));
    check(&mut world, &|r| r.lease = LeaseId(7), Rejection::LeaseUnknown(LeaseId(7)));
    check(&mut world, &|r| r.market = key(9), Rejection::ReceiptInvalid("it names another market"));
    check(&mut world, &|r| r.job.0 = 7, Rejection::ReceiptInvalid("it names another job"));
    check(&mut world, &|r| r.generation = 2, Rejection::LeaseStale { lease, expected: 1, found: 2 });
    check(&mut world, &|r| r.units = 2, Rejection::ReceiptInvalid("it covers other units than the lease"));
    let first = world.commit_receipt(good.clone(), units.clone());
    assert_eq!(first, Ok(ReceiptOutcome::Checking));
    assert_eq!(
        world.commit_receipt(good.clone(), units.clone()),
        first,
        "the same receipt again, the same answer"
    );
    check(&mut world, &|r| r.device_us += 1, Rejection::ReceiptDuplicate(lease));
    check(&mut world, &|r| r.worker = key(2), Rejection::LeaseForeign(lease));
}

#[test]
fn a_unit_that_always_fails_is_parked_with_the_reason() {
    let mut world = world(&[1, 2]);
    let job = world.submit(spec(2, AUDIT));
    let fail = |world: &mut World, worker| {
        for lease in world.lease(worker, 1) {
            let generation = world.state.leases()[&lease].generation;
            let release =
                Release::Failed { code: "timed_out".into(), detail: "unit 0 ran over 1000 ms".into() };
            world.run(Command::Release { worker, lease, generation, release }).expect("released");
        }
    };
    fail(&mut world, key(1));
    assert_eq!(world.lease(key(1), 9).len(), 1, "the unit it failed is left to others; the next one is not");
    for _ in 0..6 {
        fail(&mut world, key(2));
        fail(&mut world, key(1));
    }
    world.finish(&[key(1), key(2)]);
    let ended = &world.state.jobs()[&job];
    let JobState::Incomplete { why, .. } = &ended.state else { panic!("{:?}", ended.state) };
    for by in [key(1), key(2)] {
        assert!(why.starts_with("unit 0: "), "{why}");
        assert!(why.contains(&format!("timed_out on {by}: unit 0 ran over 1000 ms")), "{why}");
    }
    assert!(ended.parked_units >= 1);
    assert_eq!(ended.held(), Amount::ZERO);
}

#[test]
fn money_that_is_not_there_is_not_spent() {
    let mut world = world(&[]);
    let submission = |units, budget| {
        let submission = Submission {
            owner: CLIENT,
            spec: spec(units, AUDIT),
            quoted: vec![],
            budget,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        Command::Submit(submission.into())
    };
    let refused = world.run(submission(1_000_000, None)).expect_err("too dear");
    let (needed, available) = (Amount(2_002_000_000), Amount(1_000_000_000));
    assert_eq!(refused, Rejection::BalanceTooLow { needed, available });
    let refused = world.run(submission(10, Some(Amount(20_000)))).expect_err("over budget");
    let Rejection::OverBudget { needed, budget, quote } = refused else { panic!("{refused:?}") };
    assert_eq!((needed, budget, quote.escrow), (Amount(20_020), Amount(20_000), Some(needed)));
    let deposit = Command::Deposit { account: CLIENT, amount: Amount(u64::MAX / 2), key: None };
    assert_eq!(world.run(deposit), Err(Rejection::AmountTooLarge));
}

#[test]
fn a_repeated_key_gives_the_first_answer() {
    let mut world = world(&[]);
    let submit = |units, request: &[u8]| {
        let key = Some((Hash::of(b"key"), Hash::of(request)));
        Command::Submit(
            Submission {
                owner: CLIENT,
                spec: spec(units, AUDIT),
                quoted: vec![],
                budget: None,
                key,
                canaries: vec![],
                sealed: None,
            }
            .into(),
        )
    };
    let first = world.run(submit(1, b"one")).expect("accepted").answer;
    let again = world.run(submit(1, b"one")).expect("accepted");
    assert_eq!((again.answer, again.events.len()), (first, 0));
    assert_eq!(world.run(submit(2, b"two")), Err(Rejection::IdempotencyConflict));
}

#[test]
fn two_processes_with_one_key_are_told_apart() {
    let mut world = world(&[1]);
    let announce = |instance: &str| Command::Announce {
        worker: key(1),
        instance: instance.into(),
        device: device(),
        version: "test".into(),
        offer: Default::default(),
    };
    world.now_ms += 4_000;
    let refused = world.run(announce("two")).expect_err("the first is alive");
    assert_eq!(refused, Rejection::WorkerKeyInUse { seen_ms_ago: 4_000, free_after_ms: 11_000 });
    world.now_ms += 11_000;
    world.run(announce("two")).expect("the first is silent for too long");
    let request = Command::RequestLeases {
        worker: key(1),
        instance: "one".into(),
        packages_max: 1,
        others_only: false,
    };
    assert!(matches!(world.run(request), Err(Rejection::WorkerKeyInUse { .. })));
}

#[test]
fn a_session_key_acts_for_its_wallet_until_it_ends() {
    let mut world = world(&[]);
    let delegate =
        |wallet, session, expires_at_ms| Command::DelegateSession { wallet, session, expires_at_ms };
    world.run(delegate(key(1), key(101), 50_000)).expect("delegated");
    world.announce(key(101));
    assert_eq!(world.state.workers()[&key(101)].owner, key(1));
    world.announce(key(7));
    let refused = [
        delegate(key(2), key(101), 60_000),
        delegate(key(101), key(102), 60_000),
        delegate(key(1), CLIENT, 60_000),
        delegate(key(1), key(103), 900),
        delegate(key(1), key(103), u64::MAX),
        // A worker that was paid nothing yet, so that it has no account.
        delegate(key(1), key(7), 60_000),
    ];
    for command in refused {
        assert!(matches!(world.run(command), Err(Rejection::SessionInvalid(_))));
    }
    // Whatever a stranger sends to the session key, its wallet has it and can renew the delegation.
    world.fund(key(101), 1);
    assert_eq!(world.state.accounts().get(&key(101)), None);
    assert_eq!(world.state.accounts()[&key(1)].available, Amount(protocol::BASE_UNITS_PER_TOKEN));
    world.run(delegate(key(1), key(101), 55_000)).expect("renewed");
    world.advance(60_000);
    let announce = Command::Announce {
        worker: key(101),
        instance: "one".into(),
        device: device(),
        version: "test".into(),
        offer: Default::default(),
    };
    assert!(matches!(world.run(announce), Err(Rejection::SessionInvalid(_))));
}

#[test]
fn cancelling_pays_what_was_committed_and_refunds_the_rest() {
    let mut world = world(&[1]);
    let job = world.submit(spec(10, AUDIT));
    let leases = world.lease(key(1), 2);
    world.commit(leases[0], 0).expect("taken");
    assert_eq!(
        world.run(Command::Cancel { job, by: key(1) }).expect_err("not theirs"),
        Rejection::JobForeign(job)
    );
    world.run(Command::Cancel { job, by: CLIENT }).expect("cancelled");
    let ended = &world.state.jobs()[&job];
    assert_eq!((ended.state.clone(), ended.accepted_units), (JobState::Cancelled, 1));
    assert_eq!(ended.money.refunded, Amount(20_020 - 1_001));
    assert_eq!(world.commit_receipt_of_ended(leases[1]), Err(Rejection::LeaseExpired(leases[1])));
    assert_eq!(world.state.streak(key(1)), 0, "nobody looked at the results");
}

#[test]
fn checks_that_nobody_can_make_do_not_keep_others_from_being_made() {
    let mut world = world(&[1]);
    let mut large = spec(300, AUDIT);
    let stage = &mut large.stages[0];
    (stage.requirements.storage_buffer_bytes, stage.unit_price) = (1 << 29, Amount(0));
    world.submit(large);
    let mut rare = device();
    rare.limits.storage_buffer_bytes_max = 1 << 30;
    let instance = || "one".to_owned();
    let announce = Command::Announce {
        worker: key(9),
        instance: instance(),
        device: rare,
        version: "test".into(),
        offer: Default::default(),
    };
    world.run(announce).expect("accepted");
    while let [lease] = world.lease(key(9), 1)[..] {
        let (mut receipt, units) = world.receipt(lease, 0);
        // One unit a package from now on.
        receipt.device_us = 1_500_000;
        world.commit_receipt(receipt, units).expect("taken");
    }
    world.run(Command::Leave { worker: key(9), instance: instance(), drain: false }).expect("it leaves");
    assert_eq!(world.state.checks().len(), 300);
    world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    world.announce(key(2));
    let leases = world.lease(key(2), 1);
    assert!(world.check_of(leases[0]).is_some(), "the check of the small job");
}

#[test]
fn a_worker_that_claims_absurd_times_breaks_nothing() {
    let mut world = world(&[1, 2]);
    let job = world.submit(spec(40, AUDIT));
    for _ in 0..3 {
        for lease in world.lease(key(1), 2) {
            let (mut receipt, units) = world.receipt(lease, 0);
            receipt.device_us = u64::MAX;
            world.commit_receipt(receipt, units).expect("taken");
        }
    }
    assert_eq!(world.state.jobs()[&job].queues[0].unit_us(), Some(2_000_000), "twice what a unit may take");
    world.finish(&[key(1), key(2)]);
}

#[test]
fn everybody_who_waits_is_told_why() {
    let mut world = world(&[]);
    let mut large = spec(2, AUDIT);
    large.stages[0].requirements.storage_buffer_bytes = 1 << 29;
    let job = world.submit(large);
    assert_eq!(world.state.job_reason(job, world.now_ms), Some(JobReason::NoWorkers));
    world.announce(key(1));
    let lacks = Misfit::StorageBuffer { needed: 1 << 29, offered: 1 << 27 };
    let reason = JobReason::NoWorkerFits { online: 1, lacks: lacks.clone() };
    assert_eq!(world.state.job_reason(job, world.now_ms), Some(reason));
    assert_eq!(
        world.state.worker_reason(key(1), world.now_ms),
        Some(WorkerReason::NoJobFits { jobs: 1, lacks })
    );
    let small = world.submit(spec(1, AUDIT));
    assert_eq!(world.state.job_reason(small, world.now_ms), Some(JobReason::NextRequest { idle: 1 }));
    let lease = world.lease(key(1), 1)[0];
    world.announce(key(2));
    assert_eq!(world.state.worker_reason(key(1), 0), Some(WorkerReason::Working { leases: 1 }));
    world.commit(lease, 0).expect("taken");
    assert_eq!(world.state.job_reason(small, world.now_ms), Some(JobReason::Checking { checking: 1 }));
    assert_eq!(world.state.worker_reason(key(2), 0), Some(WorkerReason::NextRequest));
}

#[test]
fn a_job_whose_units_only_a_busy_worker_may_take_says_so() {
    let mut world = world(&[1, 2]);
    world.submit(spec(1, AUDIT));
    world.lease(key(2), 1);
    let job = world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    let release = Release::Failed { code: "timed_out".into(), detail: String::new() };
    world.run(Command::Release { worker: key(1), lease, generation: 1, release }).expect("it is theirs");
    assert_eq!(world.state.worker_reason(key(1), 0), Some(WorkerReason::OnlyFailedUnits { jobs: 1 }));
    assert_eq!(
        world.state.job_reason(job, world.now_ms),
        Some(JobReason::AllBusy { fitting: 1, online: 2, lacks: None, free_in_ms: None })
    );
}

#[test]
fn a_package_is_never_larger_than_its_receipt_may_be() {
    let mut world = world(&[]);
    for (package_units, taken) in [(0, false), (1, true), (4_096, true), (4_097, false), (u32::MAX, false)] {
        let mut spec = spec(9_999, AUDIT);
        (spec.stages[0].package_units, spec.stages[0].unit_price) = (Some(package_units), Amount(0));
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        assert_eq!(world.run(Command::Submit(submission.into())).is_ok(), taken, "{package_units}");
    }
}

#[test]
fn nobody_hoards_a_job() {
    let mut world = world(&[1, 2]);
    let job = world.submit(spec(40, AUDIT));
    assert_eq!(world.lease(key(1), 9).len(), 2, "nobody knows yet how long a unit takes");
    let (mut receipt, units) = world.receipt(LeaseId(1), 0);
    receipt.device_us = 1_500_000;
    world.commit_receipt(receipt, units).expect("taken");
    // Units take 1.5 s, so packages have one, and three of them are more than the 4 s that a worker may hold.
    assert_eq!(world.lease(key(1), 9).len(), 2);
    assert_eq!(world.state.jobs()[&job].leased_units, 3);
}

#[test]
fn units_given_back_go_to_others_and_lie_together_again() {
    let mut world = world(&[1]);
    let mut single = spec(4, AUDIT);
    single.stages[0].package_units = Some(1);
    let job = world.submit(single);
    let leases = world.lease(key(1), 2);
    for lease in leases.into_iter().rev() {
        let release = Release::Returned;
        world.run(Command::Release { worker: key(1), lease, generation: 1, release }).expect("given back");
    }
    assert_eq!(world.state.jobs()[&job].queues[0].waiting.len(), 2, "the two given back, and the rest");
    assert_eq!(world.lease(key(1), 1).len(), 1, "nobody else is there");
    world.announce(key(2));
    let again = world.lease(key(2), 2)[0];
    assert_eq!(world.state.leases()[&again].generation, 1, "giving back is no failed attempt");
    let mine = world.lease(key(1), 1)[0];
    let units: Vec<_> = world.state.lease_units(&world.state.leases()[&mine]);
    assert!(units[0].first >= 2, "{units:?} were not given back before");
}

#[test]
fn a_restart_gives_leases_the_time_that_was_lost() {
    let mut world = world(&[1]);
    world.submit(spec(1, AUDIT));
    let lease = world.lease(key(1), 1)[0];
    world.now_ms += 3_600_000;
    world.run(Command::Resume).expect("back");
    world.advance(1_000);
    assert_eq!(world.commit(lease, 0), Ok(ReceiptOutcome::Checking));
}
