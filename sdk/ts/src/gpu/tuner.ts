// Chooses the value of a kernel's `auto` overrides: every candidate computes one real unit, the fastest stays.

/** Candidates for `auto`, as every runtime tries them. */
export const AUTO_CANDIDATES: readonly number[] = [4, 8, 16, 32, 64, 128, 256];

export class Tuner {
  readonly #waiting: number[];
  #best: { value: number; us: number } | undefined;

  constructor(candidates: readonly number[] = AUTO_CANDIDATES) {
    this.#waiting = [...candidates];
  }

  /** The candidate to try next; `undefined` when all were tried. */
  get next(): number | undefined {
    return this.#waiting[0];
  }

  get settled(): boolean {
    return this.#waiting.length === 0;
  }

  /** The fastest so far. */
  get best(): number | undefined {
    return this.#best?.value;
  }

  /** `value` took this long. */
  record(value: number, us: number): void {
    this.#drop(value);
    if (!this.#best || us < this.#best.us) this.#best = { value, us };
  }

  /** The device does not take `value`. */
  reject(value: number): void {
    this.#drop(value);
  }

  #drop(value: number): void {
    const index = this.#waiting.indexOf(value);
    if (index >= 0) this.#waiting.splice(index, 1);
  }
}
