//! Jobs that ended, in a form that is kept when the state forgets them.
//!
//! What is asked about an ended job (what it was, how it ended, who computed what, with which result) is in its archive, which the
//! shell stores as a blob and [`Command::Archive`](crate::Command::Archive) puts in the job's place. Unlike a snapshot an archive is
//! read by every later version: its form is pinned by `tests/vectors/archive-v1.json`, and what must change makes a new version.
//!
//! Bytes: the version and the length of the head as little-endian `u32`, the head in Borsh, then the accepted runs in Borsh, one
//! after the other. So a list of jobs reads heads alone, and the runs of a large job can be written piece by piece.
//!
//! Not kept is what only its scheduling and checks needed: calibration, standing, money set aside, what its owner knew.

use std::collections::BTreeMap;

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{Amount, Hash, OutputCommitment, PublicKey};

use crate::{
    AcceptedRun, Calibration, Failure, Job, JobEnd, JobMoney, JobSpec, JobState, JobWorker, ParkedRun,
    SealedTo, StageQueue, Standing, VerificationCounts, ranges::Ranges,
};

/// The version that is written.
pub const ARCHIVE_VERSION: u32 = 1;

/// Bytes before the head: the version and the head's length.
pub const ARCHIVE_PREFIX_BYTES: usize = 8;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Fewer bytes than it says.
    #[error("the archive is cut short")]
    Short,
    /// Written by a later version.
    #[error("the archive has version {0}, this program reads version {ARCHIVE_VERSION}")]
    Newer(u32),
    /// Bytes that are none.
    #[error("the archive is unreadable")]
    Unreadable(#[from] std::io::Error),
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Head {
    owner: PublicKey,
    spec: JobSpec,
    end: JobEnd,
    stages: Vec<StageCounts>,
    /// Accepted units, as ranges of first and end.
    done: Vec<(u64, u64)>,
    /// Units that waited for others' results in vain, as ranges.
    blocked: Vec<(u64, u64)>,
    /// First unit, count, and how they failed.
    parked: Vec<(u64, u64, Vec<Failure>)>,
    last_iteration: Option<u64>,
    deadline_ms: Option<u64>,
    overdue: bool,
    money: Money,
    verification: [u64; 7],
    workers: Vec<Part>,
    expected_ms: Option<u64>,
    submitted_at_ms: u64,
    ended_at_ms: u64,
    last_failure: Option<String>,
    /// Who could read it, if it was sealed.
    sealed: Option<Vec<(PublicKey, SealedTo)>>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct StageCounts {
    waiting: u64,
    accepted: u64,
    parked: u64,
    skipped: u64,
    device_us: u64,
    device_units: u64,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Money {
    escrowed: Amount,
    paid: Amount,
    treasury: Amount,
    burned: Amount,
    royalties: Amount,
    refunded: Amount,
}

/// One worker's part in the job.
#[derive(BorshSerialize, BorshDeserialize)]
struct Part {
    worker: PublicKey,
    units: u64,
    checked: u64,
    paid: Amount,
    device_us: u64,
    stars: Option<u8>,
}

#[derive(BorshSerialize, BorshDeserialize)]
struct Run {
    first: u64,
    count: u32,
    worker: PublicKey,
    receipt: Hash,
    outputs: Vec<Vec<OutputCommitment>>,
    checked: Vec<(u64, PublicKey)>,
}

impl Job {
    /// The beginning of its archive, up to the first accepted run; nothing before it ended.
    pub fn archive_head(&self) -> Option<Vec<u8>> {
        let end = match &self.state {
            JobState::Waiting | JobState::Running => return None,
            JobState::Done => JobEnd::Done,
            JobState::Cancelled => JobEnd::Cancelled,
            JobState::Incomplete { cause, why } => JobEnd::Incomplete { cause: *cause, why: why.clone() },
        };
        let units = self.spec.units();
        let (money, counts) = (&self.money, &self.verification);
        let head = Head {
            owner: self.owner,
            spec: self.spec.clone(),
            end,
            stages: self.queues.iter().map(StageCounts::of).collect(),
            done: self.done.within(0, units).collect(),
            blocked: self.blocked.within(0, units).collect(),
            parked: self.parked.iter().map(|(at, run)| (*at, run.count, run.failures.clone())).collect(),
            last_iteration: self.last_iteration,
            deadline_ms: self.deadline_ms,
            overdue: self.overdue,
            money: Money {
                escrowed: money.escrowed,
                paid: money.paid,
                treasury: money.treasury,
                burned: money.burned,
                royalties: money.royalties,
                refunded: money.refunded,
            },
            verification: [
                counts.checked,
                counts.by_verifier,
                counts.sampled_out,
                counts.disputed,
                counts.rejected,
                counts.canaries,
                counts.algebraic,
            ],
            workers: self.workers.iter().map(|(worker, part)| Part::of(*worker, part)).collect(),
            expected_ms: self.expected_ms,
            submitted_at_ms: self.submitted_at_ms,
            ended_at_ms: self.ended_at_ms?,
            last_failure: self.last_failure.clone(),
            sealed: self.sealed.clone().map(|sealed| sealed.into_iter().collect()),
        };
        let head = borsh::to_vec(&head).expect("writing to a Vec cannot fail");
        let length = u32::try_from(head.len()).ok()?;
        let mut bytes = ARCHIVE_VERSION.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(head);
        Some(bytes)
    }

    /// The next accepted runs of its archive from unit `from` on, of about `units_max` units together, and the unit from which to
    /// go on, if there are more.
    pub fn archive_runs(&self, from: u64, units_max: u64) -> (Vec<u8>, Option<u64>) {
        let (mut bytes, mut units) = (Vec::new(), 0);
        for (first, run) in self.accepted.range(from..) {
            if units >= units_max {
                return (bytes, Some(*first));
            }
            units += u64::from(run.count);
            // As `Run` is written, without a copy of what it holds.
            let AcceptedRun { count, worker, receipt, outputs, checked } = run;
            borsh::to_writer(&mut bytes, &(first, count, worker, receipt, outputs, checked))
                .expect("writing to a Vec cannot fail");
        }
        (bytes, None)
    }
}

/// How many bytes an archive that begins with `prefix` has before its first run.
///
/// # Errors
///
/// If it is too short, or of a later version.
pub fn archive_head_bytes(prefix: &[u8]) -> Result<usize, ArchiveError> {
    let number = |at: usize| -> Result<u32, ArchiveError> {
        let bytes = prefix.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_le_bytes(bytes.ok_or(ArchiveError::Short)?))
    };
    match number(0)? {
        ARCHIVE_VERSION => Ok(ARCHIVE_PREFIX_BYTES + number(4)? as usize),
        version => Err(ArchiveError::Newer(version)),
    }
}

/// A job from its archive: of the head alone, it has its counts but no results; of the whole, everything.
///
/// # Errors
///
/// If the bytes are no archive, or end before the head does.
pub fn from_archive(bytes: &[u8]) -> Result<Job, ArchiveError> {
    let runs_at = archive_head_bytes(bytes)?;
    let head = bytes.get(ARCHIVE_PREFIX_BYTES..runs_at).ok_or(ArchiveError::Short)?;
    let mut job = job(borsh::from_slice(head)?);
    let mut rest = &bytes[runs_at..];
    while !rest.is_empty() {
        let Run { first, count, worker, receipt, outputs, checked } = Run::deserialize(&mut rest)?;
        job.accepted.insert(first, AcceptedRun { count, worker, receipt, outputs, checked });
    }
    Ok(job)
}

fn job(head: Head) -> Job {
    let ranges = |parts: Vec<(u64, u64)>| {
        let mut ranges = Ranges::default();
        parts.into_iter().for_each(|(first, end)| ranges.insert(first, end));
        ranges
    };
    let sum = |of: fn(&StageCounts) -> u64| head.stages.iter().map(of).sum();
    let blocked = ranges(head.blocked);
    let [checked, by_verifier, sampled_out, disputed, rejected, canaries, algebraic] = head.verification;
    let parked = head.parked.into_iter().map(|(at, count, failures)| (at, ParkedRun { count, failures }));
    Job {
        owner: head.owner,
        state: match head.end {
            JobEnd::Done => JobState::Done,
            JobEnd::Cancelled => JobState::Cancelled,
            JobEnd::Incomplete { cause, why } => JobState::Incomplete { cause, why },
        },
        leased_units: 0,
        checking_units: 0,
        accepted_units: sum(|stage| stage.accepted),
        parked_units: sum(|stage| stage.parked),
        blocked_units: blocked.count(0, head.spec.units()),
        skipped_units: sum(|stage| stage.skipped),
        queues: head.stages.iter().map(StageCounts::queue).collect(),
        parked: parked.collect(),
        last_iteration: head.last_iteration,
        paused: false,
        deadline_ms: head.deadline_ms,
        overdue: head.overdue,
        leases: Default::default(),
        done: ranges(head.done),
        blocked,
        accepted: BTreeMap::new(),
        money: JobMoney {
            escrowed: head.money.escrowed,
            paid: head.money.paid,
            treasury: head.money.treasury,
            burned: head.money.burned,
            royalties: head.money.royalties,
            refunded: head.money.refunded,
        },
        units_held: Amount::ZERO,
        checks_held: Amount::ZERO,
        verification: VerificationCounts {
            checked,
            by_verifier,
            sampled_out,
            canaries,
            algebraic,
            disputed,
            rejected,
        },
        workers: head.workers.iter().map(Part::worker).collect(),
        committed: Default::default(),
        // What ended so is told with the verdicts.
        open_verdicts: 0,
        compensated: Amount::ZERO,
        standing: Standing::default(),
        served_at_ms: head.ended_at_ms,
        calibration: Calibration::default(),
        expected_ms: head.expected_ms,
        submitted_at_ms: head.submitted_at_ms,
        ended_at_ms: Some(head.ended_at_ms),
        last_failure: head.last_failure,
        canaries: BTreeMap::new(),
        sealed: head.sealed.map(|sealed| sealed.into_iter().collect()),
        spec: head.spec,
    }
}

impl StageCounts {
    fn of(queue: &StageQueue) -> Self {
        Self {
            waiting: queue.waiting_units,
            accepted: queue.accepted_units,
            parked: queue.parked_units,
            skipped: queue.skipped_units,
            device_us: queue.device_us,
            device_units: queue.device_units,
        }
    }

    fn queue(&self) -> StageQueue {
        StageQueue {
            waiting_units: self.waiting,
            accepted_units: self.accepted,
            parked_units: self.parked,
            skipped_units: self.skipped,
            device_us: self.device_us,
            device_units: self.device_units,
            ..StageQueue::default()
        }
    }
}

impl Part {
    fn of(worker: PublicKey, part: &JobWorker) -> Self {
        let JobWorker { units, checked, paid, device_us, stars, .. } = *part;
        Self { worker, units, checked, paid, device_us, stars }
    }

    fn worker(&self) -> (PublicKey, JobWorker) {
        let Self { worker, units, checked, paid, device_us, stars } = *self;
        let calibration = Calibration::default();
        (worker, JobWorker { units, checked, paid, device_us, calibration, stars })
    }
}
