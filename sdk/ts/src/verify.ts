// Strict Ed25519 verification, the same as in Rust: points of small order, non-canonical encodings and S ≥ L are refused,
// and the equation is checked without the cofactor. WebCrypto is not asked, because browsers differ on those edges.

import { ed25519 } from '@noble/curves/ed25519.js';
import { sha512 } from '@noble/hashes/sha2.js';

/** Whether `signature` is by the key `publicKey` over `message`, under strict rules. */
export function verifyStrict(publicKey: Uint8Array, message: Uint8Array, signature: Uint8Array): boolean {
  if (publicKey.length !== 32 || signature.length !== 64) return false;
  const { Point } = ed25519;
  const r = signature.subarray(0, 32);
  const s = littleEndian(signature.subarray(32));
  if (s >= Point.Fn.ORDER) return false;
  try {
    const key = Point.fromBytes(publicKey);
    const commitment = Point.fromBytes(r);
    if (key.isSmallOrder() || commitment.isSmallOrder()) return false;
    const hash = sha512.create().update(r).update(publicKey).update(message).digest();
    const challenge = littleEndian(hash) % Point.Fn.ORDER;
    const expected = Point.BASE.multiplyUnsafe(s).subtract(key.multiplyUnsafe(challenge));
    return expected.equals(commitment);
  } catch {
    return false; // not a point
  }
}

function littleEndian(bytes: Uint8Array): bigint {
  let value = 0n;
  for (let i = bytes.length - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[i] ?? 0);
  return value;
}
