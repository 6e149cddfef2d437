// The golden vectors of challenges and openings that Rust writes.

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

import type { ChallengeChain, Opening } from '../src/api.js';
import { chainHas, drawOf, epochAt, isDrawn, keyBelow, ratesOf } from '../src/challenge.js';
import { isChunk, openingFault } from '../src/opening.js';

const vectors = JSON.parse(readFileSync(new URL('../../../tests/vectors/openings.json', import.meta.url), 'utf8'));

test('keys lead to their anchor and to no other epoch', () => {
  for (const { chain, last, keys, epochs } of vectors.chains as {
    chain: ChallengeChain;
    last: string;
    keys: { epoch: string; key: string }[];
    epochs: { at_ms: string; epoch: string }[];
  }[]) {
    for (const { epoch, key } of keys) {
      expect(chainHas(chain, BigInt(epoch), key)).toBe(true);
      expect(chainHas(chain, BigInt(epoch) + 1n, key)).toBe(false);
      expect(chainHas(chain, BigInt(epoch) - 1n, key)).toBe(false);
      expect(keyBelow(last, BigInt(chain.epochs) - BigInt(epoch))).toBe(key);
    }
    for (const { at_ms, epoch } of epochs) expect(epochAt(chain, BigInt(at_ms))).toBe(BigInt(epoch));
  }
});

test('draws are what the market drew', () => {
  for (const { key, receipt, sequence, draw, units, rate_ppm, drawn, rates_ppm } of vectors.draws) {
    expect(drawOf(key, receipt, BigInt(sequence))).toBe(draw);
    const places = Array.from({ length: units }, (_, place) => place);
    expect(places.filter((place) => isDrawn(draw, place, rate_ppm))).toEqual(drawn);
    expect(ratesOf(draw, units, drawn)).toEqual(rates_ppm);
    expect(ratesOf(draw, units, [units])).toBeUndefined();
  }
});

test('openings hold or are refused for the same reason', () => {
  for (const { about, market, worker, opening, fault } of vectors.openings as {
    about: string;
    market: string;
    worker: string;
    opening: Opening;
    fault: string | null;
  }[]) {
    expect(openingFault(opening, market, worker), about).toBe(fault ?? undefined);
  }
  const [{ opening }] = vectors.openings as [{ opening: Opening }];
  if (!opening.chunk) throw new Error('the first opening opens a chunk');
  // The bytes that the Rust test makes of output 1 of unit 41, from its third chunk on.
  const bytes = Uint8Array.from({ length: 100 }, (_, i) => ((i + 2 * 65536) * 31 + 7 * 41 + 1) & 0xff);
  expect(isChunk(opening.chunk, bytes)).toBe(true);
  expect(isChunk(opening.chunk, bytes.subarray(1))).toBe(false);
});
