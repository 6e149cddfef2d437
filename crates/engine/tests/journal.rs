//! The journal's bytes are pinned: what a version wrote, every later version reads to the same state.
//!
//! `UPDATE_VECTORS=1` writes the present version's file anew; after a release do that only to append. The file of version 1
//! never changes.

mod rules;

use std::{collections::BTreeSet, path::PathBuf};

use plexus_engine::{
    Canary, Combined, Command, Event, Iterate, JobSpec, KnownOutput, Params, Policy, Priority, Release,
    SNAPSHOT_VERSION, SealingRequest, State, Submission, Until, v1, violations,
};
use protocol::{Amount, Hash, JobId, WorkerOffer};
use rules::{AUDIT, CLIENT, MARKET, World, graph, key, output, previous, reading, spec};
use serde_json::{Value, json};

/// A history in which every kind of event happens.
fn history() -> World {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1);
    let delegate = Command::DelegateSession { wallet: key(1), session: key(101), expires_at_ms: 1_000_000 };
    world.run(delegate).expect("delegated");
    for worker in [key(101), key(2), key(3), MARKET] {
        world.announce(worker);
    }
    let first = world.submit(spec(3, AUDIT));
    let second = world.submit(spec(2, Policy::Quorum { agree: 2 }));
    // A lie, its dissent and the third opinion.
    let lease = world.lease(key(101), 1)[0];
    world.commit(lease, 1).expect("taken");
    let check = world.lease(key(2), 1)[0];
    world.commit(check, 0).expect("taken");
    world.advance(2_500);
    let third = world.lease(MARKET, 1)[0];
    world.commit(third, 0).expect("taken");
    // An expired lease, a released one, a drained and a silent worker.
    world.lease(key(2), 1);
    world.run(Command::Leave { worker: key(2), instance: "one".into(), drain: true }).expect("draining");
    let failed = world.lease(key(3), 1)[0];
    let release = Release::Failed { code: "device_failed".into(), detail: "lost".into() };
    let generation = world.state.leases()[&failed].generation;
    world.run(Command::Release { worker: key(3), lease: failed, generation, release }).expect("released");
    let beat = Command::Heartbeat { worker: key(3), instance: "one".into(), leases: vec![] };
    world.run(beat).expect("alive");
    world.advance(40_000);
    world.run(Command::Resume).expect("back");
    // A unit that always fails, on a job of its own.
    world.announce(key(4));
    let hopeless = world.submit(spec(1, AUDIT));
    world.run(Command::Cancel { job: first, by: CLIENT }).expect("cancelled");
    world.run(Command::Cancel { job: second, by: CLIENT }).expect("cancelled");
    while !world.state.jobs()[&hopeless].state.ended() {
        let lease = world.lease(key(4), 1)[0];
        let generation = world.state.leases()[&lease].generation;
        let release = Release::Failed { code: "timed_out".into(), detail: "too slow".into() };
        world.run(Command::Release { worker: key(4), lease, generation, release }).expect("released");
    }
    let mut large = spec(2, AUDIT);
    large.stages[0].package_units = Some(2);
    world.submit(large);
    let lease = world.lease(key(4), 1)[0];
    world.checkpoint(lease, 1).expect("a unit is left");
    world.finish(&[key(3), key(4)]);
    // A loop that is paused, then passes its deadline, goes on and reaches its fixed point.
    world.settles_at = 0;
    let until = Some(Until::Unchanged { stage: 0, output: 0 });
    let mut looped =
        graph(vec![reading("step", 1, AUDIT, &[previous(0, 0, 1)])], Some(Iterate { times_max: 9, until }));
    looped.deadline_ms = Some(world.now_ms + 1_000);
    let looped = world.submit(looped);
    world.run(Command::Pause { job: looped, by: CLIENT, paused: true }).expect("paused");
    world.advance(1_000);
    world.run(Command::ResumeJob { job: looped, by: CLIENT, deadline_ms: Some(900_000) }).expect("goes on");
    world.finish(&[key(3), key(4)]);
    // Two devices at once, one of which is busy; then a higher class that takes one back.
    world.submit(spec(1, AUDIT));
    world.lease(key(3), 1);
    let mut both = spec(2, AUDIT);
    (both.stages[0].devices, both.priority) = (2, Priority::Low);
    world.submit(both);
    world.lease(key(4), 1);
    let held: Vec<_> = world.state.leases().keys().copied().collect();
    for lease in held {
        world.commit(lease, 0).expect("taken");
    }
    for worker in [3, 4, 3, 4] {
        for lease in world.lease(key(worker), 1) {
            if world.check_of(lease).is_some() {
                world.commit(lease, 0).expect("taken");
            }
        }
    }
    let urgent = JobSpec { priority: Priority::Urgent, ..spec(1, AUDIT) };
    world.submit(urgent);
    world.advance(2_000);
    world.finish(&[key(3), key(4)]);
    // A critical unit whose first worker is lost.
    let mut critical = spec(1, AUDIT);
    critical.stages[0].replicas = 2;
    world.submit(critical);
    let first = world.lease(key(3), 1)[0];
    world.lease(key(4), 1);
    let generation = world.state.leases()[&first].generation;
    let release = Release::Failed { code: "device_failed".into(), detail: "lost".into() };
    world.run(Command::Release { worker: key(3), lease: first, generation, release }).expect("released");
    world.finish(&[key(3), key(4)]);
    economics(&mut world);
    canaries(&mut world);
    sealed(&mut world);
    world
}

/// A job whose owner knows a result, and is wrong about another one.
fn canaries(world: &mut World) {
    let job = JobId(world.state.jobs().keys().next_back().map_or(1, |job| job.0 + 1));
    let known = |unit, lie| {
        let known = output(job, unit, lie);
        Canary { unit, outputs: vec![KnownOutput { blob: known.blob, length: known.length }] }
    };
    let (spec, canaries) = (spec(2, AUDIT), vec![known(0, 0), known(1, 1)]);
    let submission =
        Submission { owner: CLIENT, spec, quoted: vec![], budget: None, key: None, canaries, sealed: None };
    world.run(Command::Submit(submission.into())).expect("accepted");
    world.announce(MARKET);
    world.finish(&[key(3), key(4), MARKET]);
    // Something that the market cannot tell by itself.
    let combined = Combined { algebraic_rate_min_ppm: Some(1_000_000), ..Combined::default() };
    world.submit(rules::spec(1, Policy::Combined(combined)));
    let lease = world.lease(key(3), 1)[0];
    world.commit(lease, 0).expect("taken");
    let check = world.state.looks(1)[0].check;
    world.run(Command::RecordUndecided { check, evidence: "not finite".into() }).expect("it was asked for");
    world.finish(&[key(3), key(4), MARKET]);
}

/// A reservation that nobody uses, and a sealed job.
fn sealed(world: &mut World) {
    for worker in [1, 3, 4] {
        world.announce(key(worker));
        world.give_sealing_key(key(worker));
    }
    let request = SealingRequest {
        account: CLIENT,
        spec: spec(1, AUDIT),
        quoted: vec![],
        providers: 3,
        only: vec![key(1), key(3), key(4)],
        hold_ms: 5_000,
    };
    world.reserve(request.clone()).expect("three owners");
    world.advance(5_000);
    let reservation = world.reserve(request).expect("free again");
    world.seal(reservation, spec(1, AUDIT), &[1, 3, 4]).expect("sealed");
    world.finish(&[key(3), key(4), key(1)]);
}

/// Stake and its way back, a rating, a refuted claim, an epoch and a change of parameters.
fn economics(world: &mut World) {
    world.run(Command::Bond { account: CLIENT, amount: Amount(1_000) }).expect("bonded");
    world.run(Command::Unbond { account: CLIENT, amount: Amount(400) }).expect("unbonding");
    let job = *world.state.jobs().keys().next_back().expect("there are jobs");
    let worker =
        *world.state.jobs()[&job].workers.iter().find(|(_, part)| part.units > 0).expect("somebody").0;
    world.run(Command::Rate { job, by: CLIENT, worker, stars: 5 }).expect("rated");
    let boaster = WorkerOffer { claimed_mflops: 10_000_000, ..WorkerOffer::default() };
    world.announce_with(key(5), boaster);
    world.announce(key(6));
    let mut slow = spec(4, AUDIT);
    slow.stages[0].work.flops = 1_000_000_000_000;
    slow.stages[0].package_units = Some(1);
    world.submit(slow);
    while world.state.jobs().values().any(|job| !job.state.ended()) {
        for worker in [key(5), key(6)] {
            for lease in world.lease(worker, 1) {
                world.advance(1_000);
                world.commit(lease, 0).expect("taken");
            }
        }
    }
    appeal(world);
    let changes = vec![("base_price".to_owned(), 2_000_000)];
    world.run(Command::SetParams { by: MARKET, changes }).expect("within bounds");
    world.advance(7 * 24 * 3_600_000);
    let (job, ended_at_ms) = world.state.archivable(world.now_ms, 1)[0];
    world.run(Command::Archive { job, ended_at_ms, archive: Hash::of(b"archive") }).expect("it is due");
    let anchor = Hash::of(b"anchor");
    let chain = Command::AnchorChallenges { anchor, epoch_ms: 3_600_000, epochs: 65_536 };
    world.run(chain).expect("anchored");
}

/// A lie, and its verdict contested.
fn appeal(world: &mut World) {
    world.announce(MARKET);
    world.fund(key(5), 1);
    world.run(Command::Bond { account: key(5), amount: Amount(10_000) }).expect("bonded");
    world.submit(spec(1, AUDIT));
    let lease = world.lease(key(5), 1)[0];
    world.commit(lease, 1).expect("taken");
    world.advance(2_500);
    let check = world.lease(MARKET, 1)[0];
    world.commit(check, 0).expect("taken");
    let verdict = *world.state.verdicts().keys().next_back().expect("a verdict");
    world.run(Command::Contest { verdict, by: key(5) }).expect("contested");
    world.finish(&[key(6), key(5)]);
}

/// What the whole history left behind, in numbers that any version can name.
fn outcome(state: &State) -> Value {
    let l = state.ledger();
    let amounts = [l.deposited, l.held, l.escrowed, l.paid, l.treasury, l.burned, l.refunded];
    let accepted: u64 = state.jobs().values().map(|job| job.accepted_units).sum();
    json!({ "ledger": amounts.map(|amount| amount.to_string()), "accepted_units": accepted, "seq": state.seq() })
}

/// The snapshot's version and what it hashes to, so that none changes without the other.
fn snapshot(state: &State) -> Value {
    json!({ "version": SNAPSHOT_VERSION, "sha256": Hash::of(&state.to_snapshot()) })
}

fn path(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/vectors/journal-v{version}.json"))
}

/// Reads a file's events with `read` and folds them; the outcome must be the file's. Answers the kinds of events in it.
fn check(version: u32, read: impl Fn(&[u8]) -> Event) -> BTreeSet<u8> {
    let file: Value =
        serde_json::from_slice(&std::fs::read(path(version)).expect("the vector is there")).expect("JSON");
    let mut state = State::default();
    let mut kinds = BTreeSet::new();
    for entry in file["events"].as_array().expect("a list") {
        let bytes = hex::decode(entry["event"].as_str().expect("hex")).expect("hex");
        kinds.insert(bytes[0]);
        state.evolve(entry["at_ms"].as_u64().expect("a time"), &read(&bytes));
    }
    assert_eq!(violations(&state, 0), []);
    assert_eq!(outcome(&state), file["outcome"]);
    kinds
}

#[test]
fn the_committed_journal_reads_to_the_committed_state() {
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let world = history();
        let events: Vec<_> = world
            .journal
            .iter()
            .map(|(at_ms, event)| json!({ "at_ms": at_ms, "event": hex::encode(borsh::to_vec(event).expect("serialises")) }))
            .collect();
        let snapshot = snapshot(&world.state);
        let file = json!({ "outcome": outcome(&world.state), "snapshot": snapshot, "events": events });
        std::fs::write(path(2), format!("{file:#}\n")).expect("the vector is written");
    }
    let kinds = check(2, |bytes| {
        let event: Event = borsh::from_slice(bytes).expect("a committed event reads");
        // These name every parameter, and there may be more by now.
        let params = matches!(event, Event::Founded { .. } | Event::ParamsSet { .. });
        assert!(params || borsh::to_vec(&event).expect("serialises") == bytes, "and writes the same bytes");
        event
    });
    assert_eq!(kinds.len(), 50, "every kind of event is pinned: {kinds:?}");
}

#[test]
fn a_snapshot_of_another_form_has_another_version() {
    let file: Value =
        serde_json::from_slice(&std::fs::read(path(2)).expect("the vector is there")).expect("JSON");
    let (pinned, now) = (&file["snapshot"], snapshot(&history().state));
    let same = pinned == &now || pinned["version"] != now["version"];
    assert!(same, "the state has another form: raise SNAPSHOT_VERSION, then write the vector anew");
    assert_eq!(pinned, &now, "write the vector anew");
}

#[test]
fn a_journal_of_version_1_still_reads() {
    let kinds = check(1, |mut bytes| {
        let event = v1::read(&mut bytes).expect("an event of an earlier version still reads");
        assert!(bytes.is_empty());
        event
    });
    assert_eq!(kinds.len(), 19, "every kind of event is pinned: {kinds:?}");
}
