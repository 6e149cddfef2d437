//! What the market believes: the fold of its events.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{
    Amount, ChallengeChain, CheckId, DeviceFacts, Hash, JobId, LeaseId, OutputCommitment, PackageId,
    PublicKey, ReservationId, SignedSealingKey, UnitRun, VerdictId, WorkerOffer,
};

use crate::{
    Booking, Calibration, CheckKind, Event, Failure, JobSpec, KnownOutput, LeaveCause, OpenVerdict,
    ParamError, Params, Priority, Promise, Provider, Reservation, SealedTo, Shortfall, Speed, Standing, Work,
    checks::WaitingChecks,
    price::{Demand, Forecasts},
    queue::Queue,
    ranges::Ranges,
    rewards::Epoch,
    stake::Unbonding,
    supply::Supply,
};

/// The form of [`State::to_snapshot`]. Raised with every change of what the state holds; a test compares.
pub const SNAPSHOT_VERSION: u32 = 15;

/// The state of one market.
///
/// Every map is ordered, so that no decision depends on a hasher. The fields below the line are indices over the others;
/// [`violations`](crate::violations) checks that they agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct State {
    pub(crate) market: Option<PublicKey>,
    pub(crate) params: Params,
    pub(crate) seq: u64,
    pub(crate) ledger: Ledger,
    pub(crate) accounts: BTreeMap<PublicKey, Account>,
    pub(crate) sessions: BTreeMap<PublicKey, Session>,
    pub(crate) jobs: BTreeMap<JobId, Job>,
    pub(crate) workers: BTreeMap<PublicKey, Worker>,
    pub(crate) packages: BTreeMap<PackageId, Package>,
    pub(crate) checks: BTreeMap<CheckId, Check>,
    pub(crate) leases: BTreeMap<LeaseId, Lease>,
    pub(crate) next: Counters,
    /// Verdicts that are not final.
    pub(crate) verdicts: BTreeMap<VerdictId, OpenVerdict>,
    pub(crate) reservation: Option<Reservation>,
    pub(crate) closed: BTreeMap<LeaseId, Closed>,
    pub(crate) idempotency: BTreeMap<Hash, Remembered>,
    pub(crate) idempotency_order: VecDeque<Hash>,
    /// When the market was founded.
    pub(crate) founded_ms: u64,
    /// When the last event was decided.
    pub(crate) at_ms: u64,
    /// What is known of the owners of workers.
    pub(crate) owners: BTreeMap<PublicKey, Provider>,
    /// Stake on its way back.
    pub(crate) unbonding: BTreeMap<Unbonding, Amount>,
    /// Pay that is held back, in buckets of an eighth of the time: when it is free, and whose it is.
    pub(crate) pending: BTreeMap<(u64, PublicKey), Amount>,
    pub(crate) epoch: Epoch,
    pub(crate) demand: Demand,
    pub(crate) forecasts: Forecasts,
    /// Workers that are kept for sealed jobs to come.
    pub(crate) bookings: BTreeMap<ReservationId, Booking>,
    /// The chains of keys that checks were drawn with, the present one last. A chain lasts for years.
    pub(crate) challenges: Vec<ChallengeChain>,
    // Indices.
    /// Stages of jobs that have waiting units.
    pub(crate) queue: Queue,
    /// Those of them whose units run at the same time.
    pub(crate) gangs: BTreeSet<(JobId, u32)>,
    /// Those of them that may reclaim devices, by since when they wait for one.
    pub(crate) pressing: BTreeSet<(u64, JobId, u32)>,
    /// Leases of packages by their jobs' class.
    pub(crate) classes: BTreeSet<(Priority, LeaseId)>,
    /// Leases whose workers did not ask for them and have not fetched them yet.
    pub(crate) offered: BTreeSet<(PublicKey, LeaseId)>,
    /// What the providers offer together.
    pub(crate) supply: Supply,
    pub(crate) waiting_checks: WaitingChecks,
    pub(crate) comparing: BTreeSet<CheckId>,
    /// What the market is to check by itself.
    pub(crate) looking: BTreeSet<CheckId>,
    pub(crate) deadlines: BTreeSet<(u64, LeaseId)>,
    pub(crate) heard: BTreeSet<(u64, PublicKey)>,
    pub(crate) late: BTreeMap<LeaseId, Late>,
    /// When verdicts are final.
    pub(crate) verdict_deadlines: BTreeSet<(u64, VerdictId)>,
    /// Jobs whose owners hold them back.
    pub(crate) paused_jobs: BTreeSet<JobId>,
    /// Jobs that ended, by whether they may still go on and when they ended.
    pub(crate) ended: BTreeSet<(bool, u64, JobId)>,
    /// Deadlines of jobs that are still given out.
    pub(crate) job_deadlines: BTreeSet<(u64, JobId)>,
    /// Leases that were split and whose receipt is not folded yet, with the lease of the rest.
    pub(crate) split: BTreeMap<LeaseId, LeaseId>,
    /// Workers that may be given first work: online and not the market's verifier.
    pub(crate) providers: BTreeSet<PublicKey>,
    /// Those of them that hold no lease.
    pub(crate) idle: BTreeSet<PublicKey>,
    /// Workers of bookings.
    pub(crate) booked: BTreeMap<PublicKey, ReservationId>,
    /// When bookings end.
    pub(crate) booking_ends: BTreeSet<(u64, ReservationId)>,
}

/// All money there is.
/// `deposited + emitted = Σ (available + pending + bonded + unbonding + frozen) + held + treasury + burned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ledger {
    /// All that ever came in.
    pub deposited: Amount,
    /// In the escrow of unfinished jobs.
    pub held: Amount,
    /// Ever put into escrow.
    pub escrowed: Amount,
    /// Ever paid to workers' owners.
    pub paid: Amount,
    /// Ever paid to the treasury.
    pub treasury: Amount,
    /// Ever burned.
    pub burned: Amount,
    /// Ever refunded.
    pub refunded: Amount,
    /// Ever paid as royalties.
    pub royalties: Amount,
    /// Ever made as rewards.
    pub emitted: Amount,
    /// Set aside by accounts.
    pub bonded: Amount,
    /// On its way back to them.
    pub unbonding: Amount,
    /// Pay that is held back.
    pub pending: Amount,
    /// Taken by verdicts that are not final, and deposited for appeals.
    pub frozen: Amount,
}

/// One wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Account {
    /// What it can spend.
    pub available: Amount,
    /// What its unfinished jobs hold.
    pub escrowed: Amount,
    /// All it was ever paid for work, what is held back included.
    pub earned: Amount,
    /// Pay that is held back.
    pub pending: Amount,
    /// All its jobs ever paid.
    pub spent: Amount,
    /// Set aside as stake.
    pub bonded: Amount,
    /// What verdicts took from it that are not final, and its deposits for appeals.
    pub frozen: Amount,
    /// Stake on its way back.
    pub unbonding: Amount,
    /// Wishes to unbond that are under way.
    pub(crate) unbondings: u32,
    /// All rewards it ever got.
    pub rewarded: Amount,
}

/// A key that acts for a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Session {
    /// The wallet.
    pub wallet: PublicKey,
    /// Until when.
    pub expires_at_ms: u64,
}

/// Where a job is in its life.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum JobState {
    /// No unit was leased yet.
    Waiting,
    /// Some units are leased or done.
    Running,
    /// Every unit is accepted.
    Done,
    /// Ended by its owner.
    Cancelled,
    /// Ended with units that have no result; its owner may have it go on.
    Incomplete {
        /// Why they have none.
        cause: Shortfall,
        /// The last failure.
        why: String,
    },
}

impl JobState {
    /// Whether nothing more happens to the job by itself.
    pub fn ended(&self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// One job.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Job {
    /// Who pays.
    pub owner: PublicKey,
    /// What to do.
    pub spec: JobSpec,
    /// Where it is in its life.
    pub state: JobState,
    /// What waits of each stage.
    pub queues: Vec<StageQueue>,
    /// Units in workers' hands for the first time in their attempt.
    pub leased_units: u64,
    /// Units committed and not yet accepted.
    pub checking_units: u64,
    /// Units accepted.
    pub accepted_units: u64,
    /// Units given up.
    pub parked_units: u64,
    /// Units that wait for other units' results.
    pub blocked_units: u64,
    /// Units that are not wanted any more, because an earlier iteration reached what the job was for.
    pub skipped_units: u64,
    /// Units given up, by the first one's number.
    pub parked: BTreeMap<u64, ParkedRun>,
    /// The last iteration, once it is known to be one before the last possible.
    pub last_iteration: Option<u64>,
    /// Whether its owner holds back what waits.
    pub paused: bool,
    /// When it is to be done.
    pub deadline_ms: Option<u64>,
    /// Whether that is past.
    pub overdue: bool,
    /// Leases of its units and checks.
    pub leases: BTreeSet<LeaseId>,
    /// Accepted units.
    pub(crate) done: Ranges,
    /// Units that wait for other units' results.
    pub(crate) blocked: Ranges,
    /// Accepted results by their first unit; they never overlap.
    pub accepted: BTreeMap<u64, AcceptedRun>,
    /// Its money.
    pub money: JobMoney,
    /// Set aside for the first execution of units that are neither accepted nor given up.
    pub units_held: Amount,
    /// Set aside for checks that are planned and not yet paid.
    pub checks_held: Amount,
    /// What verification did.
    pub verification: VerificationCounts,
    /// Who worked on it.
    pub workers: BTreeMap<PublicKey, JobWorker>,
    /// Committed packages.
    pub committed: BTreeSet<PackageId>,
    /// Verdicts on its packages that are not final.
    pub open_verdicts: u32,
    /// What of its payments to the treasury was paid out for verdicts that were overturned.
    pub compensated: Amount,
    /// The terms of its score that do not change.
    pub standing: Standing,
    /// When units of it were last given out; its submission before that.
    pub served_at_ms: u64,
    /// How long its units take against what it says.
    pub calibration: Calibration,
    /// How long it was expected to take at its submission.
    pub expected_ms: Option<u64>,
    /// When it was submitted.
    pub submitted_at_ms: u64,
    /// When it ended.
    pub ended_at_ms: Option<u64>,
    /// The last failure of a unit, for a person.
    pub last_failure: Option<String>,
    /// Outputs that its owner knows, by their unit.
    pub canaries: BTreeMap<u64, Vec<KnownOutput>>,
    /// Who can read its inputs, where not everybody can.
    pub sealed: Option<BTreeMap<PublicKey, SealedTo>>,
}

/// What waits of one stage, and how long its units take.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct StageQueue {
    /// Units that wait, the next ones first.
    pub waiting: VecDeque<WaitingRun>,
    /// Units in `waiting`.
    pub waiting_units: u64,
    /// Units accepted, in all iterations.
    pub accepted_units: u64,
    /// Units given up, in all iterations.
    pub parked_units: u64,
    /// Units skipped, in all iterations.
    pub skipped_units: u64,
    /// Time on devices, in microseconds.
    pub device_us: u64,
    /// Units it covers.
    pub device_units: u64,
    /// Since when it waits for a device: units came, one was given out, or devices were reclaimed for it.
    pub hungry_since_ms: u64,
}

impl StageQueue {
    /// Estimated time of one unit on a device, in microseconds; nothing before the first receipt.
    pub fn unit_us(&self) -> Option<u64> {
        self.device_us.checked_div(self.device_units)
    }
}

impl Job {
    /// From when on it may leave the state for its archive; nothing while something may still happen to it by itself.
    pub(crate) fn archivable_from_ms(&self, params: &Params) -> Option<u64> {
        // An appeal executes its units again.
        if self.open_verdicts > 0 {
            return None;
        }
        let ended_at_ms = self.ended_at_ms?;
        let resumable = matches!(self.state, JobState::Incomplete { .. });
        Some(ended_at_ms.saturating_add(archive_after_ms(resumable, params)))
    }

    /// Whether its waiting units may be given out.
    pub fn leasable(&self) -> bool {
        !self.state.ended() && !self.paused && !self.overdue
    }

    /// Units without a result that are still wanted, in a stage.
    pub(crate) fn missing_units(&self, stage: u32) -> u64 {
        let queue = &self.queues[stage as usize];
        let units = self.spec.stages[stage as usize].units * self.spec.iterations_max();
        units - queue.accepted_units - queue.skipped_units
    }

    /// Units of `[first, end)` that wait for other units' results, as ranges.
    pub fn blocked_runs(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.blocked.within(first, end)
    }

    /// Units that wait, in all stages.
    pub fn waiting_units(&self) -> u64 {
        self.queues.iter().map(|queue| queue.waiting_units).sum()
    }

    /// The queue of the stage that a unit belongs to.
    pub(crate) fn queue_of(&mut self, unit: u64) -> &mut StageQueue {
        &mut self.queues[self.spec.place(unit).stage as usize]
    }

    /// What the job still holds.
    pub fn held(&self) -> Amount {
        let m = &self.money;
        Amount(m.escrowed.0 - m.paid.0 - m.royalties.0 - m.treasury.0 - m.burned.0 - m.refunded.0)
    }

    /// What it could still spend on further checks: what it holds less what its unfinished units and planned checks need.
    pub(crate) fn free_for_checks(&self) -> Amount {
        let reserved = self.units_held.0 + self.checks_held.0;
        Amount(self.held().0.saturating_sub(reserved))
    }
}

/// Units that wait together.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct WaitingRun {
    /// The first unit.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// Attempts that failed.
    pub attempts: u32,
    /// Workers that failed them.
    pub avoid: Vec<PublicKey>,
    /// How they failed, the last one first.
    pub failures: Vec<Failure>,
    /// The expired lease whose receipt would still be taken.
    pub late: Option<LeaseId>,
}

/// Units that were given up.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ParkedRun {
    /// How many.
    pub count: u64,
    /// Who failed them and how, the last one first.
    pub failures: Vec<Failure>,
}

/// Results that stand.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct AcceptedRun {
    /// How many units.
    pub count: u32,
    /// Who computed them.
    pub worker: PublicKey,
    /// The digest of the receipt that backs them; the receipt is in the journal.
    pub receipt: Hash,
    /// Each unit's outputs.
    pub outputs: Vec<Vec<OutputCommitment>>,
    /// Units that were executed again with the same result, and by whom.
    pub checked: Vec<(u64, PublicKey)>,
}

/// The money of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct JobMoney {
    /// Taken at submission.
    pub escrowed: Amount,
    /// Paid to workers' owners.
    pub paid: Amount,
    /// Paid to the treasury.
    pub treasury: Amount,
    /// Burned.
    pub burned: Amount,
    /// Paid as royalties.
    pub royalties: Amount,
    /// Returned.
    pub refunded: Amount,
}

/// What verification did for a job, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VerificationCounts {
    /// Executed again with the same result, each unit counted once.
    pub checked: u64,
    /// Executed again by the market's own verifier with the same result.
    pub by_verifier: u64,
    /// Accepted because the draw did not pick them.
    pub sampled_out: u64,
    /// Whose outputs the job's owner knew, and are as committed.
    pub canaries: u64,
    /// Of which the market checked what the program says of their outputs, and found that it holds.
    pub algebraic: u64,
    /// Found otherwise, by whoever checked them.
    pub disputed: u64,
    /// Rejected and run again.
    pub rejected: u64,
}

/// One worker's part in a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct JobWorker {
    /// Units accepted from it.
    pub units: u64,
    /// Units it executed again.
    pub checked: u64,
    /// What its owner was paid.
    pub paid: Amount,
    /// Time on its device, by its receipts.
    pub device_us: u64,
    /// Its part in the job's calibration.
    pub calibration: Calibration,
    /// What the job's owner thinks of it.
    pub stars: Option<u8>,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum WorkerState {
    /// Ready, with no lease.
    Idle,
    /// Holds a lease.
    Busy,
    /// Finishes its leases and takes no more.
    Draining,
    /// Left or silent.
    Gone(LeaveCause),
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Worker {
    /// The wallet that is paid.
    pub owner: PublicKey,
    /// Whether it is the market's own verifier.
    pub verifier: bool,
    /// Which of the processes that may hold the key.
    pub instance: String,
    /// Its device.
    pub device: DeviceFacts,
    /// Its version.
    pub version: String,
    /// What it claims and asks.
    pub offer: WorkerOffer,
    /// Whether it takes no more leases.
    pub draining: bool,
    /// Why it is gone, if it is.
    pub gone: Option<LeaveCause>,
    /// When it was last heard.
    pub seen_at_ms: u64,
    /// Leases it holds.
    pub leases: BTreeSet<LeaseId>,
    /// Units accepted from it.
    pub units: u64,
    /// Units it executed again for others.
    pub checked: u64,
    /// What its owner was paid for its work.
    pub earned: Amount,
    /// Consecutive packages that held; [`State::streak`] is what of them still counts.
    pub(crate) streak: u32,
    /// Suspicions against its owner when they began.
    pub(crate) suspicions: u32,
    /// Those that the last suspicion made worthless.
    pub(crate) forfeited: u32,
    /// Packages that were rejected.
    pub rejected: u64,
    /// The job that its device was reclaimed for.
    pub promise: Option<Promise>,
    /// How fast it is.
    pub speed: Speed,
    /// What can be sealed to it.
    pub sealing: Option<SignedSealingKey>,
    /// When it last committed to something.
    pub(crate) committed_at_ms: u64,
    /// The owner in whose record it counts as overstating.
    pub(crate) counted: Option<PublicKey>,
    /// Manifests it ran last, the latest first.
    pub(crate) recent: VecDeque<Hash>,
}

impl Worker {
    /// What it is doing.
    pub fn state(&self) -> WorkerState {
        match (self.gone, self.draining, self.leases.is_empty()) {
            (Some(cause), ..) => WorkerState::Gone(cause),
            (None, true, _) => WorkerState::Draining,
            (None, false, true) => WorkerState::Idle,
            (None, false, false) => WorkerState::Busy,
        }
    }

    /// Whether it may be given work.
    pub fn online(&self) -> bool {
        self.gone.is_none() && !self.draining
    }

    /// Whether it may be given first work, and not only checks.
    pub(crate) fn provides(&self) -> bool {
        self.online() && !self.verifier
    }
}

/// A run of units under one lease, until its results stand or wait again.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Package {
    /// Its job.
    pub job: JobId,
    /// Its units.
    pub run: UnitRun,
    /// Attempts that failed before this one.
    pub attempts: u32,
    /// Workers that failed them.
    pub avoid: Vec<PublicKey>,
    /// How they failed, the last one first.
    pub failures: Vec<Failure>,
    /// Checks that were planned when it was leased.
    pub replicas: Vec<CheckId>,
    /// Leased or committed.
    pub state: PackageState,
}

/// Where a package is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum PackageState {
    /// In a worker's hands.
    Leased(LeaseId),
    /// Committed, and perhaps being checked.
    Committed {
        /// Who computed it.
        worker: PublicKey,
        /// The wallet to be paid.
        owner: PublicKey,
        /// The lease it was computed under.
        lease: LeaseId,
        /// The receipt's digest.
        receipt: Hash,
        /// Each unit's outputs.
        outputs: Vec<Vec<OutputCommitment>>,
        /// How long the worker had it to itself, in milliseconds; nothing when nobody knows.
        taken_ms: Option<u64>,
        /// Its checks, in the order they were drawn.
        checks: Vec<CheckId>,
    },
}

/// A second opinion on units of a package.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Check {
    /// The package.
    pub package: PackageId,
    /// Its job.
    pub job: JobId,
    /// The unit indices, ascending.
    pub units: Vec<u64>,
    /// How it comes to its opinion.
    pub kind: CheckKind,
    /// Whether the job pays nothing for it. If somebody is to execute the units, that is then the market's verifier.
    pub verifier_only: bool,
    /// The check that disagreed, when this is the third opinion.
    pub tie_of: Option<CheckId>,
    /// Since when it exists.
    pub since_ms: u64,
    /// Times it failed.
    pub failures: u32,
    /// Workers that failed it.
    pub avoid: Vec<PublicKey>,
    /// The units of which it got something else, by their commitments.
    pub(crate) differs: Vec<u64>,
    /// The verdict that is contested, when it is part of an appeal; the package is not there any more.
    pub appeal: Option<VerdictId>,
    /// Where it is.
    pub state: CheckState,
}

/// Where a check is.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum CheckState {
    /// Waits for a worker of another owner.
    Waiting,
    /// In a worker's hands.
    Leased(LeaseId),
    /// Committed before the package is.
    Early {
        /// Who made it.
        worker: PublicKey,
        /// The wallet to be paid.
        owner: PublicKey,
        /// The lease it was made under.
        lease: LeaseId,
        /// The receipt's digest.
        receipt: Hash,
        /// Each unit's outputs.
        outputs: Vec<Vec<OutputCommitment>>,
    },
    /// Needs nobody to execute anything; the shell is to say whether it agrees.
    Looking {
        /// Whose opinion it is.
        owner: PublicKey,
    },
    /// The market cannot tell without an execution.
    Undecided,
    /// Committed; its outputs are being compared.
    Comparing {
        /// Who made it.
        worker: PublicKey,
        /// The wallet to be paid.
        owner: PublicKey,
        /// The receipt's digest.
        receipt: Hash,
        /// Each unit's outputs.
        outputs: Vec<Vec<OutputCommitment>>,
    },
    /// Compared.
    Decided {
        /// Who executed the units, if somebody did.
        worker: Option<PublicKey>,
        /// Whose opinion it is: the wallet to be paid for an execution.
        owner: PublicKey,
        /// Whether it got the same result.
        agrees: bool,
        /// The receipt's digest; nothing for a look.
        receipt: Option<Hash>,
        /// What was compared and where it first differs.
        evidence: String,
    },
}

impl Check {
    /// Whether another owner executed all of a package's units with the same results.
    pub(crate) fn confirms(&self, run: UnitRun) -> bool {
        let agrees = matches!(self.state, CheckState::Decided { worker: Some(_), agrees: true, .. });
        agrees && self.units.len() == run.count as usize
    }

    /// The wallet whose worker has made it or is making it.
    pub(crate) fn by(&self, leases: &BTreeMap<LeaseId, Lease>) -> Option<PublicKey> {
        match &self.state {
            CheckState::Waiting | CheckState::Undecided => None,
            CheckState::Leased(lease) => leases.get(lease).map(|lease| lease.owner),
            CheckState::Early { owner, .. }
            | CheckState::Looking { owner }
            | CheckState::Comparing { owner, .. }
            | CheckState::Decided { owner, .. } => Some(*owner),
        }
    }
}

/// Work in a worker's hands.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Lease {
    /// The worker.
    pub worker: PublicKey,
    /// Its wallet.
    pub owner: PublicKey,
    /// The job.
    pub job: JobId,
    /// What it runs.
    pub work: Work,
    /// The attempt, part of the receipt.
    pub generation: u32,
    /// When it was granted.
    pub granted_at_ms: u64,
    /// When it ends unless renewed.
    pub deadline_ms: u64,
    /// When it ends however often it was renewed.
    pub deadline_ms_max: u64,
    /// The job of a higher priority that the worker was asked to yield to.
    pub yields_to: Option<JobId>,
}

/// A lease that expired while its units wait untouched: its receipt is still taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Late {
    pub worker: PublicKey,
    pub owner: PublicKey,
    pub generation: u32,
    pub package: PackageId,
    pub job: JobId,
    pub run: UnitRun,
}

/// A lease that a receipt closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Closed {
    pub worker: PublicKey,
    pub receipt: Hash,
    /// What was paid, once the package was accepted.
    pub paid: Option<Amount>,
    /// The lease of the units that the receipt left out.
    pub rest: Option<LeaseId>,
}

/// The first answer to an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Remembered {
    pub request: Hash,
    pub job: Option<JobId>,
}

/// The last id given out of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Counters {
    pub verdict: u64,
    pub job: u64,
    pub package: u64,
    pub check: u64,
    pub lease: u64,
    pub reservation: u64,
}

/// Two blobs whose contents the shell must compare by the job's tolerance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The check.
    pub check: CheckId,
    /// The job.
    pub job: JobId,
    /// Whether the other blobs are what the job's owner knows, which nobody else is to learn.
    pub known: bool,
    /// For each pair that differs: unit, output number, the package's blob, the check's blob.
    pub pairs: Vec<(u64, u32, Hash, Hash)>,
}

/// Units of a committed package that the shell must check by what their program says of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The check.
    pub check: CheckId,
    /// The job.
    pub job: JobId,
    /// The blob with the manifest.
    pub manifest: Hash,
    /// The digest of the receipt that committed to the units.
    pub receipt: Hash,
    /// The units.
    pub units: Vec<LookUnit>,
}

/// What one unit read and put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUnit {
    /// The unit's number in its job.
    pub unit: u64,
    /// Its inputs.
    pub inputs: Vec<UnitInput>,
    /// Its outputs.
    pub outputs: Vec<OutputCommitment>,
}

/// What a unit reads for an input: of these blobs, one after the other, the `length` bytes from `offset`. What is missing is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitInput {
    /// The blobs.
    pub blobs: Vec<Hash>,
    /// Where it begins.
    pub offset: u64,
    /// Bytes that the unit sees.
    pub length: u64,
}

impl State {
    /// The founding of a market: its first event and the state after it.
    ///
    /// # Errors
    ///
    /// If the parameters are not safe.
    pub fn found(market: PublicKey, params: Params, at_ms: u64) -> Result<(Self, Event), ParamError> {
        params.check()?;
        let (mut state, event) = (Self::default(), Event::Founded { market, params });
        state.evolve(at_ms, &event);
        Ok((state, event))
    }

    /// The whole state as bytes, from which [`State::from_snapshot`] makes it again without the events before.
    ///
    /// They hold for one [`SNAPSHOT_VERSION`] only: a reader of another one folds the journal instead.
    pub fn to_snapshot(&self) -> Vec<u8> {
        borsh::to_vec(self).expect("writing to a Vec cannot fail")
    }

    /// The state of a snapshot of this [`SNAPSHOT_VERSION`].
    ///
    /// # Errors
    ///
    /// If the bytes are not one.
    pub fn from_snapshot(bytes: &[u8]) -> std::io::Result<Self> {
        borsh::from_slice(bytes)
    }

    /// The chains of keys that checks were drawn with; the last one is in use. Empty until a market anchors its first.
    pub fn challenges(&self) -> &[ChallengeChain] {
        &self.challenges
    }

    /// The market's key.
    ///
    /// # Panics
    ///
    /// Before the market is founded.
    pub fn market(&self) -> PublicKey {
        self.market.expect("the first event founds the market")
    }

    /// The parameters in force.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// How many events were folded; the next one gets this sequence number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The whole money.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Every account.
    pub fn accounts(&self) -> &BTreeMap<PublicKey, Account> {
        &self.accounts
    }

    /// Every job.
    pub fn jobs(&self) -> &BTreeMap<JobId, Job> {
        &self.jobs
    }

    /// Every worker that was ever announced.
    pub fn workers(&self) -> &BTreeMap<PublicKey, Worker> {
        &self.workers
    }

    /// Every package that is leased or being checked.
    pub fn packages(&self) -> &BTreeMap<PackageId, Package> {
        &self.packages
    }

    /// Every check of an unsettled package.
    pub fn checks(&self) -> &BTreeMap<CheckId, Check> {
        &self.checks
    }

    /// Every active lease.
    pub fn leases(&self) -> &BTreeMap<LeaseId, Lease> {
        &self.leases
    }

    /// Whether a request with this idempotency key was answered, and not so long ago that it is forgotten.
    pub fn remembers(&self, key: &Hash) -> bool {
        self.idempotency.contains_key(key)
    }

    /// The wallet a key acts for at this time: its own, unless it is a session key. Nothing when its session has ended.
    pub fn wallet_of(&self, key: PublicKey, now_ms: u64) -> Option<PublicKey> {
        match self.sessions.get(&key) {
            None => Some(key),
            Some(session) if now_ms < session.expires_at_ms => Some(session.wallet),
            Some(_) => None,
        }
    }

    /// What of an account's pay is held back, and until when.
    pub fn pending_of(&self, account: PublicKey) -> Vec<(u64, Amount)> {
        let mut found = Vec::new();
        let mut from = (0, PublicKey([0; 32]));
        // There are few times, and at each of them perhaps many accounts.
        while let Some(((at_ms, _), _)) = self.pending.range(from..).next() {
            found.extend(self.pending.get(&(*at_ms, account)).map(|amount| (*at_ms, *amount)));
            from = (at_ms + 1, PublicKey([0; 32]));
        }
        found
    }

    /// The units of a lease, in the order they are to be run.
    pub fn lease_units(&self, lease: &Lease) -> Vec<UnitRun> {
        match lease.work {
            Work::Package { run, .. } => vec![run],
            Work::Check { check } => {
                self.checks.get(&check).map_or_else(Vec::new, |check| runs_of(&check.units))
            }
        }
    }

    /// Jobs that are to be archived, at most `limit`, with when they ended.
    pub fn archivable(&self, now_ms: u64, limit: usize) -> Vec<(JobId, u64)> {
        let due = |resumable: bool| {
            let until = now_ms.checked_sub(archive_after_ms(resumable, &self.params));
            let range = until.map(|until| (resumable, 0, JobId(0))..=(resumable, until, JobId(u64::MAX)));
            range.into_iter().flat_map(|range| self.ended.range(range))
        };
        let examined = |(_, _, job): &&(bool, u64, JobId)| self.jobs[job].open_verdicts == 0;
        due(false)
            .chain(due(true))
            .filter(examined)
            .take(limit)
            .map(|(_, ended_at_ms, job)| (*job, *ended_at_ms))
            .collect()
    }

    /// What the shell must compare, oldest first, at most `limit`.
    pub fn comparisons(&self, limit: usize) -> Vec<Comparison> {
        self.comparing.iter().take(limit).map(|id| self.comparison(*id)).collect()
    }

    /// What the shell must check without an execution, oldest first, at most `limit`.
    pub fn looks(&self, limit: usize) -> Vec<Look> {
        self.looking.iter().take(limit).map(|id| self.look(*id)).collect()
    }

    fn look(&self, id: CheckId) -> Look {
        let check = &self.checks[&id];
        let package = &self.packages[&check.package];
        let PackageState::Committed { receipt, outputs, .. } = &package.state else {
            unreachable!("only committed outputs are looked at");
        };
        let job = &self.jobs[&check.job];
        let units = check.units.iter().map(|unit| {
            let index = usize::try_from(unit - package.run.first).expect("a unit of the package");
            LookUnit { unit: *unit, inputs: job.unit_inputs(*unit), outputs: outputs[index].clone() }
        });
        let manifest = job.spec.stage_of(package.run.first).manifest;
        Look { check: id, job: check.job, manifest, receipt: *receipt, units: units.collect() }
    }

    /// When [`Command::AdvanceTime`](crate::Command::AdvanceTime) or another look at waiting lease requests is next due, seen
    /// from `now_ms`. A check that the market's verifier may make since `now_ms` or earlier is not due again.
    pub fn next_deadline_ms(&self, now_ms: u64) -> Option<u64> {
        let lease = self.deadlines.first().map(|(at, _)| *at);
        let job = self.job_deadlines.first().map(|(at, _)| *at);
        let silence = self.heard.first().map(|(at, _)| at + self.params.heartbeat_ms_max);
        let verifier = self.waiting_checks.by_age().next().and_then(|id| {
            let at = self.checks[&id].since_ms + self.params.verifier_wait_ms;
            (at > now_ms).then_some(at)
        });
        // Looked at again a little later when there was nothing to reclaim.
        let preempt = self
            .pressing
            .first()
            .map(|(since_ms, ..)| (since_ms + self.params.preempt_after_ms).max(now_ms + 1_000))
            .filter(|_| !self.classes.is_empty());
        let unbonded = self.unbonding.first_key_value().map(|((at, _), _)| *at);
        let booking = self.booking_ends.first().map(|(at, _)| *at);
        let released = self.pending.first_key_value().map(|((at, _), _)| *at);
        let verdict = self.verdict_deadlines.first().map(|(at, _)| *at);
        let money = [unbonded, released, verdict, self.epoch_ends_ms()];
        let deadlines = [lease, job, silence, verifier, preempt, booking].into_iter().chain(money);
        deadlines.flatten().min()
    }

    /// What the units of a check were committed to be, unit by unit.
    pub(crate) fn contested_outputs(&self, check: &Check) -> Vec<&[OutputCommitment]> {
        if let Some(verdict) = check.appeal {
            return self.verdicts[&verdict].outputs.iter().map(Vec::as_slice).collect();
        }
        let package = &self.packages[&check.package];
        let PackageState::Committed { outputs, .. } = &package.state else {
            unreachable!("only committed outputs are compared");
        };
        let index = |unit: &u64| usize::try_from(unit - package.run.first).expect("a unit of the package");
        check.units.iter().map(|unit| outputs[index(unit)].as_slice()).collect()
    }

    pub(crate) fn comparison(&self, id: CheckId) -> Comparison {
        let check = &self.checks[&id];
        let mut pairs = Vec::new();
        for ((number, unit), first) in check.units.iter().enumerate().zip(self.contested_outputs(check)) {
            let first = (0..).zip(first);
            match &check.state {
                CheckState::Comparing { outputs, .. } => {
                    let other = first.zip(&outputs[number]).filter(|((_, a), b)| a != b);
                    pairs.extend(other.map(|((output, a), b)| (*unit, output, a.blob, b.blob)));
                }
                // The owner of a job says nothing of chunks: the blob's hash covers them.
                CheckState::Looking { .. } => {
                    let known = &self.jobs[&check.job].canaries[unit];
                    let other =
                        first.zip(known).filter(|((_, a), b)| (a.blob, a.length) != (b.blob, b.length));
                    pairs.extend(other.map(|((output, a), b)| (*unit, output, a.blob, b.blob)));
                }
                _ => unreachable!("only what is known is compared"),
            }
        }
        Comparison { check: id, job: check.job, known: check.kind == CheckKind::Canary, pairs }
    }
}

/// How long a job that ended stays in the state.
fn archive_after_ms(resumable: bool, params: &Params) -> u64 {
    let after_ms = if resumable { params.archive_incomplete_after_ms } else { params.archive_after_ms };
    // A verdict about it may be contested for that long.
    after_ms.max(params.appeal_ms)
}

/// Ascending unit indices as runs.
pub(crate) fn runs_of(units: &[u64]) -> Vec<UnitRun> {
    let mut runs: Vec<UnitRun> = Vec::new();
    for unit in units {
        match runs.last_mut() {
            Some(run) if run.first + u64::from(run.count) == *unit => run.count += 1,
            _ => runs.push(UnitRun { first: *unit, count: 1 }),
        }
    }
    runs
}
