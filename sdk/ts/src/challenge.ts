// Challenges: whether what a market checked was drawn with keys that it was bound to before. The same rules as
// crates/protocol/src/challenge.rs, where they are explained.

import { hmac } from '@noble/hashes/hmac.js';
import { sha256 } from '@noble/hashes/sha2.js';

import type { ChallengeChain } from './api.js';
import { parseU64 } from './bytes.js';
import { type Hash, digest, fromHex, toHex } from './hash.js';

const TAG = new TextEncoder().encode('plexus/epoch-key/v1\0');
/** Most epochs of a chain. */
const EPOCHS_MAX = 1n << 20n;

/** The epoch of an event that was journaled at `atMs`, from 1; beyond the chain's epochs when it is over. */
export function epochAt(chain: ChallengeChain, atMs: bigint): bigint {
  const since = atMs - parseU64(chain.begins_at_ms);
  const length = parseU64(chain.epoch_ms);
  return (since > 0n ? since : 0n) / (length > 0n ? length : 1n) + 1n;
}

/** The key of the epoch `steps` before that of `key`. */
export function keyBelow(key: Hash, steps: bigint): Hash {
  let found: Uint8Array = fromHex(key);
  for (let step = 0n; step < steps; step++) found = digest(found, TAG);
  return toHex(found);
}

/** Whether `key` is that of `epoch`. */
export function chainHas(chain: ChallengeChain, epoch: bigint, key: Hash): boolean {
  const epochs = parseU64(chain.epochs);
  if (epoch < 1n || epoch > epochs || epoch > EPOCHS_MAX) return false;
  return keyBelow(key, epoch) === chain.anchor;
}

/** The draw of a package whose receipt has this digest and was journaled at `sequence`, with the key of its epoch. */
export function drawOf(key: Hash, receipt: Hash, sequence: bigint): Hash {
  const number = new Uint8Array(8);
  new DataView(number.buffer).setBigUint64(0, sequence, true);
  return toHex(digest(hmac(sha256, fromHex(key), fromHex(receipt)), number));
}

function word(draw: Hash, index: number): bigint {
  const block = new Uint8Array(8);
  new DataView(block.buffer).setBigUint64(0, BigInt(Math.floor(index / 8)), true);
  const hash = digest(fromHex(draw), block);
  return BigInt(new DataView(hash.buffer, hash.byteOffset).getUint32((index % 8) * 4, true));
}

/** Whether unit number `index` of a package is drawn at a rate of `ratePpm` parts per million. */
export function isDrawn(draw: Hash, index: number, ratePpm: number): boolean {
  return word(draw, index) * 1_000_000n < BigInt(ratePpm) << 32n;
}

/** The lowest and the highest rate at which of `count` units exactly those numbered `drawn` are drawn; `undefined` if there is none. */
export function ratesOf(draw: Hash, count: number, drawn: readonly number[]): [number, number] | undefined {
  let [lowest, highest] = [0, 1_000_000];
  const there = new Set(drawn);
  for (let index = 0; index < count; index++) {
    // The highest rate at which it is not drawn.
    const last = Number((word(draw, index) * 1_000_000n) >> 32n);
    if (there.delete(index)) lowest = Math.max(lowest, last + 1);
    else highest = Math.min(highest, last);
  }
  return there.size === 0 && lowest <= highest ? [lowest, highest] : undefined;
}
