//! Sealed jobs: who is booked, who gets them, and what happens when those who can read them are not there.

mod rules;

use plexus_engine::{
    Answer, Command, JobReason, JobState, Policy, Rejection, Release, Sealing, SealingRequest, Submission,
    WorkerReason,
};
use protocol::{Amount, Envelope, JobId, PublicKey, ReservationId};
use rules::{AUDIT, CLIENT, MARKET, World, graph, key, reading, sealing_key, spec, world};

/// A world with workers that have a sealing key, and the market's verifier.
fn readers(workers: &[u8]) -> World {
    let mut world = world(workers);
    for worker in workers {
        world.give_sealing_key(key(*worker));
    }
    world.announce(MARKET);
    world
}

fn request(units: u64, providers: u32) -> SealingRequest {
    SealingRequest {
        account: CLIENT,
        spec: spec(units, AUDIT),
        quoted: vec![],
        providers,
        only: vec![],
        hold_ms: 60_000,
    }
}

fn booked(world: &World, id: ReservationId) -> Vec<PublicKey> {
    let booking = world.state.bookings().find(|(found, _)| *found == id).expect("it holds").1;
    booking.recipients.iter().map(|recipient| recipient.worker).collect()
}

fn refused(world: &mut World, request: SealingRequest) -> Rejection {
    world.run(Command::Reserve(request.into())).expect_err("it is refused")
}

/// A lease's check, or nothing for first work; the worker that has it.
fn granted(world: &mut World, workers: &[u8]) -> Vec<(u8, protocol::LeaseId)> {
    workers
        .iter()
        .flat_map(|n| world.lease(key(*n), 1).into_iter().map(|lease| (*n, lease)).collect::<Vec<_>>())
        .collect()
}

#[test]
fn the_booked_are_of_different_owners_and_wait_for_their_job() {
    let mut world = world(&[1, 2, 3, 4]);
    for worker in [1, 2, 3] {
        world.give_sealing_key(key(worker));
    }
    // A second worker of one owner.
    let delegate = Command::DelegateSession { wallet: key(1), session: key(11), expires_at_ms: 1_000_000 };
    world.run(delegate).expect("delegated");
    world.announce(key(11));
    world.give_sealing_key(key(11));
    match refused(&mut world, request(1, 4)) {
        Rejection::ProvidersTooFew(short) => {
            assert_eq!((short.found, short.wanted, short.fitting, short.keyless), (3, 4, 5, 1));
        }
        other => panic!("{other}"),
    }
    let id = world.reserve(request(1, 3)).expect("three owners");
    assert_eq!(booked(&world, id), [key(1), key(2), key(3)]);
    match refused(&mut world, request(1, 3)) {
        Rejection::ProvidersTooFew(short) => assert_eq!((short.found, short.booked), (1, 3)),
        other => panic!("{other}"),
    }
    // Somebody else's job runs on who is left.
    world.submit(spec(4, AUDIT));
    assert_eq!(granted(&mut world, &[1, 2, 3, 4]).len(), 1);
    let until_ms = world.now_ms + 60_000;
    let why = world.state.worker_reason(key(1), world.now_ms);
    assert_eq!(why, Some(WorkerReason::Booked { reservation: id, until_ms }));
    // Nobody came: they work again.
    assert!(world.state.next_deadline_ms(world.now_ms).expect("it ends") <= until_ms);
    for worker in [1, 2, 3, 4] {
        world.heartbeat(key(worker));
    }
    world.now_ms = until_ms;
    for worker in [1, 2, 3, 4, 11] {
        world.heartbeat(key(worker));
    }
    world.advance(0);
    assert_eq!(world.state.bookings().count(), 0);
    assert!(!world.lease(key(1), 1).is_empty());
    assert!(matches!(world.seal(id, spec(1, AUDIT), &[1, 2, 3]), Err(Rejection::ReservationUnknown(_))));
}

#[test]
fn only_recipients_compute_and_check_a_sealed_job() {
    let mut world = readers(&[1, 2, 3, 4]);
    let id = world.reserve(request(2, 3)).expect("there are four");
    assert_eq!(booked(&world, id), [key(1), key(2), key(3)]);
    let job = world.seal(id, spec(2, AUDIT), &[1, 2, 3]).expect("sealed");
    assert_eq!(world.state.bookings().count(), 0, "the reservation is used");
    assert_eq!(world.lease(key(4), 4), []);
    assert_eq!(world.state.worker_reason(key(4), world.now_ms), Some(WorkerReason::OnlySealed { jobs: 1 }));
    assert_eq!(world.state.envelope(job, &key(2)), Some(Envelope([2; 80])));
    assert_eq!(world.state.envelope(job, &key(4)), None);
    let first = world.lease(key(1), 1)[0];
    world.commit(first, 0).expect("taken");
    // The check waits long beyond the verifier's courtesy, and for a recipient.
    world.advance(10_000);
    assert_eq!(world.lease(MARKET, 4), []);
    assert_eq!(world.lease(key(4), 4), []);
    assert_eq!(world.lease(key(1), 4).len(), 1, "its second unit, not its own check");
    world.finish(&[key(4), key(3), key(2), key(1)]);
    let done = &world.state.jobs()[&job];
    assert_eq!(
        (&done.state, done.verification.checked, done.verification.by_verifier),
        (&JobState::Done, 2, 0)
    );
    assert!(done.workers.keys().all(|worker| *worker != key(4) && *worker != MARKET));
    assert_eq!(done.held(), Amount::ZERO);
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_third_recipient_decides_between_two_that_disagree() {
    for liar in ["provider", "checker"] {
        let mut world = readers(&[1, 2, 3]);
        let id = world.reserve(request(1, 3)).expect("there are three");
        let job = world.seal(id, spec(1, AUDIT), &[1, 2, 3]).expect("sealed");
        let first = world.lease(key(1), 1)[0];
        world.commit(first, u8::from(liar == "provider")).expect("taken");
        let check = world.lease(key(2), 1)[0];
        world.commit(check, u8::from(liar == "checker")).expect("taken");
        let third = world.lease(key(3), 1)[0];
        assert!(world.check_of(third).is_some());
        world.commit(third, 0).expect("taken");
        let found = &world.state.jobs()[&job];
        let earned = |n: u8| found.workers.get(&key(n)).map_or(0, |part| part.paid.0);
        if liar == "provider" {
            assert_eq!((found.accepted_units, found.verification.rejected), (0, 1));
            assert_eq!(earned(1), 0);
            assert!(earned(2) > 0 && earned(3) > 0, "both opinions are paid");
        } else {
            assert_eq!(found.state, JobState::Done);
            assert_eq!(earned(2), 0);
            assert!(earned(1) > 0 && earned(3) > 0);
        }
    }
}

#[test]
fn a_job_whose_recipients_are_gone_waits_and_says_so() {
    let mut world = readers(&[1, 2, 3, 4]);
    let id = world.reserve(request(1, 3)).expect("there are four");
    let job = world.seal(id, spec(1, AUDIT), &[1, 2, 3]).expect("sealed");
    let leave = |worker| Command::Leave { worker: key(worker), instance: "one".into(), drain: false };
    for worker in [2, 3] {
        world.run(leave(worker)).expect("left");
    }
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    let away = |online, checking| Some(JobReason::RecipientsAway { recipients: 3, online, checking });
    assert_eq!(world.state.job_reason(job, world.now_ms), away(1, 1), "nobody can check");
    // Back, but in a browser, which cannot open what was sealed.
    world.announce(key(2));
    assert_eq!(world.lease(key(2), 1), []);
    assert_eq!(world.state.job_reason(job, world.now_ms), away(1, 1));
    world.give_sealing_key(key(2));
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("taken");
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);

    let id = world.reserve(request(1, 2 + 1).with_only(&[1, 2, 4])).expect("three again");
    let job = world.seal(id, spec(1, AUDIT), &[1, 2, 4]).expect("sealed");
    for worker in [1, 2, 4] {
        world.run(leave(worker)).expect("left");
    }
    assert_eq!(world.state.job_reason(job, world.now_ms), away(0, 0));
    let before = world.state.accounts()[&CLIENT].available;
    world.run(Command::Cancel { job, by: CLIENT }).expect("its owner may give up");
    assert!(world.state.accounts()[&CLIENT].available > before);
}

trait Only {
    fn with_only(self, workers: &[u8]) -> SealingRequest;
}

impl Only for SealingRequest {
    fn with_only(self, workers: &[u8]) -> SealingRequest {
        SealingRequest { only: workers.iter().map(|n| key(*n)).collect(), ..self }
    }
}

#[test]
fn a_recipient_that_failed_tries_again_when_no_other_can() {
    let mut world = readers(&[1, 2, 3]);
    let id = world.reserve(request(1, 3)).expect("there are three");
    let job = world.seal(id, spec(1, AUDIT), &[1, 2, 3]).expect("sealed");
    let fail = |world: &mut World, n: u8| {
        let lease = world.lease(key(n), 1)[0];
        let generation = world.state.leases()[&lease].generation;
        let release = Release::Failed { code: "device_failed".into(), detail: "lost".into() };
        world.run(Command::Release { worker: key(n), lease, generation, release }).expect("released");
    };
    fail(&mut world, 1);
    assert_eq!(world.lease(key(1), 1), [], "there are two others");
    for worker in [2, 3] {
        let leave = Command::Leave { worker: key(worker), instance: "one".into(), drain: false };
        world.run(leave).expect("left");
    }
    let lease = world.lease(key(1), 1)[0];
    world.commit(lease, 0).expect("taken");
    world.announce(key(2));
    world.give_sealing_key(key(2));
    fail(&mut world, 2);
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("taken");
    assert_eq!(world.state.jobs()[&job].state, JobState::Done);
}

#[test]
fn opinions_that_the_escrow_cannot_pay_are_made_for_nothing() {
    let mut world = readers(&[1, 2, 3]);
    let id = world.reserve(request(1, 3)).expect("there are three");
    let job = world.seal(id, spec(1, AUDIT), &[1, 2, 3]).expect("sealed");
    // One that lies every time, until its units are tried often enough.
    let mut unpaid = 0;
    for round in 0..4 {
        for _ in 0..20 {
            for n in [1, 2, 3] {
                for lease in world.lease(key(n), 1) {
                    let check = world.check_of(lease).map(|check| world.state.checks()[&check].verifier_only);
                    unpaid += u64::from(check == Some(true));
                    let first = check.is_none();
                    world.commit(lease, if first && round < 3 { 1 } else { 0 }).expect("taken");
                }
            }
            if world.state.jobs()[&job].state.ended() || world.state.packages().is_empty() {
                break;
            }
        }
    }
    assert!(unpaid > 0, "three disputes cost more than the escrow has");
    let done = &world.state.jobs()[&job];
    assert!(done.state.ended(), "{:?}", world.state.job_reason(job, world.now_ms));
    assert_eq!(done.held(), Amount::ZERO);
}

#[test]
fn what_cannot_be_sealed_is_refused_with_the_reason() {
    let mut world = readers(&[1, 2, 3, 4]);
    let said = |world: &mut World, request: SealingRequest| match refused(world, request) {
        Rejection::SpecInvalid(why) => why,
        other => panic!("{other}"),
    };
    let mut tolerant = request(1, 3);
    tolerant.spec.stages[0].outputs_exact = vec![true, false];
    assert!(said(&mut world, tolerant).starts_with("output 1 compares within a tolerance"));
    let staged = SealingRequest {
        spec: graph(vec![reading("a", 1, AUDIT, &[]), reading("b", 1, AUDIT, &[])], None),
        ..request(1, 3)
    };
    assert!(said(&mut world, staged).starts_with("a sealed job has one stage"));
    let mut gang = request(1, 3);
    gang.spec.stages[0].devices = 2;
    assert!(said(&mut world, gang).contains("several devices"));
    assert!(said(&mut world, request(1, 2)).contains("sealed to 3 to 16 workers, not 2"));
    let quorum = SealingRequest { spec: spec(1, Policy::Quorum { agree: 3 }), ..request(1, 3) };
    assert!(said(&mut world, quorum).contains("sealed to 4 to 16 workers, not 3"));
    assert!(said(&mut world, request(1, 17)).contains("not 17"));
    assert!(said(&mut world, SealingRequest { hold_ms: 300_001, ..request(1, 3) }).contains("seconds"));
    let poor = SealingRequest { account: key(99), ..request(1, 3) };
    assert!(matches!(refused(&mut world, poor), Rejection::BalanceTooLow { .. }));
    let own = SealingRequest { account: key(1), spec: spec(1, AUDIT), ..request(1, 3) };
    world.fund(key(1), 1);
    let id = world.reserve(own).expect("three others");
    assert_eq!(booked(&world, id), [key(2), key(3), key(4)], "nobody checks their own job");
    assert!(matches!(world.seal(id, spec(1, AUDIT), &[2, 3, 4]), Err(Rejection::ReservationForeign(_))));
    let end = |by| Command::EndReservation { reservation: id, by };
    assert!(matches!(world.run(end(CLIENT)), Err(Rejection::ReservationForeign(_))));
    world.run(end(key(1))).expect("its own");

    let id = world.reserve(request(1, 3)).expect("there are four");
    for envelopes in [&[1, 2][..], &[1, 2, 4], &[1, 2, 3, 3], &[1, 2, 3, 4]] {
        let refused = world.seal(id, spec(1, AUDIT), envelopes);
        assert!(matches!(refused, Err(Rejection::SpecInvalid(why)) if why.contains("one envelope")));
    }
    let dear = spec(1, Policy::Quorum { agree: 3 });
    assert!(
        matches!(world.seal(id, dear, &[1, 2, 3]), Err(Rejection::SpecInvalid(_))),
        "another job than reserved for"
    );
    world.seal(id, spec(1, AUDIT), &[1, 2, 3]).expect("as reserved");
    assert!(
        matches!(world.seal(id, spec(1, AUDIT), &[1, 2, 3]), Err(Rejection::ReservationUnknown(_))),
        "once"
    );
}

#[test]
fn a_sealing_key_is_the_workers_own_and_valid() {
    let mut world = world(&[1]);
    let mut give = |worker, signed| {
        world.run(Command::GiveSealingKey { worker, instance: "one".into(), signed }).map(|_| ())
    };
    let good = sealing_key(key(1));
    let mut foreign = good;
    foreign.record.market = key(7);
    let mut past = good;
    past.record.valid_until_ms = 1;
    for (worker, signed) in [(key(1), sealing_key(key(2))), (key(1), foreign), (key(1), past)] {
        assert!(matches!(give(worker, signed), Err(Rejection::SealingKeyInvalid(_))));
    }
    assert_eq!(give(key(2), sealing_key(key(2))), Err(Rejection::WorkerUnknown));
    give(key(1), good).expect("its own");
    // A record that ends before the reservation does is not sealed to.
    let mut world = readers(&[1, 2, 3]);
    let mut short = sealing_key(key(2));
    short.record.valid_until_ms = world.now_ms + 30_000;
    world
        .run(Command::GiveSealingKey { worker: key(2), instance: "one".into(), signed: short })
        .expect("valid");
    assert!(
        matches!(refused(&mut world, request(1, 3)), Rejection::ProvidersTooFew(short) if short.keyless == 1)
    );
}

#[test]
fn one_account_keeps_few_workers_from_working() {
    let mut world = readers(&(1..=16).collect::<Vec<_>>());
    for _ in 0..4 {
        world.reserve(request(1, 3)).expect("within the limit");
    }
    assert_eq!(refused(&mut world, request(1, 3)), Rejection::BookingsTooMany(4));
    let submission = Submission {
        owner: CLIENT,
        spec: spec(1, AUDIT),
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![],
        sealed: None,
    };
    match world.run(Command::Submit(submission.into())).expect("others go on").answer {
        Answer::Job(job) => assert_eq!(job, JobId(1)),
        other => panic!("{other:?}"),
    }
    let none = Sealing { reservation: ReservationId(99), envelopes: vec![] };
    let submission = Submission {
        owner: CLIENT,
        spec: spec(1, AUDIT),
        quoted: vec![],
        budget: None,
        key: None,
        canaries: vec![],
        sealed: Some(none),
    };
    let unknown = world.run(Command::Submit(submission.into()));
    assert!(matches!(unknown, Err(Rejection::ReservationUnknown(_))));
}
