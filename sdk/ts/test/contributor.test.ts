// The contributor against a market and a device that the test plays.

import { afterEach, expect, test } from 'vitest';

import type { InputSplit, Lease, Manifest, SignedReceipt, UnitRun } from '../src/api.js';
import { packageRoot, receiptBytes } from '../src/bytes.js';
import { Client } from '../src/client.js';
import { GpuError } from '../src/gpu/index.js';
import { blobId } from '../src/hash.js';
import { keyBytes, signatureBytes, webCryptoSigner } from '../src/keys.js';
import { verifyStrict } from '../src/verify.js';
import { type ComputeDevice, Contributor, type ContributorState, type Farewell } from '../src/worker/index.js';

const manifest: Manifest = {
  version: 1,
  runtime: 'wgsl',
  kind: 'batch',
  program: {
    kernels: { k: { blob: '0'.repeat(64), entry: 'main' } },
    buffers: { x: { input: 0, dtype: 'u8', shape: [4] }, y: { output: 0, dtype: 'u8', shape: [4] } },
    passes: [{ kernel: 'k', bind: ['x', 'y'], dispatch: [1] }],
  },
  limits: { memory_bytes_max: 1024, time_ms_max: 1000 },
  verify: { policy: 'audit', rate_min: 0.1 },
};
const encoder = new TextEncoder();

/** A market that gives out prepared leases and remembers what it was told. */
class FakeMarket {
  readonly calls: { path: string; body: any; range?: string }[] = [];
  readonly receipts: SignedReceipt[] = [];
  readonly blobs = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly leases: Lease[] = [];
  /** Of leases given out, and of those that covered the rest of one. */
  readonly given = new Map<string, Lease>();
  /** A market that takes no receipts for parts, as for checks. */
  wholeOnly = false;
  readonly address = 'http://market.test';
  /** Answers instead of the ordinary one. */
  override: ((path: string, body: any) => Response | undefined) | undefined;
  #polls: (() => void)[] = [];
  #address = '';

  async addLease(units: number, first = 0, large?: { blob: Uint8Array<ArrayBuffer>; stride: number }): Promise<Lease> {
    const put = async (bytes: Uint8Array<ArrayBuffer>) => {
      const hash = await blobId(bytes);
      this.blobs.set(hash, bytes);
      return hash;
    };
    const input = await put(large?.blob ?? Uint8Array.from({ length: 40 }, (_, i) => i));
    const lease: Lease = {
      id: `lease-${this.leases.length + this.calls.length + 1}`,
      generation: 3,
      job: 'job-1',
      manifest: await put(encoder.encode(JSON.stringify(manifest))),
      units: [{ first: String(first), count: units }],
      inputs: [{ blob: input, offset: '0', stride: String(large?.stride ?? 4), length: '4' }],
      expires_in_ms: 10_000,
    };
    this.leases.push(lease);
    for (const wake of this.#polls.splice(0)) wake();
    return lease;
  }

  /** Takes a batch apart. */
  async #store(batch: Uint8Array<ArrayBuffer>): Promise<string[]> {
    const view = new DataView(batch.buffer, batch.byteOffset);
    const count = view.getUint32(0, true);
    const hashes: string[] = [];
    let at = 4 + 4 * count;
    for (let i = 0; i < count; i++) {
      const bytes = batch.slice(at, at + view.getUint32(4 + 4 * i, true));
      at += bytes.length;
      hashes.push(await blobId(bytes));
      this.blobs.set(hashes.at(-1) as string, bytes);
    }
    expect(at).toBe(batch.length);
    return hashes;
  }

  /** Takes a receipt for the first units of its lease too, and goes on with a lease of the rest. */
  #commit(signed: SignedReceipt) {
    const { lease: id, units } = signed.receipt;
    const lease = this.given.get(id) as Lease;
    const [run] = lease.units as [UnitRun];
    const left = run.count - units;
    if (left > 0 && this.wholeOnly) {
      const problem = { status: 422, code: 'receipt_invalid', detail: 'it covers a part', fix: '' };
      return { status: 'refused', lease: id, problem };
    }
    this.receipts.push(signed);
    if (left === 0) return { status: 'accepted', lease: id, paid: '7' };
    const rest = { ...lease, id: `${id}0`, units: [{ first: String(Number(run.first) + units), count: left }] };
    this.given.set(rest.id, rest);
    return { status: 'accepted', lease: id, paid: '7', rest };
  }

  fetch = async (url: any, init: any = {}): Promise<Response> => {
    const path = String(url).slice(this.address.length);
    const body = typeof init.body === 'string' ? JSON.parse(init.body) : init.body;
    init.signal?.throwIfAborted();
    const range = init.headers?.range;
    this.calls.push({ path, body, ...(range && { range }) });
    const other = this.override?.(path, body);
    if (other) return other;
    const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status });
    if (path === '/v1/blobs') return json({ blobs: await this.#store(body) });
    if (path.startsWith('/v1/blobs/')) {
      const hash = path.slice('/v1/blobs/'.length);
      if (init.method === 'PUT') this.blobs.set(hash, body.slice());
      const bytes = this.blobs.get(hash);
      if (!bytes) return json({ status: 404, code: 'not_found', detail: 'no such blob', fix: '' }, 404);
      if (init.method === 'HEAD') return new Response(null, { headers: { 'content-length': String(bytes.length) } });
      return range ? rangeOf(bytes, range) : new Response(bytes);
    }
    switch (path) {
      case '/v1/market':
        return json({ market: (await signer()).address, heartbeat_ms_max: 150 });
      case '/v1/auth/challenge':
        this.#address = body.address;
        return json({ nonce: 'n', message: 'sign me', expires_at: '' });
      case '/v1/auth/login':
        return json({
          token: 't',
          expires_at: new Date(Date.now() + 600_000).toISOString(),
          account: this.#address,
          key: this.#address,
        });
      case '/v1/workers':
        return json({ reason: { code: 'no_work', text: 'There is no job.', facts: {} } });
      case '/v1/leases': {
        if (this.leases.length === 0) {
          await new Promise<void>((resolve, reject) => {
            this.#polls.push(resolve);
            init.signal?.addEventListener('abort', () => reject(init.signal.reason));
          });
        }
        for (const lease of this.leases.slice(0, 1)) this.given.set(lease.id, lease);
        return json({ leases: this.leases.splice(0, 1) });
      }
      case '/v1/receipts':
        return json({ results: body.receipts.map((receipt: SignedReceipt) => this.#commit(receipt)) });
    }
    if (path.endsWith('/heartbeat'))
      return json({ lost: [], reason: { code: 'no_work', text: 'There is no job.', facts: {} } });
    if (path.startsWith('/v1/accounts/')) return json({ earned: String(7 * this.receipts.length) });
    if (path.startsWith('/v1/jobs/')) return json({ name: 'counting' });
    return json({});
  };
}

/** As RFC 9110 and the market answer a range. */
function rangeOf(bytes: Uint8Array<ArrayBuffer>, range: string): Response {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? [];
  const part = bytes.slice(Number(first), Number(last) + 1);
  const headers = { 'content-range': `bytes ${first}-${last}/${bytes.length}`, 'content-length': String(part.length) };
  return new Response(part, { status: 206, headers });
}

async function signer() {
  return webCryptoSigner((await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair);
}

/** A device that adds one to every byte. */
function adder(run?: () => Promise<void>): ComputeDevice & { lose: (error: Error) => void } {
  let lose: (error: Error) => void = () => {};
  const lost = new Promise<Error>((resolve) => (lose = resolve));
  return {
    facts: { kind: 'browser', adapter: 'adder', vendor: '', backend: 'webgpu', features: [], limits: {} as never },
    lost,
    lose,
    destroy: () => lose(new GpuError('device_lost', 'closed')),
    async program() {
      return {
        async run([input]) {
          await run?.();
          return { outputs: [(input as Uint8Array<ArrayBuffer>).map((byte) => byte + 1)], deviceUs: 5 };
        },
      };
    },
  };
}

const running: Contributor[] = [];
afterEach(async () => {
  await Promise.all(running.splice(0).map((contributor) => contributor.stop()));
});

async function contribute(
  market: FakeMarket,
  openDevice: () => Promise<ComputeDevice>,
  options: { checkpointMs?: number } = {},
) {
  const key = await signer();
  const client = new Client({ market: market.address, signer: key, fetch: market.fetch as typeof fetch });
  const farewells: (Farewell | undefined)[] = [];
  let waiting: { met: (state: ContributorState) => boolean; resolve: () => void }[] = [];
  const contributor = new Contributor({
    client,
    openDevice,
    blob: (hash) => client.blob(hash),
    instance: 'tab-1',
    ...options,
    version: 'test/1',
    onFarewell: (farewell) => farewells.push(farewell),
    onState: (state) => {
      waiting = waiting.filter(({ met, resolve }) => !met(state) || resolve());
    },
  });
  running.push(contributor);
  const until = (met: (state: ContributorState) => boolean) =>
    met(contributor.state) ? Promise.resolve() : new Promise<void>((resolve) => waiting.push({ met, resolve }));
  return { contributor, until, key, farewells };
}

const paid = (count: number) => (state: ContributorState) =>
  state.log.filter((entry) => entry.kind === 'paid').length >= count;

test('packages are computed, uploaded and committed to with a valid signature', async () => {
  const market = new FakeMarket();
  const first = await market.addLease(3);
  await market.addLease(2, 8);
  const { contributor, until, key } = await contribute(market, async () => adder());
  contributor.start();
  await until((state) => paid(2)(state) && state.earnedNow === '14');

  const [signed, second] = market.receipts;
  expect(signed?.receipt).toMatchObject({
    lease: first.id,
    generation: 3,
    job: 'job-1',
    units: 3,
    adapter: 'adder',
    device_us: '15',
  });
  expect(signed?.units.map((unit) => unit.unit)).toEqual(['0', '1', '2']);
  const leaves = signed?.units.map((unit) => ({ job: 'job-1', ...unit })) ?? [];
  expect(signed?.receipt.package_root).toBe(packageRoot(leaves));
  const bytes = receiptBytes(signed?.receipt as never);
  expect(verifyStrict(keyBytes(key.address), bytes, signatureBytes(signed?.signature ?? ''))).toBe(true);
  expect([...(market.blobs.get(signed?.units[1]?.outputs[0]?.blob ?? '') ?? [])]).toEqual([5, 6, 7, 8]);
  // The second package's last unit lies beyond the blob's end.
  expect([...(market.blobs.get(second?.units[1]?.outputs[0]?.blob ?? '') ?? [])]).toEqual([37, 38, 39, 40]);
  expect(contributor.state).toMatchObject({ units: 5, adapter: 'adder' });
});

/** 9 MiB, more than is fetched whole, with a number in each MiB that says which it is. */
function largeBlob(): { blob: Uint8Array<ArrayBuffer>; stride: number } {
  const stride = 1024 * 1024;
  const blob = new Uint8Array(9 * stride);
  for (let at = 0; at < blob.length; at += stride) blob.fill(at / stride, at, at + 4);
  return { blob, stride };
}

test('of a large blob only what the units need is fetched', async () => {
  const market = new FakeMarket();
  const large = largeBlob();
  const lease = await market.addLease(3, 7, large);
  await market.addLease(1, 2, large);
  const { contributor, until } = await contribute(market, async () => adder());
  contributor.start();
  await until(paid(2));
  const blob = `/v1/blobs/${(lease.inputs[0] as InputSplit).blob}`;
  const MiB = 1024 * 1024;
  const asked = market.calls.filter((call) => call.path === blob).map((call) => call.range);
  // The length is asked for once, without a range; the third unit lies beyond the end and needs nothing.
  const ranges = [undefined, `bytes=${7 * MiB}-${7 * MiB + 3}`, `bytes=${8 * MiB}-${8 * MiB + 3}`];
  expect(asked).toEqual([...ranges, `bytes=${2 * MiB}-${2 * MiB + 3}`]);
  const outputs = market.receipts.flatMap(({ units }) => units.map((unit) => unit.outputs[0]?.blob ?? ''));
  expect(outputs.map((output) => market.blobs.get(output)?.[0])).toEqual([8, 9, 1, 3]);
});

test('an answer that is not the range gives the package back', async () => {
  for (const wrong of [
    () => new Response(new Uint8Array(4)),
    () => new Response(new Uint8Array(3), { status: 206, headers: { 'content-range': 'bytes 0-3/9437184' } }),
    () => new Response(new Uint8Array(4), { status: 206, headers: { 'content-range': 'bytes 4-7/9437184' } }),
  ]) {
    const market = new FakeMarket();
    const lease = await market.addLease(1, 0, largeBlob());
    market.override = () => (market.calls.at(-1)?.range ? wrong() : undefined);
    const { contributor, until } = await contribute(market, async () => adder());
    contributor.start();
    await until((state) => state.log.some((entry) => entry.kind === 'problem'));
    await market.addLease(1);
    await until(paid(1));
    const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}/release`);
    expect(released?.body).toMatchObject({ cause: 'input_failed' });
  }
});

test('a pause does not wait for a range that does not come', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(3, 0, largeBlob());
  const fetched = market.fetch;
  let asked: () => void = () => {};
  const waiting = new Promise<void>((resolve) => (asked = resolve));
  market.fetch = async (url, init: any = {}) => {
    if (!init.headers?.range) return fetched(url, init);
    return new Promise<Response>((_, reject) => {
      init.signal.addEventListener('abort', () => reject(init.signal.reason));
      asked();
    });
  };
  const { contributor } = await contribute(market, async () => adder());
  contributor.start();
  await waiting;
  await contributor.pause();
  const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}/release`);
  expect(released?.body).toMatchObject({ cause: 'leaving' });
});

test('inputs beyond the memory that the manifest claims are refused before they are fetched', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1);
  const input = lease.inputs[0] as InputSplit;
  input.length = '1025';
  const { contributor, until } = await contribute(market, async () => adder());
  contributor.start();
  await until((state) => state.log.some((entry) => entry.kind === 'problem'));
  await market.addLease(1, 1);
  await until(paid(1));
  const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}/release`);
  expect(released?.body).toMatchObject({ cause: 'program_failed' });
  const first = market.calls.findIndex((call) => call.path.endsWith('/release'));
  expect(market.calls.slice(0, first).some((call) => call.path.endsWith(input.blob))).toBe(false);
});

test('every output is there before the receipt that names it', async () => {
  const market = new FakeMarket();
  await market.addLease(4);
  market.override = (path, body) => {
    if (path !== '/v1/receipts') return undefined;
    for (const unit of body.receipts[0].units)
      for (const output of unit.outputs) expect(market.blobs.has(output.blob)).toBe(true);
    return undefined;
  };
  const { contributor, until } = await contribute(market, async () => adder());
  contributor.start();
  await until(paid(1));
  expect(market.receipts).toHaveLength(1);
});

test('a pause commits what is finished, gives the rest back and leaves; resume goes on', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1000);
  let go: () => void = () => {};
  const blocked = new Promise<void>((resolve) => (go = resolve));
  let started = 0;
  const device = adder(() => (started++ === 0 ? new Promise((resolve) => setTimeout(resolve, 20)) : blocked));
  const { contributor, until } = await contribute(market, async () => device);
  contributor.start();
  await until((state) => state.units === 1);
  const pausing = contributor.pause();
  expect(contributor.state.phase).toBe('pausing');
  go();
  await pausing;
  expect(contributor.state.phase).toBe('paused');
  expect(market.receipts[0]?.receipt).toMatchObject({ lease: lease.id, units: contributor.state.units });
  const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}0/release`);
  expect(released?.body).toMatchObject({ generation: 3, cause: 'leaving' });
  expect(market.calls.at(-1)?.path).toMatch(/\/leave$/);

  await market.addLease(1);
  contributor.start();
  await until(paid(2));
  expect(market.receipts).toHaveLength(2);
});

test('a long package is committed in parts, each under the lease of what was left', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(40);
  const device = adder(() => new Promise((resolve) => setTimeout(resolve, 5)));
  const { contributor, until } = await contribute(market, async () => device, { checkpointMs: 20 });
  contributor.start();
  await until((state) => state.units === 40 && market.receipts.flatMap(({ units }) => units).length === 40);
  expect(market.receipts.length).toBeGreaterThan(2);
  const units = market.receipts.flatMap((signed) => signed.units.map(({ unit }) => Number(unit)));
  expect(units).toEqual(Array.from({ length: 40 }, (_, i) => i));
  expect(market.receipts.map(({ receipt }) => receipt.lease)).toEqual(
    market.receipts.map((_, i) => lease.id + '0'.repeat(i)),
  );
  const deviceUs = market.receipts.reduce((sum, { receipt }) => sum + Number(receipt.device_us), 0);
  expect(deviceUs).toBe(40 * 5);
});

test('where only the whole counts, the whole is committed', async () => {
  const market = new FakeMarket();
  market.wholeOnly = true;
  await market.addLease(20);
  const device = adder(() => new Promise((resolve) => setTimeout(resolve, 5)));
  const { contributor, until } = await contribute(market, async () => device, { checkpointMs: 10 });
  contributor.start();
  await until(paid(1));
  expect(market.receipts.map(({ units }) => units.length)).toEqual([20]);
  expect(market.calls.filter(({ path }) => path === '/v1/receipts')).toHaveLength(2);
});

test('a package that the market wants back is committed in part, and the rest released', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1000);
  market.override = (path, body) => {
    if (!path.endsWith('/heartbeat') || !body.leases.includes(lease.id)) return undefined;
    return new Response(
      JSON.stringify({ lost: [], yields: [lease.id], reason: { code: 'busy', text: '', facts: {} } }),
    );
  };
  const device = adder(() => new Promise((resolve) => setTimeout(resolve, 5)));
  const { contributor, until } = await contribute(market, async () => device);
  contributor.start();
  await until((state) => state.log.some((entry) => entry.kind === 'note'));
  const { units } = contributor.state;
  await market.addLease(1);
  await until(paid(2));
  const released = market.calls.find((call) => call.path.endsWith('/release'));
  expect(released?.path).toBe(`/v1/leases/${lease.id}0/release`);
  expect(released?.body).toMatchObject({ cause: 'leaving' });
  expect(market.receipts.map((receipt) => receipt.units.length)).toEqual([units, 1]);
});

test('the announcement says what the device can do and what the tab asks', async () => {
  const market = new FakeMarket();
  const device = { ...adder(), claims: { claimed_mflops: '1500', memory_bytes: '64', flaws: [] } };
  const { contributor, until } = await contribute(market, async () => device);
  contributor.ask = '250';
  contributor.start();
  await until((state) => state.phase === 'waiting');
  const announced = market.calls.find(({ path }) => path === '/v1/workers');
  expect(announced?.body.offer).toEqual({ claimed_mflops: '1500', memory_bytes: '64', flaws: [], ask: '250' });
});

test('a unit that never ends costs the lease, and a new device computes', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1);
  let opened = 0;
  const openDevice = async () => {
    const device = adder(async () => {
      if (opened > 1) return;
      const error = new GpuError('timed_out', 'a unit ran longer than 1000 ms');
      device.lose(error);
      throw error;
    });
    opened++;
    return device;
  };
  const { contributor, until } = await contribute(market, openDevice);
  contributor.start();
  await until((state) => state.reason.code === 'gpu_timed_out');
  const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}/release`);
  expect(released?.body).toMatchObject({ cause: 'timed_out' });
  await market.addLease(1);
  await until(paid(1));
  expect(opened).toBe(2);
});

test('a program that the device refuses is given back, and the next package runs', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1);
  let runs = 0;
  const device = adder(async () => {
    if (runs++ === 0) throw new GpuError('program', 'kernel k: no such binding');
  });
  const { contributor, until } = await contribute(market, async () => device);
  contributor.start();
  await until((state) => state.log.some((entry) => entry.kind === 'problem'));
  await market.addLease(1);
  await until(paid(1));
  const released = market.calls.find((call) => call.path === `/v1/leases/${lease.id}/release`);
  expect(released?.body).toMatchObject({ cause: 'program_failed', detail: 'kernel k: no such binding' });
});

test('a lease that the market took away is dropped without a receipt', async () => {
  const market = new FakeMarket();
  const lease = await market.addLease(1000);
  market.override = (path, body) => {
    if (!path.endsWith('/heartbeat') || !body.leases.includes(lease.id)) return undefined;
    return new Response(JSON.stringify({ lost: [lease.id], reason: { code: 'idle', text: 'idle', facts: {} } }));
  };
  const device = adder(() => new Promise((resolve) => setTimeout(resolve, 5)));
  const { contributor, until } = await contribute(market, async () => device);
  contributor.start();
  await until((state) => state.log.some((entry) => entry.kind === 'note'));
  expect(market.receipts).toHaveLength(0);
});

test('a receipt waits for a market that is away', async () => {
  const market = new FakeMarket();
  await market.addLease(1);
  let away = 6;
  market.override = (path) => {
    if (path === '/v1/receipts' && away-- > 0) throw new TypeError('connection refused');
    return undefined;
  };
  const { contributor, until } = await contribute(market, async () => adder());
  contributor.start();
  await until(paid(1));
  expect(market.receipts).toHaveLength(1);
});

test('a market that cannot write for a while costs no work', async () => {
  const market = new FakeMarket();
  await market.addLease(1);
  let refusals = 0;
  market.override = (path) => {
    if (path !== '/v1/receipts' && !path.endsWith('/heartbeat')) return undefined;
    // Until a heartbeat was refused too; 502 is what a proxy says while the market restarts.
    if (market.calls.filter((call) => call.path.endsWith('/heartbeat')).length > 3) return undefined;
    return new Response('', { status: refusals++ % 2 ? 502 : 503 });
  };
  const { contributor, until } = await contribute(market, async () => adder());
  contributor.start();
  await until(paid(1));
  expect(market.receipts).toHaveLength(1);
  expect(market.calls.filter((call) => call.path === '/v1/workers')).toHaveLength(1);
});

test('a page that closes can send the farewell itself', async () => {
  const market = new FakeMarket();
  await market.addLease(1);
  const { contributor, until, key, farewells } = await contribute(market, async () => adder());
  contributor.start();
  await until(paid(1));
  expect(farewells.at(-1)).toMatchObject({ url: `${market.address}/v1/workers/${key.address}/leave`, token: 't' });
  expect(JSON.parse(farewells.at(-1)?.body ?? '')).toEqual({ instance: 'tab-1', drain: false });
  await contributor.stop();
  expect(farewells.at(-1)).toBeUndefined();
});

test('no GPU is touched before Start, and a missing one is told', async () => {
  const market = new FakeMarket();
  let opened = 0;
  const { contributor, until } = await contribute(market, async () => {
    opened++;
    throw new GpuError('unavailable', 'the browser offers no adapter');
  });
  expect(opened).toBe(0);
  expect(contributor.state.phase).toBe('stopped');
  contributor.start();
  await until((state) => state.reason.code === 'gpu_unavailable');
  expect(opened).toBe(1);
});
