//! What happened: the journal's content.
//!
//! Events are persisted as Borsh. This is encoding version 2, pinned by `tests/vectors/journal-v2.json`. Once released, variants
//! are only ever appended; a content that must change makes a new version, and the old one stays readable, as version 1 is
//! through [`v1`](crate::v1).

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{
    Amount, CheckId, DeviceFacts, Hash, InputSplit, JobId, LeaseId, OutputCommitment, PackageId, PublicKey,
    Receipt, ReservationId, Signature, SignedSealingKey, UnitRun, VerdictId, WorkerOffer, manifest::JobKind,
};

use crate::{Closing, Opinion, Outcome, Params, Recipient, SealedTo, Seizure};

/// Most units of a job whose outputs its owner says to know.
pub const CANARIES_MAX: usize = 1_000;

/// One fact. The time at which a group of events was decided is kept beside the group.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Event {
    /// The market begins. Always the first event.
    Founded {
        /// The market's key; its verifier and treasury act under it.
        market: PublicKey,
        /// The first parameters.
        params: Params,
    },
    /// Tokens came in.
    Deposited {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
        /// The idempotency key, hashed with its account.
        key: Option<Hash>,
    },
    /// A wallet lets a session key act for it.
    SessionDelegated {
        /// The wallet.
        wallet: PublicKey,
        /// The session key.
        session: PublicKey,
        /// Until when.
        expires_at_ms: u64,
    },
    /// A job is in the queue and its escrow is held.
    JobSubmitted {
        /// The job.
        job: JobId,
        /// Who pays.
        owner: PublicKey,
        /// What to do.
        spec: JobSpec,
        /// Taken from the owner's balance.
        escrow: Amount,
        /// How long it will take, as estimated then; nothing when no provider fitted.
        expected_ms: Option<u64>,
        /// The idempotency key, hashed with its account, and the request's digest.
        key: Option<(Hash, Hash)>,
    },
    /// A worker described its device.
    WorkerAnnounced {
        /// The key that signs its receipts.
        worker: PublicKey,
        /// The wallet that is paid.
        owner: PublicKey,
        /// Which of the processes that may hold the key.
        instance: String,
        /// The device.
        device: DeviceFacts,
        /// The worker's version.
        version: String,
        /// What it claims and asks.
        offer: WorkerOffer,
    },
    /// A worker was heard, and these leases last on.
    WorkerSeen {
        /// The worker.
        worker: PublicKey,
        /// Leases renewed.
        renewed: Vec<LeaseId>,
    },
    /// A worker takes no more leases.
    WorkerDraining {
        /// The worker.
        worker: PublicKey,
    },
    /// A worker is gone. Its leases ended before.
    WorkerLeft {
        /// The worker.
        worker: PublicKey,
        /// Why.
        cause: LeaveCause,
    },
    /// A worker holds work until a deadline.
    LeaseGranted {
        /// The lease.
        lease: LeaseId,
        /// The worker.
        worker: PublicKey,
        /// What it runs.
        work: Work,
        /// The attempt this is, from 1; part of the receipt.
        generation: u32,
        /// When it ends unless renewed.
        deadline_ms: u64,
        /// When it ends however often it was renewed.
        deadline_ms_max: u64,
    },
    /// A lease ended without a receipt; its units wait again.
    LeaseEnded {
        /// The lease.
        lease: LeaseId,
        /// Why.
        cause: EndCause,
    },
    /// A worker committed to results; its lease is closed.
    ReceiptCommitted {
        /// The signed body.
        receipt: Receipt,
        /// Its signature.
        signature: Signature,
        /// Each unit's outputs, in package order.
        outputs: Vec<Vec<OutputCommitment>>,
        /// The work of the lease that the receipt answers (a late receipt's lease is no longer there to ask).
        work: Work,
    },
    /// What of a committed package will be executed again, drawn after the commitment.
    ChecksDrawn {
        /// The package.
        package: PackageId,
        /// The seed the draw came from, SHA-256(secret seed ‖ sequence of the receipt's event). See [`protocol::challenge`].
        draw: Hash,
        /// The checks; none when every unit was sampled out.
        checks: Vec<CheckPlan>,
    },
    /// A check's outputs were compared with the package's.
    CheckDecided {
        /// The check.
        check: CheckId,
        /// Whether they agree.
        agrees: bool,
        /// What was compared and where it first differs, for a person.
        evidence: String,
    },
    /// A checker is paid: its opinion turned out to be right.
    CheckPaid {
        /// The check.
        check: CheckId,
        /// The payment.
        pay: Split,
    },
    /// A package's results stand and its provider is paid.
    PackageAccepted {
        /// The package.
        package: PackageId,
        /// The payment.
        pay: Split,
    },
    /// A package's results were contradicted; its units wait again.
    PackageRejected {
        /// The package.
        package: PackageId,
        /// What was found.
        verdict: Verdict,
    },
    /// Units that failed too often are given up.
    UnitsParked {
        /// The job.
        job: JobId,
        /// The units, taken from the head of the job's waiting runs.
        run: UnitRun,
        /// The last failure, for a person.
        why: String,
        /// Who failed them and how, the last one first.
        failures: Vec<Failure>,
    },
    /// A job is over and what is left of its escrow went back.
    JobEnded {
        /// The job.
        job: JobId,
        /// How.
        end: JobEnd,
        /// Returned to the owner.
        refund: Amount,
    },
    /// The market was down and is back: leases and workers get the time they could not use.
    Resumed,
    /// A worker commits to the first units of a lease and goes on with the others under a new one.
    LeaseSplit {
        /// The lease; it now covers the first units only.
        lease: LeaseId,
        /// How many these are.
        units: u32,
        /// The lease of the others.
        rest: LeaseId,
        /// Their package.
        package: PackageId,
        /// When the new lease ends however often it is renewed.
        deadline_ms_max: u64,
    },
    /// A worker is asked to commit what it has finished of a lease and to give the rest back.
    YieldAsked {
        /// The lease.
        lease: LeaseId,
        /// The job of a higher priority that needs the device.
        job: JobId,
        /// When the lease ends if the worker does not heed.
        until_ms: u64,
    },
    /// Other owners compute a package's units at the same time, as checks that do not wait for its receipt.
    ReplicasPlanned {
        /// The package, which is leased.
        package: PackageId,
        /// Its job.
        job: JobId,
        /// The checks.
        checks: Vec<CheckPlan>,
    },
    /// A package's worker lost it, and one of those who compute the same units goes on as its worker.
    PackagePassedOn {
        /// The lease that ended.
        lease: LeaseId,
        /// Why.
        cause: EndCause,
        /// The check that is the package's execution from now on.
        check: CheckId,
    },
    /// Devices are kept for a stage whose units run at the same time.
    DevicesReserved {
        /// The job.
        job: JobId,
        /// The stage's number.
        stage: u32,
        /// When the last of them is free, by estimate.
        start_ms: u64,
        /// The devices' workers.
        members: Vec<PublicKey>,
    },
    /// The units of such a stage were given out; each worker fetches its lease with its next request.
    LeasesOffered {
        /// The leases, granted before.
        leases: Vec<LeaseId>,
    },
    /// A worker fetched leases that it was offered.
    LeasesFetched {
        /// The worker.
        worker: PublicKey,
        /// The leases.
        leases: Vec<LeaseId>,
    },
    /// An account set tokens aside.
    Bonded {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
    },
    /// An account wants tokens back that it set aside.
    Unbonding {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
        /// When it has them.
        free_at_ms: u64,
    },
    /// It has them.
    Unbonded {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
        /// As was said.
        free_at_ms: u64,
    },
    /// A client rated a worker of its job.
    WorkerRated {
        /// The job.
        job: JobId,
        /// The worker.
        worker: PublicKey,
        /// 1 to 5.
        stars: u8,
    },
    /// A worker claims much more than was measured.
    ClaimRefuted {
        /// The worker.
        worker: PublicKey,
        /// What it claims, in parts per million of the reference device.
        claimed_ppm: u64,
        /// What was measured.
        measured_ppm: u64,
    },
    /// An epoch of rewards is over.
    EpochClosed {
        /// Its number.
        epoch: u64,
        /// New tokens, and whose they are.
        shares: Vec<(PublicKey, Amount)>,
    },
    /// The parameters changed.
    ParamsSet {
        /// All of them.
        params: Params,
    },
    /// A job's waiting units are held back, or no longer.
    JobPaused {
        /// The job.
        job: JobId,
        /// Whether they are.
        paused: bool,
    },
    /// A job's deadline passed: nothing more of it is given out.
    JobOverdue {
        /// The job.
        job: JobId,
    },
    /// An iterated job has what it was to reach: the iterations after this one are skipped.
    IterationsEnded {
        /// The job.
        job: JobId,
        /// The last iteration, from 0.
        last: u64,
    },
    /// A job that ended incomplete goes on: what it lacks waits again, with fresh attempts.
    JobResumed {
        /// The job.
        job: JobId,
        /// Who pays.
        owner: PublicKey,
        /// Taken from the owner's balance for what it lacks.
        escrow: Amount,
        /// Its new deadline.
        deadline_ms: Option<u64>,
    },
    /// A job's owner knows what some of its units put out. Follows the job's submission.
    CanariesSet {
        /// The job.
        job: JobId,
        /// The units, ascending.
        canaries: Vec<Canary>,
    },
    /// What of a committed package is checked without anybody executing it. Follows the draw of what is executed again.
    LooksPlanned {
        /// The package.
        package: PackageId,
        /// The checks.
        looks: Vec<LookPlan>,
    },
    /// A worker said what can be sealed to it; until it announces itself anew.
    SealingKeyGiven {
        /// Its record, with its signature.
        signed: SignedSealingKey,
    },
    /// Workers are kept for a sealed job that is about to be submitted.
    ProvidersReserved {
        /// The reservation.
        reservation: ReservationId,
        /// Whose.
        account: PublicKey,
        /// The workers, each of another owner.
        recipients: Vec<Recipient>,
        /// Until when.
        until_ms: u64,
    },
    /// They are kept no longer: nobody submitted a job for them.
    ReservationEnded {
        /// The reservation.
        reservation: ReservationId,
    },
    /// A job that was submitted in the same group can be read by these workers alone, who were reserved for it.
    JobSealed {
        /// The job.
        job: JobId,
        /// The reservation, which ends.
        reservation: ReservationId,
        /// Who can read it, and how.
        recipients: Vec<SealedTo>,
    },
    /// Pay that was held back is its owner's to spend.
    PayReleased {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
        /// Until when it was held back.
        free_at_ms: u64,
    },
    /// A job that ended left the state; what is asked about it is in its archive.
    JobArchived {
        /// The job.
        job: JobId,
        /// The blob with its archive.
        archive: Hash,
    },
    /// From now on what is checked is drawn with the keys of this chain. Receipts before the first such event were drawn for with a
    /// secret that is never shown.
    ChallengesAnchored {
        /// The key before the first epoch's.
        anchor: Hash,
        /// How long an epoch lasts, from this event on.
        epoch_ms: u64,
        /// How many there are.
        epochs: u64,
    },
    /// A package is about to be rejected because it was contradicted: what that takes from its owner is frozen.
    VerdictReached {
        /// The verdict.
        verdict: VerdictId,
        /// The package.
        package: PackageId,
        /// Its job.
        job: JobId,
        /// Its units.
        run: UnitRun,
        /// Who computed it.
        worker: PublicKey,
        /// The wallet that would have been paid.
        owner: PublicKey,
        /// The receipt's digest.
        receipt: Hash,
        /// What was found.
        cause: Verdict,
        /// Who said what.
        opinions: Vec<Opinion>,
        /// The units whose commitments differ, ascending.
        disputed: Vec<u64>,
        /// What the owner would have been paid.
        pay: Amount,
        /// What is taken from it.
        slash: Seizure,
        /// Until when it may be contested.
        until_ms: u64,
    },
    /// The owner of the package contests a verdict: the disputed units are executed again.
    VerdictContested {
        /// The verdict.
        verdict: VerdictId,
        /// Who contests it.
        by: PublicKey,
        /// Taken from the balance and frozen.
        deposit: Amount,
        /// The executions.
        checks: Vec<CheckPlan>,
        /// Until when they may be made.
        until_ms: u64,
    },
    /// A verdict is final.
    VerdictClosed {
        /// The verdict.
        verdict: VerdictId,
        /// How.
        outcome: Outcome,
        /// What the executions of an appeal said.
        opinions: Vec<Opinion>,
        /// Where the money went.
        closing: Closing,
    },
    /// The market cannot tell by itself whether a package's results are right; its units are executed again.
    LookUndecided {
        /// The check.
        check: CheckId,
        /// Why not, for a person.
        evidence: String,
    },
}

impl Event {
    /// Whether somebody who found no work before may find some after this event.
    pub fn may_make_work(&self) -> bool {
        match self {
            Self::JobSubmitted { .. }
            | Self::JobPaused { paused: false, .. }
            | Self::JobResumed { .. }
            | Self::PackageAccepted { .. }
            | Self::LeaseEnded { .. }
            | Self::ReceiptCommitted { .. }
            | Self::LeaseSplit { .. }
            | Self::LeasesOffered { .. }
            | Self::PackageRejected { .. }
            | Self::VerdictContested { .. }
            | Self::Bonded { .. }
            | Self::ParamsSet { .. }
            | Self::WorkerLeft { .. }
            | Self::SealingKeyGiven { .. }
            | Self::ReservationEnded { .. }
            | Self::WorkerDraining { .. } => true,
            Self::ChecksDrawn { checks, .. } => !checks.is_empty(),
            _ => false,
        }
    }
}

/// What a job asks for, as far as the rules care. The rest is carried along unread.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct JobSpec {
    /// A name for people.
    pub name: String,
    /// The queue segment.
    pub kind: JobKind,
    /// The class it is served in.
    pub priority: Priority,
    /// When its owner wants it done, in milliseconds of the Unix epoch: nothing of it is given out later.
    pub deadline_ms: Option<u64>,
    /// Who else has a part in every payment, such as a model's author.
    pub royalty: Option<Royalty>,
    /// Failed attempts after which a unit is given up; the market's limit when absent.
    pub attempts_max: Option<u32>,
    /// How outputs become files: JSON that only clients read.
    pub joins_json: String,
    /// What is computed, in the order in which units are numbered; a plain job has one.
    pub stages: Vec<Stage>,
    /// Whether all stages are run again and again.
    pub iterate: Option<Iterate>,
}

/// Units of one program.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Stage {
    /// A name for people; a plain job's only stage has none.
    pub name: String,
    /// The blob with the manifest.
    pub manifest: Hash,
    /// The manifest's inputs.
    pub inputs: Vec<StageInput>,
    /// How many units, in each iteration.
    pub units: u64,
    /// What one unit pays.
    pub unit_price: Amount,
    /// Units a package; sized by the market when absent.
    pub package_units: Option<u32>,
    /// Time of one unit, in milliseconds.
    pub time_ms_max: u64,
    /// What a device must offer.
    pub requirements: Requirements,
    /// For each output, whether it compares bit for bit.
    pub outputs_exact: Vec<bool>,
    /// For each output, its length in bytes; what other stages read is cut by it.
    pub output_bytes: Vec<u64>,
    /// How results are verified.
    pub policy: Policy,
    /// What one unit costs a device, as estimated at submission.
    pub work: UnitWork,
    /// Units that must run at the same time, each on a device of its own; 1 when they need not.
    pub devices: u32,
    /// Owners that compute each unit at the same time, so that losing one costs no time; 1 for none but the first.
    pub replicas: u32,
}

impl Stage {
    /// Executions of each unit that the escrow covers.
    pub fn copies(&self) -> u64 {
        1 + self.policy.checks_per_unit().max(u64::from(self.replicas.saturating_sub(1)))
    }
}

/// The class a job is served in. A higher one may reclaim devices from a lower one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Priority {
    /// Whatever is left over.
    Low,
    /// The usual.
    #[default]
    Normal,
    /// Before the usual.
    High,
    /// At once.
    Urgent,
}

/// A part of what a job pays for first execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Royalty {
    /// Who gets it.
    pub account: PublicKey,
    /// How much, in basis points.
    pub bps: u32,
}

/// Where an input of a stage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum StageInput {
    /// From a blob that was there at submission.
    Blob(InputSplit),
    /// From what other units put out.
    Stage(Gather),
}

/// Outputs of one stage as the input of another one: unit `i` reads one output of the upstream units
/// `[i · step, i · step + count)`, one after the other, and of that the `length` bytes from `offset + i · stride`. What is
/// missing is zero. With `step` and `count` 1 that is a map, with both `k` a reduction of `k` units to one, with `step` 0 the same
/// units for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Gather {
    /// The upstream stage's number.
    pub stage: u32,
    /// Which of its outputs.
    pub output: u32,
    /// Upstream units from one unit's first to the next one's.
    pub step: u64,
    /// Upstream units a unit reads.
    pub count: u64,
    /// Where unit 0 begins in the concatenated outputs, in bytes.
    pub offset: u64,
    /// From one unit's beginning to the next one's, in bytes.
    pub stride: u64,
    /// Bytes a unit sees.
    pub length: u64,
    /// Set when the upstream units are those of the iteration before; the first iteration reads this instead.
    pub initial: Option<InputSplit>,
}

/// A job whose stages run again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Iterate {
    /// Most iterations; the escrow covers them all.
    pub times_max: u32,
    /// When to stop earlier.
    pub until: Option<Until>,
}

/// When an iterated job is done. Both are decided on the commitments of accepted outputs alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Until {
    /// An iteration put out the same as the one before, in every unit of this stage.
    Unchanged {
        /// The stage's number.
        stage: u32,
        /// Which of its outputs.
        output: u32,
    },
    /// Every unit of this stage put out these bytes.
    Equals {
        /// The stage's number.
        stage: u32,
        /// Which of its outputs.
        output: u32,
        /// The blob that the output is to be.
        blob: Hash,
    },
}

/// What one unit costs a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UnitWork {
    /// Arithmetic operations.
    pub flops: u64,
    /// Bytes read and written in device memory.
    pub bytes: u64,
}

/// Where a unit is in its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The iteration, from 0.
    pub iteration: u64,
    /// The stage's number.
    pub stage: u32,
    /// The unit's number in its stage.
    pub index: u64,
}

impl JobSpec {
    /// A job of one stage that is run once.
    pub fn plain(name: String, kind: JobKind, joins_json: String, stage: Stage) -> Self {
        Self {
            name,
            kind,
            priority: Priority::default(),
            deadline_ms: None,
            royalty: None,
            attempts_max: None,
            joins_json,
            stages: vec![stage],
            iterate: None,
        }
    }

    /// Iterations at most.
    pub fn iterations_max(&self) -> u64 {
        self.iterate.map_or(1, |iterate| iterate.times_max.into())
    }

    /// Units of one iteration.
    pub fn iteration_units(&self) -> u64 {
        self.stages.iter().map(|stage| stage.units).sum()
    }

    /// Units of all iterations.
    pub fn units(&self) -> u64 {
        self.iteration_units() * self.iterations_max()
    }

    /// Where a unit is: iteration after iteration, in each stage after stage.
    ///
    /// # Panics
    ///
    /// If the job has no such unit.
    pub fn place(&self, unit: u64) -> Place {
        let each = self.iteration_units();
        let (iteration, mut index) = (unit / each, unit % each);
        for (number, stage) in (0..).zip(&self.stages) {
            if index < stage.units {
                return Place { iteration, stage: number, index };
            }
            index -= stage.units;
        }
        unreachable!("the stages' units add up to an iteration")
    }

    /// The share of what first execution pays that goes to somebody else, in basis points.
    pub fn royalty_bps(&self) -> u32 {
        self.royalty.map_or(0, |royalty| royalty.bps)
    }

    /// What is wrong with the outputs that the job's owner says to know, for a person.
    pub fn canary_flaw(&self, canaries: &[Canary]) -> Option<String> {
        if canaries.len() > CANARIES_MAX {
            return Some(format!("a job has at most {CANARIES_MAX} canaries"));
        }
        if !canaries.is_sorted_by(|a, b| a.unit < b.unit) {
            return Some("each canary is a unit of its own, in ascending order".into());
        }
        canaries.iter().find_map(|Canary { unit, outputs }| {
            if *unit >= self.units() {
                return Some(format!("a canary is unit {unit}, the job has {} units", self.units()));
            }
            let stage = self.stage_of(*unit);
            let (wanted, given) = (stage.outputs_exact.len(), outputs.len());
            if given != wanted {
                return Some(format!("unit {unit} has {wanted} outputs, its canary names {given}"));
            }
            let mut lengths = outputs.iter().zip(&stage.output_bytes);
            let (known, bytes) = lengths.find(|(known, bytes)| known.length != **bytes)?;
            Some(format!("an output of unit {unit} has {bytes} bytes, its canary {}", known.length))
        })
    }

    /// The stage of a unit.
    pub fn stage_of(&self, unit: u64) -> &Stage {
        &self.stages[self.place(unit).stage as usize]
    }

    /// The first unit of a stage in an iteration.
    pub fn first_unit(&self, iteration: u64, stage: u32) -> u64 {
        let before: u64 = self.stages[..stage as usize].iter().map(|stage| stage.units).sum();
        iteration * self.iteration_units() + before
    }
}

/// What a device must offer.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Requirements {
    /// Largest storage binding, in bytes.
    pub storage_buffer_bytes: u64,
    /// All buffers of a unit together, in bytes.
    pub memory_bytes: u64,
    /// Most storage buffers in one pass.
    pub storage_buffers: u32,
    /// WebGPU feature names.
    pub features: Vec<String>,
}

/// How results are verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Policy {
    /// Units drawn after the commitment are executed again.
    Audit {
        /// Least share of units, in parts per million.
        rate_min_ppm: u32,
    },
    /// Every unit is executed by this many owners.
    Quorum {
        /// Owners that agree.
        agree: u32,
    },
    /// Several of them together.
    Combined(Combined),
}

/// Ways to verify results, used together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Combined {
    /// Least share of units that somebody else executes again, in parts per million, where that is done.
    pub audit_rate_min_ppm: Option<u32>,
    /// How many owners execute every unit, where that is done.
    pub quorum: Option<Quorum>,
    /// Whether the job comes with units whose outputs its owner knows.
    pub canaries: bool,
    /// Least share of units of which the market checks what the program says of their outputs, in parts per million, where
    /// it says something.
    pub algebraic_rate_min_ppm: Option<u32>,
}

/// Owners that execute every unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Quorum {
    /// How many must agree.
    pub agree: u32,
    /// How many execute.
    pub of: u32,
}

impl Combined {
    /// Most owners of a quorum.
    const OWNERS_MAX: u32 = 5;

    /// What is wrong with it, if anything.
    pub(crate) fn flaw(&self) -> Option<&'static str> {
        let rates = [self.audit_rate_min_ppm, self.algebraic_rate_min_ppm];
        match self.quorum {
            Some(Quorum { of, .. }) if !(2..=Self::OWNERS_MAX).contains(&of) => {
                Some("a quorum is 2 to 5 owners")
            }
            Some(Quorum { agree, of }) if agree < 2 || agree > of || 2 * agree <= of => {
                Some("more than half of a quorum must agree")
            }
            Some(_) if self.audit_rate_min_ppm.is_some() => Some("a quorum leaves nothing to audit"),
            None if rates == [None, None] => {
                Some("results are audited, executed by several, or checked by the market")
            }
            _ if rates.into_iter().flatten().any(|rate| rate > 1_000_000) => {
                Some("a share is at most the whole")
            }
            _ => None,
        }
    }
}

impl Policy {
    /// The same in one form.
    pub fn combined(self) -> Combined {
        match self {
            Self::Audit { rate_min_ppm } => {
                Combined { audit_rate_min_ppm: Some(rate_min_ppm), ..Combined::default() }
            }
            Self::Quorum { agree } => {
                Combined { quorum: Some(Quorum { agree, of: agree }), ..Combined::default() }
            }
            Self::Combined(combined) => combined,
        }
    }

    /// Most paid checks a unit can have: what the escrow sets aside.
    pub fn checks_per_unit(self) -> u64 {
        let Combined { quorum, audit_rate_min_ppm, .. } = self.combined();
        let audits = u64::from(audit_rate_min_ppm.is_some());
        quorum.map_or(audits, |quorum| quorum.of.saturating_sub(1).into())
    }
}

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Work {
    /// Units for the first time in this attempt.
    Package {
        /// The package.
        package: PackageId,
        /// Its job.
        job: JobId,
        /// Its units.
        run: UnitRun,
    },
    /// Units again, to check somebody else.
    Check {
        /// The check.
        check: CheckId,
    },
}

/// A check to be made.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CheckPlan {
    /// The check.
    pub check: CheckId,
    /// The unit indices, ascending.
    pub units: Vec<u64>,
    /// Whether only the market's verifier may make it, because the job has nothing left to pay others.
    pub verifier_only: bool,
    /// The check that disagreed, when this one is the third opinion on it.
    pub tie_of: Option<CheckId>,
}

/// A check to be made without executing anything.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LookPlan {
    /// The check.
    pub check: CheckId,
    /// The unit indices, ascending.
    pub units: Vec<u64>,
    /// How.
    pub kind: CheckKind,
}

/// How a check comes to its opinion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum CheckKind {
    /// Somebody else executes the units again.
    Execution,
    /// The job's owner knows what the units put out: that is the owner's opinion, and never more than a reason to have somebody
    /// execute them again.
    Canary,
    /// The market checks a relation between what the units read and put out: that is the market's opinion, and final.
    Algebraic,
}

/// A unit whose outputs the job's owner knows.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Canary {
    /// The unit's number in the job.
    pub unit: u64,
    /// What it puts out, output by output.
    pub outputs: Vec<KnownOutput>,
}

/// An output that is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct KnownOutput {
    /// The blob with the output's bytes.
    pub blob: Hash,
    /// Its length in bytes.
    pub length: u64,
}

/// One payment, cut into its shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Split {
    /// To the provider's owner.
    pub provider: Amount,
    /// To whom the job's royalty goes.
    pub royalty: Amount,
    /// To the treasury.
    pub treasury: Amount,
    /// Destroyed.
    pub burn: Amount,
}

impl Split {
    /// Cuts `total` by the parameters and the job's royalty. Each share is rounded down; the provider gets what that leaves.
    pub fn of(total: Amount, royalty_bps: u32, params: &Params) -> Self {
        let (treasury, burn) = (total.share_bps(params.treasury_bps), total.share_bps(params.burn_bps));
        let royalty = total.share_bps(royalty_bps);
        Self { provider: Amount(total.0 - treasury.0 - burn.0 - royalty.0), royalty, treasury, burn }
    }

    /// The whole.
    pub fn total(&self) -> Amount {
        Amount(self.provider.0 + self.royalty.0 + self.treasury.0 + self.burn.0)
    }
}

/// Why a lease ended without a receipt.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum EndCause {
    /// Its deadline passed.
    Expired,
    /// The worker left or was silent; counts against nobody.
    WorkerLeft,
    /// The worker gave it back without trying.
    Returned,
    /// The worker tried and failed.
    Failed {
        /// Stable code, such as `timed_out`.
        code: String,
        /// What happened, for a person.
        detail: String,
    },
    /// The job ended or the check was settled without it.
    NotNeeded,
    /// The market asked for it back, for a job of a higher priority; counts against nobody.
    Preempted,
}

/// Why a worker is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum LeaveCause {
    /// It said so.
    Left,
    /// It was not heard for too long.
    Silent,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum JobEnd {
    /// Every unit is accepted.
    Done,
    /// Its owner ended it.
    Cancelled,
    /// Some units have no result.
    Incomplete {
        /// Why not.
        cause: Shortfall,
        /// The last failure.
        why: String,
    },
}

/// Why a job ended with units that have no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Shortfall {
    /// Units failed too often, and others may need theirs.
    Parked,
    /// Its deadline passed.
    Deadline,
}

/// One failed attempt at some units.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Failure {
    /// Who failed.
    pub worker: PublicKey,
    /// Stable code, such as `timed_out`, `expired` or `contradicted`.
    pub code: String,
    /// How, for a person.
    pub why: String,
}

impl Failure {
    /// The code of a lease that ran out.
    pub const EXPIRED: &'static str = "expired";
}

/// Why a package was rejected.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Verdict {
    /// Two other owners got another result.
    Outvoted,
    /// The market's own verifier got another result.
    VerifierDisagrees,
    /// Nobody could execute the units again.
    Unverifiable,
    /// What the program says of its outputs does not hold for these, and an execution of them got something else too.
    Disproved,
}
