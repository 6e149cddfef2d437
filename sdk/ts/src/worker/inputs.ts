// What the units of one package see of the job's inputs, fetched as far as they need it.
//
// A small blob, or one that every unit sees the same part of, comes whole: checked against its hash, and cached. Of a large blob
// that is split between the units only the ranges of this package come, a few ahead of the unit that computes, and they are
// forgotten behind it, so that neither the blob nor the package has to fit into a tab.
//
// A range cannot be checked against the hash of the whole. It is as good as the market's word and the transport, so it stays out
// of the cache, whose every entry is checked. A unit that was computed from wrong bytes is a mismatch where the market has it
// executed again.

import type { GatheredInput, InputSplit, LeaseInput } from '../api.js';
import { parseU64 } from '../bytes.js';
import type { Hash } from '../hash.js';
import { unitInput } from '../split.js';

/** Where the bytes come from. */
export interface InputSource {
  /** A whole blob, checked. */
  whole(hash: Hash): Promise<Uint8Array<ArrayBuffer>>;
  /** A blob's length in bytes. */
  length(hash: Hash): Promise<number>;
  /** The bytes from `start` up to, not including, `end`. */
  range(hash: Hash, start: number, end: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** Blobs up to this size are fetched whole: two dozen of them are little for a tab, and only a whole can be checked and cached. */
export const WHOLE_BYTES_MAX = 8 * 1024 * 1024;
/** Ranges of several units become one request up to this size; a unit that is larger is a request of its own. */
export const REQUEST_BYTES_MAX = 16 * 1024 * 1024;
/** Bytes between two units that are fetched along: about what the connection carries while a request of its own would wait. */
export const GAP_BYTES_MAX = 64 * 1024;
/** Requests on their way ahead of the unit that computes, as long as their bytes stay below {@link REQUEST_BYTES_MAX}. */
const AHEAD_MAX = 4;

/** A part of a blob, for units that follow each other in the package. */
export interface Span {
  start: number;
  end: number;
  /** Position in the package of the last unit that needs it. */
  last: number;
}

/** The inputs of a package's units, in package order. */
export class PackageInputs {
  readonly #inputs: ((position: number) => Promise<Uint8Array<ArrayBuffer>>)[];

  private constructor(inputs: ((position: number) => Promise<Uint8Array<ArrayBuffer>>)[]) {
    this.#inputs = inputs;
  }

  /** Resolves when the first of `units` can run. */
  static async open(
    source: InputSource,
    from: readonly LeaseInput[],
    units: readonly bigint[],
  ): Promise<PackageInputs> {
    const opened = from.map((input) =>
      'blobs' in input ? openGathered(source, input, units.length) : openInput(source, input, units),
    );
    const inputs = new PackageInputs(await Promise.all(opened));
    if (units.length > 0) await inputs.unit(0);
    return inputs;
  }

  /** What the unit at this place of the package sees. Positions only grow: what lies behind is forgotten. */
  unit(position: number): Promise<Uint8Array<ArrayBuffer>[]> {
    return Promise.all(this.#inputs.map((input) => input(position)));
  }
}

async function openInput(
  source: InputSource,
  split: InputSplit,
  units: readonly bigint[],
): Promise<(position: number) => Promise<Uint8Array<ArrayBuffer>>> {
  const { blob } = split;
  const shared = parseU64(split.stride) === 0n;
  const length = shared ? 0 : await source.length(blob);
  if (shared || length <= WHOLE_BYTES_MAX) {
    const whole = await source.whole(blob);
    return async (position) => unitInput(split, units[position] as bigint, whole);
  }
  const parts = new Parts((start, end) => source.range(blob, start, end), spansOf(split, units, length));
  const shape = Number(parseU64(split.length));
  return async (position) => {
    const { start, end } = unitRange(split, units[position] as bigint, length);
    const found = start < end ? await parts.at(position, start, end) : new Uint8Array();
    if (found.length === shape) return found;
    const padded = new Uint8Array(shape);
    padded.set(found);
    return padded;
  };
}

/** Other units' outputs, one after the other: whole blobs, checked and cached. */
async function openGathered(
  source: InputSource,
  { blobs, units, length }: GatheredInput,
  count: number,
): Promise<(position: number) => Promise<Uint8Array<ArrayBuffer>>> {
  const within = units.every(({ first, count }) => first >= 0 && count >= 0 && first + count <= blobs.length);
  if (units.length !== count || !within) {
    throw new RangeError(`${blobs.length} blobs are not what ${count} units can be gathered from`);
  }
  const size = Number(parseU64(length));
  const blobsOf = (position: number) => {
    const unit = units[position];
    return unit ? blobs.slice(unit.first, unit.first + unit.count) : [];
  };
  return async (position) => {
    // The next unit's are on their way meanwhile; whatever is wrong with them is that unit's to say.
    const found = Promise.all(blobsOf(position).map((hash) => source.whole(hash)));
    for (const hash of blobsOf(position + 1)) source.whole(hash).catch(() => {});
    return gathered(await found, parseU64(units[position]?.offset ?? '0'), size);
  };
}

/** `length` bytes of some blobs, one after the other, from `offset`; what is missing is zero. */
export function gathered(
  blobs: readonly Uint8Array<ArrayBuffer>[],
  offset: bigint,
  length: number,
): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let skip = offset;
  let at = 0;
  for (const blob of blobs) {
    if (at === length) break;
    if (skip >= BigInt(blob.length)) {
      skip -= BigInt(blob.length);
      continue;
    }
    const piece = blob.subarray(Number(skip), Number(skip) + length - at);
    skip = 0n;
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

/** The requests of one input, begun a few ahead. */
class Parts {
  readonly #fetch: (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>>;
  /** Those that are still needed. */
  readonly #spans: Span[];
  readonly #begun = new Map<Span, Promise<Uint8Array<ArrayBuffer>>>();

  constructor(fetch: (start: number, end: number) => Promise<Uint8Array<ArrayBuffer>>, spans: Span[]) {
    this.#fetch = fetch;
    this.#spans = spans;
  }

  async at(position: number, start: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
    for (let span = this.#spans[0]; span && span.last < position; span = this.#spans[0]) {
      this.#begun.delete(span);
      this.#spans.shift();
    }
    const [current] = this.#spans;
    if (!current) throw new Error('no range was planned for this unit');
    const bytes = this.#begin(current);
    let ahead = 0;
    for (const span of this.#spans.slice(1, 1 + AHEAD_MAX)) {
      ahead += span.end - span.start;
      // The next one is always on its way, however large.
      if (ahead > REQUEST_BYTES_MAX && span !== this.#spans[1]) break;
      this.#begin(span);
    }
    return (await bytes).subarray(start - current.start, end - current.start);
  }

  #begin(span: Span): Promise<Uint8Array<ArrayBuffer>> {
    let bytes = this.#begun.get(span);
    if (!bytes) {
      bytes = this.#fetch(span.start, span.end);
      bytes.catch(() => {}); // thrown when it is awaited
      this.#begun.set(span, bytes);
    }
    return bytes;
  }
}

/** The requests that bring what `units` see of a blob of `blobBytes`, in package order. */
export function spansOf(split: InputSplit, units: readonly bigint[], blobBytes: number): Span[] {
  const spans: Span[] = [];
  for (const [position, unit] of units.entries()) {
    const { start, end } = unitRange(split, unit, blobBytes);
    if (start >= end) continue;
    const span = spans.at(-1);
    const near = span && start >= span.start && start <= span.end + GAP_BYTES_MAX;
    if (span && near && Math.max(end, span.end) - span.start <= REQUEST_BYTES_MAX) {
      span.end = Math.max(end, span.end);
      span.last = position;
    } else {
      spans.push({ start, end, last: position });
    }
  }
  return spans;
}

/** The part of a unit's bytes that the blob has. */
function unitRange(split: InputSplit, unit: bigint, blobBytes: number): { start: number; end: number } {
  const start = parseU64(split.offset) + parseU64(split.stride) * unit;
  const within = (at: bigint) => (at < BigInt(blobBytes) ? Number(at) : blobBytes);
  return { start: within(start), end: within(start + parseU64(split.length)) };
}
