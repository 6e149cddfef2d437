// What a package's units see of their inputs, and what is fetched for it.

import { expect, test } from 'vitest';

import type { InputSplit } from '../src/api.js';
import { unitInput } from '../src/split.js';
import { GAP_BYTES_MAX, PackageInputs, REQUEST_BYTES_MAX, WHOLE_BYTES_MAX, spansOf } from '../src/worker/inputs.js';

const MIB = 1024 * 1024;
const split = (offset: number, stride: number, length: number): InputSplit => ({
  blob: 'b',
  offset: String(offset),
  stride: String(stride),
  length: String(length),
});
const run = (first: number, count: number) => Array.from({ length: count }, (_, i) => BigInt(first + i));
/** Bytes that differ wherever two units could be confused. */
const blobOf = (length: number) => {
  const blob = new Uint8Array(length);
  for (let i = 0; i < length; i++) blob[i] = (i ^ (i >> 8) ^ (i >> 16)) & 0xff;
  return blob;
};

/** A source that writes down what it is asked for. */
function sourceOf(blob: Uint8Array<ArrayBuffer>) {
  const asked: string[] = [];
  return {
    asked,
    length: async () => blob.length,
    whole: async () => {
      asked.push('whole');
      return blob;
    },
    range: async (_: string, start: number, end: number) => {
      asked.push(`${start}-${end}`);
      return blob.slice(start, end);
    },
  };
}

test('neighbouring ranges become one request, distant ones their own, none beyond the end', () => {
  const cases: [InputSplit, bigint[], number, [number, number, number][]][] = [
    [split(100, 10, 10), run(3, 4), 10_000, [[130, 170, 3]]],
    // Overlapping units, and the blob's end.
    [split(0, 10, 15), run(0, 3), 32, [[0, 32, 2]]],
    [split(0, 10, 10), run(8, 4), 95, [[80, 95, 1]]],
    [split(0, 10, 10), run(20, 2), 95, []],
    // A gap that is worth fetching, and one that is not.
    [split(0, GAP_BYTES_MAX + 8, 8), run(0, 2), 2 * MIB, [[0, GAP_BYTES_MAX + 16, 1]]],
    [
      split(0, GAP_BYTES_MAX + 9, 8),
      run(0, 2),
      2 * MIB,
      [
        [0, 8, 0],
        [GAP_BYTES_MAX + 9, GAP_BYTES_MAX + 17, 1],
      ],
    ],
    // Two runs, the later one first.
    [
      split(0, 10, 10),
      [5n, 6n, 1n, 2n],
      1000,
      [
        [50, 70, 1],
        [10, 30, 3],
      ],
    ],
    // No request grows without bound, but a unit is never cut.
    [
      split(0, REQUEST_BYTES_MAX / 2, REQUEST_BYTES_MAX / 2),
      run(0, 3),
      10 * REQUEST_BYTES_MAX,
      [
        [0, REQUEST_BYTES_MAX, 1],
        [REQUEST_BYTES_MAX, 1.5 * REQUEST_BYTES_MAX, 2],
      ],
    ],
    [
      split(0, 2 * REQUEST_BYTES_MAX, 2 * REQUEST_BYTES_MAX),
      run(1, 1),
      10 * REQUEST_BYTES_MAX,
      [[2 * REQUEST_BYTES_MAX, 4 * REQUEST_BYTES_MAX, 0]],
    ],
  ];
  for (const [of, units, bytes, expected] of cases) {
    expect(spansOf(of, units, bytes).map(({ start, end, last }) => [start, end, last])).toEqual(expected);
  }
});

test('units see the same of a large blob as of the whole', async () => {
  const blob = blobOf(WHOLE_BYTES_MAX + 1000);
  for (const of of [split(4, 7, 9), split(0, 100_000, 5), split(1, MIB, 2 * MIB), split(WHOLE_BYTES_MAX, 300, 301)]) {
    const source = sourceOf(blob);
    const units = [...run(3, 9), ...run(0, 2), 1000n];
    const inputs = await PackageInputs.open(source, [of], units);
    for (const [position, unit] of units.entries()) {
      const [seen] = await inputs.unit(position);
      expect(Buffer.compare(seen as Uint8Array, unitInput(of, unit, blob)), `unit ${unit}`).toBe(0);
    }
    expect(source.asked).not.toContain('whole');
    expect(new Set(source.asked).size).toBe(source.asked.length);
  }
});

test('what every unit shares, and what is small, comes whole', async () => {
  const units = run(0, 2);
  for (const [of, bytes] of [
    [split(8, 0, 16), WHOLE_BYTES_MAX + 1000],
    [split(8, 16, 16), WHOLE_BYTES_MAX],
  ] as const) {
    const source = sourceOf(blobOf(bytes));
    const inputs = await PackageInputs.open(source, [of], units);
    await inputs.unit(1);
    expect(source.asked).toEqual(['whole']);
  }
});

test('requests run a little ahead of the unit that computes', async () => {
  const source = sourceOf(new Uint8Array(40 * MIB));
  const inputs = await PackageInputs.open(source, [split(0, MIB, 4)], run(0, 40));
  expect(source.asked).toHaveLength(5);
  await inputs.unit(1);
  expect(source.asked).toHaveLength(6);
  // Large ones: the current and the next.
  const large = sourceOf(new Uint8Array(4 * REQUEST_BYTES_MAX));
  await PackageInputs.open(large, [split(0, REQUEST_BYTES_MAX, REQUEST_BYTES_MAX)], run(0, 4));
  expect(large.asked).toHaveLength(2);
});

test('other units’ outputs are one input, one after the other', async () => {
  const blobs: Record<string, Uint8Array<ArrayBuffer>> = {
    a: Uint8Array.of(1, 2, 3),
    b: new Uint8Array(),
    c: Uint8Array.of(4),
    d: Uint8Array.of(5, 6),
  };
  const asked: string[] = [];
  const source = {
    whole: async (hash: string) => {
      asked.push(hash);
      return blobs[hash] as Uint8Array<ArrayBuffer>;
    },
    length: async () => 0,
    range: async () => new Uint8Array(),
  };
  const cases: [first: number, count: number, offset: string, expected: number[]][] = [
    [0, 4, '0', [1, 2, 3, 4]],
    [0, 4, '2', [3, 4, 5, 6]],
    [0, 1, '1', [2, 3, 0, 0]],
    [2, 2, '0', [4, 5, 6, 0]],
    [0, 4, '18446744073709551615', [0, 0, 0, 0]],
    [1, 0, '0', [0, 0, 0, 0]],
  ];
  const units = cases.map(([first, count, offset]) => ({ first, count, offset }));
  const input = { blobs: ['a', 'b', 'c', 'd'], units, length: '4' };
  const inputs = await PackageInputs.open(source, [input], run(0, cases.length));
  for (const [position, [, , , expected]] of cases.entries()) {
    expect([...((await inputs.unit(position))[0] ?? [])]).toEqual(expected);
  }
  expect(new Set(asked)).toEqual(new Set(['a', 'b', 'c', 'd']));
  const beyond = { ...input, units: [{ first: 3, count: 2, offset: '0' }] };
  await expect(PackageInputs.open(source, [beyond], run(0, 1))).rejects.toThrow(RangeError);
});
