// SHA-256, the network's one hash. Its text form is 64 lower-case hex digits, as in every JSON document.

import { sha256 } from '@noble/hashes/sha2.js';

import type { Hash } from './api.js';

export type { Hash };

/** Below this the synchronous digest is faster than the way to WebCrypto and back. */
const WEBCRYPTO_BYTES_MIN = 4096;

/** The raw digest of `parts`, one after the other. */
export function digest(...parts: Uint8Array[]): Uint8Array {
  const hasher = sha256.create();
  for (const part of parts) hasher.update(part);
  return hasher.digest();
}

/** The digest of `bytes`, by WebCrypto where that pays. */
export async function digestAsync(bytes: Uint8Array<ArrayBuffer>): Promise<Uint8Array> {
  if (bytes.length < WEBCRYPTO_BYTES_MIN || !globalThis.crypto?.subtle) return digest(bytes);
  return new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
}

/** The id of a blob with these bytes. */
export async function blobId(bytes: Uint8Array<ArrayBuffer>): Promise<Hash> {
  return toHex(await digestAsync(bytes));
}

const HEX = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'));

/** Lower-case hex digits of `bytes`. */
export function toHex(bytes: Uint8Array): string {
  let text = '';
  for (const byte of bytes) text += HEX[byte];
  return text;
}

/** The bytes of lower-case hex digits. Throws a `RangeError` on anything else. */
export function fromHex(text: string): Uint8Array<ArrayBuffer> {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/.test(text)) {
    throw new RangeError(`expected lower-case hex digits, found ${JSON.stringify(text.slice(0, 80))}`);
  }
  const bytes = new Uint8Array(text.length / 2);
  for (let i = 0; i < bytes.length; i++) bytes[i] = Number.parseInt(text.slice(2 * i, 2 * i + 2), 16);
  return bytes;
}

/** Whether `text` is a digest in hex. */
export function isHash(text: unknown): text is Hash {
  return typeof text === 'string' && /^[0-9a-f]{64}$/.test(text);
}
