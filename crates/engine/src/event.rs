//! What happened: the journal's content.
//!
//! Events are persisted as Borsh. Variants are only ever appended; one whose content must change becomes a new variant and
//! the old one stays readable. `tests/vectors/journal-v1.json` pins the bytes.

use borsh::{BorshDeserialize, BorshSerialize};
use protocol::{
    Amount, CheckId, DeviceFacts, Hash, InputSplit, JobId, LeaseId, OutputCommitment, PackageId, PublicKey,
    Receipt, Signature, UnitRun, manifest::JobKind,
};

use crate::Params;

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
        /// The seed the draw came from, SHA-256(secret seed ‖ sequence of the receipt's event).
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
}

impl Event {
    /// Whether somebody who found no work before may find some after this event.
    pub fn may_make_work(&self) -> bool {
        match self {
            Self::JobSubmitted { .. }
            | Self::LeaseEnded { .. }
            | Self::ReceiptCommitted { .. }
            | Self::PackageRejected { .. }
            | Self::WorkerLeft { .. }
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
    /// The blob with the manifest.
    pub manifest: Hash,
    /// Its inputs.
    pub inputs: Vec<InputSplit>,
    /// How outputs become files: JSON that only clients read.
    pub joins_json: String,
    /// How many units.
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
    /// How results are verified.
    pub policy: Policy,
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
}

impl Policy {
    /// Most paid checks a unit can have: what the escrow sets aside.
    pub fn checks_per_unit(self) -> u64 {
        match self {
            Self::Audit { .. } => 1,
            Self::Quorum { agree } => u64::from(agree.saturating_sub(1)),
        }
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

/// One payment, cut into its shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Split {
    /// To the provider's owner.
    pub provider: Amount,
    /// To the treasury.
    pub treasury: Amount,
    /// Destroyed.
    pub burn: Amount,
}

impl Split {
    /// Cuts `total` by the parameters; the provider gets what rounding leaves.
    pub fn of(total: Amount, params: &Params) -> Self {
        let (treasury, burn) = (total.share_bps(params.treasury_bps), total.share_bps(params.burn_bps));
        Self { provider: Amount(total.0 - treasury.0 - burn.0), treasury, burn }
    }

    /// The whole.
    pub fn total(&self) -> Amount {
        Amount(self.provider.0 + self.treasury.0 + self.burn.0)
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
    /// Some units are parked.
    Incomplete {
        /// The last failure.
        why: String,
    },
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
}
