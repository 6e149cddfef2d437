// The client of a market's HTTP API, for browsers and Node.js: typed calls, login by challenge, problems as errors.
//
// It logs in when a call needs it, renews the token before it ends and once when it is refused, and repeats calls that are safe
// to repeat when the network fails or the market is overloaded. It keeps no data of its own.

import type {
  Account,
  AnnounceRequest,
  BlobsAnswer,
  Challenge,
  ChallengeRequest,
  Challenges,
  Health,
  HeartbeatAnswer,
  HeartbeatRequest,
  Job,
  JobRequest,
  LeaseAnswer,
  LeaseRequest,
  LeaveRequest,
  Ledger,
  LoginRequest,
  MarketInfo,
  PackageRecord,
  Page,
  Payment,
  Problem,
  ReceiptsAnswer,
  ReceiptsRequest,
  ReleaseRequest,
  Session,
  SessionRequest,
  Unit,
  UnitProof,
  Worker,
} from './api.js';
import { batchOf } from './batch.js';
import { blobId, type Hash } from './hash.js';
import type { Signer } from './keys.js';

/** The market refused a call; `problem` says why and what to do about it. */
export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.fix ? `${problem.detail} (${problem.code}): ${problem.fix}` : `${problem.detail} (${problem.code})`);
    this.name = 'ProblemError';
  }

  /** The stable code. */
  get code(): string {
    return this.problem.code;
  }
}

/** The market did not answer. */
export class UnreachableError extends Error {
  constructor(market: string, options?: ErrorOptions) {
    super(`the market at ${market} does not answer`, options);
    this.name = 'UnreachableError';
  }
}

/** A download whose bytes are not those of its name. */
export class BlobMismatchError extends Error {
  constructor(wanted: Hash, found: Hash) {
    super(`blob ${wanted} arrived as ${found}`);
    this.name = 'BlobMismatchError';
  }
}

/** The market does not tell a blob's length, or sent other bytes of it than were asked for. */
export class BlobRangeError extends Error {
  constructor(blob: Hash, what: string) {
    super(`blob ${blob}: ${what}`);
    this.name = 'BlobRangeError';
  }
}

export interface ClientOptions {
  /** The market's address, such as `http://127.0.0.1:7700`. */
  market: string;
  /** Logs in and signs; without it only public calls work. */
  signer?: Signer;
  /** Instead of the global `fetch`. */
  fetch?: typeof fetch;
}

interface CallOptions {
  method?: 'GET' | 'POST' | 'PUT' | 'HEAD';
  body?: unknown;
  bytes?: Uint8Array<ArrayBuffer>;
  headers?: Record<string, string>;
  signedIn?: boolean;
  /** The call may be sent again when no answer came: twice is the same as once. */
  repeatable?: boolean;
  signal?: AbortSignal;
  /** Gives up after this time, in milliseconds. */
  timeoutMs?: number;
}

const TIMEOUT_MS = 30_000;
const REPEATS_MAX = 3;
/** A token is renewed this long before it ends. */
const RENEW_BEFORE_MS = 30_000;

/** One market, seen by one key. */
export class Client {
  readonly market: string;
  readonly signer: Signer | undefined;
  readonly #fetch: typeof fetch;
  #session: Promise<Session> | undefined;

  constructor(options: ClientOptions) {
    this.market = options.market.replace(/\/+$/, '');
    this.signer = options.signer;
    this.#fetch = options.fetch ?? ((input, init) => fetch(input, init));
  }

  health(): Promise<Health> {
    return this.#json('/v1/health');
  }

  marketInfo(): Promise<MarketInfo> {
    return this.#json('/v1/market');
  }

  ledger(): Promise<Ledger> {
    return this.#json('/v1/ledger');
  }

  account(id: string): Promise<Account> {
    return this.#json(`/v1/accounts/${id}`);
  }

  deposit(id: string, amount: bigint): Promise<Account> {
    const headers = { 'idempotency-key': crypto.randomUUID() };
    return this.#json(`/v1/accounts/${id}/deposit`, this.#post({ amount: String(amount) }, { headers }));
  }

  submit(job: JobRequest): Promise<Job> {
    const headers = { 'idempotency-key': crypto.randomUUID() };
    return this.#json('/v1/jobs', this.#post(job, { headers }));
  }

  jobs(options: { owner?: string; cursor?: string } = {}): Promise<Page<Job>> {
    return this.#json(`/v1/jobs${query(options)}`);
  }

  job(id: string): Promise<Job> {
    return this.#json(`/v1/jobs/${id}`);
  }

  units(job: string, options: { cursor?: string } = {}): Promise<Page<Unit>> {
    return this.#json(`/v1/jobs/${job}/units${query(options)}`);
  }

  /** What a worker committed to for a unit, perhaps with a chunk of an output opened; check it with `openingFault`. */
  proof(job: string, unit: string, chunk: { output?: number; chunk?: string } = {}): Promise<UnitProof> {
    return this.#json(
      `/v1/jobs/${job}/units/${unit}/proof${query({ output: chunk.output?.toString(), chunk: chunk.chunk })}`,
    );
  }

  /** What became of a job's packages, by their first units. */
  packages(job: string, options: { cursor?: string } = {}): Promise<Page<PackageRecord>> {
    return this.#json(`/v1/jobs/${job}/packages${query(options)}`);
  }

  /** The keys that checks were drawn with, as far as they are over. */
  challenges(): Promise<Challenges> {
    return this.#json('/v1/challenges');
  }

  cancel(job: string): Promise<Job> {
    return this.#json(`/v1/jobs/${job}/cancel`, this.#post({}));
  }

  /** Where a job's result file is; with `partial` also before every unit is there. */
  resultUrl(job: string, output: number, partial = false): string {
    return `${this.market}/v1/jobs/${job}/result/${output}${partial ? '?partial=true' : ''}`;
  }

  workers(options: { cursor?: string } = {}): Promise<Page<Worker>> {
    return this.#json(`/v1/workers${query(options)}`);
  }

  payments(options: { job?: string; cursor?: string } = {}): Promise<Page<Payment>> {
    return this.#json(`/v1/payments${query(options)}`);
  }

  announce(request: AnnounceRequest): Promise<Worker> {
    return this.#json('/v1/workers', this.#post(request));
  }

  heartbeat(request: HeartbeatRequest): Promise<HeartbeatAnswer> {
    return this.#json(`/v1/workers/${this.#address()}/heartbeat`, this.#post(request));
  }

  async leave(request: LeaveRequest): Promise<void> {
    await this.#call(`/v1/workers/${this.#address()}/leave`, this.#post(request));
  }

  /** A long poll. It is not repeated: a lease that was given but not received would be taken twice. */
  lease(request: LeaseRequest, signal?: AbortSignal): Promise<LeaseAnswer> {
    const timeoutMs = (request.wait_ms ?? 0) + TIMEOUT_MS;
    const options = this.#post(request, { repeatable: false, timeoutMs });
    return this.#json('/v1/leases', signal ? { ...options, signal } : options);
  }

  async release(lease: string, request: ReleaseRequest): Promise<void> {
    await this.#call(`/v1/leases/${lease}/release`, this.#post(request));
  }

  receipts(request: ReceiptsRequest): Promise<ReceiptsAnswer> {
    return this.#json('/v1/receipts', this.#post(request));
  }

  /** A whole blob, checked against its hash. */
  async blob(hash: Hash, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const answer = await this.#call(`/v1/blobs/${hash}`, { timeoutMs: 10 * TIMEOUT_MS, ...(signal && { signal }) });
    const bytes = new Uint8Array(await this.#received(answer.arrayBuffer()));
    const found = await blobId(bytes);
    if (found !== hash) throw new BlobMismatchError(hash, found);
    return bytes;
  }

  /** The blob's length in bytes. */
  async blobLength(hash: Hash, signal?: AbortSignal): Promise<number> {
    const asking = { method: 'HEAD', repeatable: true, ...(signal && { signal }) } as const;
    const answer = await this.#call(`/v1/blobs/${hash}`, asking);
    const length = answer.headers.get('content-length') ?? '';
    if (!/^\d{1,15}$/.test(length)) throw new BlobRangeError(hash, 'the market does not tell its length');
    return Number(length);
  }

  /**
   * The bytes of a blob from `start` up to, not including, `end`. A range cannot be checked against the hash of the whole: use it
   * for blobs that are too large to fetch whole.
   */
  async blobRange(hash: Hash, start: number, end: number, signal?: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    if (start >= end) return new Uint8Array();
    const headers = { range: `bytes=${start}-${end - 1}` };
    const options = { headers, timeoutMs: 10 * TIMEOUT_MS, ...(signal && { signal }) };
    const answer = await this.#call(`/v1/blobs/${hash}`, options);
    // A market that ignores the range would send the whole blob: it is judged before the body is read.
    const place = answer.headers.get('content-range') ?? '';
    const announced = answer.headers.get('content-length') ?? String(end - start);
    const asked = answer.status === 206 && announced === String(end - start);
    if (!asked || !place.startsWith(`bytes ${start}-${end - 1}/`)) {
      void answer.body?.cancel().catch(() => {});
      const found = `status ${answer.status}, ${place || 'no content-range'}, ${announced} bytes`;
      throw new BlobRangeError(hash, `asked for bytes ${start}-${end - 1}, answered with ${found}`);
    }
    const bytes = new Uint8Array(await this.#received(answer.arrayBuffer()));
    if (bytes.length !== end - start) {
      throw new BlobRangeError(hash, `asked for ${end - start} bytes, ${bytes.length} arrived`);
    }
    return bytes;
  }

  /** Uploads `bytes`, whose hash the caller knows. */
  async putBlob(hash: Hash, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#call(`/v1/blobs/${hash}`, {
      method: 'PUT',
      bytes,
      signedIn: true,
      repeatable: true,
      timeoutMs: 10 * TIMEOUT_MS,
    });
  }

  /** Uploads small blobs in one request; the bounds are those of `batch.ts`. The caller knows their hashes. */
  async putBlobs(blobs: readonly { hash: Hash; bytes: Uint8Array<ArrayBuffer> }[]): Promise<void> {
    const { blobs: stored } = await this.#json<BlobsAnswer>('/v1/blobs', {
      method: 'POST',
      bytes: batchOf(blobs.map(({ bytes }) => bytes)),
      signedIn: true,
      repeatable: true,
      timeoutMs: 10 * TIMEOUT_MS,
    });
    for (const [index, { hash }] of blobs.entries()) {
      const found = stored[index];
      if (found !== hash) throw new BlobMismatchError(hash, found ?? 'nothing');
    }
  }

  /** Uploads `bytes` and returns their hash. */
  async upload(bytes: Uint8Array<ArrayBuffer>): Promise<Hash> {
    const hash = await blobId(bytes);
    await this.putBlob(hash, bytes);
    return hash;
  }

  /** The session of this client's key; logs in if there is none that still holds. */
  async session(): Promise<Session> {
    const current = await this.#session?.catch(() => undefined);
    if (current && Date.parse(current.expires_at) - Date.now() > RENEW_BEFORE_MS) return current;
    return this.#login();
  }

  /**
   * Lets the session key `session` act for this client's wallet for `lifetimeS` seconds (at most 30 days); both keys sign. A
   * client whose signer is that key then logs in by itself.
   */
  delegate(session: Signer, lifetimeS: number): Promise<Session> {
    return this.#answerChallenge({ signer: session, lifetimeS });
  }

  #login(): Promise<Session> {
    const pending = this.#answerChallenge().catch((error: unknown) => {
      if (this.#session === pending) this.#session = undefined;
      throw error;
    });
    this.#session = pending;
    return pending;
  }

  /** Logs in. A process of the market that took over since the challenge was given out knows nothing of it: then once more. */
  async #answerChallenge(session?: { signer: Signer; lifetimeS: number }): Promise<Session> {
    try {
      return await this.#answerOneChallenge(session);
    } catch (error) {
      if (!(error instanceof ProblemError && error.problem.code === 'nonce_invalid')) throw error;
      return this.#answerOneChallenge(session);
    }
  }

  async #answerOneChallenge(session?: { signer: Signer; lifetimeS: number }): Promise<Session> {
    const signer = this.signer;
    if (!signer) throw new Error('this call needs a key: give the client a signer');
    const delegation: SessionRequest | undefined = session && {
      key: session.signer.address,
      lifetime_s: session.lifetimeS,
    };
    const ask: ChallengeRequest = { address: signer.address, ...(delegation && { session: delegation }) };
    const challenge = await this.#json<Challenge>('/v1/auth/challenge', {
      method: 'POST',
      body: ask,
      repeatable: true,
    });
    const message = new TextEncoder().encode(challenge.message);
    const answer: LoginRequest = {
      nonce: challenge.nonce,
      signature: await signer.sign(message),
      ...(session && { session_signature: await session.signer.sign(message) }),
    };
    return this.#json<Session>('/v1/auth/login', { method: 'POST', body: answer });
  }

  #address(): string {
    if (!this.signer) throw new Error('this call needs a key: give the client a signer');
    return this.signer.address;
  }

  #post(body: unknown, options: CallOptions = {}): CallOptions {
    return { method: 'POST', body, signedIn: true, repeatable: true, ...options };
  }

  async #json<T>(path: string, options: CallOptions = {}): Promise<T> {
    const answer = await this.#call(path, options);
    return (await this.#received(answer.json())) as T;
  }

  #received<T>(body: Promise<T>): Promise<T> {
    return body.catch((cause: unknown) => {
      throw new UnreachableError(this.market, { cause });
    });
  }

  async #call(path: string, options: CallOptions): Promise<Response> {
    const repeats = (options.repeatable ?? (options.method ?? 'GET') === 'GET') ? REPEATS_MAX : 0;
    let renewed = false;
    for (let repeat = 0; ; repeat++) {
      try {
        return await this.#send(path, options);
      } catch (error) {
        if (options.signal?.aborted) throw error;
        if (error instanceof ProblemError && error.problem.status === 401 && options.signedIn && !renewed) {
          renewed = true;
          repeat--;
          await this.#login();
          continue;
        }
        // After a 502 or 504 nobody knows whether it was done, so that only what may be done twice is repeated.
        const passing =
          error instanceof UnreachableError ||
          (error instanceof ProblemError && [429, 502, 503, 504].includes(error.problem.status));
        if (!passing || repeat >= repeats) throw error;
        await pause(200 * 2 ** repeat, options.signal);
      }
    }
  }

  async #send(path: string, options: CallOptions): Promise<Response> {
    const headers: Record<string, string> = { ...options.headers };
    if (options.body !== undefined) headers['content-type'] = 'application/json';
    if (options.bytes) headers['content-type'] = 'application/octet-stream';
    if (options.signedIn) headers['authorization'] = `Bearer ${(await this.session()).token}`;
    const timeout = AbortSignal.timeout(options.timeoutMs ?? TIMEOUT_MS);
    let answer: Response;
    try {
      answer = await this.#fetch(this.market + path, {
        method: options.method ?? 'GET',
        headers,
        body: options.bytes ?? (options.body === undefined ? null : JSON.stringify(options.body)),
        signal: options.signal ? AbortSignal.any([options.signal, timeout]) : timeout,
      });
    } catch (cause) {
      if (options.signal?.aborted) throw cause;
      throw new UnreachableError(this.market, { cause });
    }
    if (answer.ok) return answer;
    throw new ProblemError(await problemOf(answer));
  }
}

async function problemOf(answer: Response): Promise<Problem> {
  const fallback: Problem = {
    type: 'about:blank',
    title: answer.statusText,
    status: answer.status,
    code: 'internal',
    detail: `the market answered ${answer.status} ${answer.statusText}`.trim(),
    fix: '',
  };
  try {
    const body = (await answer.json()) as Partial<Problem>;
    return { ...fallback, ...body };
  } catch {
    return fallback;
  }
}

function query(parameters: Record<string, string | undefined>): string {
  const present = Object.entries(parameters).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return present.length > 0 ? `?${new URLSearchParams(present)}` : '';
}

function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => {
      clearTimeout(timer);
      reject(signal.reason as Error);
    });
  });
}
