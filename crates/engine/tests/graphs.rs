//! Jobs of several stages: when units can run, how a loop ends, and how a job that stopped goes on.

mod rules;

use plexus_engine::{
    Blockage, Command, Event, Gather, Iterate, JobReason, JobSpec, JobState, Policy, Rejection, Release,
    Shortfall, Stage, Submission, Until, WorkerReason,
};
use protocol::{Amount, Hash, JobId, LeaseId, PublicKey};
use rules::{AUDIT, CLIENT, World, gather, graph, key, previous, reading, world};

/// Honest work of these workers, a package at a time, until none is left for them.
fn work(world: &mut World, workers: &[u8]) {
    loop {
        let mut worked = false;
        for worker in workers {
            for lease in world.lease(key(*worker), 1) {
                worked |= world.commit(lease, 0).is_ok();
            }
            world.judge();
        }
        if !worked {
            return;
        }
    }
}

fn packages(world: &World, job: JobId) -> Vec<(u32, u64, u64)> {
    let spec = &world.state.jobs()[&job].spec;
    let mut all: Vec<_> = world
        .journal
        .iter()
        .filter_map(|(_, event)| match event {
            Event::LeaseGranted { work: plexus_engine::Work::Package { job: of, run, .. }, .. }
                if *of == job =>
            {
                Some(run)
            }
            _ => None,
        })
        .flat_map(|run| run.units())
        .map(|unit| spec.place(unit))
        .map(|place| (place.stage, place.iteration, place.index))
        .collect();
    all.dedup();
    all
}

fn single(stage: Stage) -> Stage {
    Stage { package_units: Some(1), ..stage }
}

fn fail(world: &mut World, lease: LeaseId, code: &str) {
    let (worker, generation) = (world.state.leases()[&lease].worker, world.state.leases()[&lease].generation);
    let release = Release::Failed { code: code.into(), detail: "it broke".into() };
    world.run(Command::Release { worker, lease, generation, release }).expect("released");
}

#[test]
fn a_unit_runs_as_soon_as_what_it_reads_is_accepted() {
    let mut world = world(&[1, 2]);
    let pairs = single(reading("pairs", 2, AUDIT, &[gather(0, 2, 2)]));
    let job = world.submit(graph(vec![single(reading("numbers", 4, AUDIT, &[])), pairs], None));
    let counts = |world: &World| {
        let job = &world.state.jobs()[&job];
        (job.blocked_units, job.waiting_units(), job.accepted_units)
    };
    assert_eq!(counts(&world), (2, 4, 0));
    let block = Blockage { iteration: 0, stage: 1, upstream: 0, done: 0, of: 2 };
    assert_eq!(world.state.jobs()[&job].blockage(), Some(block));
    // The first two numbers: each is computed by the first worker and checked by the second.
    for done in 1..=2 {
        let lease = world.lease(key(1), 1)[0];
        world.commit(lease, 0).expect("taken");
        let check = world.lease(key(2), 1)[0];
        world.commit(check, 0).expect("taken");
        assert_eq!(world.state.jobs()[&job].done_units(0, 0), done);
        assert_eq!(world.state.jobs()[&job].blocked_units, if done == 2 { 1 } else { 2 });
    }
    // The other two numbers wait before the first pair does.
    assert_eq!(counts(&world), (1, 3, 2));
    work(&mut world, &[1, 2]);
    let ended = &world.state.jobs()[&job];
    assert_eq!((ended.state.clone(), ended.accepted_units, ended.blocked_units), (JobState::Done, 6, 0));
}

#[test]
fn a_loop_ends_at_its_fixed_point_and_the_rest_is_refunded() {
    let mut world = world(&[1, 2]);
    world.settles_at = 2;
    let until = Some(Until::Unchanged { stage: 1, output: 0 });
    let always = Policy::Audit { rate_min_ppm: 1_000_000 };
    let stages = vec![
        reading("assign", 3, always, &[previous(1, 0, 1)]),
        reading("centre", 1, always, &[gather(0, 0, 3)]),
    ];
    let job = world.submit(graph(stages, Some(Iterate { times_max: 100, until })));
    assert_eq!(world.state.jobs()[&job].blocked_units, 397);
    work(&mut world, &[1, 2]);
    let ended = &world.state.jobs()[&job];
    // Iterations 0 to 3: the last two put out the same.
    assert_eq!((ended.state.clone(), ended.accepted_units, ended.skipped_units), (JobState::Done, 16, 384));
    assert_eq!((ended.last_iteration, ended.final_iteration()), (Some(3), 3));
    let spent = ended.money.paid.0 + ended.money.treasury.0 + ended.money.burned.0;
    assert_eq!(spent, 2 * 16 * 1_001, "every unit and its check is paid, and nothing else");
    assert_eq!(ended.money.refunded.0, 2 * 384 * 1_001);
    let order: Vec<_> =
        packages(&world, job).into_iter().map(|(stage, iteration, _)| (iteration, stage)).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_loop_ends_when_an_output_is_what_was_asked_for() {
    let mut world = world(&[1, 2]);
    let stages = vec![reading("step", 1, AUDIT, &[previous(0, 0, 1)])];
    // The output of a unit is named by the job and the unit: this one is iteration 4's.
    let blob = rules::output(JobId(1), 4, 0).blob;
    let until = Some(Until::Equals { stage: 0, output: 0, blob });
    let job = world.submit(graph(stages, Some(Iterate { times_max: 9, until })));
    work(&mut world, &[1, 2]);
    let ended = &world.state.jobs()[&job];
    assert_eq!((ended.state.clone(), ended.accepted_units, ended.skipped_units), (JobState::Done, 5, 4));
}

#[test]
fn work_on_later_iterations_ends_with_the_loop() {
    let mut world = world(&[1, 2, 3]);
    world.settles_at = 0;
    // The loop runs on its own outputs; what decides its end comes beside it.
    let until = Some(Until::Unchanged { stage: 1, output: 0 });
    let stages = vec![
        single(reading("step", 1, AUDIT, &[previous(0, 0, 1)])),
        single(reading("verdict", 1, AUDIT, &[gather(0, 0, 1)])),
    ];
    let job = world.submit(graph(stages, Some(Iterate { times_max: 50, until })));
    // Runs steps only: the verdicts are taken and kept.
    let mut verdicts = Vec::new();
    while verdicts.len() < 3 {
        for worker in [1, 2] {
            for lease in world.lease(key(worker), 1) {
                let unit = world.state.lease_units(&world.state.leases()[&lease])[0].first;
                if world.state.jobs()[&job].spec.place(unit).stage == 1 {
                    verdicts.push(lease);
                } else {
                    world.commit(lease, 0).expect("taken");
                }
            }
        }
    }
    for verdict in &verdicts[..2] {
        world.commit(*verdict, 0).expect("taken");
    }
    world.finish(&[key(1), key(2), key(3)]);
    let ended = &world.state.jobs()[&job];
    assert_eq!(ended.state, JobState::Done);
    assert_eq!(ended.last_iteration, Some(1));
    assert!(!world.state.leases().contains_key(&verdicts[2]));
    assert_eq!(ended.accepted_units + ended.skipped_units, 100);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_failed_stage_ends_the_job_with_its_units_and_resuming_runs_only_what_is_missing() {
    let mut world = world(&[1, 2, 3]);
    let pairs = single(reading("pairs", 2, AUDIT, &[gather(0, 2, 2)]));
    let mut spec = graph(vec![single(reading("numbers", 4, AUDIT, &[])), pairs], None);
    spec.attempts_max = Some(2);
    let job = world.submit(spec);
    // Number 1 fails wherever it runs.
    for _ in 0..40 {
        for worker in [1, 2, 3] {
            for lease in world.lease(key(worker), 1) {
                let first = world.state.lease_units(&world.state.leases()[&lease])[0].first;
                let checks = world.check_of(lease).is_some();
                if first == 1 && !checks {
                    fail(&mut world, lease, "timed_out");
                } else {
                    world.commit(lease, 0).expect("taken");
                }
            }
        }
    }
    let ended = &world.state.jobs()[&job];
    let JobState::Incomplete { cause: Shortfall::Parked, why } = &ended.state else {
        panic!("{:?}", ended.state)
    };
    assert!(why.starts_with("unit 1 of stage numbers: timed_out on "), "{why}");
    assert_eq!((ended.accepted_units, ended.parked_units, ended.blocked_units), (4, 1, 1));
    assert_eq!(ended.held(), Amount::ZERO);
    let before = packages(&world, job);

    let resume = |by: PublicKey| Command::ResumeJob { job, by, deadline_ms: None };
    assert_eq!(world.run(resume(key(9))), Err(Rejection::JobForeign(job)));
    world.run(resume(CLIENT)).expect("an incomplete job goes on");
    let resumed = &world.state.jobs()[&job];
    assert_eq!((resumed.waiting_units(), resumed.blocked_units, resumed.parked_units), (1, 1, 0));
    assert_eq!(resumed.held().0, 2 * 2 * 1_001, "the escrow is what two units and their checks cost");
    assert_eq!(world.run(resume(CLIENT)), Err(Rejection::JobNotIncomplete(job)));
    world.finish(&[key(1), key(2), key(3)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    assert_eq!(packages(&world, job)[before.len()..], [(0, 0, 1), (1, 0, 0)]);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_unit_that_fails_alone_on_three_workers_is_poison_and_takes_no_others_with_it() {
    let mut world = world(&[1, 2, 3, 4]);
    let mut spec = graph(vec![Stage { package_units: Some(64), ..reading("map", 64, AUDIT, &[]) }], None);
    spec.attempts_max = Some(20);
    let job = world.submit(spec);
    for _ in 0..300 {
        for worker in [1, 2, 3, 4] {
            for lease in world.lease(key(worker), 1) {
                let runs = world.state.lease_units(&world.state.leases()[&lease]);
                let poison = runs.iter().any(|run| run.units().any(|unit| unit == 13));
                if poison && world.check_of(lease).is_none() {
                    fail(&mut world, lease, "device_failed");
                } else {
                    world.commit(lease, 0).expect("taken");
                }
            }
        }
    }
    let ended = &world.state.jobs()[&job];
    assert_eq!((ended.accepted_units, ended.parked_units), (63, 1), "{:?}", ended.state);
    assert_eq!(ended.parked.keys().copied().collect::<Vec<_>>(), [13]);
    assert!(ended.parked[&13].failures.len() >= 3);
}

#[test]
fn a_paused_job_keeps_what_runs_and_gives_out_nothing_else() {
    let mut world = world(&[1, 2]);
    let job = world.submit(graph(vec![single(reading("map", 3, AUDIT, &[]))], None));
    let lease = world.lease(key(1), 1)[0];
    let pause = |paused| Command::Pause { job, by: CLIENT, paused };
    world.run(pause(true)).expect("paused");
    assert_eq!(world.lease(key(2), 1), []);
    assert_eq!(world.state.worker_reason(key(2), world.now_ms), Some(WorkerReason::AllLeased { units: 1 }));
    let reason = JobReason::Paused { waiting: 2, leased: 1, checking: 0 };
    assert_eq!(world.state.job_reason(job, world.now_ms), Some(reason));
    world.commit(lease, 0).expect("what runs may finish");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("and is checked");
    assert_eq!(world.lease(key(2), 1), []);
    assert_eq!(world.state.worker_reason(key(2), world.now_ms), Some(WorkerReason::OnlyPaused { jobs: 1 }));
    world.run(pause(false)).expect("goes on");
    work(&mut world, &[1, 2]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    assert_eq!(world.run(pause(true)), Err(Rejection::JobEnded(job)));
}

#[test]
fn a_deadline_ends_what_waits_and_a_new_one_lets_it_go_on() {
    let mut world = world(&[1, 2]);
    let mut spec = graph(vec![single(reading("map", 3, AUDIT, &[]))], None);
    spec.deadline_ms = Some(world.now_ms + 5_000);
    let job = world.submit(spec);
    let lease = world.lease(key(1), 1)[0];
    world.advance(5_000);
    assert_eq!(world.lease(key(2), 1), [], "nothing is given out after the deadline");
    let reason = JobReason::Overdue { leased: 1, checking: 0 };
    assert_eq!(world.state.job_reason(job, world.now_ms), Some(reason));
    world.commit(lease, 0).expect("what runs may finish");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("and is checked");
    let ended = &world.state.jobs()[&job];
    assert!(
        matches!(ended.state, JobState::Incomplete { cause: Shortfall::Deadline, .. }),
        "{:?}",
        ended.state
    );
    assert_eq!((ended.accepted_units, ended.waiting_units()), (1, 2));

    let resume = |deadline_ms| Command::ResumeJob { job, by: CLIENT, deadline_ms };
    let late = world.run(resume(None));
    assert!(matches!(late, Err(Rejection::SpecInvalid(_))), "{late:?}");
    let deadline = world.now_ms + 60_000;
    world.run(resume(Some(deadline))).expect("a new deadline");
    world.finish(&[key(1), key(2)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_graph_that_makes_no_sense_is_refused() {
    let mut world = world(&[]);
    let mut check = |stages: Vec<Stage>, iterate: Option<Iterate>, expected: &str| {
        let spec = graph(stages, iterate);
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        match world.run(Command::Submit(submission.into())) {
            Err(Rejection::SpecInvalid(why)) => assert!(why.contains(expected), "{why:?} lacks {expected:?}"),
            other => panic!("{other:?}"),
        }
    };
    let first = || reading("first", 4, AUDIT, &[]);
    let then = |gather: Gather| vec![first(), reading("then", 4, AUDIT, &[gather])];
    let times = |times_max| Some(Iterate { times_max, until: None });
    check(vec![], None, "1 to 32 stages");
    check(then(gather(1, 1, 1)), None, "its own stage or a later one");
    check(then(gather(7, 1, 1)), None, "names stage 7");
    check(then(Gather { output: 3, ..gather(0, 1, 1) }), None, "names output 3");
    check(then(Gather { count: 5_000, ..gather(0, 0, 1) }), None, "reads 5000 outputs");
    check(then(Gather { length: 0, ..gather(0, 0, 1) }), None, "length");
    check(then(Gather { offset: 4, ..gather(0, 1, 1) }), None, "begins at 4");
    check(then(Gather { stride: u64::MAX, ..gather(0, 1, 1) }), None, "2⁶⁴");
    check(then(previous(1, 1, 1)), None, "not iterated");
    check(then(previous(1, 1, 1)), times(3), "every iteration would compute the same");
    check(then(gather(0, 1, 1)), times(0), "1 to 1000000 times");
    let until = Some(Until::Equals { stage: 5, output: 0, blob: Hash([0; 32]) });
    check(then(gather(0, 1, 1)), Some(Iterate { times_max: 2, until }), "output 0 of stage 5");
    let wide = vec![reading("wide", 1_000_000, AUDIT, &[previous(0, 1, 1)])];
    check(wide, times(1_000), "100 000 000 units");
}

#[test]
fn a_job_waits_for_a_device_that_few_have_and_says_when_one_is_free() {
    let mut world = world(&[1, 2]);
    let mut strong = rules::device();
    strong.limits.storage_buffer_bytes_max = 1 << 30;
    let announce = Command::Announce {
        worker: key(3),
        instance: "one".into(),
        device: strong,
        version: "test".into(),
        offer: Default::default(),
    };
    world.run(announce).expect("a strong device");
    let needs = plexus_engine::Requirements { storage_buffer_bytes: 1 << 29, ..Default::default() };
    let stage = single(Stage { requirements: needs, ..reading("large", 2, AUDIT, &[]) });
    let job = world.submit(JobSpec { attempts_max: None, ..graph(vec![stage], None) });
    let lease = world.lease(key(3), 1)[0];
    let (mut receipt, units) = world.receipt(lease, 0);
    receipt.device_us = 1_500_000;
    world.commit_receipt(receipt, units).expect("taken");
    // The other unit is in no hands, and the only device that can run it is busy with another job.
    let small = world.submit(graph(vec![single(reading("small", 8, AUDIT, &[]))], None));
    world.run(Command::Pause { job, by: CLIENT, paused: true }).expect("paused");
    for _ in 0..2 {
        let lease = world.lease(key(3), 1)[0];
        let (mut receipt, units) = world.receipt(lease, 0);
        receipt.device_us = 1_500_000;
        world.commit_receipt(receipt, units).expect("taken");
    }
    assert_eq!(world.lease(key(3), 1).len(), 1);
    world.run(Command::Pause { job, by: CLIENT, paused: false }).expect("goes on");
    let Some(JobReason::AllBusy { fitting, online, lacks, free_in_ms }) =
        world.state.job_reason(job, world.now_ms)
    else {
        panic!("{:?}", world.state.job_reason(job, world.now_ms))
    };
    assert_eq!((fitting, online, free_in_ms), (1, 3, Some(1_500)));
    assert!(lacks.is_some(), "of job {small}");
}
