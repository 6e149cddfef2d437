//! The HTTP contract: requests, answers and problems of the market's API, version 1.
//!
//! The OpenAPI document, the Rust client and the TypeScript types all come from here; it compiles without the server.
//! Money, 64-bit numbers and sequence numbers are decimal strings; times are RFC 3339 with milliseconds. Clients ignore
//! unknown fields in answers; the server refuses unknown fields in requests.

mod economics;
mod problem;
mod proof;
mod sealed;
mod verdicts;

use std::collections::BTreeMap;

use protocol::{
    Amount, DeviceFacts, Envelope, Hash, InputSplit, JobId, LeaseId, Manifest, OutputCommitment, PackageId,
    PublicKey, Receipt, Signature, SignedSealingKey, UnitId, UnitRun, WorkerKind, WorkerOffer,
    manifest::JobKind,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use economics::{
    PendingPay, Priority, Quote, RatingRequest, Reputation, Royalty, Score, Speed, StageQuote, StakeRequest,
    Trust,
};
pub use problem::{Problem, code};
pub use proof::{ChallengeKeys, Challenges, CheckRecord, PackageRecord, Settlement, ShownKey, UnitProof};
pub use protocol::JoinSpec;
pub use sealed::{Reservation, ReservationRequest, SealedRequest, SealingKeyRequest, WorkerEnvelope};
pub use verdicts::{
    Opinion, Verdict, VerdictAppeal, VerdictCause, VerdictClosing, VerdictOutcome, VerdictState,
};

/// The media type of [`Problem`] bodies.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// The header that makes a repeated write give the first answer again.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A point in time, RFC 3339 in UTC with milliseconds.
pub type Time = String;

/// Why something waits, in code, words and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// Stable code, such as `no_matching_job`.
    pub code: String,
    /// One sentence for a person.
    pub text: String,
    /// The numbers behind the sentence.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// One page of a list, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Pass as `cursor` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` with a reason.
    pub status: String,
    /// Why, when degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The server's version.
    pub version: String,
    /// `leader`, or `standby` where another process leads the market and this one hands requests to it.
    #[serde(default)]
    pub role: String,
    /// Where the leader is, when that is another process and one lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Last journal sequence that is durable, as far as this process knows.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub seq: u64,
}

/// `GET /v1/market`: what a client needs to know of this market.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MarketInfo {
    /// The market's key, part of every signed receipt.
    pub market: PublicKey,
    /// Whether test tokens can be had.
    pub faucet: bool,
    /// Largest blob, in bytes.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub blob_bytes_max: u64,
    /// A worker that is silent this long loses its leases, in milliseconds.
    pub heartbeat_ms_max: u32,
    /// The provider's share of a payment, in basis points.
    pub provider_bps: u32,
    /// The treasury's share, in basis points.
    pub treasury_bps: u32,
    /// The burned share, in basis points.
    pub burn_bps: u32,
}

/// `POST /v1/auth/challenge`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChallengeRequest {
    /// The wallet that logs in; or a session key that was delegated before.
    pub address: PublicKey,
    /// A key that shall act for the wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionRequest>,
}

/// A delegation that the wallet is asked to sign.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The session key.
    pub key: PublicKey,
    /// How long it may act, in seconds (at most 30 days).
    pub lifetime_s: u32,
}

/// The text to sign, in the form of Sign-In With Solana.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Challenge {
    /// Names this challenge; valid once.
    pub nonce: String,
    /// The exact UTF-8 text to sign with the key of `address`.
    pub message: String,
    /// When it can no longer be answered.
    pub expires_at: Time,
}

/// `POST /v1/auth/login`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The challenge's nonce.
    pub nonce: String,
    /// Ed25519 signature over the message's bytes.
    pub signature: Signature,
    /// The session key's signature over the same bytes, where the challenge named one: nobody may claim a key that is another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_signature: Option<Signature>,
}

/// A login that succeeded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Bearer token (JWT, EdDSA).
    pub token: String,
    /// When the token ends; log in again before.
    pub expires_at: Time,
    /// The wallet acted for.
    pub account: PublicKey,
    /// The key that acts: the session key where one was delegated, else the wallet.
    pub key: PublicKey,
}

/// `GET /v1/accounts/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// The wallet.
    pub id: PublicKey,
    /// What it can spend.
    pub available: Amount,
    /// What its unfinished jobs hold.
    pub escrowed: Amount,
    /// All it was ever paid for work, what is held back included.
    pub earned: Amount,
    /// Pay that is held back.
    pub pending: Amount,
    /// When it can be spent, the earliest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<PendingPay>,
    /// All its jobs ever paid.
    pub spent: Amount,
    /// Set aside as stake.
    pub bonded: Amount,
    /// What verdicts took that are not final, and deposits for appeals.
    pub frozen: Amount,
    /// Stake on its way back.
    pub unbonding: Amount,
    /// All rewards it ever got.
    pub rewarded: Amount,
}

/// `POST /v1/accounts/{id}/deposit`: test tokens, where the market has a faucet.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DepositRequest {
    /// How much.
    pub amount: Amount,
}

/// `POST /v1/jobs`. Every blob it names must have been uploaded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    /// A name for people, at most 100 characters.
    pub name: String,
    /// What a unit computes.
    pub manifest: Manifest,
    /// How many units.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// One a manifest input, in order.
    pub inputs: Vec<InputSplit>,
    /// How outputs become files.
    #[serde(default)]
    pub joins: Vec<JoinSpec>,
    /// What one unit pays; the market's price at the moment of submission when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Amount>,
    /// The class it is served in.
    #[serde(default)]
    pub priority: Priority,
    /// Who else has a part in what it pays for first execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub royalty: Option<Royalty>,
    /// The most the job may hold in escrow; no cap when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Amount>,
    /// Units a package; the market decides when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_units: Option<u32>,
    /// Units that run at the same time, each on a device of its own, 1 to 64; 1 when they need not.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub devices: u32,
    /// Owners that compute each unit at the same time, 1 to 5, so that losing one of them costs no time; the others are paid as
    /// checkers.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
    /// In how many seconds the job is to be done; nothing of it is given out later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_in_s: Option<u32>,
    /// Failed attempts after which a unit is given up, 1 to 20; the market's limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Units whose outputs the submitter knows, at most 1 000; nobody else is told which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<Canary>,
    /// Whom it is sealed to; then its inputs are sealed, each unit's part on its own, and its outputs will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedRequest>,
}

/// `POST /v1/jobs` for a job of several stages, or one that is run again and again. Every blob it names must have been
/// uploaded.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphRequest {
    /// A name for people, at most 100 characters.
    pub name: String,
    /// What is computed; a stage reads blobs and what stages before it put out.
    pub stages: Vec<StageRequest>,
    /// Whether all stages are run again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterate: Option<IterateRequest>,
    /// How outputs become files.
    #[serde(default)]
    pub joins: Vec<JoinSpec>,
    /// The class it is served in.
    #[serde(default)]
    pub priority: Priority,
    /// Who else has a part in what it pays for first execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub royalty: Option<Royalty>,
    /// The most the job may hold in escrow; no cap when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Amount>,
    /// In how many seconds the job is to be done; nothing of it is given out later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_in_s: Option<u32>,
    /// Failed attempts after which a unit is given up, 1 to 20; the market's limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u32>,
    /// Units whose outputs the submitter knows, at most 1 000; nobody else is told which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canaries: Vec<Canary>,
    /// Whom it is sealed to; then its inputs are sealed, each unit's part on its own, and its outputs will be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed: Option<SealedRequest>,
}

/// A unit whose outputs the submitter knows: they are compared with whatever a worker commits to. What differs is one opinion,
/// and has the market execute the unit again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// The unit's index in the job.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub unit: u64,
    /// Every output of the unit, in order.
    pub outputs: Vec<KnownOutput>,
}

/// An output that is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KnownOutput {
    /// The blob with its bytes; it must have been uploaded.
    pub blob: Hash,
    /// Its length in bytes.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub length: u64,
}

impl JobRequest {
    /// The least that a job is: a program and its number of units, without inputs, at the market's price.
    pub fn new(name: String, manifest: Manifest, units: u64) -> Self {
        Self {
            name,
            manifest,
            units,
            inputs: Vec::new(),
            joins: Vec::new(),
            unit_price: None,
            priority: Priority::default(),
            royalty: None,
            budget: None,
            package_units: None,
            devices: 1,
            replicas: 1,
            deadline_in_s: None,
            attempts_max: None,
            canaries: Vec::new(),
            sealed: None,
        }
    }
}

impl From<JobRequest> for GraphRequest {
    /// The job of one nameless stage that a plain request asks for.
    fn from(plain: JobRequest) -> Self {
        Self {
            name: plain.name,
            stages: vec![StageRequest {
                name: String::new(),
                manifest: plain.manifest,
                units: plain.units,
                inputs: plain.inputs.into_iter().map(StageInput::Split).collect(),
                unit_price: plain.unit_price,
                package_units: plain.package_units,
                devices: plain.devices,
                replicas: plain.replicas,
            }],
            iterate: None,
            joins: plain.joins,
            priority: plain.priority,
            royalty: plain.royalty,
            budget: plain.budget,
            deadline_in_s: plain.deadline_in_s,
            attempts_max: plain.attempts_max,
            canaries: plain.canaries,
            sealed: plain.sealed,
        }
    }
}

fn one() -> u32 {
    1
}

fn is_one(number: &u32) -> bool {
    *number == 1
}

/// A plain job, or one of several stages.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum SubmitRequest {
    /// One stage, run once.
    Plain(JobRequest),
    /// Several stages, or a loop.
    Graph(GraphRequest),
}

/// Units of one program.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StageRequest {
    /// Its name, unlike those of the other stages; at most 100 characters.
    pub name: String,
    /// What a unit computes.
    pub manifest: Manifest,
    /// How many units, in each iteration.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// One a manifest input, in order.
    pub inputs: Vec<StageInput>,
    /// What one unit pays; the market's price at the moment of submission when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_price: Option<Amount>,
    /// Units a package; the market decides when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_units: Option<u32>,
    /// Units that run at the same time, each on a device of its own, 1 to 64; 1 when they need not.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub devices: u32,
    /// Owners that compute each unit at the same time, 1 to 5, so that losing one of them costs no time; the others are paid as
    /// checkers.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub replicas: u32,
}

/// Where an input of a stage comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StageInput {
    /// From a blob.
    Split(InputSplit),
    /// From what other units put out.
    Gather(Box<GatherInput>),
}

impl StageInput {
    /// Bytes a unit sees.
    pub fn length(&self) -> u64 {
        match self {
            Self::Split(split) => split.length,
            Self::Gather(gather) => gather.length,
        }
    }
}

/// An input that is made of other units' outputs: unit `i` reads one output of the upstream units
/// `[i · step, i · step + count)`, one after the other, and of that the `length` bytes from `offset + i · stride`; what is
/// missing is zero. With `step` and `count` 1 that is a map, with both `k` a reduction of `k` units to one, with `step` 0 the
/// same units for everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatherInput {
    /// The upstream stage's name.
    pub stage: String,
    /// Which of its outputs.
    #[serde(default)]
    pub output: u32,
    /// Upstream units from one unit's first to the next one's.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub step: u64,
    /// Upstream units a unit reads, at most 4 096.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub count: u64,
    /// Where unit 0 begins in their outputs, in bytes.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub offset: u64,
    /// From one unit's beginning to the next one's, in bytes.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub stride: u64,
    /// Bytes a unit sees.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub length: u64,
    /// Given when the upstream units are those of the iteration before; the first iteration reads this instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<InputSplit>,
}

/// A job whose stages run again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IterateRequest {
    /// Most iterations; the escrow covers them all.
    pub times_max: u32,
    /// When to stop earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Until>,
}

/// When an iterated job is done. Both are decided on the commitments of accepted outputs alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Until {
    /// An iteration put out the same as the one before, in every unit of this stage.
    Unchanged {
        /// The stage's name.
        stage: String,
        /// Which of its outputs.
        #[serde(default)]
        output: u32,
    },
    /// Every unit of this stage put out these bytes.
    Equals {
        /// The stage's name.
        stage: String,
        /// Which of its outputs.
        #[serde(default)]
        output: u32,
        /// The blob that the output is to be; it need not be there.
        blob: Hash,
    },
}

/// `POST /v1/jobs/{id}/resume`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResumeRequest {
    /// A new deadline, in seconds from now; the old one, if it is still to come, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_in_s: Option<u32>,
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// No unit was leased yet.
    Waiting,
    /// Some units are leased or done.
    Running,
    /// Its owner holds back what waits; what runs goes on.
    Paused,
    /// Every unit is accepted.
    Done,
    /// Ended by its owner.
    Cancelled,
    /// Ended with units that nobody could complete.
    Incomplete,
}

/// How many units are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Not leased.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub waiting: u64,
    /// In a worker's hands.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub leased: u64,
    /// Committed, not yet verified.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub checking: u64,
    /// Verified and paid.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub accepted: u64,
    /// Given up after too many attempts.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub parked: u64,
    /// Waiting for other units' results.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub blocked: u64,
    /// Not wanted any more, because an earlier iteration reached what the job was for.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub skipped: u64,
}

/// One stage of a job of several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobStage {
    /// Its name.
    pub name: String,
    /// Stages whose outputs it reads; those of the iteration before stand with a leading `previous `.
    pub reads: Vec<String>,
    /// How many units, in each iteration.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// Units accepted in the current iteration.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub accepted_now: u64,
    /// Where the units of all iterations are.
    pub progress: Progress,
    /// The blob with the manifest.
    pub manifest: Hash,
    /// What one unit pays.
    pub unit_price: Amount,
}

/// What verification did for a job so far, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VerificationCounts {
    /// Re-executed by somebody else, with the same result.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub checked: u64,
    /// Of those, re-executed by the market's own verifier.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub by_verifier: u64,
    /// Of which the market checked what the program says of their outputs, and found that it holds.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub algebraic: u64,
    /// Accepted because the draw after the commitment did not pick them.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub sampled_out: u64,
    /// Found otherwise by whoever checked them.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub disputed: u64,
    /// Rejected and run again.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub rejected: u64,
}

/// One worker's part in a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobWorker {
    /// The worker.
    pub worker: PublicKey,
    /// Units accepted from it.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// Units it checked.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub checked: u64,
    /// What its owner was paid for both.
    pub paid: Amount,
    /// Time its device worked for the job, in microseconds, by its receipts.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub device_us: u64,
    /// What the job's owner thinks of it, 1 to 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stars: Option<u8>,
}

/// The money of one job. `escrowed = paid + royalties + treasury + burned + refunded + held`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobMoney {
    /// Taken from the owner at submission.
    pub escrowed: Amount,
    /// Paid to workers.
    pub paid: Amount,
    /// Paid to the treasury.
    pub treasury: Amount,
    /// Burned.
    pub burned: Amount,
    /// Paid as royalties.
    pub royalties: Amount,
    /// Returned to the owner.
    pub refunded: Amount,
    /// Still held.
    pub held: Amount,
}

/// How far an iterated job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobIteration {
    /// The iteration that runs, or the last one, from 1.
    pub current: u32,
    /// Most iterations.
    pub times_max: u32,
    /// Whether an iteration reached what the job was for, so that `current` is the last one.
    pub reached: bool,
}

/// `GET /v1/jobs/{id}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Who pays.
    pub owner: PublicKey,
    /// The queue segment.
    pub kind: JobKind,
    /// Where it is in its life.
    pub state: JobState,
    /// Why it is not done yet, or why it ended incomplete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How many units.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// Where they are.
    pub progress: Progress,
    /// Why it is served when it is; absent once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// How long it was expected to take when it was submitted, in milliseconds.
    #[serde(default, with = "protocol::decimal::option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub expected_ms: Option<u64>,
    /// Its stages, where it has several or is iterated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<JobStage>,
    /// The current iteration, from 1, and how many there are at most; of an iterated job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iteration: Option<JobIteration>,
    /// When it is to be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// The blob with the manifest, of the first stage.
    pub manifest: Hash,
    /// Its inputs, as far as they are blobs; of the first stage.
    pub inputs: Vec<InputSplit>,
    /// Its result files.
    pub joins: Vec<JoinSpec>,
    /// What one unit pays, of the first stage.
    pub unit_price: Amount,
    /// Its money.
    pub money: JobMoney,
    /// What verification did.
    pub verification: VerificationCounts,
    /// Who worked on it.
    pub workers: Vec<JobWorker>,
    /// When it was submitted.
    pub submitted_at: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The workers that can read it, where it is sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed_to: Vec<PublicKey>,
}

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Not leased.
    Waiting,
    /// In a worker's hands.
    Leased,
    /// Committed, not yet verified.
    Checking,
    /// Verified and paid.
    Accepted,
    /// Given up after too many attempts.
    Parked,
    /// Waits for other units' results.
    Blocked,
    /// Not wanted any more, because an earlier iteration reached what the job was for.
    Skipped,
}

/// One unit of `GET /v1/jobs/{id}/units`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Unit {
    /// The unit.
    pub id: UnitId,
    /// Its stage, where the job has several or is iterated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Its iteration, from 1, of an iterated job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iteration: Option<u32>,
    /// Its number in its stage.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub index: u64,
    /// Where it is.
    pub state: UnitState,
    /// Its outputs, once accepted.
    #[serde(default)]
    pub outputs: Vec<OutputCommitment>,
    /// Who computed it, once accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<PublicKey>,
    /// Who re-executed it and agreed.
    #[serde(default)]
    pub checked_by: Vec<PublicKey>,
}

/// `POST /v1/workers`: the key of the token announces its device.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnounceRequest {
    /// Random per process or tab, so that two with one key are told apart. At most 64 characters.
    pub instance: String,
    /// The device.
    pub device: DeviceFacts,
    /// The worker's version, such as `plexus/0.1.0`.
    pub version: String,
    /// What the worker claims for its device and asks for its time; nothing claimed and nothing asked when absent.
    #[serde(default)]
    pub offer: WorkerOffer,
}

/// `POST /v1/blobs`: what a batch held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlobsAnswer {
    /// The SHA-256 of each blob, in the order of the batch. All of them are there and durable.
    pub blobs: Vec<Hash>,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Ready, with no lease.
    Idle,
    /// Holds a lease.
    Busy,
    /// Finishes its leases and takes no more.
    Draining,
    /// Left, or silent for too long.
    Gone,
}

/// One worker of `GET /v1/workers`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    /// The key that signs its receipts.
    pub id: PublicKey,
    /// The wallet that is paid.
    pub owner: PublicKey,
    /// Whether it is the market's own verifier.
    pub verifier: bool,
    /// Native or browser.
    pub kind: WorkerKind,
    /// Its device.
    pub device: DeviceFacts,
    /// What it is doing.
    pub state: WorkerState,
    /// Why it is not working, or what it works on.
    pub reason: Reason,
    /// Units accepted from it.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub units: u64,
    /// Units it re-executed for others.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub checked: u64,
    /// What its owner was paid for its work.
    pub earned: Amount,
    /// Consecutive packages that held.
    pub streak: u32,
    /// How often its units are executed again, and why.
    pub trust: Trust,
    /// What its owner's word is worth.
    pub reputation: Reputation,
    /// How fast it is.
    pub speed: Speed,
    /// What it asks for a second of the reference device.
    pub ask: Amount,
    /// Leases it holds.
    pub leases: u32,
    /// When it was last heard.
    pub seen_at: Time,
    /// What can be sealed to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing_key: Option<SignedSealingKey>,
}

/// `POST /v1/workers/{id}/heartbeat`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// As announced.
    pub instance: String,
    /// Leases still worked on: their deadlines move on.
    pub leases: Vec<LeaseId>,
}

/// What a heartbeat brings back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAnswer {
    /// Leases of the request that the worker no longer holds: stop working on them.
    pub lost: Vec<LeaseId>,
    /// Leases to yield: commit what is finished of each at the end of the unit that runs, and release the rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yields: Vec<LeaseId>,
    /// Why the worker is idle, or what it is doing.
    pub reason: Reason,
}

/// `POST /v1/workers/{id}/leave`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// As announced.
    pub instance: String,
    /// `true`: take no more leases, but keep the ones held. `false`: give everything back now.
    #[serde(default)]
    pub drain: bool,
}

/// `POST /v1/leases`: a long poll.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// As announced.
    pub instance: String,
    /// Most packages wanted (1 to 64).
    pub packages_max: u32,
    /// How long to wait for work, in milliseconds (at most 30 000).
    #[serde(default)]
    pub wait_ms: u32,
    /// Only work of jobs of which the worker holds none: a second job for a device that is busy with a long one.
    #[serde(default)]
    pub others_only: bool,
}

/// Work, or the reason why there is none.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeaseAnswer {
    /// The leases; empty when the wait ended without work.
    pub leases: Vec<Lease>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// One package in a worker's hands. Whether it is first work or a check of somebody else's is not told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// The lease.
    pub id: LeaseId,
    /// Goes into the receipt.
    pub generation: u32,
    /// The job.
    pub job: JobId,
    /// The blob with the manifest.
    pub manifest: Hash,
    /// The units to run, in order. All are of one stage and one iteration.
    pub units: Vec<UnitRun>,
    /// The number of the first unit of that stage and iteration: unit `u` is number `u - unit_base` where an input is split.
    #[serde(default, with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub unit_base: u64,
    /// The stage's inputs.
    pub inputs: Vec<LeaseInput>,
    /// When the lease ends unless a heartbeat renews it, in milliseconds from now.
    pub expires_in_ms: u32,
    /// The content key of a sealed job, for this worker: its inputs are sealed, and its outputs are to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<Envelope>,
}

/// Where an input's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum LeaseInput {
    /// From one blob, each unit its part.
    Split(InputSplit),
    /// From what other units put out.
    Gathered(GatheredInput),
}

impl LeaseInput {
    /// Bytes a unit sees.
    pub fn length(&self) -> u64 {
        match self {
            Self::Split(split) => split.length,
            Self::Gathered(gathered) => gathered.length,
        }
    }
}

/// An input that is made of other units' outputs. Each unit sees `length` bytes of some of the blobs, one after the other;
/// what is missing to `length` is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatheredInput {
    /// The outputs that the lease's units read.
    pub blobs: Vec<Hash>,
    /// What each unit reads of them, in the order of the lease's units.
    pub units: Vec<GatheredUnit>,
    /// Bytes a unit sees.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub length: u64,
}

/// What one unit reads: of the blobs `[first, first + count)`, concatenated, the bytes from `offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatheredUnit {
    /// The first blob's number in the list.
    pub first: u32,
    /// How many blobs.
    pub count: u32,
    /// Where the unit begins in them, in bytes.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub offset: u64,
}

/// `POST /v1/leases/{id}/release`: gives a lease back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// The lease's generation.
    pub generation: u32,
    /// Why.
    pub cause: ReleaseCause,
    /// What happened, for a person; at most 1 000 characters.
    #[serde(default)]
    pub detail: String,
}

/// Why a worker gives a lease back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseCause {
    /// The worker leaves; counts against nobody.
    Leaving,
    /// A unit ran longer than `time_ms_max`.
    TimedOut,
    /// The device was lost or ran out of memory.
    DeviceFailed,
    /// The program was refused by the runtime.
    ProgramFailed,
    /// An input could not be fetched or did not match its hash.
    InputFailed,
}

/// A receipt with its signature and what its Merkle root covers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// The signed body.
    pub receipt: Receipt,
    /// By the receipt's worker.
    pub signature: Signature,
    /// The units' outputs, in package order.
    pub units: Vec<UnitOutputs>,
}

/// The outputs of one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitOutputs {
    /// The unit's index.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub unit: u64,
    /// In output order.
    pub outputs: Vec<OutputCommitment>,
}

/// `POST /v1/receipts`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptsRequest {
    /// At most 64.
    pub receipts: Vec<SignedReceipt>,
    /// Work that is wanted with the answer, which saves a worker with short units a request. It is not waited for
    /// (`wait_ms` is not looked at): whoever gets none asks for leases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<LeaseRequest>,
}

/// One answer a receipt, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ReceiptsAnswer {
    /// What became of each.
    pub results: Vec<ReceiptResult>,
    /// The work that was asked for with them, as far as there is some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<Lease>,
}

/// What became of a receipt.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ReceiptResult {
    /// Journaled and already accepted: nothing was drawn for a check.
    Accepted {
        /// The lease.
        lease: LeaseId,
        /// What the worker's owner was paid.
        paid: Amount,
        /// The lease of the units after those that the receipt covers, if it covers only the first of its lease: go on with
        /// it, or release it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rest: Option<Box<Lease>>,
    },
    /// Journaled; paid once its checks pass.
    Checking {
        /// The lease.
        lease: LeaseId,
        /// The lease of the units after those that the receipt covers, if it covers only the first of its lease: go on with
        /// it, or release it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rest: Option<Box<Lease>>,
    },
    /// Refused; nothing changed.
    Refused {
        /// The lease.
        lease: LeaseId,
        /// Why.
        problem: Problem,
    },
}

/// Why money moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PaymentKind {
    /// Tokens came in.
    Deposit,
    /// From a balance into a job's escrow.
    Escrow,
    /// To a provider for first work.
    Work,
    /// To a provider for a check.
    Check,
    /// To the treasury.
    Treasury,
    /// Destroyed.
    Burn,
    /// From escrow back to the owner.
    Refund,
    /// Set aside as stake.
    Bond,
    /// Stake that is free again.
    Unbond,
    /// New tokens for an epoch's work.
    Reward,
    /// A job's royalty, to whom it names.
    Royalty,
}

/// One movement of money, `GET /v1/payments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Payment {
    /// The journal sequence of the event that moved it.
    #[serde(with = "protocol::decimal")]
    #[schema(value_type = String)]
    pub seq: u64,
    /// When.
    pub at: Time,
    /// Why.
    pub kind: PaymentKind,
    /// Whose money changed: the receiver, or the payer of an escrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<PublicKey>,
    /// For which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// For which package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<PackageId>,
    /// By which worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<PublicKey>,
    /// How much.
    pub amount: Amount,
}

/// `GET /v1/ledger`: all money there is. `deposited = available + held + treasury + burned`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ledger {
    /// All that ever came in.
    pub deposited: Amount,
    /// In accounts.
    pub available: Amount,
    /// In the escrow of unfinished jobs.
    pub held: Amount,
    /// Ever put into escrow.
    pub escrowed: Amount,
    /// Ever paid to workers.
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
    /// Set aside as stake.
    pub bonded: Amount,
    /// Stake on its way back.
    pub unbonding: Amount,
    /// Pay that is held back.
    pub pending: Amount,
    /// What verdicts took that are not final, and deposits for appeals.
    pub frozen: Amount,
}

/// One message of `GET /v1/events` (server-sent events; the SSE `id` is the journal sequence, the SSE `event` the tag).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A job is new or changed; the whole of it.
    Job(Box<Job>),
    /// A worker is new or changed; the whole of it.
    Worker(Box<Worker>),
    /// Money moved.
    Payment(Payment),
}
