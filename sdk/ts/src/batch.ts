// Several small blobs in one request body: their count, their lengths (u32, little-endian), their bytes.

/** Blobs of one batch. */
export const BATCH_BLOBS_MAX = 1024;
/** Bytes of one blob in a batch; a larger one is a request of its own. */
export const BATCH_BLOB_BYTES_MAX = 64 * 1024;
/** Bytes of all blobs of a batch together. */
export const BATCH_BYTES_MAX = 8 * 1024 * 1024;

/** The batch of these blobs, in order. The market refuses one that is not within the bounds. */
export function batchOf(blobs: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const head = 4 + 4 * blobs.length;
  const batch = new Uint8Array(blobs.reduce((sum, blob) => sum + blob.length, head));
  const view = new DataView(batch.buffer);
  view.setUint32(0, blobs.length, true);
  let at = head;
  for (const [index, blob] of blobs.entries()) {
    view.setUint32(4 + 4 * index, blob.length, true);
    batch.set(blob, at);
    at += blob.length;
  }
  return batch;
}
