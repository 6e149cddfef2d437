// Payments as rows: a settlement pays a worker, and with that the treasury and nobody (burned). These belong to one row.

import type { Payment } from '@plexus/sdk';

export interface PaymentRow {
  key: string;
  /** What the row is about: what the worker, or the one party there is, got or gave. */
  payment: Payment;
  /** In base units; absent when nothing went there. */
  treasury?: string;
  burned?: string;
}

/** One journal event can move money to several accounts. */
export function paymentKey({ seq, kind, account, package: of, worker }: Payment): string {
  return `${seq}/${kind}/${account ?? ''}/${of ?? ''}/${worker ?? ''}`;
}

/** Folds what went to the treasury and what was burned into the payment that it was a share of. The order stays. */
export function foldPayments(payments: readonly Payment[]): PaymentRow[] {
  const settlements = new Map<string, PaymentRow>();
  for (const payment of payments) {
    if (payment.kind === 'work' || payment.kind === 'check') {
      settlements.set(settlementKey(payment), { key: paymentKey(payment), payment });
    }
  }
  const rows = new Set<PaymentRow>();
  for (const payment of payments) {
    const share = payment.kind === 'treasury' || payment.kind === 'burn';
    const paid = share || payment.kind === 'work' || payment.kind === 'check';
    const settlement = paid ? settlements.get(settlementKey(payment)) : undefined;
    if (payment.kind === 'treasury' && settlement) settlement.treasury = sum(settlement.treasury, payment.amount);
    if (payment.kind === 'burn' && settlement) settlement.burned = sum(settlement.burned, payment.amount);
    rows.add(settlement ?? { key: paymentKey(payment), payment });
  }
  return [...rows];
}

/** One event can settle with several workers, each with shares of its own. */
function settlementKey({ seq, job, package: of, worker }: Payment): string {
  return `${seq}/${job ?? ''}/${of ?? ''}/${worker ?? ''}`;
}

function sum(a: string | undefined, b: string): string {
  return String(BigInt(a ?? 0) + BigInt(b));
}
