//! Random command sequences: the invariants hold after every command, a replay gives the same state, and honest workers
//! can always finish what is left.

mod rules;

use std::collections::BTreeSet;

use plexus_engine::{
    Answer, Canary, Combined, Command, Event, Gather, Iterate, JobSpec, JobState, KnownOutput, Params,
    Policy, Priority, Quorum, Release, Submission, Until, Worker, WorkerReason, decide,
};
use proptest::prelude::*;
use protocol::{Amount, Hash, JobId, PublicKey};
use rules::{AUDIT, CLIENT, MARKET, World, gather, graph, key, output, previous, reading, spec};

#[derive(Clone, Debug)]
enum Step {
    Submit {
        units: u64,
        price: u64,
        quorum: Option<u32>,
        rate_ppm: u32,
        package_units: Option<u32>,
        exact: bool,
        priority: Priority,
        devices: u32,
        replicas: u32,
        canary: Option<u8>,
        policy: Option<(Option<u32>, bool)>,
    },
    Lease {
        worker: usize,
        packages: u32,
    },
    Commit {
        lease: prop::sample::Index,
        lie: u8,
    },
    Checkpoint {
        lease: prop::sample::Index,
        units: usize,
    },
    Late {
        receipt: prop::sample::Index,
    },
    Release {
        lease: prop::sample::Index,
        failed: bool,
    },
    Heartbeat {
        worker: usize,
    },
    Leave {
        worker: usize,
        drain: bool,
    },
    Announce {
        worker: usize,
    },
    Cancel {
        job: prop::sample::Index,
    },
    Pause {
        job: prop::sample::Index,
        paused: bool,
    },
    ResumeJob {
        job: prop::sample::Index,
    },
    Graph {
        shape: usize,
        units: u64,
        times: u32,
        deadline_ms: Option<u64>,
    },
    Archive,
    Judge,
    Contest {
        verdict: prop::sample::Index,
    },
    Pass {
        ms: u64,
    },
    Resume,
}

/// Three owners with a worker each, a second worker of the first owner by session key, and the market's verifier.
fn workers() -> Vec<PublicKey> {
    vec![key(1), key(2), key(3), key(101), MARKET]
}

fn step() -> impl Strategy<Value = Step> {
    let submit = (
        1u64..40,
        0u64..3_000,
        prop::option::of(2u32..4),
        0u32..1_000_000,
        prop::option::of(1u32..9),
        any::<bool>(),
        prop_oneof![1 => Just(Priority::Low), 4 => Just(Priority::Normal), 1 => Just(Priority::High), 1 => Just(Priority::Urgent)],
        prop_oneof![5 => Just((1u32, 1u32)), 1 => (2u32..4, Just(1)), 1 => (Just(1), 2u32..4)],
        prop_oneof![3 => Just(None), 2 => Just(Some(0u8)), 1 => Just(Some(1))],
        prop::option::of((prop::option::of(2u32..4), any::<bool>())),
    )
        .prop_map(|(units, price, quorum, rate_ppm, package_units, exact, priority, (devices, replicas), canary, policy)| Step::Submit {
            units,
            price,
            quorum,
            rate_ppm,
            package_units,
            exact,
            priority,
            devices,
            replicas,
            canary,
            policy,
        });
    prop_oneof![
        1 => submit,
        6 => (0usize..5, 1u32..4).prop_map(|(worker, packages)| Step::Lease { worker, packages }),
        8 => (any::<prop::sample::Index>(), prop_oneof![8 => Just(0u8), 1 => 1u8..3]).prop_map(|(lease, lie)| Step::Commit { lease, lie }),
        1 => (any::<prop::sample::Index>(), 1usize..4).prop_map(|(lease, units)| Step::Checkpoint { lease, units }),
        2 => any::<prop::sample::Index>().prop_map(|receipt| Step::Late { receipt }),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(lease, failed)| Step::Release { lease, failed }),
        2 => (0usize..5).prop_map(|worker| Step::Heartbeat { worker }),
        1 => (0usize..5, any::<bool>()).prop_map(|(worker, drain)| Step::Leave { worker, drain }),
        2 => (0usize..5).prop_map(|worker| Step::Announce { worker }),
        1 => any::<prop::sample::Index>().prop_map(|job| Step::Cancel { job }),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(job, paused)| Step::Pause { job, paused }),
        1 => any::<prop::sample::Index>().prop_map(|job| Step::ResumeJob { job }),
        1 => (0usize..5, 1u64..9, 1u32..5, prop::option::of(1u64..20_000))
            .prop_map(|(shape, units, times, deadline_ms)| Step::Graph { shape, units, times, deadline_ms }),
        1 => Just(Step::Archive),
        2 => Just(Step::Judge),
        2 => any::<prop::sample::Index>().prop_map(|verdict| Step::Contest { verdict }),
        2 => prop_oneof![4 => 1u64..3_000, 1 => 3_000u64..60_000].prop_map(|ms| Step::Pass { ms }),
        1 => Just(Step::Resume),
    ]
}

/// Jobs of several stages: map, reduce, broadcast, a sliding window, and loops.
fn shape(shape: usize, units: u64, times_max: u32) -> JobSpec {
    let first = reading("first", units, AUDIT, &[]);
    let quorum = Policy::Quorum { agree: 2 };
    let until = Some(Until::Unchanged { stage: 1, output: 0 });
    let looped = Some(Iterate { times_max, until });
    match shape {
        0 => graph(vec![first, reading("map", units, quorum, &[gather(0, 1, 1)])], None),
        1 => graph(
            vec![
                first,
                reading("thirds", units.div_ceil(3), AUDIT, &[gather(0, 3, 3)]),
                reading("whole", 1, AUDIT, &[gather(1, 0, units.div_ceil(3))]),
                reading("told", units, AUDIT, &[gather(0, 1, 1), gather(2, 0, 1)]),
            ],
            None,
        ),
        2 => graph(
            vec![
                reading("assign", units, AUDIT, &[previous(1, 0, 1)]),
                reading("centre", 1, AUDIT, &[gather(0, 0, units)]),
            ],
            looped,
        ),
        // Each unit goes its own way, so that one may be iterations ahead of another.
        3 => graph(
            vec![
                reading("here", units, AUDIT, &[previous(1, 1, 1)]),
                reading("there", units, AUDIT, &[gather(0, 1, 2)]),
            ],
            looped,
        ),
        _ => {
            let part = |offset| Gather { step: 0, count: 2, offset, stride: 2, length: 2, ..gather(0, 0, 2) };
            graph(vec![first, reading("scatter", 9, AUDIT, &[part(0), part(3)])], None)
        }
    }
}

fn world() -> World {
    let mut world = World::new(Params {
        attempts_max: 3,
        closed_leases_max: 50,
        appeal_ms: 3_000,
        archive_after_ms: 2_000,
        archive_incomplete_after_ms: 20_000,
        ..Params::default()
    });
    world.settles_at = 1;
    world.fund(CLIENT, 1);
    for owner in [1, 2, 3] {
        world.fund(key(owner), 3);
        let amount = Amount(protocol::BASE_UNITS_PER_TOKEN);
        world.run(Command::Bond { account: key(owner), amount }).expect("bonded");
        world.run(Command::Unbond { account: key(owner), amount: Amount(7) }).expect("unbonding");
    }
    let delegate =
        Command::DelegateSession { wallet: key(1), session: key(101), expires_at_ms: 2_000_000_000 };
    world.run(delegate).expect("a fresh key can be delegated to");
    for worker in workers() {
        world.announce(worker);
    }
    world
}

/// A package is judged once, a verdict is final once, and what it takes needs two owners' word or the market's.
fn judged_once_and_by_more_than_one(world: &World) {
    let (mut judged, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for (_, event) in &world.journal {
        match event {
            Event::VerdictReached { package, opinions, owner, slash, .. } => {
                assert!(judged.insert(*package), "{package} is judged twice");
                let against: BTreeSet<_> =
                    opinions.iter().filter(|o| !o.agrees && o.worker.is_some()).map(|o| o.owner).collect();
                assert!(!against.contains(owner), "nobody accuses themselves");
                let enough = against.len() > 1 || against.contains(&MARKET);
                assert!(enough || slash.total() == Amount::ZERO, "{package} is slashed on one opinion");
                assert!(enough, "{package} is judged on one opinion");
            }
            Event::VerdictClosed { verdict, .. } => {
                assert!(closed.insert(*verdict), "{verdict} is final twice")
            }
            _ => {}
        }
    }
    let frozen: u64 = world.state.verdicts().values().map(|verdict| verdict.frozen().0).sum();
    assert_eq!(frozen, world.state.ledger().frozen.0);
    assert_eq!(judged.len(), closed.len() + world.state.verdicts().len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_replays_and_can_be_finished(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = world();
        let mut receipts = Vec::new();
        for step in steps {
            let instance = || "one".to_owned();
            match step {
                Step::Submit { units, price, quorum, rate_ppm, package_units, exact, priority, devices, replicas, canary, policy } => {
                    let policy = match (quorum, policy) {
                        (Some(agree), None) => Policy::Quorum { agree },
                        (None, None) => Policy::Audit { rate_min_ppm: rate_ppm },
                        (quorum, Some((more, algebraic))) => Policy::Combined(Combined {
                            audit_rate_min_ppm: (quorum.is_none() && !algebraic).then_some(rate_ppm),
                            quorum: quorum.map(|agree| Quorum { agree, of: more.map_or(agree, |_| (2 * agree - 1).min(5)) }),
                            canaries: canary.is_some(),
                            algebraic_rate_min_ppm: algebraic.then_some(rate_ppm),
                        }),
                    };
                    let mut spec = spec(units, policy);
                    let stage = &mut spec.stages[0];
                    (stage.unit_price, stage.package_units, stage.outputs_exact) = (Amount(price), package_units, vec![exact]);
                    (stage.devices, stage.replicas) = (devices, replicas);
                    if replicas > 1 {
                        stage.package_units = None;
                    }
                    spec.priority = priority;
                    // What the owner knows of every third unit, rightly or not.
                    let next = JobId(world.state.jobs().keys().next_back().map_or(1, |job| job.0 + 1));
                    let known = |lie| (0..units).step_by(3).map(move |unit| {
                        let known = output(next, unit, lie);
                        Canary { unit, outputs: vec![KnownOutput { blob: known.blob, length: known.length }] }
                    });
                    let canaries = canary.map(known).into_iter().flatten().collect();
                    let submission = Submission { owner: CLIENT, spec, quoted: vec![], budget: None, key: None, canaries, sealed: None };
                    let _ = world.run(Command::Submit(submission.into()));
                }
                Step::Lease { worker, packages } => {
                    world.lease(workers()[worker], packages);
                }
                Step::Commit { lease, lie } => {
                    let leases: Vec<_> = world.state.leases().keys().copied().collect();
                    if !leases.is_empty() {
                        let (receipt, units) = world.receipt(*lease.get(&leases), lie);
                        receipts.push((receipt.clone(), units.clone()));
                        world.commit_receipt(receipt, units).expect("a receipt for an active lease is taken");
                    }
                }
                Step::Checkpoint { lease, units } => {
                    let leases: Vec<_> = world.state.leases().keys().copied().collect();
                    if !leases.is_empty() {
                        let lease = *lease.get(&leases);
                        let (receipt, outputs) = world.receipt_of_first(lease, units, 0);
                        let whole = world.receipt(lease, 0).0.units;
                        let check = world.check_of(lease).is_some();
                        let taken = world.commit_receipt(receipt.clone(), outputs.clone()).is_ok();
                        prop_assert_eq!(taken, !check || receipt.units == whole);
                        receipts.push((receipt, outputs));
                    }
                }
                Step::Late { receipt } => {
                    // An earlier receipt again: the same answer or a refusal, never a second payment.
                    if !receipts.is_empty() {
                        let (receipt, units) = receipt.get(&receipts).clone();
                        let paid = world.state.ledger().paid;
                        let _ = world.commit_receipt(receipt, units);
                        prop_assert_eq!(world.state.ledger().paid, paid);
                    }
                }
                Step::Release { lease, failed } => {
                    let leases: Vec<_> = world.state.leases().iter().map(|(id, l)| (*id, l.worker, l.generation)).collect();
                    if !leases.is_empty() {
                        let (lease, worker, generation) = *lease.get(&leases);
                        let release = if failed {
                            Release::Failed { code: "device_failed".into(), detail: "lost".into() }
                        } else {
                            Release::Returned
                        };
                        world.run(Command::Release { worker, lease, generation, release }).expect("it is theirs");
                    }
                }
                Step::Heartbeat { worker } => {
                    let worker = workers()[worker];
                    let leases = world.state.workers()[&worker].leases.iter().copied().collect();
                    let _ = world.run(Command::Heartbeat { worker, instance: instance(), leases });
                }
                Step::Leave { worker, drain } => {
                    let _ = world.run(Command::Leave { worker: workers()[worker], instance: instance(), drain });
                }
                Step::Announce { worker } => world.announce(workers()[worker]),
                Step::Cancel { job } => {
                    let jobs: Vec<_> = world.state.jobs().keys().copied().collect();
                    if !jobs.is_empty() {
                        let _ = world.run(Command::Cancel { job: *job.get(&jobs), by: CLIENT });
                    }
                }
                Step::Pause { job, paused } => {
                    let jobs: Vec<_> = world.state.jobs().keys().copied().collect();
                    if !jobs.is_empty() {
                        let _ = world.run(Command::Pause { job: *job.get(&jobs), by: CLIENT, paused });
                    }
                }
                Step::ResumeJob { job } => {
                    let jobs: Vec<_> = world.state.jobs().keys().copied().collect();
                    if !jobs.is_empty() {
                        let deadline_ms = Some(world.now_ms + 5_000);
                        let _ = world.run(Command::ResumeJob { job: *job.get(&jobs), by: CLIENT, deadline_ms });
                    }
                }
                Step::Graph { shape: which, units, times, deadline_ms } => {
                    let deadline_ms = deadline_ms.map(|after| world.now_ms + after);
                    let spec = JobSpec { deadline_ms, ..shape(which, units, times) };
                    world.submit(spec);
                }
                Step::Archive => {
                    for (job, ended_at_ms) in world.state.archivable(world.now_ms, 2) {
                        let archive = Command::Archive { job, ended_at_ms, archive: Hash([1; 32]) };
                        world.run(archive).expect("it is due");
                        prop_assert!(!world.state.jobs().contains_key(&job));
                    }
                }
                Step::Contest { verdict } => {
                    let open: Vec<_> = world.state.verdicts().iter().map(|(id, v)| (*id, v.owner)).collect();
                    if !open.is_empty() {
                        let (verdict, by) = *verdict.get(&open);
                        let _ = world.run(Command::Contest { verdict, by });
                    }
                }
                Step::Judge => world.judge(),
                Step::Pass { ms } => world.advance(ms),
                Step::Resume => {
                    world.run(Command::Resume).expect("a restart is always possible");
                }
            }
            // An idle worker is told that it gets work at its next request exactly when it does.
            for worker in workers() {
                let told = world.state.worker_reason(worker, world.now_ms).expect("it was announced");
                let Worker { gone: None, draining: false, leases, .. } = &world.state.workers()[&worker] else { continue };
                if leases.is_empty() {
                    let ask = Command::RequestLeases { worker, instance: "one".into(), packages_max: 1, others_only: false };
                    let answer = decide(&mut world.state.clone(), world.now_ms, ask).expect("it is live").answer;
                    prop_assert_eq!(told == WorkerReason::NextRequest, answer != Answer::Leases(vec![]), "{:?}", told);
                }
            }
        }
        prop_assert_eq!(&world.replayed(), &world.state);
        judged_once_and_by_more_than_one(&world);
        let jobs: Vec<_> = world.state.jobs().keys().copied().collect();
        for job in jobs {
            let _ = world.run(Command::Pause { job, by: CLIENT, paused: false });
        }
        world.finish(&workers());
        prop_assert_eq!(&world.replayed(), &world.state);
        let ended_well = |state: &JobState| !matches!(state, JobState::Waiting | JobState::Running);
        prop_assert!(world.state.jobs().values().all(|job| ended_well(&job.state)));
        prop_assert_eq!(world.state.ledger().held, Amount::ZERO);
    }
}
