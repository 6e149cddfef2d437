// How numbers, keys and times are written.

import { parseAmount, toTokens } from '@plexus/sdk';

const whole = new Intl.NumberFormat('en');

/** A count that came as a number, a bigint or decimal digits. */
export function count(value: number | bigint | string): string {
  return whole.format(typeof value === 'string' ? BigInt(value) : value);
}

/** Base units as tokens, such as `1,234.5`. */
export function tokens(baseUnits: string): string {
  const [integer = '0', fraction] = toTokens(parseAmount(baseUnits)).split('.');
  return fraction ? `${count(integer)}.${fraction}` : count(integer);
}

/** The ends of a key; the whole belongs into a title. */
export function shortKey(key: string): string {
  return key.length > 12 ? `${key.slice(0, 4)}…${key.slice(-4)}` : key;
}

/** The time of day. */
export function clock(time: string | number): string {
  return new Date(time).toLocaleTimeString([], {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hour12: false,
  });
}

export function microseconds(us: number): string {
  if (us < 1_000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toFixed(us < 10_000 ? 1 : 0)} ms`;
  return `${(us / 1_000_000).toFixed(us < 10_000_000 ? 1 : 0)} s`;
}

/** `part` of `total` in percent, for decimal digits of any size. */
export function percent(part: string, total: string): number {
  const all = BigInt(total);
  return all === 0n ? 0 : Number((BigInt(part) * 10_000n) / all) / 100;
}

export function plural(n: number | string, one: string, many = `${one}s`): string {
  return `${count(n)} ${String(n) === '1' ? one : many}`;
}

/** A reason as the market words it, as a sentence of its own. */
export function sentence(text: string): string {
  const capital = text.charAt(0).toUpperCase() + text.slice(1);
  return capital === '' || /[.!?…]$/.test(capital) ? capital : `${capital}.`;
}
