//! What can be asked of the market, and why it refuses.

use protocol::{
    Amount, CheckId, DeviceFacts, Envelope, Hash, JobId, LeaseId, OutputCommitment, PublicKey, Receipt,
    ReservationId, Signature, SignedSealingKey, VerdictId, WorkerOffer,
};

use crate::{Canary, Event, JobSpec, ParamError, Quote, Shortage};

/// A wish. Signatures were verified and blobs found by the shell; everything else is decided here.
#[derive(Clone, Debug)]
pub enum Command {
    /// Tokens came in.
    Deposit {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
        /// Idempotency key, hashed with its account.
        key: Option<Hash>,
    },
    /// A wallet signed that a session key may act for it.
    DelegateSession {
        /// The wallet.
        wallet: PublicKey,
        /// The session key.
        session: PublicKey,
        /// Until when.
        expires_at_ms: u64,
    },
    /// A new job.
    Submit(Box<Submission>),
    /// The owner ends a job.
    Cancel {
        /// The job.
        job: JobId,
        /// Who asks.
        by: PublicKey,
    },
    /// The owner holds back what waits of a job, or no longer. What runs goes on.
    Pause {
        /// The job.
        job: JobId,
        /// Who asks.
        by: PublicKey,
        /// Whether to hold back.
        paused: bool,
    },
    /// The owner has a job that ended incomplete go on with what it lacks, at the same prices.
    ResumeJob {
        /// The job.
        job: JobId,
        /// Who asks.
        by: PublicKey,
        /// A new deadline; the old one, if it is still to come, when absent.
        deadline_ms: Option<u64>,
    },
    /// The shell stored the archive of a job that ended long enough ago ([`State::archivable`](crate::State::archivable)).
    Archive {
        /// The job.
        job: JobId,
        /// When it ended: one that went on meanwhile has another archive.
        ended_at_ms: u64,
        /// The blob with its archive.
        archive: Hash,
    },
    /// A worker describes its device.
    Announce {
        /// The key that signs its receipts.
        worker: PublicKey,
        /// Which of the processes that may hold the key.
        instance: String,
        /// The device.
        device: DeviceFacts,
        /// The worker's version.
        version: String,
        /// What it claims and asks.
        offer: WorkerOffer,
    },
    /// A worker is alive and still works on these leases.
    Heartbeat {
        /// The worker.
        worker: PublicKey,
        /// As announced.
        instance: String,
        /// Leases still worked on.
        leases: Vec<LeaseId>,
    },
    /// A worker leaves, at once or after its leases.
    Leave {
        /// The worker.
        worker: PublicKey,
        /// As announced.
        instance: String,
        /// Whether it finishes the leases it holds.
        drain: bool,
    },
    /// A worker wants work. The answer may be empty; [`State::worker_reason`](crate::State::worker_reason) says why.
    RequestLeases {
        /// The worker.
        worker: PublicKey,
        /// As announced.
        instance: String,
        /// Most packages wanted.
        packages_max: u32,
        /// Only of jobs of which it holds none.
        others_only: bool,
    },
    /// A worker gives a lease back.
    Release {
        /// The worker.
        worker: PublicKey,
        /// The lease.
        lease: LeaseId,
        /// As granted.
        generation: u32,
        /// Why.
        release: Release,
    },
    /// A worker commits to results: of all units of a lease, or of the first few of a package, to go on with the others.
    Commit {
        /// The signed body; the signature was verified.
        receipt: Box<Receipt>,
        /// Its signature, kept as evidence.
        signature: Signature,
        /// Each unit's index and outputs, in package order; they hash to the receipt's root (verified).
        units: Vec<(u64, Vec<OutputCommitment>)>,
        /// Secret: [keyed hash](protocol::challenge::seed) of the receipt, from which the draw is made.
        seed: Hash,
    },
    /// The market draws with the keys of a new chain from now on.
    AnchorChallenges {
        /// The key before the first epoch's.
        anchor: Hash,
        /// How long an epoch lasts.
        epoch_ms: u64,
        /// How many there are.
        epochs: u64,
    },
    /// The shell cannot tell about what [`State::looks`](crate::State::looks) listed.
    RecordUndecided {
        /// The check.
        check: CheckId,
        /// Why not.
        evidence: String,
    },
    /// The shell compared what [`State::comparisons`](crate::State::comparisons) listed, or checked what
    /// [`State::looks`](crate::State::looks) listed.
    RecordOpinion {
        /// The check.
        check: CheckId,
        /// Whether the outputs agree within the job's tolerance.
        agrees: bool,
        /// What was compared and where it first differs.
        evidence: String,
    },
    /// An account sets tokens aside.
    Bond {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
    },
    /// An account wants tokens back that it set aside; it has them after a delay.
    Unbond {
        /// Whose.
        account: PublicKey,
        /// How much.
        amount: Amount,
    },
    /// A client rates a worker of its job, once.
    Rate {
        /// The job.
        job: JobId,
        /// Who rates.
        by: PublicKey,
        /// The worker.
        worker: PublicKey,
        /// 1 to 5.
        stars: u8,
    },
    /// The owner of a rejected package contests the verdict, once, with a deposit.
    Contest {
        /// The verdict.
        verdict: VerdictId,
        /// Who asks.
        by: PublicKey,
    },
    /// Whoever holds the market's key changes parameters.
    SetParams {
        /// Who asks.
        by: PublicKey,
        /// Names and new values.
        changes: Vec<(String, u64)>,
    },
    /// A worker says what can be sealed to it. The shell verified the signature.
    GiveSealingKey {
        /// The worker.
        worker: PublicKey,
        /// As announced.
        instance: String,
        /// Its record.
        signed: SignedSealingKey,
    },
    /// An account is about to seal a job and wants workers kept for it.
    Reserve(Box<SealingRequest>),
    /// They are not needed after all.
    EndReservation {
        /// The reservation.
        reservation: ReservationId,
        /// Who asks.
        by: PublicKey,
    },
    /// Time passed: deadlines are due.
    AdvanceTime,
    /// The market was down and is back.
    Resume,
}

/// A new job.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Who pays.
    pub owner: PublicKey,
    /// What to do.
    pub spec: JobSpec,
    /// Stages that pay the market's price of this moment instead of what `spec` says. That price is then the job's for all its
    /// life.
    pub quoted: Vec<u32>,
    /// The most that may be held in escrow.
    pub budget: Option<Amount>,
    /// Idempotency key, hashed with its account, and the request's digest.
    pub key: Option<(Hash, Hash)>,
    /// Units whose outputs the owner knows, ascending.
    pub canaries: Vec<Canary>,
    /// Who can read it, where not everybody can.
    pub sealed: Option<Sealing>,
}

/// Whom a job is sealed to.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The workers' reservation.
    pub reservation: ReservationId,
    /// The job's content key, sealed to each of them.
    pub envelopes: Vec<(PublicKey, Envelope)>,
}

/// The wish to seal a job.
#[derive(Clone, Debug)]
pub struct SealingRequest {
    /// Who will submit it.
    pub account: PublicKey,
    /// The job, as far as it decides who can run it and what it costs; its inputs need not be there.
    pub spec: JobSpec,
    /// As in a submission.
    pub quoted: Vec<u32>,
    /// How many workers, each of another owner.
    pub providers: u32,
    /// Choose among these alone; among all when empty.
    pub only: Vec<PublicKey>,
    /// For how long they are kept, in milliseconds.
    pub hold_ms: u64,
}

/// Why a worker gives a lease back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release {
    /// It leaves; counts against nobody.
    Returned,
    /// It tried and failed.
    Failed {
        /// Stable code, such as `timed_out`.
        code: String,
        /// What happened.
        detail: String,
    },
}

/// What a decision emitted and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// To be journaled before anybody is answered.
    pub events: Vec<Event>,
    /// What the caller wants to know.
    pub answer: Answer,
}

/// What the caller wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// That it happened.
    Done,
    /// The job.
    Job(JobId),
    /// Workers that are kept.
    Reserved {
        /// The reservation.
        reservation: ReservationId,
        /// What the job would hold in escrow.
        escrow: Amount,
    },
    /// The leases granted, perhaps none.
    Leases(Vec<LeaseId>),
    /// What a heartbeat brings back.
    Heard {
        /// Its leases that the worker does not hold.
        lost: Vec<LeaseId>,
        /// Leases of which the worker shall commit what is finished and give the rest back.
        yields: Vec<LeaseId>,
    },
    /// What became of a receipt.
    Receipt {
        /// What became of it.
        outcome: ReceiptOutcome,
        /// The lease of the units that it left out, if it covered only the first of its lease.
        rest: Option<LeaseId>,
    },
}

/// What became of a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptOutcome {
    /// Accepted; this was paid to the owner.
    Accepted(Amount),
    /// Waits for checks (or is one).
    Checking,
}

/// Why a command was refused. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such job.
    #[error("there is no {0}")]
    JobUnknown(JobId),
    /// Somebody else's job.
    #[error("{0} belongs to somebody else")]
    JobForeign(JobId),
    /// The job is over.
    #[error("{0} has ended")]
    JobEnded(JobId),
    /// The job is in the archive.
    #[error("{0} ended long ago and is in the archive: nothing about it changes any more")]
    JobArchived(JobId),
    /// A job that has not ended, or not long enough ago.
    #[error("{0} is not to be archived yet")]
    JobNotArchivable(JobId),
    /// Only what ended incomplete can go on.
    #[error("{0} did not end incomplete")]
    JobNotIncomplete(JobId),
    /// The submission makes no sense.
    #[error("{0}")]
    SpecInvalid(String),
    /// Escrow beyond the job's own cap.
    #[error("the job needs {} tokens in escrow, over its budget of {} tokens", .needed.to_tokens(), .budget.to_tokens())]
    OverBudget {
        /// Escrow wanted.
        needed: Amount,
        /// The cap.
        budget: Amount,
        /// How the price comes about.
        quote: Box<Quote>,
    },
    /// Escrow beyond the balance.
    #[error("the job needs {} tokens in escrow, the account has {}", .needed.to_tokens(), .available.to_tokens())]
    BalanceTooLow {
        /// Escrow wanted.
        needed: Amount,
        /// What the account has.
        available: Amount,
    },
    /// More money than there can be.
    #[error("the amount is too large")]
    AmountTooLarge,
    /// One key for two requests.
    #[error("the idempotency key was used for another request")]
    IdempotencyConflict,
    /// A session key that ended, or one that is a wallet already.
    #[error("{0}")]
    SessionInvalid(&'static str),
    /// A second live process with one worker key.
    #[error("another worker with this key was heard {seen_ms_ago} ms ago")]
    WorkerKeyInUse {
        /// When it was heard.
        seen_ms_ago: u64,
        /// After how long a silent worker loses its key.
        free_after_ms: u64,
    },
    /// Not announced, or gone.
    #[error("the worker is not announced, or was gone for too long")]
    WorkerUnknown,
    /// No such lease.
    #[error("there is no {0}")]
    LeaseUnknown(LeaseId),
    /// The lease ended and its units are elsewhere.
    #[error("{0} has ended")]
    LeaseExpired(LeaseId),
    /// Somebody else's lease.
    #[error("{0} belongs to another worker")]
    LeaseForeign(LeaseId),
    /// Another generation.
    #[error("{lease} has generation {expected}, not {found}")]
    LeaseStale {
        /// The lease.
        lease: LeaseId,
        /// The lease's generation.
        expected: u32,
        /// The receipt's.
        found: u32,
    },
    /// A second receipt with other content.
    #[error("{0} already has another receipt")]
    ReceiptDuplicate(LeaseId),
    /// The receipt is not for this market, job or set of units.
    #[error("the receipt does not fit its lease: {0}")]
    ReceiptInvalid(&'static str),
    /// Less than there is.
    #[error("{} tokens are wanted, the account has {} tokens for that", .wanted.to_tokens(), .available.to_tokens())]
    StakeTooLow {
        /// How much is wanted.
        wanted: Amount,
        /// How much there is.
        available: Amount,
    },
    /// Nothing is not an amount, and there are only so many ways back at a time.
    #[error("{0}")]
    StakeInvalid(&'static str),
    /// Not a rating that counts.
    #[error("{0}")]
    RatingInvalid(&'static str),
    /// The rating was given.
    #[error("{job} has rated {worker} before")]
    RatedBefore {
        /// The job.
        job: JobId,
        /// The worker.
        worker: PublicKey,
    },
    /// Only the market's own key may do that.
    #[error("only the market's own key may do that")]
    NotTheMarket,
    /// Parameters that are not safe.
    #[error(transparent)]
    ParamInvalid(#[from] ParamError),
    /// A record that is not this worker's, market's or time's.
    #[error("the sealing key is refused: {0}")]
    SealingKeyInvalid(&'static str),
    /// Not enough workers that a job can be sealed to.
    #[error(
        "{} of {} providers can be reserved: {} workers of other owners fit, {} of them have no sealing key and {} are reserved \
         for others; each must have another owner", .0.found, .0.wanted, .0.fitting, .0.keyless, .0.booked
    )]
    ProvidersTooFew(Shortage),
    /// One account keeps so many groups of workers.
    #[error("the account has {0} reservations already")]
    BookingsTooMany(usize),
    /// It ended, was used, or never was.
    #[error("there is no {0}: it has ended, was used for a job, or never was")]
    ReservationUnknown(ReservationId),
    /// Somebody else's reservation.
    #[error("{0} belongs to somebody else")]
    ReservationForeign(ReservationId),
    /// No such verdict.
    #[error("there is no {0}")]
    VerdictUnknown(VerdictId),
    /// Somebody else's package.
    #[error("{0} is on a package of somebody else")]
    VerdictForeign(VerdictId),
    /// Its time is over.
    #[error("{0} is final")]
    VerdictFinal(VerdictId),
    /// An appeal is under way.
    #[error("{0} is contested already")]
    ContestedBefore(VerdictId),
    /// Less than an appeal takes.
    #[error("contesting takes a deposit of {} tokens, the account has {}", .needed.to_tokens(), .available.to_tokens())]
    DepositTooLow {
        /// What it takes.
        needed: Amount,
        /// What the account has.
        available: Amount,
    },
    /// No such check, or one that is not being compared.
    #[error("{0} is not waiting for an opinion")]
    CheckNotPending(CheckId),
}
