// Made from docs/openapi.json by scripts/api-types.mjs; do not edit.

/** `GET /v1/accounts/{id}`. */
export interface Account {
  /** What it can spend. */
  available: Amount;
  /** Set aside as stake. */
  bonded: Amount;
  /** All it was ever paid for work, what is held back included. */
  earned: Amount;
  /** What its unfinished jobs hold. */
  escrowed: Amount;
  /** What verdicts took that are not final, and deposits for appeals. */
  frozen: Amount;
  /** The wallet. */
  id: PublicKey;
  /** Pay that is held back. */
  pending: Amount;
  /** When it can be spent, the earliest first. */
  releases?: PendingPay[];
  /** All rewards it ever got. */
  rewarded: Amount;
  /** All its jobs ever paid. */
  spent: Amount;
  /** Stake on its way back. */
  unbonding: Amount;
}

export type Amount = string;

/** `POST /v1/workers`: the key of the token announces its device. */
export interface AnnounceRequest {
  /** The device. */
  device: DeviceFacts;
  /** Random per process or tab, so that two with one key are told apart. At most 64 characters. */
  instance: string;
  /** What the worker claims for its device and asks for its time; nothing claimed and nothing asked when absent. */
  offer?: WorkerOffer;
  /** The worker's version, such as `plexus/0.1.0`. */
  version: string;
}

/** The word `auto`. */
export type Auto = 'auto';

/** `POST /v1/blobs`: what a batch held. */
export interface BlobsAnswer {
  /** The SHA-256 of each blob, in the order of the batch. All of them are there and durable. */
  blobs: Hash[];
}

/** A named buffer. Exactly one of `input`, `blob`, `output` and `scratch` says where its bytes come from or go to. */
export interface Buffer {
  /** Filled from this blob, the same for every unit. */
  blob?: Hash | null;
  /** How two executions of this output are compared (outputs only; `exact` by default). */
  compare?: Compare | null;
  /** The element type. */
  dtype: Dtype;
  /** Filled from this input of the unit. */
  input?: number | null;
  /** Read back as this output of the unit; zero before the first pass. */
  output?: number | null;
  /** A name under which the device may keep the buffer between units. */
  resident?: string | null;
  /** Lives only within the unit; zero before the first pass. */
  scratch?: boolean;
  /** The extent of each axis, outermost first. */
  shape: number[];
}

/**
 * A unit whose outputs the submitter knows: they are compared with whatever a worker commits to. What differs is one opinion,
 * and has the market execute the unit again.
 */
export interface Canary {
  /** Every output of the unit, in order. */
  outputs: KnownOutput[];
  /** The unit's index in the job. */
  unit: string;
}

/** The text to sign, in the form of Sign-In With Solana. */
export interface Challenge {
  /** When it can no longer be answered. */
  expires_at: string;
  /** The exact UTF-8 text to sign with the key of `address`. */
  message: string;
  /** Names this challenge; valid once. */
  nonce: string;
}

/** What a market says of a chain before it draws with its keys. */
export interface ChallengeChain {
  /** `K_0`. */
  anchor: Hash;
  /** When epoch 1 began, in milliseconds of the Unix epoch. */
  begins_at_ms: string;
  /** How long an epoch lasts, in milliseconds. */
  epoch_ms: string;
  /** How many epochs there are. */
  epochs: string;
  /** Sequence of the event that journals it: later receipts are drawn for with its keys, until a later chain begins. */
  sequence: string;
}

/** A chain and what is shown of its keys. */
export interface ChallengeKeys {
  /** What was journaled before the first draw. */
  chain: ChallengeChain;
  /** The last key that may be known. Earlier epochs' keys are its hashes. */
  shown?: ShownKey | null;
}

/** `POST /v1/auth/challenge`. */
export interface ChallengeRequest {
  /** The wallet that logs in; or a session key that was delegated before. */
  address: PublicKey;
  /** A key that shall act for the wallet. */
  session?: SessionRequest | null;
}

/**
 * `GET /v1/challenges`: the chains of keys that checks are drawn with, oldest first; the last one is in use.
 *
 * Receipts before the first chain's `sequence` were drawn for with a secret that is never shown.
 */
export interface Challenges {
  /** The chains. */
  chains: ChallengeKeys[];
}

export type CheckId = string;

/** One opinion on a package. */
export interface CheckRecord {
  /** What it said; absent if the package was settled without it. */
  agrees?: boolean | null;
  /** The check. */
  check: CheckId;
  /** What was compared and where it first differs. */
  evidence?: string | null;
  /** How it came to its opinion: `execution` by somebody else, `canary` (the job's owner knows the outputs) or `algebraic`. */
  kind: string;
  /** The digest of the checker's receipt. */
  receipt?: Hash | null;
  /** The check whose disagreement it was to decide. */
  tie_of?: CheckId | null;
  /** How many units it covers. */
  units: number;
  /** Who made it; absent if nobody did. */
  worker?: PublicKey | null;
}

/** What opens one chunk of an output. */
export interface ChunkOpening {
  /** The chunk's number, from 0: bytes from `65536 · index` on. */
  index: string;
  /** The chunk's leaf: SHA-256 of a zero byte and the chunk. */
  leaf: Hash;
  /** The output's number. */
  output: number;
  /** From the leaf to the output's `chunk_root`. */
  path: Hash[];
}

/** How two executions of an output are compared. */
export type Compare = Exact | Tolerance;

/** `POST /v1/accounts/{id}/deposit`: test tokens, where the market has a faucet. */
export interface DepositRequest {
  /** How much. */
  amount: Amount;
}

/** A device as its worker describes it. Facts are reported, not proved: matching may use them, payment never does. */
export interface DeviceFacts {
  /** The adapter's name, such as `llvmpipe (LLVM 15.0.6, 256 bits)`. */
  adapter: string;
  /** `vulkan`, `metal`, `dx12` or `webgpu`. */
  backend: string;
  /** WebGPU feature names the runtime can use, and `long-loops` where an invocation may loop as long as it likes; sorted. */
  features: string[];
  /** Native or browser. */
  kind: WorkerKind;
  /** The adapter's limits. */
  limits: DeviceLimits;
  /** The adapter's vendor, as far as the runtime tells. */
  vendor: string;
}

/** The adapter limits that decide whether a program fits. */
export interface DeviceLimits {
  /** Largest buffer, in bytes. */
  buffer_bytes_max: string;
  /** Largest storage buffer a program can bind, in bytes. */
  storage_buffer_bytes_max: string;
  /** Storage buffers one pass can bind. */
  storage_buffers_max: number;
  /** Workgroup memory, in bytes. */
  workgroup_bytes_max: number;
  /** Invocations in a workgroup. */
  workgroup_invocations_max: number;
  /** Workgroups in one dimension of a dispatch. */
  workgroups_per_dimension_max: number;
}

/** A number of workgroups. */
export type Dispatch = number | string;

/** An element type, stored little endian and tightly packed. */
export type Dtype = 'i8' | 'u8' | 'i32' | 'u32' | 'f16' | 'f32';

export type Envelope = string;

/** One message of `GET /v1/events` (server-sent events; the SSE `id` is the journal sequence, the SSE `event` the tag). */
export type Event =
  | Job & {
    type: 'job';
  }
  | Worker & {
    type: 'worker';
  }
  | Payment & {
    type: 'payment';
  };

/** The word `exact`. */
export type Exact = 'exact';

/**
 * An input that is made of other units' outputs: unit `i` reads one output of the upstream units
 * `[i · step, i · step + count)`, one after the other, and of that the `length` bytes from `offset + i · stride`; what is
 * missing is zero. With `step` and `count` 1 that is a map, with both `k` a reduction of `k` units to one, with `step` 0 the
 * same units for everybody.
 */
export interface GatherInput {
  /** Upstream units a unit reads, at most 4 096. */
  count: string;
  /** Given when the upstream units are those of the iteration before; the first iteration reads this instead. */
  initial?: InputSplit | null;
  /** Bytes a unit sees. */
  length: string;
  /** Where unit 0 begins in their outputs, in bytes. */
  offset?: string;
  /** Which of its outputs. */
  output?: number;
  /** The upstream stage's name. */
  stage: string;
  /** Upstream units from one unit's first to the next one's. */
  step: string;
  /** From one unit's beginning to the next one's, in bytes. */
  stride?: string;
}

/**
 * An input that is made of other units' outputs. Each unit sees `length` bytes of some of the blobs, one after the other;
 * what is missing to `length` is zero.
 */
export interface GatheredInput {
  /** The outputs that the lease's units read. */
  blobs: Hash[];
  /** Bytes a unit sees. */
  length: string;
  /** What each unit reads of them, in the order of the lease's units. */
  units: GatheredUnit[];
}

/** What one unit reads: of the blobs `[first, first + count)`, concatenated, the bytes from `offset`. */
export interface GatheredUnit {
  /** How many blobs. */
  count: number;
  /** The first blob's number in the list. */
  first: number;
  /** Where the unit begins in them, in bytes. */
  offset: string;
}

/**
 * `POST /v1/jobs` for a job of several stages, or one that is run again and again. Every blob it names must have been
 * uploaded.
 */
export interface GraphRequest {
  /** Failed attempts after which a unit is given up, 1 to 20; the market's limit when absent. */
  attempts_max?: number | null;
  /** The most the job may hold in escrow; no cap when absent. */
  budget?: Amount | null;
  /** Units whose outputs the submitter knows, at most 1 000; nobody else is told which. */
  canaries?: Canary[];
  /** In how many seconds the job is to be done; nothing of it is given out later. */
  deadline_in_s?: number | null;
  /** Whether all stages are run again and again. */
  iterate?: IterateRequest | null;
  /** How outputs become files. */
  joins?: JoinSpec[];
  /** A name for people, at most 100 characters. */
  name: string;
  /** The class it is served in. */
  priority?: Priority;
  /** Who else has a part in what it pays for first execution. */
  royalty?: Royalty | null;
  /** Whom it is sealed to; then its inputs are sealed, each unit's part on its own, and its outputs will be. */
  sealed?: SealedRequest | null;
  /** What is computed; a stage reads blobs and what stages before it put out. */
  stages: StageRequest[];
}

export type Hash = string;

/** `GET /v1/health`. */
export interface Health {
  /** Where the leader is, when that is another process and one lives. */
  leader?: string | null;
  /** Why, when degraded. */
  reason?: Reason | null;
  /** `leader`, or `standby` where another process leads the market and this one hands requests to it. */
  role?: string;
  /** Last journal sequence that is durable, as far as this process knows. */
  seq: string;
  /** `ok`, or `degraded` with a reason. */
  status: string;
  /** The server's version. */
  version: string;
}

/** What a heartbeat brings back. */
export interface HeartbeatAnswer {
  /** Leases of the request that the worker no longer holds: stop working on them. */
  lost: LeaseId[];
  /** Why the worker is idle, or what it is doing. */
  reason: Reason;
  /** Leases to yield: commit what is finished of each at the end of the unit that runs, and release the rest. */
  yields?: LeaseId[];
}

/** `POST /v1/workers/{id}/heartbeat`. */
export interface HeartbeatRequest {
  /** As announced. */
  instance: string;
  /** Leases still worked on: their deadlines move on. */
  leases: LeaseId[];
}

/**
 * One input of every unit: unit `i` sees `length` bytes of the blob from `offset + i · stride`. Bytes past the blob's end
 * are zero, so that the last unit of an uneven split has the same shape as the others. A stride of 0 gives every unit the
 * same bytes.
 */
export interface InputSplit {
  /** The blob. */
  blob: Hash;
  /** Bytes a unit sees. */
  length: string;
  /** Where unit 0 begins, in bytes. */
  offset: string;
  /** From one unit's beginning to the next one's, in bytes. */
  stride: string;
}

/** A job whose stages run again and again. */
export interface IterateRequest {
  /** Most iterations; the escrow covers them all. */
  times_max: number;
  /** When to stop earlier. */
  until?: Until | null;
}

/** `GET /v1/jobs/{id}`. */
export interface Job {
  /** When it is to be done. */
  deadline?: string | null;
  /** When it ended. */
  ended_at?: string | null;
  /** How long it was expected to take when it was submitted, in milliseconds. */
  expected_ms?: string | null;
  /** The job. */
  id: JobId;
  /** Its inputs, as far as they are blobs; of the first stage. */
  inputs: InputSplit[];
  /** The current iteration, from 1, and how many there are at most; of an iterated job. */
  iteration?: JobIteration | null;
  /** Its result files. */
  joins: JoinSpec[];
  /** The queue segment. */
  kind: JobKind;
  /** The blob with the manifest, of the first stage. */
  manifest: Hash;
  /** Its money. */
  money: JobMoney;
  /** Its name. */
  name: string;
  /** Who pays. */
  owner: PublicKey;
  /** Where they are. */
  progress: Progress;
  /** Why it is not done yet, or why it ended incomplete. */
  reason?: Reason | null;
  /** Why it is served when it is; absent once it has ended. */
  score?: Score | null;
  /** The workers that can read it, where it is sealed. */
  sealed_to?: PublicKey[];
  /** Its stages, where it has several or is iterated. */
  stages?: JobStage[];
  /** Where it is in its life. */
  state: JobState;
  /** When it was submitted. */
  submitted_at: string;
  /** What one unit pays, of the first stage. */
  unit_price: Amount;
  /** How many units. */
  units: string;
  /** What verification did. */
  verification: VerificationCounts;
  /** Who worked on it. */
  workers: JobWorker[];
}

export type JobId = string;

/** How far an iterated job is. */
export interface JobIteration {
  /** The iteration that runs, or the last one, from 1. */
  current: number;
  /** Whether an iteration reached what the job was for, so that `current` is the last one. */
  reached: boolean;
  /** Most iterations. */
  times_max: number;
}

/** The queue's segments. */
export type JobKind = 'batch' | 'inference' | 'training';

/** The money of one job. `escrowed = paid + royalties + treasury + burned + refunded + held`. */
export interface JobMoney {
  /** Burned. */
  burned: Amount;
  /** Taken from the owner at submission. */
  escrowed: Amount;
  /** Still held. */
  held: Amount;
  /** Paid to workers. */
  paid: Amount;
  /** Returned to the owner. */
  refunded: Amount;
  /** Paid as royalties. */
  royalties: Amount;
  /** Paid to the treasury. */
  treasury: Amount;
}

/** `POST /v1/jobs`. Every blob it names must have been uploaded. */
export interface JobRequest {
  /** Failed attempts after which a unit is given up, 1 to 20; the market's limit when absent. */
  attempts_max?: number | null;
  /** The most the job may hold in escrow; no cap when absent. */
  budget?: Amount | null;
  /** Units whose outputs the submitter knows, at most 1 000; nobody else is told which. */
  canaries?: Canary[];
  /** In how many seconds the job is to be done; nothing of it is given out later. */
  deadline_in_s?: number | null;
  /** Units that run at the same time, each on a device of its own, 1 to 64; 1 when they need not. */
  devices?: number;
  /** One a manifest input, in order. */
  inputs: InputSplit[];
  /** How outputs become files. */
  joins?: JoinSpec[];
  /** What a unit computes. */
  manifest: Manifest;
  /** A name for people, at most 100 characters. */
  name: string;
  /** Units a package; the market decides when absent. */
  package_units?: number | null;
  /** The class it is served in. */
  priority?: Priority;
  /**
   * Owners that compute each unit at the same time, 1 to 5, so that losing one of them costs no time; the others are paid as
   * checkers.
   */
  replicas?: number;
  /** Who else has a part in what it pays for first execution. */
  royalty?: Royalty | null;
  /** Whom it is sealed to; then its inputs are sealed, each unit's part on its own, and its outputs will be. */
  sealed?: SealedRequest | null;
  /** What one unit pays; the market's price at the moment of submission when absent. */
  unit_price?: Amount | null;
  /** How many units. */
  units: string;
}

/** One stage of a job of several. */
export interface JobStage {
  /** Units accepted in the current iteration. */
  accepted_now: string;
  /** The blob with the manifest. */
  manifest: Hash;
  /** Its name. */
  name: string;
  /** Where the units of all iterations are. */
  progress: Progress;
  /** Stages whose outputs it reads; those of the iteration before stand with a leading `previous `. */
  reads: string[];
  /** What one unit pays. */
  unit_price: Amount;
  /** How many units, in each iteration. */
  units: string;
}

/** Where a job is in its life. */
export type JobState = 'waiting' | 'running' | 'paused' | 'done' | 'cancelled' | 'incomplete';

/** One worker's part in a job. */
export interface JobWorker {
  /** Units it checked. */
  checked: string;
  /** Time its device worked for the job, in microseconds, by its receipts. */
  device_us: string;
  /** What its owner was paid for both. */
  paid: Amount;
  /** What the job's owner thinks of it, 1 to 5. */
  stars?: number | null;
  /** Units accepted from it. */
  units: string;
  /** The worker. */
  worker: PublicKey;
}

/** A result file's format. */
export type JoinFormat = 'csv' | 'npy' | 'png';

/** How units lie in a result file. */
export type JoinLayout =
  | {
    kind: 'axis';
    /** Rows of one unit. */
    rows_per_unit: number;
    /** Rows of the whole. */
    rows_total: string;
  }
  | {
    /** Of the image, in pixels. */
    height: number;
    kind: 'tiles';
    /** Of a tile, in pixels. */
    tile_height: number;
    /** Of a tile, in pixels. */
    tile_width: number;
    /** Of the image, in pixels. */
    width: number;
  }
  | {
    kind: 'stack';
  };

/** An input of one element that becomes a leading column of a joined CSV. */
export interface JoinParameter {
  /** The element type. */
  dtype: Dtype;
  /** The column's name. */
  name: string;
  /** Where a unit's value lies. */
  split: InputSplit;
}

/** How the units' buffers of one output become one file. */
export interface JoinSpec {
  /** Column names of a CSV. */
  columns?: string[];
  /** A blob of the expected values, in the output's dtype and row-major order: the file then reports how many rows agree. */
  expect?: Hash | null;
  /** The file's name, without folders. */
  file: string;
  /** Its format. */
  format: JoinFormat;
  /** How units lie in the file. */
  layout: JoinLayout;
  /** The output's number in the manifest. */
  output: number;
  /** Inputs that become leading columns of a CSV: what a sweep varied. */
  parameters?: JoinParameter[];
  /**
   * The stage whose outputs these are, of a job of several; the last one when absent. Of an iterated job it is the last
   * iteration's.
   */
  stage?: string | null;
}

/** One WGSL entry point. */
export interface Kernel {
  /** The blob that holds the WGSL text. */
  blob: Hash;
  /** The entry point's name. */
  entry: string;
  /** Values of the module's `override` constants. */
  overrides?: Record<string, Override>;
}

/** An output that is known beforehand. */
export interface KnownOutput {
  /** The blob with its bytes; it must have been uploaded. */
  blob: Hash;
  /** Its length in bytes. */
  length: string;
}

/** One package in a worker's hands. Whether it is first work or a check of somebody else's is not told. */
export interface Lease {
  /** The content key of a sealed job, for this worker: its inputs are sealed, and its outputs are to be. */
  envelope?: Envelope | null;
  /** When the lease ends unless a heartbeat renews it, in milliseconds from now. */
  expires_in_ms: number;
  /** Goes into the receipt. */
  generation: number;
  /** The lease. */
  id: LeaseId;
  /** The stage's inputs. */
  inputs: LeaseInput[];
  /** The job. */
  job: JobId;
  /** The blob with the manifest. */
  manifest: Hash;
  /** The number of the first unit of that stage and iteration: unit `u` is number `u - unit_base` where an input is split. */
  unit_base?: string;
  /** The units to run, in order. All are of one stage and one iteration. */
  units: UnitRun[];
}

/** Work, or the reason why there is none. */
export interface LeaseAnswer {
  /** The leases; empty when the wait ended without work. */
  leases: Lease[];
  /** Why there is none. */
  reason?: Reason | null;
}

export type LeaseId = string;

/** Where an input's bytes come from. */
export type LeaseInput = InputSplit | GatheredInput;

/** `POST /v1/leases`: a long poll. */
export interface LeaseRequest {
  /** As announced. */
  instance: string;
  /** Only work of jobs of which the worker holds none: a second job for a device that is busy with a long one. */
  others_only?: boolean;
  /** Most packages wanted (1 to 64). */
  packages_max: number;
  /** How long to wait for work, in milliseconds (at most 30 000). */
  wait_ms?: number;
}

/** `POST /v1/workers/{id}/leave`. */
export interface LeaveRequest {
  /** `true`: take no more leases, but keep the ones held. `false`: give everything back now. */
  drain?: boolean;
  /** As announced. */
  instance: string;
}

/** `GET /v1/ledger`: all money there is. `deposited = available + held + treasury + burned`. */
export interface Ledger {
  /** In accounts. */
  available: Amount;
  /** Set aside as stake. */
  bonded: Amount;
  /** Ever burned. */
  burned: Amount;
  /** All that ever came in. */
  deposited: Amount;
  /** Ever made as rewards. */
  emitted: Amount;
  /** Ever put into escrow. */
  escrowed: Amount;
  /** What verdicts took that are not final, and deposits for appeals. */
  frozen: Amount;
  /** In the escrow of unfinished jobs. */
  held: Amount;
  /** Ever paid to workers. */
  paid: Amount;
  /** Pay that is held back. */
  pending: Amount;
  /** Ever refunded. */
  refunded: Amount;
  /** Ever paid as royalties. */
  royalties: Amount;
  /** Ever paid to the treasury. */
  treasury: Amount;
  /** Stake on its way back. */
  unbonding: Amount;
}

/** Bounds on one unit. */
export interface Limits {
  /** Device memory of all buffers together, in bytes. */
  memory_bytes_max: number;
  /** Time of one unit on the device, in milliseconds; a watchdog ends the lease after it. */
  time_ms_max: number;
}

/** `POST /v1/auth/login`. */
export interface LoginRequest {
  /** The challenge's nonce. */
  nonce: string;
  /** The session key's signature over the same bytes, where the challenge named one: nobody may claim a key that is another's. */
  session_signature?: Signature | null;
  /** Ed25519 signature over the message's bytes. */
  signature: Signature;
}

/** A program with its limits and the policy that verifies it. */
export interface Manifest {
  /** What kind of work it is, for the queue. */
  kind: JobKind;
  /** Bounds that end a unit which exceeds them. */
  limits: Limits;
  /** What a device must have. */
  needs?: Needs;
  /** The passes and buffers. */
  program: Program;
  /** What runs it. */
  runtime: Runtime;
  /** How results are verified. */
  verify: Verify;
  /** Format version: 1. */
  version: number;
}

/** `GET /v1/market`: what a client needs to know of this market. */
export interface MarketInfo {
  /** Largest blob, in bytes. */
  blob_bytes_max: string;
  /** The burned share, in basis points. */
  burn_bps: number;
  /** Whether test tokens can be had. */
  faucet: boolean;
  /** A worker that is silent this long loses its leases, in milliseconds. */
  heartbeat_ms_max: number;
  /** The market's key, part of every signed receipt. */
  market: PublicKey;
  /** The provider's share of a payment, in basis points. */
  provider_bps: number;
  /** The treasury's share, in basis points. */
  treasury_bps: number;
}

/** What a device must offer. */
export interface Needs {
  /** WebGPU feature names, and `long-loops` for kernels whose invocations loop more than 65,535 times. */
  features?: string[];
  /** Least size of the largest storage binding, in bytes. */
  storage_buffer_bytes_min?: number;
}

export type Octets = string;

/** What opens one unit of a package, and perhaps one chunk of an output of it. */
export interface Opening {
  /** A chunk of an output. */
  chunk?: ChunkOpening | null;
  /** What was committed to, in output order. */
  outputs: OutputCommitment[];
  /** From the unit's leaf to the package's root. */
  path: Hash[];
  /** Its place in the package, from 0. */
  place: number;
  /** What the worker signed. */
  receipt: Receipt;
  /** Its signature. */
  signature: Signature;
  /** The unit's index in its job. */
  unit: string;
}

/** What somebody says of a package. */
export interface Opinion {
  /** Whether it is the accused's. */
  agrees: boolean;
  /** What was compared and where it first differs. */
  evidence: string;
  /** Whose opinion it is. */
  owner: PublicKey;
  /** The digest of its receipt. */
  receipt?: Hash | null;
  /** Who executed the units again; absent for a look without an execution. */
  worker?: PublicKey | null;
}

/** What a worker commits to for one output of one unit. */
export interface OutputCommitment {
  /** The blob with the output's bytes. */
  blob: Hash;
  /** Merkle root over its 64 KiB chunks. */
  chunk_root: Hash;
  /** Its length in bytes. */
  length: string;
}

/** The value of an `override` constant. */
export type Override = number | Auto;

export type PackageId = string;

/** A package from its receipt to its end. */
export interface PackageRecord {
  /** When that was journaled, in milliseconds of the Unix epoch. */
  at_ms: string;
  /** Its job. */
  job: JobId;
  /** The package. */
  package: PackageId;
  /** The digest of its receipt. */
  receipt: Hash;
  /** Sequence of the receipt's event in the journal. */
  sequence: string;
  /** What is known of its checks; absent until it is settled, because nobody is to know before who checks what. */
  settled?: Settlement | null;
  /** Its units. */
  units: UnitRun;
  /** Who computed it. */
  worker: PublicKey;
}

/** One page of a list, newest first. */
export interface Page_Job {
  /** The items. */
  items: ({
    /** When it is to be done. */
    deadline?: string | null;
    /** When it ended. */
    ended_at?: string | null;
    /** How long it was expected to take when it was submitted, in milliseconds. */
    expected_ms?: string | null;
    /** The job. */
    id: JobId;
    /** Its inputs, as far as they are blobs; of the first stage. */
    inputs: InputSplit[];
    /** The current iteration, from 1, and how many there are at most; of an iterated job. */
    iteration?: JobIteration | null;
    /** Its result files. */
    joins: JoinSpec[];
    /** The queue segment. */
    kind: JobKind;
    /** The blob with the manifest, of the first stage. */
    manifest: Hash;
    /** Its money. */
    money: JobMoney;
    /** Its name. */
    name: string;
    /** Who pays. */
    owner: PublicKey;
    /** Where they are. */
    progress: Progress;
    /** Why it is not done yet, or why it ended incomplete. */
    reason?: Reason | null;
    /** Why it is served when it is; absent once it has ended. */
    score?: Score | null;
    /** The workers that can read it, where it is sealed. */
    sealed_to?: PublicKey[];
    /** Its stages, where it has several or is iterated. */
    stages?: JobStage[];
    /** Where it is in its life. */
    state: JobState;
    /** When it was submitted. */
    submitted_at: string;
    /** What one unit pays, of the first stage. */
    unit_price: Amount;
    /** How many units. */
    units: string;
    /** What verification did. */
    verification: VerificationCounts;
    /** Who worked on it. */
    workers: JobWorker[];
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One page of a list, newest first. */
export interface Page_PackageRecord {
  /** The items. */
  items: ({
    /** When that was journaled, in milliseconds of the Unix epoch. */
    at_ms: string;
    /** Its job. */
    job: JobId;
    /** The package. */
    package: PackageId;
    /** The digest of its receipt. */
    receipt: Hash;
    /** Sequence of the receipt's event in the journal. */
    sequence: string;
    /** What is known of its checks; absent until it is settled, because nobody is to know before who checks what. */
    settled?: Settlement | null;
    /** Its units. */
    units: UnitRun;
    /** Who computed it. */
    worker: PublicKey;
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One page of a list, newest first. */
export interface Page_Payment {
  /** The items. */
  items: ({
    /** Whose money changed: the receiver, or the payer of an escrow. */
    account?: PublicKey | null;
    /** How much. */
    amount: Amount;
    /** When. */
    at: string;
    /** For which job. */
    job?: JobId | null;
    /** Why. */
    kind: PaymentKind;
    /** For which package. */
    package?: PackageId | null;
    /** The journal sequence of the event that moved it. */
    seq: string;
    /** By which worker. */
    worker?: PublicKey | null;
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One page of a list, newest first. */
export interface Page_Unit {
  /** The items. */
  items: ({
    /** Who re-executed it and agreed. */
    checked_by?: PublicKey[];
    /** The unit. */
    id: UnitId;
    /** Its number in its stage. */
    index?: string;
    /** Its iteration, from 1, of an iterated job. */
    iteration?: number | null;
    /** Its outputs, once accepted. */
    outputs?: OutputCommitment[];
    /** Its stage, where the job has several or is iterated. */
    stage?: string | null;
    /** Where it is. */
    state: UnitState;
    /** Who computed it, once accepted. */
    worker?: PublicKey | null;
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One page of a list, newest first. */
export interface Page_Verdict {
  /** The items. */
  items: ({
    /** How it was contested, if it was. */
    appeal?: VerdictAppeal | null;
    /** What was found. */
    cause: VerdictCause;
    /** How it became final, once it is. */
    closing?: VerdictClosing | null;
    /** Until when the owner may contest it. */
    contestable_until: string;
    /** The units whose commitments differ. */
    disputed: string[];
    /** Whether nothing can change it any more. */
    final: boolean;
    /** The verdict. */
    id: VerdictId;
    /** The job of the package. */
    job: JobId;
    /** Who said what of the package. */
    opinions: Opinion[];
    /** The wallet that would have been paid. */
    owner: PublicKey;
    /** The package. */
    package: PackageId;
    /** What the owner would have been paid. */
    pay: Amount;
    /** When it was reached. */
    reached_at: string;
    /** The digest of the receipt that was contradicted. */
    receipt: Hash;
    /** What was taken from the owner; frozen until the verdict is final. */
    slash: Amount;
    /** Where it is. */
    state: VerdictState;
    /** Its units. */
    units: UnitRun;
    /** Who computed it. */
    worker: PublicKey;
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One page of a list, newest first. */
export interface Page_Worker {
  /** The items. */
  items: ({
    /** What it asks for a second of the reference device. */
    ask: Amount;
    /** Units it re-executed for others. */
    checked: string;
    /** Its device. */
    device: DeviceFacts;
    /** What its owner was paid for its work. */
    earned: Amount;
    /** The key that signs its receipts. */
    id: PublicKey;
    /** Native or browser. */
    kind: WorkerKind;
    /** Leases it holds. */
    leases: number;
    /** The wallet that is paid. */
    owner: PublicKey;
    /** Why it is not working, or what it works on. */
    reason: Reason;
    /** What its owner's word is worth. */
    reputation: Reputation;
    /** What can be sealed to it. */
    sealing_key?: SignedSealingKey | null;
    /** When it was last heard. */
    seen_at: string;
    /** How fast it is. */
    speed: Speed;
    /** What it is doing. */
    state: WorkerState;
    /** Consecutive packages that held. */
    streak: number;
    /** How often its units are executed again, and why. */
    trust: Trust;
    /** Units accepted from it. */
    units: string;
    /** Whether it is the market's own verifier. */
    verifier: boolean;
  })[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}

/** One dispatch of one kernel. */
export interface Pass {
  /** Buffer names; number `i` is `@group(0) @binding(i)`. */
  bind: string[];
  /** Workgroups along x, y and z; missing ones are 1. */
  dispatch: Dispatch[];
  /** A name in `kernels`. */
  kernel: string;
}

/** One movement of money, `GET /v1/payments`. */
export interface Payment {
  /** Whose money changed: the receiver, or the payer of an escrow. */
  account?: PublicKey | null;
  /** How much. */
  amount: Amount;
  /** When. */
  at: string;
  /** For which job. */
  job?: JobId | null;
  /** Why. */
  kind: PaymentKind;
  /** For which package. */
  package?: PackageId | null;
  /** The journal sequence of the event that moved it. */
  seq: string;
  /** By which worker. */
  worker?: PublicKey | null;
}

/** Why money moved. */
export type PaymentKind = 'deposit' | 'escrow' | 'work' | 'check' | 'treasury' | 'burn' | 'refund' | 'bond' | 'unbond' | 'reward' | 'royalty';

/** Pay that is held back until a verdict could not take it any more. */
export interface PendingPay {
  /** How much. */
  amount: Amount;
  /** When it can be spent. */
  free_at: string;
}

/** One way to verify results. */
export type Policy =
  | {
    policy: 'audit';
    /** Least share of units that is drawn, 0 to 1, however trusted the worker. */
    rate_min: number;
  }
  | {
    /** Owners that must agree, 2 to 5. */
    agree: number;
    /** Owners that execute, at most 5, of whom more than half must agree; as many as must agree when absent. */
    of?: number | null;
    policy: 'quorum';
  }
  | {
    policy: 'canary';
  }
  | {
    policy: 'freivalds';
    /** The products. */
    products: Product[];
    /** Least share of units that is drawn after the commitment, 0 to 1, however trusted the worker. */
    rate?: number;
  }
  | {
    policy: 'algebraic';
    /** Least share of units that is drawn after the commitment, 0 to 1, however trusted the worker. */
    rate?: number;
    /** The relations. */
    relations: Relation[];
  };

/** The class a job is served in. A higher one may reclaim devices from a lower one. */
export type Priority = 'low' | 'normal' | 'high' | 'urgent';

/** What went wrong, for programs (`code`) and people (`detail`, `fix`). */
export interface Problem {
  /** Stable code from [`code`]. */
  code: string;
  /** Column in that line, from 1. */
  column?: number | null;
  /** What happened this time. */
  detail: string;
  /** The field of the request, such as `manifest.program.passes[0]`. */
  field?: string | null;
  /** What to do about it. */
  fix: string;
  /** Line in the text the field names, from 1. */
  line?: number | null;
  /** The HTTP status. */
  status: number;
  /** A short title for the code. */
  title: string;
  /** `https://plexus.network/problems/<code>`. */
  type: string;
}

/**
 * `c = a · b`, or `c = a · b + bias`. Each is the name of a buffer: an input, a blob or an output, and `c` an output.
 *
 * `a` has the shape `[.., k]`, `b` `[k, n]`, `c` `[.., n]`; the axes of `a` and `c` before the last are rows. Integers give `i32` or
 * `u32`, which wrap; floats give floats, and are forgiven what rounding can do and the tolerance of `c`.
 */
export interface Product {
  /** The left factor. */
  a: string;
  /** The right factor. */
  b: string;
  /** Whether `b` is transposed in its buffer: `[n, k]`. */
  b_transposed?: boolean;
  /** What is added to every row: `[n]`, of the integer type of `c`. */
  bias?: string | null;
  /** The product. */
  c: string;
}

/** Compute passes over named buffers. */
export interface Program {
  /** Buffers by name. */
  buffers: Record<string, Buffer>;
  /** WGSL modules by name. */
  kernels: Record<string, Kernel>;
  /** Passes in the order they run; each sees what the ones before it wrote. */
  passes: Pass[];
}

/** How many units are where. */
export interface Progress {
  /** Verified and paid. */
  accepted: string;
  /** Waiting for other units' results. */
  blocked?: string;
  /** Committed, not yet verified. */
  checking: string;
  /** In a worker's hands. */
  leased: string;
  /** Given up after too many attempts. */
  parked: string;
  /** Not wanted any more, because an earlier iteration reached what the job was for. */
  skipped?: string;
  /** Not leased. */
  waiting: string;
}

export type PublicKey = string;

/** `POST /v1/quotes`: what a job would cost if it were submitted now, as it would be with `POST /v1/jobs`. */
export interface Quote {
  /** What would be taken from the balance: every unit, and the checks that the policy may draw. */
  escrow: Amount;
  /** From then until it is done. */
  run_ms?: string | null;
  /** One a stage, in order. */
  stages: StageQuote[];
  /** Until its first unit is taken, in milliseconds, by estimate; absent when no provider fits. */
  wait_ms?: string | null;
}

/** `POST /v1/jobs/{id}/ratings`: what the job's owner thinks of a worker that computed for it. Once each. */
export interface RatingRequest {
  /** 1 to 5. */
  stars: number;
  /** The worker. */
  worker: PublicKey;
}

/** Why something waits, in code, words and numbers. */
export interface Reason {
  /** Stable code, such as `no_matching_job`. */
  code: string;
  /** The numbers behind the sentence. */
  facts?: Record<string, string>;
  /** One sentence for a person. */
  text: string;
}

/** The body a worker signs (kind `receipt`). Everything that ties it to one lease of one market is inside. */
export interface Receipt {
  /** The adapter that computed, as announced. */
  adapter: string;
  /** Time on the device, in microseconds. */
  device_us: string;
  /** The lease's generation. */
  generation: number;
  /** The job. */
  job: JobId;
  /** The lease that is answered. */
  lease: LeaseId;
  /** The market's key. */
  market: PublicKey;
  /** Merkle root over the unit leaves. */
  package_root: Hash;
  /** When the first unit began, in milliseconds of the Unix epoch by the worker's clock. */
  started_at_ms: string;
  /** Time from taking the package to committing it, in microseconds. */
  total_us: string;
  /** Units covered. */
  units: number;
  /** The key that signs. */
  worker: PublicKey;
}

/** What became of a receipt. */
export type ReceiptResult =
  | {
    /** The lease. */
    lease: LeaseId;
    /** What the worker's owner was paid. */
    paid: Amount;
    /**
     * The lease of the units after those that the receipt covers, if it covers only the first of its lease: go on with
     * it, or release it.
     */
    rest?: Lease | null;
    status: 'accepted';
  }
  | {
    /** The lease. */
    lease: LeaseId;
    /**
     * The lease of the units after those that the receipt covers, if it covers only the first of its lease: go on with
     * it, or release it.
     */
    rest?: Lease | null;
    status: 'checking';
  }
  | {
    /** The lease. */
    lease: LeaseId;
    /** Why. */
    problem: Problem;
    status: 'refused';
  };

/** One answer a receipt, in order. */
export interface ReceiptsAnswer {
  /** The work that was asked for with them, as far as there is some. */
  leases?: Lease[];
  /** What became of each. */
  results: ReceiptResult[];
}

/** `POST /v1/receipts`. */
export interface ReceiptsRequest {
  /**
   * Work that is wanted with the answer, which saves a worker with short units a request. It is not waited for
   * (`wait_ms` is not looked at): whoever gets none asks for leases.
   */
  next?: LeaseRequest | null;
  /** At most 64. */
  receipts: SignedReceipt[];
}

/** What holds between buffers of a correct unit, and is cheaper to check than to compute. */
export type Relation =
  | Product & {
    relation: 'product';
  }
  | Sorted & {
    relation: 'sorted';
  };

/** Why a worker gives a lease back. */
export type ReleaseCause = 'leaving' | 'timed_out' | 'device_failed' | 'program_failed' | 'input_failed';

/** `POST /v1/leases/{id}/release`: gives a lease back. */
export interface ReleaseRequest {
  /** Why. */
  cause: ReleaseCause;
  /** What happened, for a person; at most 1 000 characters. */
  detail?: string;
  /** The lease's generation. */
  generation: number;
}

/** What a provider's word is worth, in thousandths of a point of 100. */
export interface Reputation {
  /** Days with accepted work. */
  longevity_milli: number;
  /** `0.4 · performance + 0.3 · reliability + 0.2 · longevity + 0.1 · rating`. */
  nrs_milli: number;
  /** Speed against claims. */
  performance_milli: number;
  /** Clients' ratings. */
  rating_milli: number;
  /** Leases that ended well. */
  reliability_milli: number;
  /** 0 to 3. */
  tier: number;
}

/** Workers that take no new work until the job comes or the time is over. */
export interface Reservation {
  /** What the job will hold: every unit, the checks that its policy may draw, and a third opinion of each unit. */
  escrow: Amount;
  /** Until when they are kept. */
  expires_at: string;
  /** Names it in the job. */
  id: ReservationId;
  /** What to seal to. Check the signatures: the market could write anything here. */
  recipients: SignedSealingKey[];
}

export type ReservationId = string;

/**
 * `POST /v1/reservations`: keeps workers for a job that is about to be sealed to them. It is asked before the job's inputs are
 * sealed or uploaded.
 */
export interface ReservationRequest {
  /** For how long they are kept, in seconds, at most 300. */
  hold_s: number;
  /** What a unit computes; its kernels must have been uploaded. */
  manifest: Manifest;
  /** How many workers, each of another owner: those who compute and check a unit, and one more, at most 16. */
  providers: number;
  /** Owners that compute each unit at the same time. */
  replicas?: number;
  /** What one unit will pay; the market's price of this moment when absent. */
  unit_price?: Amount | null;
  /** How many units. */
  units: string;
  /** Choose among these workers alone; among all when empty. At most 100. */
  workers?: PublicKey[];
}

/** `POST /v1/jobs/{id}/resume`. */
export interface ResumeRequest {
  /** A new deadline, in seconds from now; the old one, if it is still to come, when absent. */
  deadline_in_s?: number | null;
}

/** A part of what a job pays for first execution, such as a model's author's. */
export interface Royalty {
  /** Who gets it. */
  account: PublicKey;
  /** How much, in basis points. */
  bps: number;
}

/** The runtime a manifest is written for. */
export type Runtime = 'wgsl';

/** The terms of a job's score, in parts per million: `score = 0.4 · stake + 0.3 · urgency + 0.3 · complexity`. */
export interface Score {
  /** How much work it is. */
  complexity_ppm: string;
  /** Jobs that are served before it, as it stands; absent when none of its units waits. */
  jobs_ahead?: number | null;
  /** The weighted sum. */
  score_ppm: string;
  /** What its owner has bonded. */
  stake_ppm: string;
  /** Priority, deadline and waiting. */
  urgency_ppm: string;
}

export type SealPublicKey = string;

/** Whom a job is sealed to. */
export interface SealedRequest {
  /** One for each of its workers. */
  envelopes: WorkerEnvelope[];
  /** The reservation, which ends with the submission. */
  reservation: ReservationId;
}

/** What a worker signs (kind `sealing-key`) so that clients can seal to it. */
export interface SealingKey {
  /** What to seal to. */
  key: SealPublicKey;
  /** The market's key: a record of one market says nothing in another. */
  market: PublicKey;
  /** When clients stop sealing to it, in milliseconds of the Unix epoch. */
  valid_until_ms: string;
  /** The key that signs the worker's receipts, and this. */
  worker: PublicKey;
}

/** `POST /v1/workers/{id}/sealing-key`: what can be sealed to a worker, until it announces itself anew. */
export interface SealingKeyRequest {
  /** As announced. */
  instance: string;
  /** The record, signed by the worker. */
  sealing_key: SignedSealingKey;
}

/** A login that succeeded. */
export interface Session {
  /** The wallet acted for. */
  account: PublicKey;
  /** When the token ends; log in again before. */
  expires_at: string;
  /** The key that acts: the session key where one was delegated, else the wallet. */
  key: PublicKey;
  /** Bearer token (JWT, EdDSA). */
  token: string;
}

/** A delegation that the wallet is asked to sign. */
export interface SessionRequest {
  /** The session key. */
  key: PublicKey;
  /** How long it may act, in seconds (at most 30 days). */
  lifetime_s: number;
}

/** How a package was checked, and how that ended. */
export interface Settlement {
  /** Whether its results stand. */
  accepted: boolean;
  /** Its checks, in the order in which they were planned; without canaries that agreed, which the job's owner keeps to itself. */
  checks: CheckRecord[];
  /** What its checks were drawn from; absent where nothing was drawn, as of units that several owners compute at the same time. */
  draw?: Hash | null;
  /** Places of the drawn units in the package, from 0, ascending. */
  drawn: number[];
  /** Why they do not: `outvoted`, `verifier_disagrees`, `unverifiable` or `disproved`. */
  verdict?: string | null;
}

/** A key that draws nothing any more. */
export interface ShownKey {
  /** Its epoch, from 1. */
  epoch: string;
  /** The key. */
  key: Hash;
}

export type Signature = string;

/** A receipt with its signature and what its Merkle root covers. */
export interface SignedReceipt {
  /** The signed body. */
  receipt: Receipt;
  /** By the receipt's worker. */
  signature: Signature;
  /** The units' outputs, in package order. */
  units: UnitOutputs[];
}

/** A record with its worker's signature. */
export interface SignedSealingKey {
  /** What is signed. */
  record: SealingKey;
  /** By the record's worker. */
  signature: Signature;
}

/**
 * `output` holds the elements of `input`, each as often, in ascending order. Each is the name of a buffer, of the same integers.
 * Of more than one axis, each line along the last one is sorted by itself.
 */
export interface Sorted {
  /** Whether the order is descending. */
  descending?: boolean;
  /** What is sorted: an input, a blob or an output. */
  input: string;
  /** What comes out: an output. */
  output: string;
}

/** How fast a worker is, in parts per million of the reference device. */
export interface Speed {
  /** As it claims; 0 when it claims nothing. */
  claimed_ppm: string;
  /** As measured in real work; absent before the first measurement. */
  measured_ppm?: string | null;
  /** Whether it claims much more than was measured. */
  overstated: boolean;
}

/** Where an input of a stage comes from. */
export type StageInput = InputSplit | GatherInput;

/**
 * How a stage's price comes about: `rate = base · (1 + demand) · (1 + capability) · season`, at least `ask_min`, and
 * `market_price = rate · reference time`, rounded up. Factors are parts per million.
 */
export interface StageQuote {
  /** The lowest ask of the providers that can run it. */
  ask_min: Amount;
  /** Price of a second of the reference device before the factors. */
  base: Amount;
  /** Capability factor. */
  capability_ppm: string;
  /** Executions of each unit that the escrow covers. */
  copies: string;
  /** Demand factor. */
  demand_ppm: string;
  /** The market's price of a unit. */
  market_price: Amount;
  /** Providers online that can run it. */
  providers: string;
  /** Price of a second of the reference device. */
  rate: Amount;
  /** Time of a unit on the reference device, in nanoseconds, by estimate. */
  reference_ns: string;
  /** Seasonal adjustment. */
  season_ppm: string;
  /** What a unit would pay: the market's price, or the job's own. */
  unit_price: Amount;
  /** Units in all iterations. */
  units: string;
}

/** Units of one program. */
export interface StageRequest {
  /** Units that run at the same time, each on a device of its own, 1 to 64; 1 when they need not. */
  devices?: number;
  /** One a manifest input, in order. */
  inputs: StageInput[];
  /** What a unit computes. */
  manifest: Manifest;
  /** Its name, unlike those of the other stages; at most 100 characters. */
  name: string;
  /** Units a package; the market decides when absent. */
  package_units?: number | null;
  /**
   * Owners that compute each unit at the same time, 1 to 5, so that losing one of them costs no time; the others are paid as
   * checkers.
   */
  replicas?: number;
  /** What one unit pays; the market's price at the moment of submission when absent. */
  unit_price?: Amount | null;
  /** How many units, in each iteration. */
  units: string;
}

/** `POST /v1/accounts/{id}/bond` and `/unbond`. */
export interface StakeRequest {
  /** How much. */
  amount: Amount;
}

/** A plain job, or one of several stages. */
export type SubmitRequest = JobRequest | GraphRequest;

/** Elements `a` and `b` agree when `|a − b| ≤ abs + rel · max(|a|, |b|)`. */
export interface Tolerance {
  /** Absolute error allowed. */
  abs: number;
  /** Bound on the mean of `|a − b|` over all elements, outliers included. */
  mean_abs_max?: number | null;
  /** Share of elements, 0 to 1, that may disagree. */
  outliers_max?: number;
  /** Relative error allowed. */
  rel?: number;
}

/**
 * How often a worker's units are executed again: with the greatest of `record_ppm`, `floor_ppm`, the job's `rate_min` and, at a
 * unit price of `u`, `u / (u + loss)`. Rates are parts per million.
 */
export interface Trust {
  /** The market's floor. */
  floor_ppm: number;
  /** What its owner would lose at least if it were found out. */
  loss: Amount;
  /** The same of all workers of its owner together. */
  owner_streak: number;
  /** Always until both are 10 (`trust_after_packages`), then one in as many as the shorter one. */
  record_ppm: number;
  /** Valid packages in a row, since the last suspicion against its owner. */
  worker_streak: number;
}

/** One unit of `GET /v1/jobs/{id}/units`. */
export interface Unit {
  /** Who re-executed it and agreed. */
  checked_by?: PublicKey[];
  /** The unit. */
  id: UnitId;
  /** Its number in its stage. */
  index?: string;
  /** Its iteration, from 1, of an iterated job. */
  iteration?: number | null;
  /** Its outputs, once accepted. */
  outputs?: OutputCommitment[];
  /** Its stage, where the job has several or is iterated. */
  stage?: string | null;
  /** Where it is. */
  state: UnitState;
  /** Who computed it, once accepted. */
  worker?: PublicKey | null;
}

export type UnitId = string;

/** The outputs of one unit. */
export interface UnitOutputs {
  /** In output order. */
  outputs: OutputCommitment[];
  /** The unit's index. */
  unit: string;
}

/** `GET /v1/jobs/{job}/units/{unit}/proof`. */
export interface UnitProof {
  /** What a worker committed to. It can be checked without the market. */
  opening: Opening;
  /** What became of the package, as the market's journal has it. */
  package: PackageRecord;
  /** Packages before it that held the unit and were rejected, oldest first. */
  rejected?: PackageRecord[];
}

/** A contiguous run of units of one job. */
export interface UnitRun {
  /** How many. */
  count: number;
  /** Index of the first unit. */
  first: string;
}

/** Where a unit is. */
export type UnitState = 'waiting' | 'leased' | 'checking' | 'accepted' | 'parked' | 'blocked' | 'skipped';

/** When an iterated job is done. Both are decided on the commitments of accepted outputs alone. */
export type Until =
  | {
    kind: 'unchanged';
    /** Which of its outputs. */
    output?: number;
    /** The stage's name. */
    stage: string;
  }
  | {
    /** The blob that the output is to be; it need not be there. */
    blob: Hash;
    kind: 'equals';
    /** Which of its outputs. */
    output?: number;
    /** The stage's name. */
    stage: string;
  };

/** `GET /v1/verdicts/{id}`: a package whose results were contradicted, and what that takes from its owner. */
export interface Verdict {
  /** How it was contested, if it was. */
  appeal?: VerdictAppeal | null;
  /** What was found. */
  cause: VerdictCause;
  /** How it became final, once it is. */
  closing?: VerdictClosing | null;
  /** Until when the owner may contest it. */
  contestable_until: string;
  /** The units whose commitments differ. */
  disputed: string[];
  /** Whether nothing can change it any more. */
  final: boolean;
  /** The verdict. */
  id: VerdictId;
  /** The job of the package. */
  job: JobId;
  /** Who said what of the package. */
  opinions: Opinion[];
  /** The wallet that would have been paid. */
  owner: PublicKey;
  /** The package. */
  package: PackageId;
  /** What the owner would have been paid. */
  pay: Amount;
  /** When it was reached. */
  reached_at: string;
  /** The digest of the receipt that was contradicted. */
  receipt: Hash;
  /** What was taken from the owner; frozen until the verdict is final. */
  slash: Amount;
  /** Where it is. */
  state: VerdictState;
  /** Its units. */
  units: UnitRun;
  /** Who computed it. */
  worker: PublicKey;
}

/** An appeal. */
export interface VerdictAppeal {
  /** When it was made. */
  at: string;
  /** What was deposited for it. */
  deposit: Amount;
  /** When it is decided at the latest. */
  until: string;
}

/** Why a package was rejected. */
export type VerdictCause = 'outvoted' | 'verifier_disagrees' | 'unverifiable' | 'disproved';

/** How a verdict became final, and where the money went. */
export interface VerdictClosing {
  /** When. */
  at: string;
  /** What was burned. */
  burned: Amount;
  /** What the owner was paid for the package after all. */
  compensation: Amount;
  /** What went back of the deposit. */
  deposit: Amount;
  /** What the treasury paid. */
  from_treasury: Amount;
  /** What those said who executed the units for the appeal. */
  opinions?: Opinion[];
  /** How. */
  outcome: VerdictOutcome;
  /** What those who were wrong paid. */
  taken_from_accusers: Amount;
  /** What the treasury got. */
  treasury: Amount;
}

export type VerdictId = string;

/** How a verdict became final. */
export type VerdictOutcome = 'uncontested' | 'upheld' | 'unexamined' | 'overturned';

/** Where a verdict is. */
export type VerdictState = 'standing' | 'contested' | 'upheld' | 'overturned';

/** What verification did for a job so far, in units. */
export interface VerificationCounts {
  /** Of which the market checked what the program says of their outputs, and found that it holds. */
  algebraic: string;
  /** Of those, re-executed by the market's own verifier. */
  by_verifier: string;
  /** Re-executed by somebody else, with the same result. */
  checked: string;
  /** Found otherwise by whoever checked them. */
  disputed: string;
  /** Rejected and run again. */
  rejected: string;
  /** Accepted because the draw after the commitment did not pick them. */
  sampled_out: string;
}

/** How results are verified: by one policy, or by several together, each at most once. */
export type Verify = Policy | Policy[];

/** One worker of `GET /v1/workers`. */
export interface Worker {
  /** What it asks for a second of the reference device. */
  ask: Amount;
  /** Units it re-executed for others. */
  checked: string;
  /** Its device. */
  device: DeviceFacts;
  /** What its owner was paid for its work. */
  earned: Amount;
  /** The key that signs its receipts. */
  id: PublicKey;
  /** Native or browser. */
  kind: WorkerKind;
  /** Leases it holds. */
  leases: number;
  /** The wallet that is paid. */
  owner: PublicKey;
  /** Why it is not working, or what it works on. */
  reason: Reason;
  /** What its owner's word is worth. */
  reputation: Reputation;
  /** What can be sealed to it. */
  sealing_key?: SignedSealingKey | null;
  /** When it was last heard. */
  seen_at: string;
  /** How fast it is. */
  speed: Speed;
  /** What it is doing. */
  state: WorkerState;
  /** Consecutive packages that held. */
  streak: number;
  /** How often its units are executed again, and why. */
  trust: Trust;
  /** Units accepted from it. */
  units: string;
  /** Whether it is the market's own verifier. */
  verifier: boolean;
}

/** A job's content key, sealed to one worker. */
export interface WorkerEnvelope {
  /** The encapsulated key and the sealed one. */
  envelope: Envelope;
  /** The worker. */
  worker: PublicKey;
}

/** Where a worker runs. */
export type WorkerKind = 'native' | 'browser';

/**
 * What a worker claims for its device and asks for its time. Claims are not proved: they place a worker until something was
 * measured, and what it really did overrules them.
 */
export interface WorkerOffer {
  /** The least that a compute second, one second of the reference device, must pay; 0 takes anything. */
  ask?: Amount;
  /** Speed of 32-bit floating-point multiplication and addition, in MFLOP/s; 0 where nobody measured it. */
  claimed_mflops?: string;
  /** Known flaws, such as [`FLAW_LOOP_ROUNDS`], that jobs may exclude; sorted. */
  flaws?: string[];
  /** Device memory that jobs may take together, in bytes; 0 where nobody said. */
  memory_bytes?: string;
  /** Jobs that may share the device in turns; 0 leaves it to the market. */
  slots?: number;
}

/** What a worker is doing. */
export type WorkerState = 'idle' | 'busy' | 'draining' | 'gone';
