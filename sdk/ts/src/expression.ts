// Dispatch expressions: how many workgroups, as a function of the overrides that a device chose.
//
// Grammar: unsigned integers, override names, `+ - * /` (division rounds down), `ceil(a / b)`, `min(a, b)`, `max(a, b)` and
// parentheses. Every step stays below 2⁵³, so numbers are exact; a result fits 32 bits. The Rust module of that name is its twin.

const TEXT_BYTES_MAX = 200;
const STEP_LIMIT = 2 ** 53;
const RESULT_MAX = 0xffff_ffff;

type Operator = '+' | '-' | '*' | '/' | 'ceil' | 'min' | 'max';
type Node = number | string | { operator: Operator; a: Node; b: Node };

/** Why an expression has no value. */
export class ExpressionError extends Error {
  constructor(
    readonly code: 'syntax' | 'unknown_name' | 'out_of_range',
    message: string,
    /** Where the syntax is wrong, from 1. */
    readonly position?: number,
  ) {
    super(message);
    this.name = 'ExpressionError';
  }
}

const outOfRange = () => new ExpressionError('out_of_range', 'the value leaves the range of a 32-bit count');

/** A parsed dispatch expression. */
export class Expression {
  private constructor(private readonly node: Node) {}

  /** Parses `text`; throws an {@link ExpressionError}. */
  static parse(text: string): Expression {
    return new Expression(new Parser(text).whole());
  }

  /** The value with these overrides; throws an {@link ExpressionError}. */
  value(overrides: Readonly<Record<string, number>>): number {
    const value = evaluate(this.node, overrides);
    if (value > RESULT_MAX) throw outOfRange();
    return value;
  }
}

function evaluate(node: Node, overrides: Readonly<Record<string, number>>): number {
  if (typeof node === 'number') return node;
  if (typeof node === 'string') {
    const value = Object.hasOwn(overrides, node) ? overrides[node] : undefined;
    if (value === undefined) {
      throw new ExpressionError('unknown_name', `${JSON.stringify(node)} is not an override of this pass's kernel`);
    }
    return value;
  }
  const [a, b] = [evaluate(node.a, overrides), evaluate(node.b, overrides)];
  const value = apply(node.operator, a, b);
  if (!(value >= 0 && value < STEP_LIMIT)) throw outOfRange();
  return value;
}

function apply(operator: Operator, a: number, b: number): number {
  switch (operator) {
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '/':
      return b === 0 ? NaN : (a - (a % b)) / b;
    case 'ceil':
      return b === 0 ? NaN : (a - (a % b)) / b + (a % b === 0 ? 0 : 1);
    case 'min':
      return Math.min(a, b);
    case 'max':
      return Math.max(a, b);
  }
}

class Parser {
  private at = 0;

  constructor(private readonly text: string) {}

  whole(): Node {
    if (new TextEncoder().encode(this.text).length > TEXT_BYTES_MAX) {
      throw this.error('the expression is longer than 200 characters');
    }
    const node = this.sum();
    this.skipSpaces();
    if (this.at < this.text.length) throw this.error('expected an operator or the end');
    return node;
  }

  private error(message: string, position = this.at): ExpressionError {
    const where = `at character ${position + 1} of ${JSON.stringify(this.text.slice(0, TEXT_BYTES_MAX))}`;
    return new ExpressionError('syntax', `${message} ${where}`, position + 1);
  }

  private skipSpaces(): void {
    while (this.text[this.at] === ' ') this.at++;
  }

  private eat(character: string): boolean {
    this.skipSpaces();
    const found = this.text[this.at] === character;
    if (found) this.at++;
    return found;
  }

  private expect(character: string): void {
    if (!this.eat(character)) throw this.error(`expected "${character}"`);
  }

  private sum(): Node {
    let left = this.product();
    for (;;) {
      if (this.eat('+')) left = { operator: '+', a: left, b: this.product() };
      else if (this.eat('-')) left = { operator: '-', a: left, b: this.product() };
      else return left;
    }
  }

  private product(): Node {
    let left = this.atom();
    for (;;) {
      if (this.eat('*')) left = { operator: '*', a: left, b: this.atom() };
      else if (this.eat('/')) left = { operator: '/', a: left, b: this.atom() };
      else return left;
    }
  }

  private atom(): Node {
    if (this.eat('(')) {
      const node = this.sum();
      this.expect(')');
      return node;
    }
    const digits = this.match(/[0-9]+/y);
    if (digits) {
      const number = Number(digits);
      if (number > RESULT_MAX) throw outOfRange();
      return number;
    }
    const start = this.at;
    const name = this.match(/[A-Za-z_][A-Za-z0-9_]*/y);
    if (!name) throw this.error('expected a number, a name or "("');
    return this.eat('(') ? this.call(name, start) : name;
  }

  private call(name: string, start: number): Node {
    if (name === 'ceil') {
      const argument = this.sum();
      this.expect(')');
      if (typeof argument !== 'object' || argument.operator !== '/') {
        throw this.error('ceil takes a division, as in ceil(a / b),', start);
      }
      return { ...argument, operator: 'ceil' };
    }
    if (name !== 'min' && name !== 'max') {
      throw this.error('unknown function (there are ceil, min and max)', start);
    }
    const a = this.sum();
    this.expect(',');
    const b = this.sum();
    this.expect(')');
    return { operator: name, a, b };
  }

  private match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)?.[0];
    this.at += found?.length ?? 0;
    return found;
  }
}
