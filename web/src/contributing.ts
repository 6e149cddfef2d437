// This tab's contribution. It lives outside the pages: looking at the network does not end it.

import { browserKey, ed25519Available, fromTokens, parseAmount } from '@plexus/sdk';
import { type Command, type ContributorState, type Farewell, type Report, STOPPED } from '@plexus/sdk/worker';
import { useEffect, useState } from 'preact/hooks';

const VERSION = 'plexus-web/0.1.0';

/** What this browser lacks; nothing is asked of the GPU to find out. */
export type Lack = 'secure' | 'webgpu' | 'ed25519' | 'storage';

export async function findLacks(): Promise<Lack[]> {
  if (!globalThis.isSecureContext) return ['secure'];
  const lacks: Lack[] = [];
  if (!navigator.gpu) lacks.push('webgpu');
  if (!(await ed25519Available())) lacks.push('ed25519');
  else if (!(await walletAddress().catch(() => undefined))) lacks.push('storage');
  return lacks;
}

/** The wallet that this browser's work is paid to, made on first use. */
export async function walletAddress(): Promise<string> {
  return (await browserKey()).address;
}

class Contribution {
  #worker: Worker | undefined;
  #state: ContributorState = STOPPED;
  #farewell: Farewell | undefined;
  readonly #listeners = new Set<() => void>();

  constructor() {
    // A tab that is closed gives its work back at once, instead of being missed later.
    window.addEventListener('pagehide', () => {
      if (!this.#farewell) return;
      const { url, token, body } = this.#farewell;
      const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
      fetch(url, { method: 'POST', keepalive: true, headers, body }).catch(() => {});
    });
  }

  get state(): ContributorState {
    return this.#state;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  start(): void {
    this.#worker ??= this.#spawn();
    const terms = { instance: instance(), version: VERSION, ask: askedPay() };
    this.#send({ type: 'start', market: location.origin, ...terms });
  }

  pause(): void {
    this.#send({ type: 'pause' });
  }

  resume(): void {
    this.start();
  }

  stop(): void {
    this.#send({ type: 'stop' });
  }

  #spawn(): Worker {
    const worker = new Worker(new URL('./contribute.worker.ts', import.meta.url), { type: 'module', name: 'plexus' });
    worker.onmessage = ({ data }: MessageEvent<Report>) => {
      if (data.type === 'state') this.#set(data.state);
      else this.#farewell = data.farewell;
    };
    worker.onerror = (event) => {
      const text = `The worker could not be loaded: ${event.message || 'the browser gives no reason'}. Reload the page.`;
      this.#set({ ...this.#state, phase: 'failed', reason: { code: 'worker_failed', text, facts: {} } });
      this.#worker = undefined;
    };
    return worker;
  }

  #send(command: Command): void {
    this.#worker?.postMessage(command);
  }

  #set(state: ContributorState): void {
    this.#state = state;
    for (const listener of this.#listeners) listener();
  }
}

export const contribution = new Contribution();

export function useContribution(): ContributorState {
  const [state, setState] = useState(contribution.state);
  useEffect(() => {
    const update = () => setState(contribution.state);
    update();
    return contribution.subscribe(update);
  }, []);
  return state;
}

const ASK = 'plexus.ask';

/** The least that a compute second must pay, in base units; kept for the next visit. */
export function askedPay(): string {
  try {
    return String(parseAmount(localStorage.getItem(ASK) ?? '0'));
  } catch {
    return '0';
  }
}

/** Sets it for the next start. Throws a `RangeError` on what is no amount of tokens. */
export function askPay(tokens: string): void {
  const amount = String(fromTokens(tokens));
  try {
    localStorage.setItem(ASK, amount);
  } catch {
    // A browser that keeps nothing asks for nothing.
  }
}

/**
 * Names this browser to the market. It is kept, so that a page that was reloaded is the same worker and not a second one with
 * its key; a lock sees to it that only one tab contributes.
 */
function instance(): string {
  const name = 'plexus.instance';
  try {
    const kept = localStorage.getItem(name);
    if (kept) return kept;
    const made = crypto.randomUUID();
    localStorage.setItem(name, made);
    return made;
  } catch {
    return crypto.randomUUID();
  }
}
