// Ed25519 keys and signatures: text forms, and a browser's own key that never leaves it.
//
// Keys are base58 (Solana's form), signatures standard base64. WebCrypto signs; verification is in `verify`.

import { base58, base64 } from '@scure/base';

/** The 32 bytes of a base58 key. Throws a `RangeError` on anything else. */
export function keyBytes(text: string): Uint8Array {
  // 32 bytes are at most 44 digits; longer texts are refused before the quadratic decoding.
  if (text.length <= 44) {
    try {
      const bytes = base58.decode(text);
      if (bytes.length === 32) return bytes;
    } catch {
      // Falls through to the one error.
    }
  }
  throw new RangeError(`expected a base58 key of 32 bytes, found ${JSON.stringify(text.slice(0, 80))}`);
}

/** The base58 form of a public key. */
export function keyText(bytes: Uint8Array): string {
  return base58.encode(bytes);
}

/** The 64 bytes of a base64 signature. Throws a `RangeError` on anything else. */
export function signatureBytes(text: string): Uint8Array {
  try {
    const bytes = base64.decode(text);
    if (bytes.length === 64) return bytes;
  } catch {
    // Falls through to the one error.
  }
  throw new RangeError(`expected a base64 signature of 64 bytes, found ${JSON.stringify(text.slice(0, 100))}`);
}

/** The base64 form of a signature. */
export function signatureText(bytes: Uint8Array): string {
  return base64.encode(bytes);
}

/** A key that can sign. Where it is kept is its maker's affair. */
export interface Signer {
  /** The public half, base58: wallet address or worker id. */
  readonly address: string;
  /** The Ed25519 signature over `message`, base64. */
  sign(message: Uint8Array<ArrayBuffer>): Promise<string>;
}

/** Whether this browser's WebCrypto makes Ed25519 keys. */
export async function ed25519Available(): Promise<boolean> {
  try {
    await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify']);
    return true;
  } catch {
    return false;
  }
}

/** Signs with a WebCrypto key pair. */
export async function webCryptoSigner(pair: CryptoKeyPair): Promise<Signer> {
  const address = keyText(new Uint8Array(await crypto.subtle.exportKey('raw', pair.publicKey)));
  return {
    address,
    async sign(message) {
      return signatureText(new Uint8Array(await crypto.subtle.sign('Ed25519', pair.privateKey, message)));
    },
  };
}

const DATABASE = 'plexus-keys';
const STORE = 'keys';

/**
 * This browser's key under `name`, made on first use. The private half is not extractable: the browser signs with it and gives
 * it to nobody, this page included. It lives as long as the site's data.
 */
export async function browserKey(name = 'wallet'): Promise<Signer> {
  const database = await open();
  try {
    const stored = await request<CryptoKeyPair | undefined>(database.transaction(STORE).objectStore(STORE).get(name));
    if (stored) return await webCryptoSigner(stored);
    const made = (await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair;
    // Two tabs may get here at once: the first key that is stored is the one that both use.
    const store = database.transaction(STORE, 'readwrite').objectStore(STORE);
    const first = await request<CryptoKeyPair | undefined>(store.get(name));
    if (first) return await webCryptoSigner(first);
    await request(store.put(made, name));
    return await webCryptoSigner(made);
  } finally {
    database.close();
  }
}

function open(): Promise<IDBDatabase> {
  const opening = indexedDB.open(DATABASE, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  return request(opening);
}

function request<T>(pending: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    pending.onsuccess = () => resolve(pending.result);
    pending.onerror = () => reject(pending.error ?? new Error('IndexedDB failed'));
  });
}
