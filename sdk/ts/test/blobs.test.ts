// The browser's blob cache, over a stand-in for IndexedDB.

import 'fake-indexeddb/auto';
import { beforeEach, expect, test } from 'vitest';

import { blobId } from '../src/hash.js';
import { BlobCache } from '../src/worker/index.js';

let fetched: string[] = [];
const blobs = new Map<string, Uint8Array<ArrayBuffer>>();
const fetcher = async (hash: string) => {
  fetched.push(hash);
  return blobs.get(hash) as Uint8Array<ArrayBuffer>;
};

async function blob(fill: number, length = 100): Promise<string> {
  const bytes = new Uint8Array(length).fill(fill);
  const hash = await blobId(bytes);
  blobs.set(hash, bytes);
  return hash;
}

beforeEach(async () => {
  fetched = [];
  indexedDB = new IDBFactory();
});

test('a blob is fetched once, and kept for the next visit', async () => {
  const hash = await blob(1);
  const cache = new BlobCache(fetcher);
  const [a, b] = await Promise.all([cache.get(hash), cache.get(hash)]);
  expect(a).toBe(b);
  expect(await new BlobCache(fetcher).get(hash)).toEqual(blobs.get(hash));
  expect(fetched).toEqual([hash]);
});

test('the least recently used blobs make room', async () => {
  const [a, b, c] = [await blob(1), await blob(2), await blob(3)];
  const limits = { diskBytesMax: 250, memoryBytesMax: 0 };
  const cache = new BlobCache(fetcher, limits);
  await cache.get(a);
  await cache.get(b);
  await cache.get(a); // b is now the oldest
  await cache.get(c);
  fetched = [];
  await cache.get(a);
  await cache.get(c);
  expect(fetched).toEqual([]);
  await cache.get(b);
  expect(fetched).toEqual([b]);
});

test('a spoiled blob on disk is fetched again', async () => {
  const hash = await blob(7);
  await new BlobCache(fetcher).get(hash);
  const database = await new Promise<IDBDatabase>((resolve) => {
    const opening = indexedDB.open('plexus-blobs');
    opening.onsuccess = () => resolve(opening.result);
  });
  await new Promise((resolve) => {
    const put = database.transaction('bytes', 'readwrite').objectStore('bytes').put(new Uint8Array(100).buffer, hash);
    put.onsuccess = resolve;
  });
  fetched = [];
  expect(await new BlobCache(fetcher).get(hash)).toEqual(blobs.get(hash));
  expect(fetched).toEqual([hash]);
});

test('a browser without storage fetches every time it forgets', async () => {
  indexedDB = undefined as never;
  const hash = await blob(9);
  expect(await new BlobCache(fetcher, { memoryBytesMax: 0 }).get(hash)).toEqual(blobs.get(hash));
});
