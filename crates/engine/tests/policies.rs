//! Ways to verify results beside executing them again, and together with it.

mod rules;

use plexus_engine::{
    Answer, Canary, CheckKind, Combined, Command, Event, JobState, KnownOutput, Policy, Quorum, Rejection,
    Stage, Submission, VerificationCounts,
};
use protocol::{Amount, JobId};
use rules::{AUDIT, CLIENT, MARKET, World, key, output, spec, world};

/// What the owner of the next job knows of a unit: the honest result, or another one.
fn canary(unit: u64, lie: u8) -> Canary {
    let known = output(JobId(1), unit, lie);
    Canary { unit, outputs: vec![KnownOutput { blob: known.blob, length: known.length }] }
}

fn submit(world: &mut World, units: u64, canaries: Vec<Canary>) -> Result<JobId, Rejection> {
    let mut spec = spec(units, AUDIT);
    spec.stages[0].package_units = Some(units as u32);
    let submission =
        Submission { owner: CLIENT, spec, quoted: vec![], budget: None, key: None, canaries, sealed: None };
    match world.run(Command::Submit(submission.into()))?.answer {
        Answer::Job(job) => Ok(job),
        other => panic!("{other:?}"),
    }
}

fn verification(world: &World, job: JobId) -> VerificationCounts {
    world.state.jobs()[&job].verification
}

#[test]
fn a_known_output_agrees_at_once_and_costs_nothing() {
    let mut world = world(&[1, 2]);
    let job = submit(&mut world, 3, vec![canary(1, 0)]).expect("it has a unit 1");
    assert_eq!(world.state.jobs()[&job].money.escrowed, Amount(6 * 1_001), "three units and a check of each");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    let kinds: Vec<_> =
        world.state.checks().values().map(|check| (check.kind, check.units.clone())).collect();
    assert_eq!(kinds, [(CheckKind::Execution, vec![0, 1, 2]), (CheckKind::Canary, vec![1])]);
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("taken");
    let done = &world.state.jobs()[&job];
    assert_eq!(
        (done.state.clone(), done.verification.canaries, done.verification.checked),
        (JobState::Done, 1, 3)
    );
    assert_eq!(
        done.money.refunded,
        Amount::ZERO,
        "three units and three checks were paid, and the canary was not"
    );
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn two_friends_who_agree_on_a_lie_meet_the_market_because_of_a_canary() {
    let mut world = world(&[1, 2, 3]);
    world.announce(MARKET);
    let job = submit(&mut world, 3, vec![canary(1, 0)]).expect("it has a unit 1");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 1).expect("the lie is journaled");
    assert_eq!((verification(&world, job).disputed, verification(&world, job).rejected), (1, 0));
    let friend = world.lease(key(2), 1)[0];
    world.commit(friend, 1).expect("the friend's lie is journaled");
    assert_eq!(verification(&world, job).rejected, 0, "nobody loses on the client's word");
    let third = world.lease(MARKET, 1)[0];
    let units = &world.state.checks()[&world.check_of(third).expect("a check")].units;
    assert_eq!(*units, [1], "the third opinion is on the canary alone");
    world.commit(third, 0).expect("taken");
    assert_eq!(verification(&world, job).rejected, 3);
    assert_eq!(world.state.accounts().get(&key(1)), None);
    world.finish(&[key(2), key(3), MARKET]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_client_who_is_wrong_about_a_canary_hurts_nobody() {
    let mut world = world(&[1, 2]);
    world.announce(MARKET);
    let job = submit(&mut world, 2, vec![canary(0, 7)]).expect("it has a unit 0");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    world.finish(&[key(1), key(2), MARKET]);
    let done = verification(&world, job);
    assert_eq!((done.disputed, done.rejected, done.canaries), (1, 0, 0));
    assert_eq!(world.state.streak(key(1)), 1);
    assert_eq!(world.state.accounts()[&key(1)].earned, Amount(1_802));
}

#[test]
fn the_market_looks_into_a_missed_canary_before_anybody_else_may() {
    let mut world = world(&[1, 2, 3]);
    let mut spec = spec(1, AUDIT);
    // Money for more than one check.
    spec.stages[0].units = 4;
    spec.stages[0].package_units = Some(1);
    let submission = Submission {
        owner: CLIENT,
        spec,
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![canary(0, 7)],
        sealed: None,
    };
    world.run(Command::Submit(submission.into())).expect("accepted");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    let tie_of_canary = |world: &World, lease| {
        let tie_of = world.state.checks()[&world.check_of(lease)?].tie_of?;
        Some(world.state.checks()[&tie_of].kind)
    };
    for lease in world.lease(key(2), 9).into_iter().chain(world.lease(key(3), 9)) {
        assert_eq!(tie_of_canary(&world, lease), None, "only the market may, for now");
    }
    world.advance(2_000);
    // A friend of the client's may now, but one execution outvotes nobody.
    let wanted = world.state.checks().values().filter(|check| check.tie_of.is_some()).count();
    assert_eq!(wanted, 1);
    let ties: Vec<_> =
        world.lease(key(3), 9).into_iter().filter(|l| tie_of_canary(&world, *l).is_some()).collect();
    assert_eq!(ties.len(), 1);
    world.commit(ties[0], 7).expect("taken");
    assert_eq!(verification(&world, JobId(1)).rejected, 0);
    world.announce(MARKET);
    world.finish(&[key(1), key(2), MARKET]);
    assert_eq!(verification(&world, JobId(1)).rejected, 0, "the client and a friend outvote nobody");
}

#[test]
fn evidence_never_names_what_the_owner_knows() {
    let mut world = world(&[1]);
    submit(&mut world, 1, vec![canary(0, 0)]).expect("accepted");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 1).expect("taken");
    let known = output(JobId(1), 0, 0).blob.to_string();
    let evidence: Vec<_> = world
        .journal
        .iter()
        .filter_map(|(_, event)| match event {
            Event::CheckDecided { evidence, .. } => Some(evidence.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(evidence.len(), 1);
    assert!(!evidence[0].contains(&known), "{evidence:?}");
}

#[test]
fn a_known_output_that_may_differ_a_little_is_compared_by_the_shell() {
    let mut world = world(&[1, 2]);
    world.announce(MARKET);
    let mut within = spec(1, AUDIT);
    within.stages[0].outputs_exact = vec![false];
    let submission = Submission {
        owner: CLIENT,
        spec: within,
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![canary(0, 7)],
        sealed: None,
    };
    world.run(Command::Submit(submission.into())).expect("accepted");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    let comparison = world.state.comparisons(9).remove(0);
    assert!(comparison.known);
    assert_eq!(comparison.pairs, [(0, 0, output(JobId(1), 0, 0).blob, output(JobId(1), 0, 7).blob)]);
    let agreed = Command::RecordOpinion { check: comparison.check, agrees: true, evidence: "close".into() };
    world.run(agreed).expect("it was asked for");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("taken");
    assert_eq!(world.state.jobs()[&JobId(1)].state, JobState::Done);
    assert_eq!(verification(&world, JobId(1)).canaries, 1);
}

#[test]
fn canaries_that_make_no_sense_are_refused() {
    let long = Canary { outputs: vec![KnownOutput { length: 5, ..canary(0, 0).outputs[0] }], ..canary(0, 0) };
    for (canaries, why) in [
        (vec![canary(3, 0)], "the job has 3 units"),
        (vec![canary(1, 0), canary(1, 0)], "a unit of its own"),
        (vec![canary(2, 0), canary(1, 0)], "ascending"),
        (vec![Canary { unit: 0, outputs: vec![] }], "1 outputs"),
        ((0..1_001).map(|unit| canary(unit, 0)).collect(), "at most 1000"),
        (vec![long], "4 bytes, its canary 5"),
    ] {
        let mut world = world(&[]);
        let mut spec = spec(3, AUDIT);
        spec.stages[0].output_bytes = vec![4];
        let canaries = canaries.into_iter().map(|mut canary| {
            if why != "4 bytes, its canary 5" {
                canary.outputs.iter_mut().for_each(|known| known.length = 4);
            }
            canary
        });
        let canaries = canaries.collect();
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries,
            sealed: None,
        };
        let refused = world.run(Command::Submit(submission.into())).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused} does not say {why:?}");
    }
}

fn quorum(agree: u32, of: u32) -> Policy {
    Policy::Combined(Combined { quorum: Some(Quorum { agree, of }), ..Combined::default() })
}

/// The market checks everything by itself.
const ALGEBRAIC: Policy = Policy::Combined(Combined {
    audit_rate_min_ppm: None,
    quorum: None,
    canaries: false,
    algebraic_rate_min_ppm: Some(1_000_000),
});

/// Has these workers execute the one unit of a new job, with these results, one after the other.
fn executed(world: &mut World, policy: Policy, results: &[(u8, u8)]) -> JobId {
    let job = world.submit(spec(1, policy));
    for (worker, lie) in results {
        for lease in world.lease(key(*worker), 1) {
            world.commit(lease, *lie).expect("taken");
        }
    }
    job
}

#[test]
fn a_quorum_stands_as_soon_as_enough_owners_agree() {
    let mut world = world(&[1, 2, 3, 4, 5]);
    let job = executed(&mut world, quorum(3, 5), &[(1, 0), (2, 9), (3, 0)]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Running);
    assert_eq!(world.state.jobs()[&job].money.escrowed, Amount(5 * 1_001));
    let waiting = world.lease(key(5), 1)[0];
    let agreeing = world.lease(key(4), 1)[0];
    world.commit(agreeing, 0).expect("taken");
    let done = &world.state.jobs()[&job];
    assert_eq!(done.state, JobState::Done, "three of five agree");
    assert!(!world.state.leases().contains_key(&waiting), "the fifth is not needed");
    // Three executions that agree are paid, the one that does not and the one that was not needed are not.
    assert_eq!(done.money.refunded, Amount(2 * 1_001));
    let streaks = [1, 2].map(|worker| world.state.streak(key(worker)));
    assert_eq!(streaks, [1, 0], "it counts as verified, and a wrong opinion as wrong");
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_quorum_is_missed_when_too_many_disagree() {
    let mut world = world(&[1, 2, 3, 4, 5]);
    let job = executed(&mut world, quorum(3, 4), &[(1, 9), (2, 0)]);
    assert_eq!(verification(&world, job).rejected, 0, "two others could still agree with it");
    for lease in world.lease(key(3), 1) {
        world.commit(lease, 0).expect("taken");
    }
    assert_eq!(verification(&world, job).rejected, 1, "now they cannot");
    assert_eq!(world.state.accounts()[&key(2)].earned, Amount(901), "who was right is paid");
    // What the wrong package's checks cost is not there any more, so the market makes the rest.
    world.announce(MARKET);
    world.finish(&[key(2), key(3), key(4), key(5), MARKET]);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn when_all_must_agree_one_dissent_brings_another_opinion() {
    let mut world = world(&[1, 2, 3]);
    world.announce(MARKET);
    let job = executed(&mut world, quorum(2, 2), &[(1, 0), (2, 9)]);
    assert_eq!(verification(&world, job).rejected, 0, "nobody loses on one opinion");
    world.finish(&[key(3), MARKET]);
    assert_eq!((verification(&world, job).rejected, verification(&world, job).disputed), (0, 1));
}

#[test]
fn quorums_are_majorities_and_leave_nothing_to_audit() {
    let audited = Policy::Combined(Combined { audit_rate_min_ppm: Some(0), ..quorum(2, 2).combined() });
    let nothing = Policy::Combined(Combined { canaries: true, ..Combined::default() });
    let beyond =
        Policy::Combined(Combined { algebraic_rate_min_ppm: Some(1_000_001), ..Combined::default() });
    for (policy, why) in [
        (quorum(1, 2), "more than half"),
        (quorum(2, 4), "more than half"),
        (quorum(3, 2), "more than half"),
        (quorum(4, 6), "2 to 5"),
        (quorum(1, 1), "2 to 5"),
        (audited, "nothing to audit"),
        (nothing, "audited, executed by several, or checked"),
        (beyond, "at most the whole"),
    ] {
        let mut world = world(&[]);
        let spec = spec(1, policy);
        let submission = Submission {
            owner: CLIENT,
            spec,
            quoted: vec![],
            budget: None,
            key: None,
            canaries: vec![],
            sealed: None,
        };
        let refused = world.run(Command::Submit(submission.into())).expect_err(why);
        assert!(refused.to_string().contains(why), "{refused} does not say {why:?}");
    }
}

#[test]
fn what_the_market_checks_by_itself_needs_no_second_execution() {
    let mut world = world(&[1]);
    let job = world.submit(spec(3, ALGEBRAIC));
    assert_eq!(world.state.jobs()[&job].money.escrowed, Amount(3 * 1_001), "no check is set aside for");
    world.finish(&[key(1)]);
    let done = &world.state.jobs()[&job];
    assert_eq!((done.state.clone(), done.money.refunded), (JobState::Done, Amount::ZERO));
    assert_eq!(
        (done.verification.algebraic, done.verification.checked, done.verification.sampled_out),
        (3, 0, 0)
    );
    assert!(world.state.streak(key(1)) > 0);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_relation_that_does_not_hold_brings_an_execution() {
    // A lie, and an honest result of a program that does not keep the relation which its client stated.
    for (output, accepted) in [(1, 0), (0, 1)] {
        let mut world = world(&[1, 2]);
        world.announce(MARKET);
        let job = world.submit(spec(1, ALGEBRAIC));
        let lease = world.lease(key(1), 1)[0];
        world.commit(lease, output).expect("it is journaled");
        let check = world.state.looks(9)[0].check;
        let evidence = "element 0 is 1 and the product's is 0".to_owned();
        world.run(Command::RecordOpinion { check, agrees: false, evidence }).expect("it was asked for");
        assert_eq!(
            verification(&world, job).rejected,
            0,
            "nobody loses on what the client says of its program"
        );
        let lease = world.lease(MARKET, 1)[0];
        world.commit(lease, 0).expect("taken");
        assert_eq!(verification(&world, job).rejected, 1 - accepted);
        assert_eq!(world.state.jobs()[&job].accepted_units, accepted);
        assert_eq!(world.replayed(), world.state);
    }
}

#[test]
fn a_lie_that_breaks_a_relation_and_an_audit_is_rejected_once() {
    let mut world = world(&[1, 2, 3]);
    let both = Policy::Combined(Combined { audit_rate_min_ppm: Some(0), ..ALGEBRAIC.combined() });
    let job = world.submit(spec(1, both));
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 1).expect("the lie is journaled");
    world.judge();
    assert_eq!(verification(&world, job).rejected, 0);
    world.announce(MARKET);
    world.finish(&[key(2), key(3), MARKET]);
    assert_eq!(verification(&world, job).rejected, 1);
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn what_the_market_cannot_tell_is_executed_again() {
    for (again, rejected) in [(0, 0), (1, 1)] {
        let mut world = world(&[1, 2]);
        world.announce(MARKET);
        let job = world.submit(spec(1, ALGEBRAIC));
        let lease = world.lease(key(1), 1)[0];
        world.commit(lease, 0).expect("taken");
        let check = world.state.looks(9)[0].check;
        let evidence = "a factor is not finite".to_owned();
        let undecided = Command::RecordUndecided { check, evidence };
        world.run(undecided.clone()).expect("it was asked for");
        assert_eq!(world.run(undecided).err(), Some(Rejection::CheckNotPending(check)));
        // The job set nothing aside for checks, so that is the market's to do.
        assert_eq!(world.lease(key(2), 1), []);
        let lease = world.lease(MARKET, 1)[0];
        world.commit(lease, again).expect("taken");
        assert_eq!(verification(&world, job).rejected, rejected);
        assert_eq!(world.replayed(), world.state);
    }
}

#[test]
fn the_market_checks_all_of_a_newcomer_and_a_share_of_the_trusted() {
    let mut world = world(&[1]);
    let few = Policy::Combined(Combined { algebraic_rate_min_ppm: Some(0), ..ALGEBRAIC.combined() });
    let mut spec = spec(200, few);
    spec.stages[0].package_units = Some(1);
    // Who gains nothing is not checked for what they could gain.
    spec.stages[0].unit_price = Amount::ZERO;
    let job = world.submit(spec);
    world.finish(&[key(1)]);
    let done = verification(&world, job);
    assert_eq!(done.algebraic + done.sampled_out, 200);
    assert!((10..150).contains(&done.algebraic), "{done:?}");
}

#[test]
fn policies_work_together() {
    let mut world = world(&[1, 2, 3]);
    world.announce(MARKET);
    let all = Policy::Combined(Combined {
        audit_rate_min_ppm: Some(0),
        quorum: None,
        canaries: true,
        algebraic_rate_min_ppm: Some(1_000_000),
    });
    let submission = Submission {
        owner: CLIENT,
        spec: spec(2, all),
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![canary(0, 0)],
        sealed: None,
    };
    world.run(Command::Submit(submission.into())).expect("accepted");
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    let kinds: Vec<_> = world.state.checks().values().map(|check| check.kind).collect();
    assert_eq!(kinds, [CheckKind::Execution, CheckKind::Canary, CheckKind::Algebraic]);
    world.finish(&[1, 2, 3].map(key));
    let done = verification(&world, JobId(1));
    assert_eq!((done.checked, done.canaries, done.algebraic, done.sampled_out), (2, 1, 2, 0));
}

#[test]
fn a_look_says_what_the_unit_read() {
    let mut world = world(&[1]);
    let gather = rules::gather(0, 2, 2);
    let first = Stage { policy: ALGEBRAIC, ..rules::reading("first", 3, AUDIT, &[]) };
    let pairs = Stage { policy: ALGEBRAIC, ..rules::reading("pairs", 2, AUDIT, &[gather]) };
    let job = world.submit(rules::graph(vec![first, pairs], None));
    let mut seen = std::collections::BTreeMap::new();
    while !world.state.jobs()[&job].state.ended() {
        for lease in world.lease(key(1), 9) {
            world.commit(lease, 0).expect("taken");
        }
        for look in world.state.looks(9) {
            seen.extend(look.units.into_iter().map(|unit| (unit.unit, unit.inputs)));
        }
        world.judge();
    }
    let outputs = |units: &[u64]| units.iter().map(|unit| output(job, *unit, 0).blob).collect::<Vec<_>>();
    assert_eq!(seen[&0], []);
    assert_eq!((&seen[&3][0].blobs, seen[&3][0].offset, seen[&3][0].length), (&outputs(&[0, 1]), 0, 8));
    assert_eq!((&seen[&4][0].blobs, seen[&4][0].length), (&outputs(&[2]), 8));
}
