//! Ways to verify results beside executing them again, and together with it.

mod rules;

use plexus_engine::{
    Answer, Canary, CheckKind, Command, Event, JobState, KnownOutput, Rejection, Submission,
    VerificationCounts,
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
