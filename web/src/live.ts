// The network as the market tells it: lists when the page opens, then every change over server-sent events.
//
// The browser reconnects by itself and says with `Last-Event-ID` what it saw last, so nothing is asked twice.

import { Client, type Job, type Ledger, type Payment, type Worker } from '@plexus/sdk';
import { useEffect, useState } from 'preact/hooks';

import { paymentKey } from './payments.js';

/** A settlement is up to three of them, and one row on the page. */
const PAYMENTS_MAX = 150;
const JOBS_MAX = 100;
/** The ledger is asked for at most this often while payments come in. */
const LEDGER_MS = 1_000;

export interface Live {
  connection: 'connecting' | 'live' | 'lost';
  /** Whether the first lists have arrived. */
  loaded: boolean;
  /** Newest first. */
  jobs: Job[];
  /** Those at work first, those that left last. */
  workers: Worker[];
  /** Newest first. */
  payments: Payment[];
  ledger: Ledger | undefined;
}

/** Public calls to the market that served this page. */
export const market = new Client({ market: location.origin });

class LiveNetwork {
  readonly #jobs = new Map<string, Job>();
  readonly #workers = new Map<string, Worker>();
  readonly #payments = new Map<string, Payment>();
  readonly #listeners = new Set<() => void>();
  #connection: Live['connection'] = 'connecting';
  #loaded = false;
  #ledger: Ledger | undefined;
  #ledgerTimer: ReturnType<typeof setTimeout> | undefined;
  #frame: number | undefined;
  #started = false;
  #view: Live = this.#read();

  get view(): Live {
    return this.#view;
  }

  subscribe(listener: () => void): () => void {
    this.#start();
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #start(): void {
    if (this.#started) return;
    this.#started = true;
    // Events that arrive before the lists must not be overwritten by them: both say "the whole of it now", and whatever the
    // lists say that is newer comes as an event as well.
    const early: (() => void)[] = [];
    const apply = (change: () => void) => {
      if (this.#loaded) change();
      else early.push(change);
      this.#changed();
    };
    const source = new EventSource('/v1/events');
    source.onopen = () => {
      this.#connection = 'live';
      void this.#load().then((loaded) => {
        if (!loaded) return;
        this.#loaded = true;
        for (const change of early.splice(0)) change();
        this.#changed();
      });
      this.#changed();
    };
    source.onerror = () => {
      this.#connection = 'lost';
      this.#changed();
      // A market that refused the connection (too many listeners, restarting) ends it for good; the page comes back.
      if (source.readyState === EventSource.CLOSED) {
        this.#started = false;
        setTimeout(() => this.#start(), 3_000);
      }
    };
    source.addEventListener('job', (event) => {
      const job = JSON.parse(event.data) as Job;
      apply(() => this.#jobs.set(job.id, job));
    });
    source.addEventListener('worker', (event) => {
      const worker = JSON.parse(event.data) as Worker;
      apply(() => this.#workers.set(worker.id, worker));
    });
    source.addEventListener('payment', (event) => {
      const payment = JSON.parse(event.data) as Payment;
      apply(() => this.#payments.set(paymentKey(payment), payment));
      this.#ledgerTimer ??= setTimeout(() => {
        this.#ledgerTimer = undefined;
        void this.#loadLedger();
      }, LEDGER_MS);
    });
  }

  async #load(): Promise<boolean> {
    try {
      const [jobs, workers, payments] = await Promise.all([
        market.jobs(),
        market.workers(),
        market.payments(),
        this.#loadLedger(),
      ]);
      for (const job of jobs.items) this.#jobs.set(job.id, job);
      for (const worker of workers.items) this.#workers.set(worker.id, worker);
      for (const payment of payments.items) this.#payments.set(paymentKey(payment), payment);
      return true;
    } catch {
      return false; // the connection breaks as well, and opens again
    }
  }

  async #loadLedger(): Promise<void> {
    try {
      this.#ledger = await market.ledger();
      this.#changed();
    } catch {
      // The next payment asks again.
    }
  }

  #changed(): void {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = undefined;
      this.#view = this.#read();
      for (const listener of this.#listeners) listener();
    });
  }

  #read(): Live {
    const jobs = [...this.#jobs.values()].sort((a, b) => idNumber(b.id) - idNumber(a.id));
    for (const old of jobs.splice(JOBS_MAX)) this.#jobs.delete(old.id);
    const payments = [...this.#payments.values()].sort((a, b) => Number(BigInt(b.seq) - BigInt(a.seq)));
    for (const old of payments.splice(PAYMENTS_MAX)) this.#payments.delete(paymentKey(old));
    return {
      connection: this.#connection,
      loaded: this.#loaded,
      jobs,
      workers: [...this.#workers.values()].sort(byPresence),
      payments,
      ledger: this.#ledger,
    };
  }
}

const PRESENCE = { busy: 0, idle: 0, draining: 1, gone: 2 };

function byPresence(a: Worker, b: Worker): number {
  return (
    PRESENCE[a.state] - PRESENCE[b.state] ||
    Number(a.verifier) - Number(b.verifier) ||
    Number(BigInt(b.units) - BigInt(a.units)) ||
    a.id.localeCompare(b.id)
  );
}

function idNumber(id: string): number {
  return Number(id.slice(id.indexOf('-') + 1));
}

const network = new LiveNetwork();

/** The live network; the component is drawn again when it changes. */
export function useLive(): Live {
  const [view, setView] = useState(network.view);
  useEffect(() => {
    const update = () => setView(network.view);
    update();
    return network.subscribe(update);
  }, []);
  return view;
}
