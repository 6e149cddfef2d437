// Blobs that this browser keeps: in memory for the moment, in IndexedDB for the next visit. Bounded, least recently used first
// out, and every blob is checked against its hash whenever it is read from disk or network.

import type { Hash } from '../hash.js';
import { blobId } from '../hash.js';

/** Brings a blob from the market, already checked. */
export type Fetcher = (hash: Hash) => Promise<Uint8Array<ArrayBuffer>>;

const DATABASE = 'plexus-blobs';
const DISK_BYTES_MAX = 512 * 1024 * 1024;
const MEMORY_BYTES_MAX = 128 * 1024 * 1024;

interface Entry {
  hash: Hash;
  bytes: number;
  used: number;
}

export class BlobCache {
  readonly #fetcher: Fetcher;
  readonly #diskMax: number;
  readonly #memoryMax: number;
  readonly #memory = new Map<Hash, Uint8Array<ArrayBuffer>>();
  #memoryBytes = 0;
  readonly #pending = new Map<Hash, Promise<Uint8Array<ArrayBuffer>>>();
  #database: Promise<IDBDatabase | undefined> | undefined;
  #clock = Date.now();

  constructor(fetcher: Fetcher, limits: { diskBytesMax?: number; memoryBytesMax?: number } = {}) {
    this.#fetcher = fetcher;
    this.#diskMax = limits.diskBytesMax ?? DISK_BYTES_MAX;
    this.#memoryMax = limits.memoryBytesMax ?? MEMORY_BYTES_MAX;
  }

  /** The blob's bytes. They are shared: do not write to them. */
  get(hash: Hash): Promise<Uint8Array<ArrayBuffer>> {
    const kept = this.#memory.get(hash);
    if (kept) {
      this.#memory.delete(hash);
      this.#memory.set(hash, kept);
      return Promise.resolve(kept);
    }
    let pending = this.#pending.get(hash);
    if (!pending) {
      pending = this.#bring(hash).finally(() => this.#pending.delete(hash));
      this.#pending.set(hash, pending);
    }
    return pending;
  }

  async #bring(hash: Hash): Promise<Uint8Array<ArrayBuffer>> {
    let bytes = await this.#fromDisk(hash);
    if (!bytes) {
      bytes = await this.#fetcher(hash);
      // A disk that is full or forbidden only means that the blob is fetched again next time.
      await this.#toDisk(hash, bytes).catch(() => {});
    }
    this.#remember(hash, bytes);
    return bytes;
  }

  #remember(hash: Hash, bytes: Uint8Array<ArrayBuffer>): void {
    if (bytes.length > this.#memoryMax) return;
    this.#memory.set(hash, bytes);
    this.#memoryBytes += bytes.length;
    for (const [oldest, { length }] of this.#memory) {
      if (this.#memoryBytes <= this.#memoryMax) break;
      this.#memory.delete(oldest);
      this.#memoryBytes -= length;
    }
  }

  #open(): Promise<IDBDatabase | undefined> {
    this.#database ??= (async () => {
      try {
        const opening = indexedDB.open(DATABASE, 1);
        opening.onupgradeneeded = () => {
          opening.result.createObjectStore('bytes');
          opening.result.createObjectStore('entries', { keyPath: 'hash' }).createIndex('used', 'used');
        };
        return await done(opening);
      } catch {
        return undefined; // private windows may have none
      }
    })();
    return this.#database;
  }

  async #fromDisk(hash: Hash): Promise<Uint8Array<ArrayBuffer> | undefined> {
    try {
      const database = await this.#open();
      if (!database) return undefined;
      const stored = await done<ArrayBuffer | undefined>(database.transaction('bytes').objectStore('bytes').get(hash));
      if (!stored) return undefined;
      const bytes = new Uint8Array(stored);
      if ((await blobId(bytes)) !== hash) {
        const spoiled = database.transaction(['bytes', 'entries'], 'readwrite');
        spoiled.objectStore('bytes').delete(hash);
        spoiled.objectStore('entries').delete(hash);
        return undefined;
      }
      const touch = database.transaction('entries', 'readwrite').objectStore('entries');
      touch.put({ hash, bytes: bytes.length, used: this.#tick() } satisfies Entry);
      return bytes;
    } catch {
      return undefined;
    }
  }

  async #toDisk(hash: Hash, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const database = await this.#open();
    if (!database || bytes.length > this.#diskMax) return;
    const entries = await done<Entry[]>(database.transaction('entries').objectStore('entries').index('used').getAll());
    let held = bytes.length + entries.reduce((sum, entry) => sum + entry.bytes, 0);
    const writing = database.transaction(['bytes', 'entries'], 'readwrite');
    for (const entry of entries) {
      if (held <= this.#diskMax) break;
      writing.objectStore('bytes').delete(entry.hash);
      writing.objectStore('entries').delete(entry.hash);
      held -= entry.bytes;
    }
    const whole = bytes.byteLength === bytes.buffer.byteLength ? bytes.buffer : bytes.slice().buffer;
    writing.objectStore('bytes').put(whole, hash);
    writing.objectStore('entries').put({ hash, bytes: bytes.length, used: this.#tick() } satisfies Entry);
    await new Promise<void>((resolve, reject) => {
      writing.oncomplete = () => resolve();
      writing.onabort = writing.onerror = () => reject(writing.error ?? new Error('IndexedDB failed'));
    });
  }

  /** Strictly increasing, so that the order of use is total. */
  #tick(): number {
    this.#clock = Math.max(this.#clock + 1, Date.now());
    return this.#clock;
  }
}

function done<T>(pending: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    pending.onsuccess = () => resolve(pending.result);
    pending.onerror = () => reject(pending.error ?? new Error('IndexedDB failed'));
  });
}
