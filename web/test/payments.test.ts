import type { Payment } from '@plexus/sdk';
import { expect, test } from 'vitest';

import { foldPayments } from '../src/payments.js';

const payment = (seq: number, kind: Payment['kind'], amount: string, more: Partial<Payment> = {}): Payment => ({
  seq: String(seq),
  at: '2026-01-01T00:00:00Z',
  kind,
  amount,
  ...more,
});
const shown = (payments: Payment[]) =>
  foldPayments(payments).map(({ payment: { seq, kind, amount }, treasury, burned }) => [
    `${seq} ${kind} ${amount}`,
    treasury,
    burned,
  ]);

test('a settlement is one row, in whatever order its parts come', () => {
  const of = { job: 'job-1', package: 'package-1', worker: 'w' };
  const [work, treasury, burn] = [
    payment(7, 'work', '90', { ...of, account: 'a' }),
    payment(7, 'treasury', '6', of),
    payment(7, 'burn', '4', of),
  ];
  for (const parts of [
    [work, treasury, burn],
    [burn, treasury, work],
    [treasury, work, burn],
  ]) {
    expect(shown(parts)).toEqual([['7 work 90', '6', '4']]);
  }
  expect(shown([work])).toEqual([['7 work 90', undefined, undefined]]);
});

test('workers that one event pays keep rows and shares of their own', () => {
  const [a, b] = [
    { job: 'job-1', package: 'package-1', worker: 'a' },
    { job: 'job-1', package: 'package-1', worker: 'b' },
  ];
  const rows = foldPayments([
    payment(7, 'burn', '4', a),
    payment(7, 'work', '90', a),
    payment(7, 'burn', '1', b),
    payment(7, 'check', '20', b),
  ]);
  expect(rows.map(({ payment: { worker }, burned }) => [worker, burned])).toEqual([
    ['a', '4'],
    ['b', '1'],
  ]);
  expect(new Set(rows.map((row) => row.key)).size).toBe(2);
});

test('other money keeps rows of its own, and so does a share whose settlement is not listed', () => {
  const job = { job: 'job-1' };
  const payments = [
    payment(9, 'refund', '5', job),
    payment(9, 'escrow', '3', job),
    payment(8, 'deposit', '100'),
    payment(2, 'burn', '4', job),
    payment(1, 'treasury', '6', job),
  ];
  expect(shown(payments).map(([row]) => row)).toEqual([
    '9 refund 5',
    '9 escrow 3',
    '8 deposit 100',
    '2 burn 4',
    '1 treasury 6',
  ]);
});
