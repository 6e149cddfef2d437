// Outputs on their way to the market: large ones by themselves, small ones together with whatever else became ready while the
// requests before were on their way. Equal ones go once.

import type { OutputCommitment } from '../api.js';
import { BATCH_BLOBS_MAX, BATCH_BLOB_BYTES_MAX, BATCH_BYTES_MAX } from '../batch.js';
import { commitmentTo } from '../bytes.js';
import type { Hash } from '../hash.js';

/** Requests on their way at once. */
const REQUESTS_MAX = 4;
/** Of them with batches: while the market syncs one to its disk the next one travels. */
const BATCHES_MAX = 2;

/** A blob with its name. */
export interface Named {
  hash: Hash;
  bytes: Uint8Array<ArrayBuffer>;
}

interface Waiting extends Named {
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** The uploads of one package. */
export class Uploads {
  /** Stores one large blob, or any number of small ones. */
  readonly #put: (blobs: Named[]) => Promise<void>;
  readonly #sent = new Map<Hash, Promise<void>>();
  #small: Waiting[] = [];
  readonly #large: Waiting[] = [];
  #requests = 0;
  #batches = 0;

  constructor(put: (blobs: Named[]) => Promise<void>) {
    this.#put = put;
  }

  /** Resolves with the commitment once the market has the bytes. */
  async add(bytes: Uint8Array<ArrayBuffer>): Promise<OutputCommitment> {
    const commitment = await commitmentTo(bytes);
    const hash = commitment.blob;
    let sent = this.#sent.get(hash);
    if (!sent) {
      sent = new Promise((resolve, reject) => {
        (bytes.length > BATCH_BLOB_BYTES_MAX ? this.#large : this.#small).push({ hash, bytes, resolve, reject });
      });
      this.#sent.set(hash, sent);
      this.#begin();
    }
    await sent;
    return commitment;
  }

  /** Sends as much as may be on its way. */
  #begin(): void {
    while (this.#requests < REQUESTS_MAX) {
      const batched = this.#small.length > 0 && this.#batches < BATCHES_MAX;
      const blobs = batched ? this.#batch() : this.#large.splice(0, 1);
      if (blobs.length === 0) return;
      this.#requests++;
      if (batched) this.#batches++;
      const end = (settle: (blob: Waiting) => void) => {
        this.#requests--;
        if (batched) this.#batches--;
        for (const blob of blobs) settle(blob);
        this.#begin();
      };
      this.#put(blobs).then(
        () => end((blob) => blob.resolve()),
        (error: unknown) => end((blob) => blob.reject(error)),
      );
    }
  }

  #batch(): Waiting[] {
    let bytes = 0;
    let count = 0;
    while (count < Math.min(this.#small.length, BATCH_BLOBS_MAX)) {
      bytes += (this.#small[count] as Waiting).bytes.length;
      if (bytes > BATCH_BYTES_MAX) break;
      count++;
    }
    return this.#small.splice(0, count);
  }
}
