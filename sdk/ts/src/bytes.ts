// Canonical bytes of what is signed or committed to: Borsh, field by field in the order of the Rust types. JSON forms come in
// (ids, keys and 64-bit numbers as text), bytes go out.

import type { OutputCommitment, Receipt, SealingKey } from './api.js';
import { digest, fromHex, toHex, blobId, type Hash } from './hash.js';
import { idNumber } from './ids.js';
import { keyBytes } from './keys.js';
import { chunkRoot, leafHash, root } from './merkle.js';

/** Writes Borsh: little-endian integers, lengths as u32. */
export class BorshWriter {
  #bytes = new Uint8Array(256);
  #length = 0;

  u8(value: number): this {
    this.#bytes[this.#reserve(1)] = value;
    return this;
  }

  u32(value: number): this {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff) throw new RangeError(`${value} is no u32`);
    const at = this.#reserve(4);
    new DataView(this.#bytes.buffer).setUint32(at, value, true);
    return this;
  }

  u64(value: bigint): this {
    if (value < 0n || value >= 1n << 64n) throw new RangeError(`${value} is no u64`);
    const at = this.#reserve(8);
    new DataView(this.#bytes.buffer).setBigUint64(at, value, true);
    return this;
  }

  raw(bytes: Uint8Array): this {
    const at = this.#reserve(bytes.length);
    this.#bytes.set(bytes, at);
    return this;
  }

  string(text: string): this {
    const bytes = new TextEncoder().encode(text);
    return this.u32(bytes.length).raw(bytes);
  }

  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }

  #reserve(count: number): number {
    const at = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.#length, 2 * this.#bytes.length));
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    return at;
  }
}

/** The number in canonical decimal text: digits only, no leading zero, below 2⁶⁴. Throws a `RangeError` on anything else. */
export function parseU64(text: string): bigint {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(text))
    throw new RangeError(`expected decimal digits, found ${JSON.stringify(text)}`);
  const value = BigInt(text);
  if (value >= 1n << 64n) throw new RangeError(`${text} is no u64`);
  return value;
}

/** The commitment to an output's bytes. */
export async function commitmentTo(bytes: Uint8Array<ArrayBuffer>): Promise<OutputCommitment> {
  const [blob, chunks] = await Promise.all([blobId(bytes), chunkRoot(bytes)]);
  return { blob, length: String(bytes.length), chunk_root: toHex(chunks) };
}

/** One leaf of a package's tree. */
export interface UnitLeaf {
  /** The job's id. */
  job: string;
  /** The unit's index, in decimal digits. */
  unit: string;
  /** In output order. */
  outputs: readonly OutputCommitment[];
}

/** The canonical bytes of a unit leaf (status `done`, the only one that there is). */
export function unitLeafBytes(leaf: UnitLeaf): Uint8Array<ArrayBuffer> {
  const writer = new BorshWriter().u64(idNumber('job', leaf.job)).u64(parseU64(leaf.unit)).u32(leaf.outputs.length);
  for (const output of leaf.outputs) {
    writer.raw(fromHex(output.blob)).u64(parseU64(output.length)).raw(fromHex(output.chunk_root));
  }
  return writer.u8(0).finish();
}

/** The Merkle root over a package's unit leaves, in package order. */
export function packageRoot(leaves: readonly UnitLeaf[]): Hash {
  return toHex(root(leaves.map((leaf) => leafHash(unitLeafBytes(leaf)))));
}

/** The bytes that a signature over a receipt covers: `"plexus/receipt/v1\0" ‖ Borsh(receipt)`. */
export function receiptBytes(receipt: Receipt): Uint8Array<ArrayBuffer> {
  return new BorshWriter()
    .raw(new TextEncoder().encode('plexus/receipt/v1\0'))
    .raw(keyBytes(receipt.market))
    .u64(idNumber('lease', receipt.lease))
    .u32(receipt.generation)
    .raw(keyBytes(receipt.worker))
    .u64(idNumber('job', receipt.job))
    .u32(receipt.units)
    .raw(fromHex(receipt.package_root))
    .string(receipt.adapter)
    .u64(parseU64(receipt.started_at_ms))
    .u64(parseU64(receipt.device_us))
    .u64(parseU64(receipt.total_us))
    .finish();
}

/** The hash that seeds the challenge: SHA-256 of the signed bytes. */
export function receiptDigest(receipt: Receipt): Hash {
  return toHex(digest(receiptBytes(receipt)));
}

/** The bytes that a signature over a sealing key covers: `"plexus/sealing-key/v1\0" ‖ Borsh(record)`. */
export function sealingKeyBytes(record: SealingKey): Uint8Array<ArrayBuffer> {
  return new BorshWriter()
    .raw(new TextEncoder().encode('plexus/sealing-key/v1\0'))
    .raw(keyBytes(record.market))
    .raw(keyBytes(record.worker))
    .raw(keyBytes(record.key))
    .u64(parseU64(record.valid_until_ms))
    .finish();
}
