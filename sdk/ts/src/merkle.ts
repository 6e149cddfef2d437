// Merkle trees exactly as RFC 9162 §2.1: leaf prefix 0x00, node prefix 0x01, the left subtree a full power of two.

import { digest, digestAsync } from './hash.js';

/** Bytes in one chunk of an output; its tree has a leaf a chunk. */
export const CHUNK_BYTES = 64 * 1024;

const LEAF = new Uint8Array([0]);
const NODE = new Uint8Array([1]);

/** The hash of one leaf. */
export function leafHash(leaf: Uint8Array): Uint8Array {
  return digest(LEAF, leaf);
}

function nodeHash(left: Uint8Array, right: Uint8Array): Uint8Array {
  return digest(NODE, left, right);
}

/** The largest power of two smaller than `n` (n ≥ 2). */
function splitPoint(n: number): number {
  let split = 1;
  while (split * 2 < n) split *= 2;
  return split;
}

/** The root over leaf hashes in order; the hash of no bytes when there are none. */
export function root(leaves: readonly Uint8Array[]): Uint8Array {
  const [first] = leaves;
  if (!first) return digest();
  if (leaves.length === 1) return first;
  const split = splitPoint(leaves.length);
  return nodeHash(root(leaves.slice(0, split)), root(leaves.slice(split)));
}

/** The inclusion proof of leaf `index`, from the leaf's sibling up; `undefined` when there is no such leaf. */
export function proof(leaves: readonly Uint8Array[], index: number): Uint8Array[] | undefined {
  if (!Number.isSafeInteger(index) || index < 0 || index >= leaves.length) return undefined;
  const path: Uint8Array[] = [];
  let [rest, at] = [leaves, index];
  while (rest.length > 1) {
    const split = splitPoint(rest.length);
    const [left, right] = [rest.slice(0, split), rest.slice(split)];
    if (at < split) {
      path.push(root(right));
      rest = left;
    } else {
      path.push(root(left));
      at -= split;
      rest = right;
    }
  }
  return path.reverse();
}

/** Whether `path` proves that `leaf` is number `index` of `count` leaves under `top` (RFC 9162 §2.1.3.2). */
export function verify(
  top: Uint8Array,
  leaf: Uint8Array,
  index: bigint,
  count: bigint,
  path: readonly Uint8Array[],
): boolean {
  if (index < 0n || index >= count) return false;
  let [node, last, hash] = [index, count - 1n, leaf];
  for (const sibling of path) {
    if (last === 0n) return false;
    if ((node & 1n) === 1n || node === last) {
      hash = nodeHash(sibling, hash);
      while ((node & 1n) === 0n && node !== 0n) {
        node >>= 1n;
        last >>= 1n;
      }
    } else {
      hash = nodeHash(hash, sibling);
    }
    node >>= 1n;
    last >>= 1n;
  }
  return last === 0n && hash.length === top.length && hash.every((byte, i) => byte === top[i]);
}

/** The root over the 64 KiB chunks of an output. */
export async function chunkRoot(bytes: Uint8Array): Promise<Uint8Array> {
  const leaves: Promise<Uint8Array>[] = [];
  for (let start = 0; start < bytes.length; start += CHUNK_BYTES) {
    const chunk = bytes.subarray(start, start + CHUNK_BYTES);
    const leaf = new Uint8Array(chunk.length + 1);
    leaf.set(chunk, 1);
    leaves.push(digestAsync(leaf));
  }
  return root(await Promise.all(leaves));
}
