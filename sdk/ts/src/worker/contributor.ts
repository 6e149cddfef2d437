// The contributor: takes packages from a market, computes them, commits to the results with signed receipts.
//
// The same life as the native worker's: announce, heartbeat, long poll, compute, upload, sign. The next package is asked for
// while the last units of the current one compute, and receipts are sent while the next package runs, so that the device waits
// for the network as little as possible. It decides nothing about money or trust, and it knows WebGPU only as `ComputeDevice`.

import type {
  Lease,
  LeaveRequest,
  Manifest,
  MarketInfo,
  OutputCommitment,
  Reason,
  Receipt,
  ReleaseCause,
  WorkerOffer,
} from '../api.js';
import { parseAmount, toTokens } from '../amount.js';
import { packageRoot, parseU64, receiptBytes } from '../bytes.js';
import { BlobMismatchError, BlobRangeError, type Client, ProblemError, UnreachableError } from '../client.js';
import { ExpressionError } from '../expression.js';
import { GpuError, type UnitResult } from '../gpu/index.js';
import type { Hash } from '../hash.js';
import { ManifestError, parseManifest } from '../manifest.js';
import type { ComputeDevice, ComputeProgram } from './compute.js';
import { PackageInputs } from './inputs.js';
import { type ContributorState, type Farewell, type LogEntry, STOPPED } from './state.js';
import { type Named, Uploads } from './uploads.js';

export interface ContributorOptions {
  client: Client;
  /** Takes the device; called only after Start, and again when a device was lost. */
  openDevice: () => Promise<ComputeDevice>;
  /** Brings a whole blob, checked. */
  blob: (hash: Hash) => Promise<Uint8Array<ArrayBuffer>>;
  /** Random per tab, so that two with one key are told apart. */
  instance: string;
  /** Such as `plexus-web/0.1.0`. */
  version: string;
  /** How often what is finished of a long package is committed, in milliseconds. */
  checkpointMs?: number;
  onState: (state: ContributorState) => void;
  /** Told whenever the request changes that would end this worker at once. */
  onFarewell?: (farewell: Farewell | undefined) => void;
}

/** How long one long poll waits, in milliseconds. */
const POLL_MS = 20_000;
/** Units on the device at once: one computes while the one before is read back. */
const UNITS_IN_FLIGHT = 2;
/** Receipts on their way while the next packages compute. */
const RECEIPTS_IN_FLIGHT = 2;
/** The next package is asked for when the current one is expected to end within this time. */
const PREFETCH_MS = 1_000;
/** On Pause a package that ends within this time is finished; of a longer one the rest is given back. */
const FINISH_MS = 2_000;
/** How often what is finished of a long package is committed: a tab that is closed loses no more than this. */
const CHECKPOINT_MS = 5_000;
const LOG_LENGTH = 60;
const RETRY_MS = [1_000, 2_000, 5_000, 10_000];
const RATE_WINDOW_MS = 60_000;
/** A gap between two packages that is shorter than this does not show. */
const IDLE_SHOWN_MS = 200;
/** Computed work is kept this long for a market that does not answer. */
const PATIENCE_MS = 300_000;
/** Blobs whose length is remembered, so that it is not asked for with every package. */
const LENGTHS_MAX = 256;

interface Package {
  held: Held;
  takenAt: number;
  program: ComputeProgram;
  inputs: PackageInputs;
  /** Of all its units, in order; later leases of it cover the last of them. */
  units: bigint[];
  /** Ends its downloads. */
  closing: AbortController;
}

/** A package in hand, until its last receipt was answered. */
interface Held {
  /** The lease that covers what is left: every receipt for a part ends one and begins another. */
  lease: Lease;
  lost: boolean;
  /** Whether the market wants the device for another job. */
  yields: boolean;
  /** Whether a receipt for a part is on its way: its answer brings another lease. */
  cutting: boolean;
}

/** What is computed of a package, by the unit's place in it. */
interface Progress {
  outputs: Promise<OutputCommitment[]>[];
  deviceUs: number[];
  /** The first place that no receipt covers, and the first that is not computed. */
  from: number;
  done: number;
  /** When the units since `from` began, by both clocks. */
  startedAtMs: number;
  since: number;
  /** Whether the market takes receipts for parts of this package. */
  inParts: boolean;
  /** A receipt for a part that is on its way. */
  cutting: Promise<void> | undefined;
}

/** What became of a receipt for a part: the rest goes on, the market takes only the whole, or all is over. */
type Cut = 'go_on' | 'whole_only' | 'over';

/** A package that is no longer this worker's. */
class Dropped extends Error {}

export class Contributor {
  readonly #options: ContributorOptions;
  readonly #client: Client;
  #state: ContributorState;
  #info: MarketInfo | undefined;
  #device: ComputeDevice | undefined;
  #running: { end: AbortController; whole: Promise<void> } | undefined;
  /** Units of the package in hand are not begun any more. */
  #giveBack = false;
  readonly #held = new Map<string, Held>();
  readonly #names = new Map<string, string>();
  readonly #lengths = new Map<Hash, number>();
  readonly #finished: number[] = [];
  #unitMs: number | undefined;
  #earnedAtStart: bigint | undefined;
  #logNumber = 0;
  /** The least that a compute second must pay, in base units; told with the next announcement. */
  ask = '0';

  constructor(options: ContributorOptions) {
    this.#options = options;
    this.#client = options.client;
    this.#state = { ...STOPPED, wallet: options.client.signer?.address ?? '' };
  }

  get state(): ContributorState {
    return this.#state;
  }

  /** Begins, or goes on after a pause. Does nothing while running. */
  start(): void {
    if (this.#running) return;
    const end = new AbortController();
    this.#giveBack = false;
    this.#update({ phase: 'starting', reason: reason('starting', 'Opening the GPU and logging in to the market.') });
    const whole = this.#main(end.signal).finally(() => (this.#running = undefined));
    this.#running = { end, whole };
  }

  /** Takes no more work; the package in hand is finished if that is soon, else given back. Resolves when all is quiet. */
  pause(): Promise<void> {
    return this.#end('paused');
  }

  /** As {@link pause}, and gives the GPU back. */
  async stop(): Promise<void> {
    await this.#end('stopped');
    this.#device?.destroy();
    this.#device = undefined;
  }

  async #end(target: 'paused' | 'stopped'): Promise<void> {
    const running = this.#running;
    if (running) {
      const { current } = this.#state;
      const leftMs = current ? (current.units - current.unitsDone) * (this.#unitMs ?? Number.POSITIVE_INFINITY) : 0;
      this.#giveBack = leftMs > FINISH_MS;
      this.#update({ phase: 'pausing', reason: reason('ending', 'Ending the work in hand.') });
      running.end.abort();
      await running.whole;
    }
    const text = target === 'paused' ? 'Paused. The GPU is free until you press Resume.' : STOPPED.reason.text;
    this.#update({ phase: target, reason: reason(target, text), current: undefined, unitsPerMinute: 0 });
  }

  async #main(end: AbortSignal): Promise<void> {
    for (let failures = 0; !end.aborted;) {
      const before = this.#state.units;
      try {
        await this.#contribute(end);
      } catch (error) {
        if (end.aborted) break;
        if (this.#state.units > before) failures = 0;
        const verdict = judge(error);
        this.#log('problem', verdict.reason.text);
        if (verdict.final) {
          this.#update({ phase: 'failed', reason: verdict.reason, current: undefined });
          await this.#leave();
          return;
        }
        this.#update({ phase: 'starting', reason: verdict.reason, current: undefined });
        if (!this.#device) await this.#leave();
        await pause(RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)] ?? 0, end);
      }
    }
    await this.#leave();
  }

  /** One announced life: until the end, or until something breaks that needs a new announcement. */
  async #contribute(end: AbortSignal): Promise<void> {
    this.#info = await this.#client.marketInfo();
    await this.#refreshEarnings();
    this.#device ??= await this.#options.openDevice();
    const device = this.#device;
    void device.lost.then(() => {
      if (this.#device === device) this.#device = undefined;
    });
    this.#update({ adapter: device.facts.adapter });
    const { instance, version } = this.#options;
    const offer: WorkerOffer = { ...device.claims, ask: this.ask };
    const worker = await this.#client.announce({ instance, device: device.facts, version, offer });
    this.#update({ phase: 'waiting', reason: worker.reason });
    await this.#sayFarewell();
    const [workEnd, beatEnd] = [new AbortController(), new AbortController()];
    const beats = this.#heartbeats(beatEnd.signal);
    const work = this.#work(device, AbortSignal.any([end, workEnd.signal]));
    try {
      await Promise.race([beats, work]);
    } catch (error) {
      // A market that forgot this worker has given its leases to others.
      if (error instanceof ProblemError) for (const held of this.#held.values()) held.lost = true;
      throw error;
    } finally {
      // The work in hand ends first, renewed by the heartbeats until then.
      workEnd.abort();
      await Promise.allSettled([work]);
      beatEnd.abort();
      await Promise.allSettled([beats]);
    }
  }

  async #heartbeats(signal: AbortSignal): Promise<void> {
    const everyMs = Math.max(50, (this.#info?.heartbeat_ms_max ?? 15_000) / 3);
    for (;;) {
      await pause(everyMs, signal);
      if (signal.aborted) return;
      try {
        const leases = [...this.#held.values()].filter((held) => !held.lost).map((held) => held.lease.id);
        const answer = await this.#client.heartbeat({ instance: this.#options.instance, leases });
        for (const id of answer.lost) {
          const held = this.#held.get(id);
          // While a receipt for a part is on its way the market may know the rest under another lease already.
          if (held && !held.cutting) held.lost = true;
        }
        for (const id of answer.yields ?? []) {
          const held = this.#held.get(id);
          if (held) held.yields = true;
        }
        if (this.#state.phase === 'waiting') this.#update({ reason: answer.reason });
        await this.#refreshEarnings();
        await this.#sayFarewell();
      } catch (error) {
        // The market may be restarting; leases outlive a few missed heartbeats.
        if (!isAway(error)) throw error;
        if (this.#state.phase === 'waiting') this.#update({ reason: judge(error).reason });
      }
    }
  }

  async #work(device: ComputeDevice, end: AbortSignal): Promise<void> {
    const receipts = new Set<Promise<void>>();
    const poll = new AbortController();
    const ended = AbortSignal.any([end, poll.signal]);
    void device.lost.then(() => poll.abort());
    let next: Promise<Package | undefined> | undefined;
    const prefetch = () => {
      if (ended.aborted) return;
      next ??= this.#take(device, ended);
      next.catch(() => {}); // thrown when it is awaited
    };
    try {
      while (!end.aborted) {
        prefetch();
        const idle = setTimeout(() => {
          const why = reason('waiting', 'Waiting for work.');
          if (!end.aborted) this.#update({ phase: 'waiting', current: undefined, reason: why });
        }, IDLE_SHOWN_MS);
        const taken = await Promise.resolve(next).finally(() => clearTimeout(idle));
        next = undefined;
        if (poll.signal.aborted) throw await device.lost;
        if (!taken) continue;
        if (end.aborted) {
          taken.closing.abort();
          await this.#release(taken.held, 'leaving', 'the worker was paused');
          break;
        }
        const computed = await this.#compute(taken, prefetch, end).finally(() => taken.closing.abort());
        if (!computed) continue;
        const sending = this.#finish(taken, computed, end).finally(() => receipts.delete(sending));
        receipts.add(sending);
        while (receipts.size > RECEIPTS_IN_FLIGHT) await Promise.race(receipts);
      }
    } finally {
      poll.abort();
      const unused = await Promise.resolve(next).catch(() => undefined);
      unused?.closing.abort();
      if (unused) await this.#release(unused.held, 'leaving', 'the worker was paused');
      await Promise.allSettled(receipts);
    }
  }

  /** Waits for a package and fetches all that its first unit needs. */
  async #take(device: ComputeDevice, end: AbortSignal): Promise<Package | undefined> {
    let lease: Lease | undefined;
    try {
      const answer = await this.#client.lease(
        { instance: this.#options.instance, packages_max: 1, wait_ms: POLL_MS },
        end,
      );
      if (answer.reason && this.#state.phase === 'waiting') this.#update({ reason: answer.reason });
      [lease] = answer.leases;
    } catch (error) {
      if (end.aborted) return undefined;
      throw error;
    }
    if (!lease) return undefined;
    const held: Held = { lease, lost: false, yields: false, cutting: false };
    this.#held.set(lease.id, held);
    const takenAt = performance.now();
    void this.#learnName(lease.job);
    const closing = new AbortController();
    const ended = () => closing.abort();
    end.addEventListener('abort', ended);
    if (end.aborted) ended();
    try {
      const manifest = parseManifest(JSON.parse(new TextDecoder().decode(await this.#options.blob(lease.manifest))));
      checkMemory(manifest, lease);
      const inputs = await this.#openInputs(held, closing.signal, end);
      const program = await device.program(manifest, lease.manifest, this.#options.blob);
      return { held, takenAt, program, inputs, units: unitsOf(lease), closing };
    } catch (error) {
      const dropped = closing.signal.aborted && !(error instanceof GpuError);
      closing.abort();
      await this.#fail(held, dropped ? new Dropped('the worker was paused') : error);
      return undefined;
    } finally {
      end.removeEventListener('abort', ended);
    }
  }

  #openInputs(held: Held, closed: AbortSignal, end: AbortSignal): Promise<PackageInputs> {
    const { lease } = held;
    const source = {
      whole: this.#options.blob,
      length: async (hash: Hash) => {
        const length = this.#lengths.get(hash) ?? (await this.#client.blobLength(hash, closed));
        this.#lengths.delete(hash);
        this.#lengths.set(hash, length);
        const [oldest] = this.#lengths.keys();
        if (this.#lengths.size > LENGTHS_MAX && oldest) this.#lengths.delete(oldest);
        return length;
      },
      // Not by way of the cache, which keeps only what it can check.
      range: (hash: Hash, first: number, after: number) =>
        this.#patiently(held, end, () => this.#client.blobRange(hash, first, after, closed)),
    };
    const base = parseU64(lease.unit_base ?? '0');
    const places = unitsOf(lease).map((unit) => unit - base);
    return PackageInputs.open(source, lease.inputs, places);
  }

  /**
   * Runs a package's units and commits to them from time to time; what comes back still has to be committed. Nothing does when
   * the package ended early: what was finished of it is committed then, and the rest given back.
   */
  async #compute(taken: Package, prefetch: () => void, end: AbortSignal): Promise<Progress | undefined> {
    const { held, program, inputs, units, closing } = taken;
    const { lease } = held;
    const name = this.#names.get(lease.job);
    const current = { lease: lease.id, job: lease.job, name, unitsDone: 0, units: units.length };
    this.#update({ phase: end.aborted ? 'pausing' : 'working', current, reason: workingOn(lease, current.name) });
    const progress: Progress = {
      outputs: [],
      deviceUs: [],
      from: 0,
      done: 0,
      startedAtMs: Date.now(),
      since: taken.takenAt,
      inParts: true,
      cutting: undefined,
    };
    const checkpointMs = this.#options.checkpointMs ?? CHECKPOINT_MS;
    let cutAt = performance.now() + checkpointMs;
    const uploads = new Uploads((blobs) => this.#patiently(held, end, () => this.#upload(blobs)));
    const running: Promise<void>[] = [];
    let finishedAt = performance.now();
    const paused = () => this.#giveBack && closing.abort();
    end.addEventListener('abort', paused);
    try {
      for (const [index, unit] of units.entries()) {
        const bytes = await inputs.unit(index).catch((error: unknown) => {
          if (closing.signal.aborted) return [];
          throw error;
        });
        if (held.lost) throw new Dropped('the lease ended before its units were done');
        if (this.#giveBack || held.yields) break;
        const run = program.run(bytes).then((result) => {
          const now = performance.now();
          this.#unitMs = this.#unitMs === undefined ? now - finishedAt : 0.7 * this.#unitMs + 0.3 * (now - finishedAt);
          finishedAt = now;
          progress.deviceUs[index] = result.deviceUs;
          const commitments = Promise.all(result.outputs.map((output) => uploads.add(output)));
          commitments.catch(() => {}); // thrown by the receipt
          progress.outputs[index] = commitments;
          while (progress.outputs[progress.done]) progress.done++;
          this.#unitDone(lease, unit, result);
        });
        run.catch(() => {}); // thrown below
        running.push(run);
        const left = units.length - index - 1;
        if (left === 0 || left * (this.#unitMs ?? Number.POSITIVE_INFINITY) < PREFETCH_MS) prefetch();
        if (running.length >= UNITS_IN_FLIGHT) await running.shift();
        if (left > 0 && performance.now() >= cutAt && this.#checkpoint(taken, progress, end)) {
          cutAt = performance.now() + checkpointMs;
        }
      }
      for (const run of running) await run;
      if (progress.done === units.length) return progress;
      const why = held.yields ? 'the market wants the device for another job' : 'the worker was paused';
      await this.#endEarly(taken, progress, why, end);
      return undefined;
    } catch (error) {
      await Promise.allSettled(running);
      await progress.cutting;
      await this.#fail(held, error);
      return undefined;
    } finally {
      end.removeEventListener('abort', paused);
    }
  }

  /** Begins to commit to what is finished, unless that is not possible now. */
  #checkpoint(taken: Package, progress: Progress, end: AbortSignal): boolean {
    if (progress.cutting || !progress.inParts || progress.done === progress.from) return false;
    progress.cutting = this.#cut(taken, progress, end).finally(() => (progress.cutting = undefined));
    return true;
  }

  /** Commits to what is finished of a package. Whatever goes wrong with that is left for the next receipt. */
  async #cut(taken: Package, progress: Progress, end: AbortSignal): Promise<void> {
    const to = progress.done;
    taken.held.cutting = true;
    try {
      const cut = await this.#commit(taken, progress, to, end);
      if (cut === 'go_on') {
        Object.assign(progress, { from: to, startedAtMs: Date.now(), since: performance.now() });
      } else if (cut === 'whole_only') {
        progress.inParts = false;
      } else {
        taken.held.lost = true;
      }
    } catch (error) {
      this.#log(
        'note',
        `${taken.held.lease.job}: not committed in part, ${error instanceof Error ? error.message : String(error)}`,
      );
    } finally {
      taken.held.cutting = false;
    }
  }

  /** Commits to what is finished and gives the rest back. */
  async #endEarly(taken: Package, progress: Progress, why: string, end: AbortSignal): Promise<void> {
    await progress.cutting;
    if (this.#checkpoint(taken, progress, end)) await progress.cutting;
    await this.#fail(taken.held, new Dropped(why));
  }

  #upload(blobs: Named[]): Promise<void> {
    const [first] = blobs;
    // A batch would cost a single blob nothing and save nothing; its own request is hashed while it arrives.
    return first && blobs.length === 1 ? this.#client.putBlob(first.hash, first.bytes) : this.#client.putBlobs(blobs);
  }

  /** Commits to all that no receipt covers yet. */
  async #finish(taken: Package, progress: Progress, end: AbortSignal): Promise<void> {
    try {
      await progress.cutting;
      await this.#commit(taken, progress, taken.units.length, end);
      await this.#refreshEarnings();
    } catch (error) {
      await this.#fail(taken.held, error);
    }
  }

  /** Waits for the uploads of the units up to `to`, signs and sends their receipt. */
  async #commit(taken: Package, progress: Progress, to: number, end: AbortSignal): Promise<Cut> {
    const { held } = taken;
    const { lease } = held;
    const { from } = progress;
    const part = to < taken.units.length;
    const commitments = await Promise.all(progress.outputs.slice(from, to));
    const units = taken.units.slice(from, to).map((unit, i) => ({ unit: String(unit), outputs: commitments[i] ?? [] }));
    const signer = this.#client.signer;
    if (!signer || !this.#info) throw new Error('a receipt needs a key and a market');
    const receipt: Receipt = {
      market: this.#info.market,
      lease: lease.id,
      generation: lease.generation,
      worker: signer.address,
      job: lease.job,
      units: units.length,
      package_root: packageRoot(units.map((unit) => ({ job: lease.job, ...unit }))),
      adapter: this.#state.adapter,
      started_at_ms: String(progress.startedAtMs),
      device_us: String(progress.deviceUs.slice(from, to).reduce((sum, us) => sum + us, 0)),
      total_us: String(Math.round((performance.now() - progress.since) * 1000)),
    };
    const signature = await signer.sign(receiptBytes(receipt));
    const receipts = [{ receipt, signature, units }];
    const { results } = await this.#patiently(held, end, () => this.#client.receipts({ receipts }));
    const [result] = results;
    const what = `${lease.job}, ${units.length} ${units.length === 1 ? 'unit' : 'units'}`;
    if (result?.status === 'refused') {
      // A check of somebody else's work is one opinion, given as a whole: which leases are checks is not told.
      if (part && result.problem.code === 'receipt_invalid') return 'whole_only';
      this.#log('problem', `${what}: refused, ${result.problem.detail}`);
    } else if (result?.status === 'accepted') {
      this.#log('paid', `${what}: paid ${toTokens(parseAmount(result.paid))}`);
    } else if (result) {
      this.#log('checking', `${what}: somebody else checks it before it is paid`);
    }
    this.#held.delete(lease.id);
    if (!part || !result || result.status === 'refused' || !result.rest) return 'over';
    held.lease = result.rest;
    this.#held.set(held.lease.id, held);
    return 'go_on';
  }

  /** Tries again while the market is away, as long as the lease may still hold: work is not thrown away for a restart. */
  async #patiently<T>(held: Held | undefined, end: AbortSignal, call: () => Promise<T>): Promise<T> {
    const until = performance.now() + PATIENCE_MS;
    for (let failures = 0; ; failures++) {
      try {
        return await call();
      } catch (error) {
        if (!isAway(error) || end.aborted || held?.lost || performance.now() > until) throw error;
        await pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] ?? 0, end);
      }
    }
  }

  /** Gives a lease back with the cause of a failure. A failed device is thrown on, for a new one to be opened. */
  async #fail(held: Held, error: unknown): Promise<void> {
    const { lease } = held;
    if (error instanceof Dropped) {
      this.#log('note', `${lease.job}: given back, ${error.message}`);
      if (held.lost) this.#held.delete(lease.id);
      else await this.#release(held, 'leaving', error.message);
      return;
    }
    const text = error instanceof Error ? error.message : String(error);
    const cause = causeOf(error);
    if (cause) {
      this.#log('problem', `${lease.job}: ${text}`);
      await this.#release(held, cause, text);
    } else {
      this.#log('problem', `${lease.job}: ${text}`);
      this.#held.delete(lease.id);
    }
    const deviceGone = error instanceof GpuError && error.kind !== 'program';
    if (deviceGone) {
      this.#device?.destroy();
      this.#device = undefined;
      throw error;
    }
  }

  async #release({ lease }: Held, cause: ReleaseCause, detail: string): Promise<void> {
    this.#held.delete(lease.id);
    try {
      await this.#client.release(lease.id, { generation: lease.generation, cause, detail: detail.slice(0, 1000) });
    } catch (error) {
      // A lease that is not given back expires.
      if (!(error instanceof ProblemError || error instanceof UnreachableError)) throw error;
    }
  }

  /** Renewed with the token. */
  async #sayFarewell(): Promise<void> {
    const { token, key } = await this.#client.session();
    const url = `${this.#client.market}/v1/workers/${key}/leave`;
    this.#options.onFarewell?.({ url, token, body: JSON.stringify(this.#farewellBody) });
  }

  get #farewellBody(): LeaveRequest {
    return { instance: this.#options.instance, drain: false };
  }

  async #leave(): Promise<void> {
    this.#held.clear();
    this.#options.onFarewell?.(undefined);
    try {
      await this.#client.leave(this.#farewellBody);
    } catch (error) {
      // The market notices the silence.
      if (!(error instanceof ProblemError || error instanceof UnreachableError)) throw error;
    }
  }

  #unitDone(lease: Lease, unit: bigint, result: UnitResult): void {
    const now = Date.now();
    this.#finished.push(now);
    const { current } = this.#state;
    const units = this.#state.units + 1;
    this.#log('unit', `${lease.job}/${unit}`, result.deviceUs);
    if (current?.lease === lease.id) {
      const done = { ...current, unitsDone: current.unitsDone + 1, name: this.#names.get(lease.job) };
      this.#update({ units, current: done });
    } else {
      this.#update({ units });
    }
  }

  async #refreshEarnings(): Promise<void> {
    let earned = 0n;
    try {
      const { account } = await this.#client.session();
      earned = parseAmount((await this.#client.account(account)).earned);
      if (this.#state.wallet !== account) this.#update({ wallet: account });
    } catch (error) {
      if (error instanceof UnreachableError) return;
      // A wallet that never held anything is not known to the market.
      if (!(error instanceof ProblemError) || error.problem.status !== 404) throw error;
    }
    this.#earnedAtStart ??= earned;
    this.#update({ earned: String(earned), earnedNow: String(earned - this.#earnedAtStart) });
  }

  async #learnName(job: string): Promise<void> {
    if (this.#names.has(job)) return;
    try {
      const { name } = await this.#client.job(job);
      this.#names.set(job, name);
      const { current } = this.#state;
      if (current?.job === job) this.#update({ current: { ...current, name } });
    } catch {
      // Only a label.
    }
  }

  #log(kind: LogEntry['kind'], text: string, deviceUs?: number): void {
    const entry: LogEntry = {
      number: ++this.#logNumber,
      at: Date.now(),
      kind,
      text,
      ...(deviceUs !== undefined && { deviceUs }),
    };
    this.#update({ log: [entry, ...this.#state.log].slice(0, LOG_LENGTH) });
  }

  #update(change: Partial<ContributorState>): void {
    const now = Date.now();
    while ((this.#finished[0] ?? now) < now - RATE_WINDOW_MS) this.#finished.shift();
    const spanMs = now - (this.#finished[0] ?? now);
    const unitsPerMinute = spanMs > 0 ? ((this.#finished.length - 1) * 60_000) / spanMs : 0;
    this.#state = { ...this.#state, unitsPerMinute, ...change };
    this.#options.onState(this.#state);
  }
}

function unitsOf(lease: Lease): bigint[] {
  return lease.units.flatMap(({ first, count }) => {
    const start = parseU64(first);
    return Array.from({ length: count }, (_, i) => start + BigInt(i));
  });
}

/** Refuses a package whose units would bring more bytes than the manifest says that they take. */
function checkMemory(manifest: Manifest, lease: Lease): void {
  const bytes = lease.inputs.reduce((sum, { length }) => sum + parseU64(length), 0n);
  const bytesMax = manifest.limits.memory_bytes_max;
  if (bytes <= BigInt(bytesMax)) return;
  throw new ManifestError('limits.memory_bytes_max', `a unit's inputs have ${bytes} bytes, the limit is ${bytesMax}`);
}

function workingOn(lease: Lease, name: string | undefined): Reason {
  return reason('working', `Computing ${name ?? lease.job}.`);
}

function reason(code: string, text: string): Reason {
  return { code, text, facts: {} };
}

/** Why a lease is given back after this error; nothing when the market itself refused or is away. */
function causeOf(error: unknown): ReleaseCause | undefined {
  if (error instanceof GpuError) {
    if (error.kind === 'timed_out') return 'timed_out';
    return error.kind === 'program' ? 'program_failed' : 'device_failed';
  }
  if (error instanceof ManifestError || error instanceof ExpressionError || error instanceof SyntaxError)
    return 'program_failed';
  if (error instanceof RangeError) return 'program_failed';
  if (error instanceof BlobMismatchError || error instanceof BlobRangeError) return 'input_failed';
  if (error instanceof ProblemError) return error.problem.status === 404 ? 'input_failed' : undefined;
  return undefined;
}

/** Whether the market may take the same call later: it does not answer, is overloaded, or cannot write. */
function isAway(error: unknown): boolean {
  if (error instanceof UnreachableError) return true;
  return error instanceof ProblemError && [429, 500, 502, 503, 504].includes(error.problem.status);
}

/** What an error means for the whole worker. */
function judge(error: unknown): { reason: Reason; final: boolean } {
  if (error instanceof UnreachableError) {
    return { reason: reason('market_unreachable', 'The market does not answer. Trying again.'), final: false };
  }
  if (error instanceof GpuError) {
    if (error.kind === 'unavailable') {
      const text = `${error.message}. It may come back after a unit that ran too long; trying again.`;
      return { reason: reason('gpu_unavailable', text), final: false };
    }
    return { reason: reason(`gpu_${error.kind}`, `${sentence(error.message)} Opening the GPU again.`), final: false };
  }
  if (error instanceof ProblemError) {
    const { code, detail, fix, status } = error.problem;
    const text = `${sentence(detail)} ${fix}`.trim();
    // Another tab with this key may be gone soon, and a worker that the market forgot announces itself again.
    const passing = status >= 500 || code === 'worker_key_in_use' || code === 'worker_unknown' || status === 401;
    return { reason: reason(code, text), final: !passing };
  }
  return {
    reason: reason('internal', `Something went wrong: ${error instanceof Error ? error.message : String(error)}`),
    final: true,
  };
}

function sentence(text: string): string {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

/** Resolves after `ms`, or at once when `signal` aborts. */
function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal.addEventListener('abort', end);
  });
}
