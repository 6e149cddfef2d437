//! The market's rules as a pure state machine.
//!
//! Everything the market believes is the fold of its events. [`decide`] takes the state, the time and a command, and either
//! refuses it or emits events; [`State::evolve`] folds one event. A decision emits its events *through* `evolve`, so that its
//! later parts see its earlier ones, and a refusal leaves the state untouched. Replaying the events gives the same state.
//!
//! The crate does no I/O, reads no clock and draws no randomness: time and seeds come in with the command. It does not know
//! that HTTP, SQL, GPUs or chains exist. It does not compare outputs either: where two commitments differ and the job
//! allows a tolerance, [`State::comparisons`] says what the shell must compare and hand back as an opinion.
//!
//! Life of a unit: waiting → leased → committed (receipt) → checked or sampled out → accepted and paid; back to waiting on
//! expiry, release or rejection; parked after too many attempts. See `docs/lifecycle.md`.
//!
//! # Money
//!
//! Few events move it, each double-entry: deposit, submission (balance → escrow), acceptance (escrow → provider, treasury,
//! burn), check payment (the same), the job's end (escrow → balance), the release of pay that was held back, stake and its way
//! back, a verdict (stake and pay → frozen), an appeal (balance → frozen), and what becomes of either when the verdict is final. All amounts are integers and stand in the event,
//! so that a replay never recomputes a price.

mod archive;
mod checks;
mod command;
mod decide;
mod event;
mod evolve;
mod gang;
mod invariants;
mod matching;
mod params;
mod preempt;
mod price;
mod queue;
mod ranges;
mod ratio;
mod reason;
mod reputation;
mod rewards;
mod score;
mod sealed;
mod speed;
mod stages;
mod stake;
mod state;
mod supply;
mod trust;
pub mod v1;
mod verdict;

pub use archive::{ARCHIVE_PREFIX_BYTES, ARCHIVE_VERSION, ArchiveError, archive_head_bytes, from_archive};
pub use command::{
    Answer, Command, Decision, ReceiptOutcome, Rejection, Release, Sealing, SealingRequest, Submission,
};
pub use decide::decide;
pub use event::{
    CANARIES_MAX, Canary, CheckKind, CheckPlan, Combined, EndCause, Event, Failure, Gather, Iterate, JobEnd,
    JobSpec, KnownOutput, LeaveCause, LookPlan, Place, Policy, Priority, Quorum, Requirements, Royalty,
    Shortfall, Split, Stage, StageInput, UnitWork, Until, Verdict, Work,
};
pub use gang::Reservation;
pub use invariants::{Violation, violations};
pub use params::{ParamError, Params};
pub use preempt::Promise;
pub use price::{Forecasts, Quote, StageQuote};
pub use queue::StageId;
pub use ratio::{PPM, log2_1p_ppm};
pub use reason::{Blockage, JobReason, Misfit, WorkerReason, fits};
pub use reputation::{NRS_MAX_MILLI, Provider, Reputation};
pub use rewards::{divide, emission};
pub use score::{AHEAD_MAX, ScoreTerms, Standing, stake_ppm};
pub use sealed::{BOOKING_MS_MAX, Booking, RECIPIENTS_MAX, Recipient, SealedTo, Shortage};
pub use speed::{Calibration, Speed, package_us};
pub use stages::Window;
pub use stake::multiplier_ppm;
pub use state::{
    AcceptedRun, Account, Check, CheckState, Comparison, Job, JobMoney, JobState, JobWorker, Lease, Ledger,
    Look, LookUnit, Package, PackageState, ParkedRun, SNAPSHOT_VERSION, Session, StageQueue, State,
    UnitInput, VerificationCounts, WaitingRun, Worker, WorkerState,
};
pub use trust::{AuditTerms, economic_floor_ppm};
pub use verdict::{Appeal, Closing, OpenVerdict, Opinion, Outcome, Seizure};
