// Openings: that a worker committed to these outputs of this unit, shown with its receipt and two Merkle paths. The same rules as
// crates/protocol/src/opening.rs; the keys of the market and of the worker are all that one must know from elsewhere.

import type { ChunkOpening, Opening } from './api.js';
import { parseU64, receiptBytes, unitLeafBytes } from './bytes.js';
import { fromHex, toHex } from './hash.js';
import { keyBytes, signatureBytes } from './keys.js';
import { CHUNK_BYTES, leafHash, verify } from './merkle.js';
import { verifyStrict } from './verify.js';

/** Why an opening does not hold. */
export type OpeningFault =
  /** It is for another market. */
  | 'market'
  /** It is another worker's. */
  | 'worker'
  /** The worker did not sign this. */
  | 'signature'
  /** The unit is not one of the package, at this place and with these outputs. */
  | 'unit'
  /** There is no such output or chunk. */
  | 'absent'
  /** The chunk is not one of the output, at this place. */
  | 'chunk';

/** What first does not hold of an opening; `undefined` when it holds: then the worker committed to these outputs of this unit. */
export function openingFault(opening: Opening, market: string, worker?: string): OpeningFault | undefined {
  const { receipt, signature, unit, place, outputs, path, chunk } = opening;
  if (receipt.market !== market) return 'market';
  if (worker !== undefined && receipt.worker !== worker) return 'worker';
  if (!verifyStrict(keyBytes(receipt.worker), receiptBytes(receipt), signatureBytes(signature))) return 'signature';
  const leaf = leafHash(unitLeafBytes({ job: receipt.job, unit, outputs }));
  const siblings = path.map(fromHex);
  if (!verify(fromHex(receipt.package_root), leaf, BigInt(place), BigInt(receipt.units), siblings)) return 'unit';
  if (!chunk) return undefined;
  const output = outputs[chunk.output];
  if (!output) return 'absent';
  const size = BigInt(CHUNK_BYTES);
  const chunks = (parseU64(output.length) + size - 1n) / size;
  const index = parseU64(chunk.index);
  if (index >= chunks) return 'absent';
  const holds = verify(fromHex(output.chunk_root), fromHex(chunk.leaf), index, chunks, chunk.path.map(fromHex));
  return holds ? undefined : 'chunk';
}

/** Whether these are the bytes of an opened chunk. */
export function isChunk(chunk: ChunkOpening, bytes: Uint8Array): boolean {
  return toHex(leafHash(bytes)) === chunk.leaf;
}
