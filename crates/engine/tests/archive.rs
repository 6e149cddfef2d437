//! Jobs that ended leave the state for their archive, which says of them what the state said, and is read by every later version.
//!
//! `UPDATE_VECTORS=1` writes the file of the present version anew; after a release do that only for a new version.

mod rules;

use std::path::PathBuf;

use plexus_engine::{
    ARCHIVE_PREFIX_BYTES, Answer, ArchiveError, Command, Event, Job, JobSpec, JobState, Params, Policy,
    Rejection, Release, Submission, archive_head_bytes, from_archive,
};
use protocol::{Amount, Hash, JobId};
use rules::{AUDIT, CLIENT, World, gather, graph, key, reading, spec};
use serde_json::{Value, json};

const HOUR_MS: u64 = 3_600_000;

fn bytes(job: &Job, piece_units: u64) -> Vec<u8> {
    let mut bytes = job.archive_head().expect("it ended");
    let mut from = Some(0);
    while let Some(first) = from {
        let (runs, next) = job.archive_runs(first, piece_units);
        bytes.extend(runs);
        from = next;
    }
    bytes
}

/// Archives whatever is due; answers the archives.
fn archive(world: &mut World) -> Vec<(JobId, Vec<u8>)> {
    let mut archived = Vec::new();
    for (job, ended_at_ms) in world.state.archivable(world.now_ms, 1_000) {
        let bytes = bytes(&world.state.jobs()[&job], 2);
        world.run(Command::Archive { job, ended_at_ms, archive: Hash::of(&bytes) }).expect("it is due");
        archived.push((job, bytes));
    }
    archived
}

fn outcome(job: &Job) -> Value {
    let state = match &job.state {
        JobState::Incomplete { why, .. } => why.clone(),
        other => format!("{other:?}"),
    };
    let workers: Vec<_> = job
        .workers
        .iter()
        .map(|(key, part)| json!([key, part.units, part.checked, part.paid, part.device_us, part.stars]))
        .collect();
    let units = job.spec.units();
    let m = job.money;
    let money = [m.escrowed, m.paid, m.treasury, m.burned, m.royalties, m.refunded];
    let v = job.verification;
    json!({
        "owner": job.owner, "name": job.spec.name, "state": state, "reason": format!("{:?}", job.end_reason()),
        "waiting": job.waiting_units(), "accepted": job.accepted_units, "parked": job.parked_units,
        "blocked": job.blocked_units, "skipped": job.skipped_units,
        "blocked_runs": job.blocked_runs(0, units).collect::<Vec<_>>(),
        "failures": job.parked.values().map(|run| format!("{:?}", run.failures)).collect::<Vec<_>>(),
        "results": job.outputs(0, units).map(|(unit, outputs)| json!([unit, outputs])).collect::<Vec<_>>(),
        "done": (0..job.spec.stages.len() as u32).map(|stage| job.done_units(0, stage)).collect::<Vec<_>>(),
        "checked": job.accepted.values().map(|run| json!(run.checked)).collect::<Vec<_>>(),
        "money": money, "verification": [v.checked, v.by_verifier, v.sampled_out, v.disputed, v.rejected, v.canaries, v.algebraic],
        "workers": workers, "times": [job.submitted_at_ms, job.ended_at_ms.expect("it ended")],
        "last_failure": job.last_failure,
    })
}

/// A job of two stages of which one unit fails everywhere, so that it ends incomplete; and one that is done.
fn history() -> World {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1);
    for worker in [1, 2, 3] {
        world.announce(key(worker));
    }
    world.submit(spec(5, Policy::Quorum { agree: 2 }));
    world.finish(&[key(1), key(2), key(3)]);
    let stages = vec![reading("first", 3, AUDIT, &[]), reading("sums", 2, AUDIT, &[gather(0, 1, 2)])];
    let mut spec: JobSpec = graph(stages, None);
    spec.attempts_max = Some(1);
    let incomplete = world.submit(spec);
    let mut failed = false;
    while !world.state.jobs()[&incomplete].state.ended() {
        for worker in [1, 2, 3] {
            for lease in world.lease(key(worker), 1) {
                if !failed && world.check_of(lease).is_none() {
                    failed = true;
                    let generation = world.state.leases()[&lease].generation;
                    let failure = Release::Failed { code: "timed_out".into(), detail: "too slow".into() };
                    let worker = key(worker);
                    world
                        .run(Command::Release { worker, lease, generation, release: failure })
                        .expect("theirs");
                } else {
                    world.commit(lease, 0).expect("an honest receipt is taken");
                }
            }
        }
        world.advance(700);
    }
    world
}

#[test]
fn an_archive_says_what_the_state_said() {
    let world = history();
    for job in world.state.jobs().values() {
        let whole = bytes(job, 1);
        assert_eq!(whole, bytes(job, u64::MAX), "pieces make the same bytes");
        let read = from_archive(&whole).expect("it reads");
        assert_eq!(outcome(&read), outcome(job));
        // Of the head alone everything but the results.
        let head = archive_head_bytes(&whole[..ARCHIVE_PREFIX_BYTES]).expect("a prefix");
        let mut listed = from_archive(&whole[..head]).expect("it reads");
        assert!(listed.accepted.is_empty());
        listed.accepted.clone_from(&job.accepted);
        assert_eq!(outcome(&listed), outcome(job));
        assert!(matches!(from_archive(&whole[..head - 1]), Err(ArchiveError::Short)));
        assert!(matches!(from_archive(&whole[..whole.len() - 1]), Err(ArchiveError::Unreadable(_))));
    }
    let mut later = bytes(&world.state.jobs()[&JobId(1)], 1);
    later[0] = 2;
    assert!(matches!(from_archive(&later), Err(ArchiveError::Newer(2))));
}

#[test]
fn archives_of_every_version_are_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/archive-v1.json");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        let world = history();
        let entry = |job: &Job| json!({ "archive": hex::encode(bytes(job, 1)), "outcome": outcome(job) });
        let file: Value = world.state.jobs().values().map(entry).collect();
        std::fs::write(&path, format!("{file:#}\n")).expect("the vector is written");
    }
    let file: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the vector is there")).expect("JSON");
    for entry in file.as_array().expect("a list") {
        let archive = hex::decode(entry["archive"].as_str().expect("hex")).expect("hex");
        let job = from_archive(&archive).expect("what was written reads");
        assert_eq!(outcome(&job), entry["outcome"]);
        assert_eq!(bytes(&job, 1), archive, "and writes the same bytes");
    }
}

#[test]
fn a_job_leaves_the_state_when_its_time_is_over_and_not_before() {
    let mut world = history();
    let (done, incomplete) = (JobId(1), JobId(2));
    let ended_at_ms = world.state.jobs()[&done].ended_at_ms.expect("it ended");
    let archive_of = |job, ended_at_ms| Command::Archive { job, ended_at_ms, archive: Hash([1; 32]) };
    let refused = world.run(archive_of(done, ended_at_ms)).expect_err("too early");
    assert_eq!(refused, Rejection::JobNotArchivable(done));
    assert_eq!(world.state.archivable(world.now_ms, 10), []);
    world.advance(HOUR_MS);
    let worker = *world.state.jobs()[&done].workers.keys().next().expect("somebody");
    let rate = Command::Rate { job: done, by: CLIENT, worker, stars: 5 };
    assert_eq!(world.run(rate.clone()).expect_err("its time is over"), Rejection::JobArchived(done));
    assert!(world.run(archive_of(done, ended_at_ms + 1)).is_err(), "not as it ended");
    assert_eq!(archive(&mut world).len(), 1);
    assert!(!world.state.jobs().contains_key(&done));
    for command in [
        rate,
        Command::Cancel { job: done, by: CLIENT },
        Command::ResumeJob { job: done, by: CLIENT, deadline_ms: None },
        archive_of(done, ended_at_ms),
    ] {
        assert_eq!(world.run(command).expect_err("it is gone"), Rejection::JobArchived(done));
    }
    let never = JobId(99);
    assert_eq!(
        world.run(Command::Cancel { job: never, by: CLIENT }).expect_err("there is none"),
        Rejection::JobUnknown(never)
    );
    // The incomplete one may go on for a week, and what goes on does not leave.
    world.run(Command::ResumeJob { job: incomplete, by: CLIENT, deadline_ms: None }).expect("it goes on");
    world.advance(8 * 24 * HOUR_MS);
    assert_eq!(archive(&mut world).len(), 0);
    for worker in [1, 2, 3] {
        world.announce(key(worker));
    }
    world.finish(&[key(1), key(2), key(3)]);
    world.advance(HOUR_MS);
    assert_eq!(archive(&mut world).len(), 1);
    assert!(world.state.jobs().is_empty());
    assert_eq!(world.submit(spec(1, AUDIT)), JobId(3), "numbers are not given out twice");
    assert_eq!(world.replayed(), world.state);
}

#[test]
fn a_repeated_submission_is_answered_after_the_job_is_archived() {
    let mut world = World::new(Params::default());
    world.fund(CLIENT, 1);
    world.announce(key(1));
    world.announce(key(2));
    let key_of = Some((Hash([3; 32]), Hash([4; 32])));
    let submission = || Submission {
        owner: CLIENT,
        spec: spec(2, AUDIT),
        quoted: vec![],
        budget: None,
        key: key_of,
        canaries: vec![],
        sealed: None,
    };
    let submit = |world: &mut World| world.run(Command::Submit(submission().into())).expect("taken").answer;
    let first = submit(&mut world);
    world.finish(&[key(1), key(2)]);
    world.advance(HOUR_MS);
    assert_eq!(archive(&mut world).len(), 1);
    assert_eq!(submit(&mut world), first);
    assert_eq!(first, Answer::Job(JobId(1)));
}

#[test]
fn the_state_does_not_grow_with_the_jobs_that_ended() {
    let mut world = World::new(Params { closed_leases_max: 100, ..Params::default() });
    world.fund(CLIENT, 1_000);
    let workers = [key(1), key(2)];
    let mut sizes = Vec::new();
    for _ in 0..4 {
        for _ in 0..25 {
            for worker in workers {
                world.announce(worker);
            }
            world.submit(spec(20, AUDIT));
            world.finish(&workers);
        }
        world.advance(HOUR_MS);
        assert_eq!(archive(&mut world).len(), 25);
        sizes.push(world.state.to_snapshot().len());
    }
    assert!(sizes[3] <= sizes[0] + sizes[0] / 10, "{sizes:?}");
    let archived = world.journal.iter().filter(|(_, event)| matches!(event, Event::JobArchived { .. }));
    assert_eq!(archived.count(), 100);
    assert!(world.state.accounts()[&CLIENT].spent > Amount::ZERO);
}
