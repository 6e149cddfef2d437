// The SDK's GPU runtime in every installed browser: the kernels' golden vectors, and what it does when a program misbehaves.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers } from './browsers.mjs';
import { root, serveSdk } from './sdkpage.mjs';

const kernels = JSON.parse(readFileSync(path.join(root, 'tests/vectors/kernels.json'), 'utf8'));

for (const [name, launch] of installedBrowsers()) {
  test(`${name} obeys manifests`, { timeout: 300_000 }, async (t) => {
    const origin = await serveSdk(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(origin);
    await page.evaluate(prepare);

    for (const vector of kernels) {
      await t.test(`kernel vector: ${vector.name}`, async () => {
        const wgsl = readFileSync(path.join(root, vector.wgsl), 'utf8');
        const outputs = await page.evaluate(runVector, { vector, wgsl });
        const wanted = vector.buffers.filter((buffer) => buffer.role === 'out');
        assert.equal(outputs.length, wanted.length);
        wanted.forEach((buffer, i) => agree(buffer, Buffer.from(outputs[i], 'base64'), Buffer.from(buffer.expect, 'base64')));
        if (!wgsl.includes('dot4I8Packed(')) return;
        // Once more with what stands in for the function where a browser lacks it: declared, it hides the built-in one.
        const standIn = await page.evaluate(withStandIns, wgsl);
        assert.notEqual(standIn, wgsl);
        assert.deepEqual(await page.evaluate(runVector, { vector, wgsl: standIn }), outputs);
      });
    }

    await t.test('automatic workgroup sizes give the same bytes on every unit', async () => {
      const answer = await page.evaluate(calibrate);
      assert.deepEqual(new Set(answer.sums), new Set([answer.expected]));
      assert.equal(answer.exploring, false, 'the search came to an end');
    });

    await t.test('units overlap, and buffers are zero before each one', async () => {
      const answer = await page.evaluate(overlap);
      // Each unit adds its input to an output that was cleared: nothing of an earlier unit shines through.
      assert.deepEqual(answer, Array.from({ length: 12 }, (_, unit) => [unit + 1, unit + 1, unit + 1, unit + 1]));
    });

    await t.test('WGSL that does not compile is the program’s fault, with its line', async () => {
      const error = await page.evaluate(brokenShader);
      assert.equal(error.kind, 'program');
      assert.match(error.message, /line 2/);
    });

    await t.test('a unit that outlives its limit ends, and a new device computes', async () => {
      const answer = await page.evaluate(endless);
      assert.equal(answer.kind, 'timed_out', answer.message);
      assert.equal(answer.recovered, 5);
    });
  });
}

/** Compares as the vector's manifest would. */
function agree({ dtype, compare }, found, expected) {
  assert.equal(found.length, expected.length);
  if (compare === 'exact') {
    assert.ok(found.equals(expected), 'the bytes differ');
    return;
  }
  assert.equal(dtype, 'f32');
  const [a, b] = [found, expected].map((bytes) => new Float32Array(Uint8Array.from(bytes).buffer));
  let [outliers, sum] = [0, 0];
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]);
    sum += difference;
    if (!(difference <= compare.abs + compare.rel * Math.max(Math.abs(a[i]), Math.abs(b[i])))) outliers++;
  }
  assert.ok(outliers / a.length <= compare.outliers_max, `${outliers} of ${a.length} elements differ`);
  assert.ok(sum / a.length <= (compare.mean_abs_max ?? Infinity), `the mean difference is ${sum / a.length}`);
}

// What follows runs in the page.

async function prepare() {
  const gpu = await import('@plexus/sdk/gpu');
  const { blobId } = await import('@plexus/sdk');
  const state = { device: await gpu.openDevice() };
  /** Runs `units` of a program over kernels given as text; buffers and passes as in a manifest. */
  globalThis.program = async ({ kernels, buffers, passes, timeMsMax = 60_000 }) => {
    const blobs = new Map();
    const named = {};
    for (const [name, { wgsl, ...kernel }] of Object.entries(kernels)) {
      const bytes = new TextEncoder().encode(wgsl);
      const blob = await blobId(bytes);
      blobs.set(blob, bytes);
      named[name] = { blob, entry: 'main', ...kernel };
    }
    const manifest = {
      version: 1,
      runtime: 'wgsl',
      kind: 'batch',
      program: { kernels: named, buffers, passes },
      limits: { memory_bytes_max: 1 << 26, time_ms_max: timeMsMax },
      verify: { policy: 'audit', rate_min: 1 },
    };
    return gpu.Program.create(state.device, manifest, async (hash) => blobs.get(hash));
  };
  globalThis.reopen = async () => {
    state.device = await gpu.openDevice();
  };
}

async function withStandIns(wgsl) {
  return (await import('@plexus/sdk/gpu')).withPackedFunctions(wgsl);
}

async function runVector({ vector, wgsl }) {
  const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const buffers = {};
  const inputs = [];
  let outputs = 0;
  vector.buffers.forEach(({ role, dtype, shape, data }, i) => {
    buffers[`b${i}`] = { [role === 'in' ? 'input' : 'output']: role === 'in' ? inputs.length : outputs, dtype, shape };
    if (role === 'in') inputs.push(bytesOf(data));
    else outputs++;
  });
  const passes = [{ kernel: 'k', bind: Object.keys(buffers), dispatch: vector.dispatch }];
  const program = await globalThis.program({
    kernels: { k: { wgsl, entry: vector.entry, overrides: vector.overrides } },
    buffers,
    passes,
  });
  const result = await program.run(inputs);
  program.dispose();
  return result.outputs.map((bytes) => btoa(String.fromCharCode(...bytes)));
}

async function calibrate() {
  const wgsl = `
    override WIDTH: u32 = 64;
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(WIDTH)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) { if id.x < arrayLength(&y) { y[id.x] = x[id.x] * 3u; } }`;
  const square = wgsl.replace('@workgroup_size(WIDTH)', '@workgroup_size(WIDTH, WIDTH)').replace('* 3u', '+ 1u');
  const program = await globalThis.program({
    kernels: { line: { wgsl, overrides: { WIDTH: 'auto' } }, square: { wgsl: square, overrides: { WIDTH: 'auto' } } },
    buffers: {
      x: { input: 0, dtype: 'u32', shape: [1000] },
      t: { scratch: true, dtype: 'u32', shape: [1000] },
      y: { output: 0, dtype: 'u32', shape: [1000] },
    },
    passes: [
      { kernel: 'line', bind: ['x', 't'], dispatch: ['ceil(1000/WIDTH)'] },
      { kernel: 'square', bind: ['t', 'y'], dispatch: ['ceil(1000/WIDTH)'] },
    ],
  });
  const x = Uint32Array.from({ length: 1000 }, (_, i) => i);
  const sums = [];
  let units = 0;
  while (program.exploring && units++ < 30) {
    const { outputs } = await program.run([new Uint8Array(x.buffer)]);
    sums.push(new Uint32Array(outputs[0].slice().buffer).reduce((a, b) => a + b));
  }
  const { outputs } = await program.run([new Uint8Array(x.buffer)]);
  sums.push(new Uint32Array(outputs[0].slice().buffer).reduce((a, b) => a + b));
  return { sums, expected: x.reduce((a, b) => a + 3 * b + 1, 0), exploring: program.exploring };
}

async function overlap() {
  const wgsl = `
    @group(0) @binding(0) var<uniform> x: vec4<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(4)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) { y[id.x] += x[id.x]; }`;
  const program = await globalThis.program({
    kernels: { k: { wgsl } },
    buffers: { x: { input: 0, dtype: 'u32', shape: [4] }, y: { output: 0, dtype: 'u32', shape: [4] } },
    passes: [{ kernel: 'k', bind: ['x', 'y'], dispatch: [1] }],
  });
  const units = Array.from({ length: 12 }, (_, i) => program.run([new Uint8Array(new Uint32Array(4).fill(i + 1).buffer)]));
  const results = await Promise.all(units);
  return results.map(({ outputs }) => [...new Uint32Array(outputs[0].slice().buffer)]);
}

async function brokenShader() {
  const wgsl = `@group(0) @binding(0) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(1) fn main() { y[0] = nothing; }`;
  const buffers = { y: { output: 0, dtype: 'u32', shape: [1] } };
  const passes = [{ kernel: 'k', bind: ['y'], dispatch: [1] }];
  try {
    await (await globalThis.program({ kernels: { k: { wgsl } }, buffers, passes })).run([]);
    return { kind: 'none', message: 'it ran' };
  } catch (error) {
    return { kind: error.kind, message: error.message };
  }
}

async function endless() {
  // A loop that never ends would stay in a software adapter's threads for ever, and lavapipe cuts it after 65,535 rounds. This
  // one has enough invocations to end by itself, seconds after its limit.
  const wgsl = `
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
      var value = x[0] + id.x;
      for (var i = 0u; i < x[1]; i++) { value = (value ^ (value >> 7u)) * 1664525u + 1013904223u; }
      if id.x == 0u || value == 1u { y[0] = value; }
    }`;
  const make = (timeMsMax) =>
    globalThis.program({
      kernels: { k: { wgsl } },
      buffers: { x: { input: 0, dtype: 'u32', shape: [2] }, y: { output: 0, dtype: 'u32', shape: [1] } },
      passes: [{ kernel: 'k', bind: ['x', 'y'], dispatch: [1024] }],
      timeMsMax,
    });
  const unit = (value, rounds) => [new Uint8Array(new Uint32Array([value, rounds]).buffer)];
  const answer = { kind: 'none', message: 'the loop ended', recovered: 0, attempts: 0 };
  const program = await make(1);
  await program.run(unit(1, 0));
  const started = performance.now();
  try {
    await program.run(unit(1, 65_000));
  } catch (error) {
    Object.assign(answer, { kind: error.kind, message: error.message });
  }
  answer.endedMs = performance.now() - started;
  // The browser answers for the GPU again once the work is out of it.
  for (; answer.recovered === 0; answer.attempts++) {
    try {
      await globalThis.reopen();
      const { outputs } = await (await make(60_000)).run(unit(5, 0));
      answer.recovered = outputs[0][0];
    } catch (error) {
      if (error.kind !== 'unavailable' && error.kind !== 'device_lost') throw error;
    }
  }
  answer.recoveredMs = performance.now() - started;
  return answer;
}
