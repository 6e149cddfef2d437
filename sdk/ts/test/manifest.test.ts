// What a tab refuses of a manifest, whoever brought it.

import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import { BOUNDS, ManifestError, parseManifest } from '../src/manifest.js';

const hash = '0'.repeat(64);
const good = () => ({
  version: 1,
  runtime: 'wgsl',
  kind: 'batch',
  program: {
    kernels: { k: { blob: hash, entry: 'main', overrides: {} } },
    buffers: { x: { input: 0, dtype: 'u8', shape: [7] }, y: { output: 0, dtype: 'f32', shape: [4, 4] } },
    passes: [{ kernel: 'k', bind: ['x', 'y'], dispatch: [1] }],
  },
  limits: { memory_bytes_max: 72, time_ms_max: 1000 },
  verify: { policy: 'audit', rate_min: 0.5 },
});

test('bounds are those of the market’s check', () => {
  const rust = readFileSync(new URL('../../../crates/program/src/lib.rs', import.meta.url), 'utf8');
  for (const [name, bound] of Object.entries(BOUNDS)) {
    const [, text = ''] = new RegExp(`pub const ${name}: \\w+ = (.*);`).exec(rust) ?? [];
    // Shifts in JavaScript are those of 32 bits.
    const numbers = text.replace(/\(?(\d+) << (\d+)\)?/, (_, n: string, bits: string) =>
      String(Number(n) * 2 ** Number(bits)),
    );
    expect(numbers, name).toMatch(/^[0-9 *-]+$/);
    const value = numbers.split(' - ').map((part) =>
      part
        .split(' * ')
        .map(Number)
        .reduce((a, b) => a * b),
    );
    expect(
      value.reduce((a, b) => a - b),
      name,
    ).toBe(bound);
  }
});

test('a manifest within its bounds is read', () => {
  expect(parseManifest(good())).toEqual(good());
});

test('what takes more than it may is refused', () => {
  const refuses = (change: (manifest: ReturnType<typeof good> & Record<string, any>) => void, field: string) => {
    const manifest = good();
    change(manifest);
    expect(() => parseManifest(manifest), field).toThrow(expect.objectContaining({ name: 'ManifestError', field }));
  };
  refuses((m) => (m.limits.memory_bytes_max = 71), 'limits.memory_bytes_max');
  refuses((m) => (m.limits.memory_bytes_max = Number.MAX_SAFE_INTEGER), 'limits.memory_bytes_max');
  refuses((m) => (m.limits.time_ms_max = 2 ** 32), 'limits.time_ms_max');
  refuses((m) => (m.limits.time_ms_max = 0), 'limits.time_ms_max');
  refuses((m) => (m.program.buffers.x.shape = [0]), 'program.buffers.x.shape');
  refuses((m) => (m.program.buffers.x.shape = []), 'program.buffers.x.shape');
  refuses((m) => (m.program.buffers.x.shape = new Array(8).fill(2 ** 32 - 1)), 'program.buffers.x.shape');
  refuses((m) => (m.program.passes = new Array(65).fill(m.program.passes[0])), 'program.passes');
  refuses((m) => (m.program.passes = []), 'program.passes');
  refuses((m) => (m.program.passes[0]!.bind = new Array(9).fill('x')), 'program.passes[0].bind');
  refuses((m) => (m.program.passes[0]!.dispatch = [1, 1, 1, 1]), 'program.passes[0].dispatch');
  for (const name of ['', 'a b', 'a'.repeat(33), '1', '<b>', 'a\nb']) {
    const manifest = good();
    manifest.program.buffers = { ...manifest.program.buffers, [name]: { input: 1, dtype: 'u8', shape: [1] } } as never;
    manifest.limits.memory_bytes_max = 1000;
    expect(() => parseManifest(manifest), name).toThrow(ManifestError);
  }
});
