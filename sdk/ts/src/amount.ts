// Money: whole base units (10⁻⁹ token) as `bigint`, never floating point. In JSON an amount is decimal digits in a string.

/** One token is 10⁹ base units. */
export const BASE_UNITS_PER_TOKEN = 1_000_000_000n;

const AMOUNT_MAX = (1n << 64n) - 1n;

/** Reads base units, as they stand in JSON. Throws a `RangeError` on anything else. */
export function parseAmount(text: string): bigint {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(text) || BigInt(text) > AMOUNT_MAX) {
    throw new RangeError(`expected base units in decimal digits, found ${JSON.stringify(text)}`);
  }
  return BigInt(text);
}

/** Reads an amount written in tokens, such as `"1.5"`. Throws a `RangeError` when it is none, or finer than a base unit. */
export function fromTokens(text: string): bigint {
  const match = /^([0-9]+)(?:\.([0-9]+))?$/.exec(text);
  if (!match) throw new RangeError(`expected a decimal number such as "0.25", found ${JSON.stringify(text)}`);
  const [, whole = '', fraction = ''] = match;
  if (fraction.length > 9)
    throw new RangeError(`an amount has at most 9 decimal places, found ${JSON.stringify(text)}`);
  const amount = BigInt(whole) * BASE_UNITS_PER_TOKEN + BigInt(fraction.padEnd(9, '0'));
  if (amount > AMOUNT_MAX) throw new RangeError(`the amount ${JSON.stringify(text)} is too large`);
  return amount;
}

/** The amount in tokens, without trailing zeros: `"1.5"`. */
export function toTokens(amount: bigint): string {
  const whole = amount / BASE_UNITS_PER_TOKEN;
  const fraction = (amount % BASE_UNITS_PER_TOKEN).toString().padStart(9, '0').replace(/0+$/, '');
  return fraction ? `${whole}.${fraction}` : whole.toString();
}

/** The share of `amount` in basis points (1/10 000), rounded down. */
export function shareBps(amount: bigint, bps: number): bigint {
  return (amount * BigInt(bps)) / 10_000n;
}
