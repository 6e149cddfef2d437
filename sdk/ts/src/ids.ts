// Typed, readable ids: `job-42`, `lease-9`, `job-42/7`. They come from the engine's counters; nothing in them is random.

export type IdKind = 'job' | 'package' | 'lease' | 'check';

const DECIMAL = /^(0|[1-9][0-9]{0,19})$/;

/** The number in an id of the wanted kind. Throws a `RangeError` when it is none. */
export function idNumber(kind: IdKind, text: string): bigint {
  const digits = text.startsWith(`${kind}-`) ? text.slice(kind.length + 1) : '';
  const number = DECIMAL.test(digits) ? BigInt(digits) : -1n;
  if (number < 0n || number >= 1n << 64n) {
    throw new RangeError(`expected an id like "${kind}-7", found ${JSON.stringify(text.slice(0, 80))}`);
  }
  return number;
}

/** The id with this number. */
export function idText(kind: IdKind, number: bigint): string {
  return `${kind}-${number}`;
}

/** A unit's job and index. Throws a `RangeError` when `text` is no unit id. */
export function parseUnitId(text: string): { job: string; index: bigint } {
  const slash = text.indexOf('/');
  const digits = text.slice(slash + 1);
  const job = text.slice(0, Math.max(slash, 0));
  if (slash < 0 || !DECIMAL.test(digits) || BigInt(digits) >= 1n << 64n) {
    throw new RangeError(`expected an id like "job-42/7", found ${JSON.stringify(text.slice(0, 80))}`);
  }
  idNumber('job', job);
  return { job, index: BigInt(digits) };
}
