// What a contributor tells its page, and what the page tells it.

import type { Reason } from '../api.js';

export type Phase =
  /** Nothing runs; the GPU was not touched, or was given back. */
  | 'stopped'
  /** Logging in, opening the device. */
  | 'starting'
  /** Ready, without work. */
  | 'waiting'
  | 'working'
  /** Ends the package in hand, or gives it back. */
  | 'pausing'
  | 'paused'
  /** Something is wrong that this tab cannot repair; `reason` says what. */
  | 'failed';

/** The package in hand. */
export interface CurrentPackage {
  lease: string;
  job: string;
  /** The job's name, once it is known. */
  name: string | undefined;
  unitsDone: number;
  units: number;
}

export interface LogEntry {
  /** Numbers the entries of this tab, from 1. */
  number: number;
  /** Milliseconds of the Unix epoch. */
  at: number;
  kind: 'unit' | 'paid' | 'checking' | 'problem' | 'note';
  /** One line for a person. */
  text: string;
  /** Time on the device, in microseconds, of a unit. */
  deviceUs?: number;
}

export interface ContributorState {
  phase: Phase;
  /** Why it does not work, or what it works on. */
  reason: Reason;
  /** The wallet that is paid, base58; empty until the key is known. */
  wallet: string;
  /** The adapter's name; empty until Start. */
  adapter: string;
  /** Units computed since Start. */
  units: number;
  /** Units a minute, over the last minute. */
  unitsPerMinute: number;
  /** What the wallet was ever paid, in base units; `undefined` until the market said so. */
  earned: string | undefined;
  /** What the wallet was paid since Start, in base units. */
  earnedNow: string;
  current: CurrentPackage | undefined;
  /** The latest entries, newest first. */
  log: LogEntry[];
}

/** From the page to the worker. */
export type Command =
  | {
      type: 'start';
      market: string;
      instance: string;
      version: string;
      /** The least that a compute second must pay, in base units; anything when absent. */
      ask?: string;
    }
  | { type: 'pause' }
  | { type: 'resume' }
  | { type: 'stop' };

/** From the worker to the page. */
export type Report = { type: 'state'; state: ContributorState } | { type: 'farewell'; farewell: Farewell | undefined };

/**
 * The request that ends this worker at once: the page sends it while it is closed, when the worker has no time left to do
 * so. Only there while the worker is announced.
 */
export interface Farewell {
  url: string;
  token: string;
  body: string;
}

export const STOPPED: ContributorState = {
  phase: 'stopped',
  reason: { code: 'stopped', text: 'Nothing runs until you press Start.', facts: {} },
  wallet: '',
  adapter: '',
  units: 0,
  unitsPerMinute: 0,
  earned: undefined,
  earnedNow: '0',
  current: undefined,
  log: [],
};
