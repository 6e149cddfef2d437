// What one unit of a job sees of its inputs.

import type { InputSplit } from './api.js';
import { parseU64 } from './bytes.js';

/**
 * The bytes of `blob` that unit `index` sees: `length` from `offset + index · stride`. What lies past the blob's end is zero, so
 * that the last unit of an uneven split has the same shape as the others.
 */
export function unitInput(split: InputSplit, index: bigint, blob: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const length = Number(parseU64(split.length));
  const start = parseU64(split.offset) + parseU64(split.stride) * index;
  if (start + BigInt(length) <= BigInt(blob.length)) return blob.subarray(Number(start), Number(start) + length);
  const padded = new Uint8Array(length);
  if (start < BigInt(blob.length)) padded.set(blob.subarray(Number(start)));
  return padded;
}
