// The corpus of hostile programs (tests/hostile) in every installed browser: what a tab runs is contained, and the next honest unit
// is right. A tab trusts no market, so what the market's check refuses is tried too, where a browser can be expected to survive it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers } from './browsers.mjs';
import { root, serveSdk } from './sdkpage.mjs';

const corpus = JSON.parse(readFileSync(path.join(root, 'tests/hostile/corpus.json'), 'utf8'));
const named = (name) => corpus.find((one) => one.name === name);
const honest = named('many-passes');

for (const [name, launch] of installedBrowsers()) {
  test(`${name} contains hostile programs`, { timeout: 600_000 }, async (t) => {
    const origin = await serveSdk(t);
    const browser = await launch({ log: (line) => t.diagnostic(line.slice(0, 300)) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(origin);
    await page.evaluate(prepare);

    for (const one of corpus) {
      const expected = { ...one, ...one.browser };
      if (expected.skip) continue;
      await t.test(one.name, async () => {
        if (one.after) isRight(named(one.after), await page.evaluate(runCase, written(named(one.after))));
        isRight(expected, await page.evaluate(runCase, written(expected)));
        isRight(honest, await page.evaluate(runCase, written(honest)));
      });
    }
  });
}

function isRight({ refused, gives, of, ends = [] }, end) {
  const shown = JSON.stringify(end).slice(0, 500);
  if (ends.includes('any')) return;
  if (end.words) {
    const right = (gives && end.words.join() === gives.join()) || (of && end.words.every((word) => of.includes(word)));
    assert.ok(right, shown);
  } else if (refused) {
    assert.equal(end.failed, 'program_failed', shown);
  } else {
    assert.ok(ends.includes(end.failed), shown);
  }
}

/** A case's kernel, manifest and inputs, as tests/hostile/corpus.rs writes them too. */
function written(one) {
  const text = (parts = []) =>
    parts
      .map((part) => {
        if (typeof part === 'string') return part;
        const texts = Array.from({ length: part.times }, (_, i) =>
          part.repeat.replaceAll('{i}', String(i)).replaceAll('{j}', String(i + 1)),
        );
        return texts.join('');
      })
      .join('\n');
  const wgsl = one.wgsl
    ? text(one.wgsl)
    : `@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
${text(one.module)}
@compute @workgroup_size(1)
fn main() {
${text(one.main)}
}`;
  const word = (source) => ({ [source]: 0, dtype: 'u32', shape: [4] });
  const passes = one.passes?.repeat ? new Array(one.passes.times).fill(one.passes.repeat) : one.passes;
  const manifest = {
    version: 1,
    runtime: 'wgsl',
    kind: 'batch',
    program: {
      kernels: { k: { blob: 'the text', entry: 'main', overrides: one.overrides ?? {} } },
      buffers: one.buffers ?? { x: word('input'), y: word('output') },
      passes: passes ?? [{ kernel: 'k', bind: ['x', 'y'], dispatch: [1] }],
    },
    limits: { memory_bytes_max: 2 ** 20, time_ms_max: 10_000, ...one.limits },
    needs: one.needs ?? {},
    verify: { policy: 'audit', rate_min: 0 },
  };
  for (const [pointer, value] of Object.entries(one.set ?? {})) {
    const keys = pointer.split('/').slice(1);
    const last = keys.pop();
    const parent = keys.reduce((at, key) => at[key], manifest);
    if (value === null) delete parent[last];
    // Not assigned: that would change an object's prototype.
    else Object.defineProperty(parent, last, { value, enumerable: true, configurable: true, writable: true });
  }
  const json = one.json ? text(one.json) : JSON.stringify(manifest);
  return { wgsl, json, inputs: one.inputs ?? [[11, 12, 13, 14]] };
}

// What follows runs in the page.

async function prepare() {
  const { openWebGpu } = await import('@plexus/sdk/worker');
  const { blobId, parseManifest } = await import('@plexus/sdk');
  let device = await openWebGpu();

  /** Another device, once the browser answers for its GPU again. */
  async function reopen() {
    device.destroy();
    for (;;) {
      try {
        device = await openWebGpu();
        return;
      } catch (error) {
        if (error.kind !== 'unavailable' && error.kind !== 'device_lost') throw error;
      }
    }
  }

  globalThis.runCase = async ({ wgsl, json, inputs }) => {
    const bytes = new TextEncoder().encode(wgsl);
    const blob = await blobId(bytes);
    const text = json.replaceAll('"the text"', JSON.stringify(blob));
    const fetched = async (hash) => {
      if (hash === blob) return bytes;
      throw new SyntaxError('there is no such blob');
    };
    const failed = (failed, error) => ({ failed, message: error.message });
    try {
      const manifest = parseManifest(JSON.parse(text));
      const program = await device.program(manifest, await blobId(new TextEncoder().encode(text)), fetched);
      const units = program.inputLengths.map((length, i) =>
        new Uint8Array(Uint32Array.from(inputs[i] ?? []).buffer).slice(0, length),
      );
      const { outputs } = await program.run(units);
      const [output] = outputs;
      return { words: [...new Uint32Array(output.slice(0, output.length - (output.length % 4)).buffer)] };
    } catch (error) {
      // As the worker tells a program's fault from the device's.
      if (['ManifestError', 'ExpressionError', 'SyntaxError', 'RangeError'].includes(error.name)) {
        return failed('program_failed', error);
      }
      if (error.name !== 'GpuError') throw error;
      if (error.kind === 'program') return failed('program_failed', error);
      await reopen();
      return failed(error.kind === 'timed_out' ? 'timed_out' : 'device_failed', error);
    }
  };
}

function runCase(written) {
  return globalThis.runCase(written);
}
