// The inside of the dedicated Web Worker: one contributor, told by messages, reporting its state.
//
// A lock makes sure that only one tab of a browser contributes: all of them have the same key and the same GPU.

import { Client } from '../client.js';
import { browserKey } from '../keys.js';
import { BlobCache } from './blobs.js';
import { openWebGpu } from './compute.js';
import { Contributor } from './contributor.js';
import { type Command, type ContributorState, type Farewell, type Report, STOPPED } from './state.js';

const LOCK = 'plexus-contribute';
/** State changes within this time go to the page as one message. */
const REPORT_MS = 100;

/** The part of a worker's global scope that is used. */
export interface WorkerScope {
  postMessage(message: Report): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<Command>) => void): void;
}

/** Call it once, at the top of the worker's script. */
export function hostContributor(scope: WorkerScope): void {
  let contributor: Contributor | undefined;
  let unlock: (() => void) | undefined;
  let latest: ContributorState = STOPPED;
  let scheduled = false;

  const post = () => {
    scheduled = false;
    scope.postMessage({ type: 'state', state: latest });
  };
  const report = (state: ContributorState) => {
    const turned = state.phase !== latest.phase;
    latest = state;
    if (turned) post();
    else if (!scheduled) {
      scheduled = true;
      setTimeout(() => scheduled && post(), REPORT_MS);
    }
  };
  const fail = (code: string, text: string) => {
    report({ ...latest, phase: 'failed', reason: { code, text, facts: {} } });
  };

  const begin = async (command: Extract<Command, { type: 'start' }>) => {
    unlock ??= await lock();
    if (!unlock) {
      return fail('other_tab', 'Another tab of this browser is already contributing. Close it, or go on there.');
    }
    if (!contributor) {
      const signer = await browserKey();
      const client = new Client({ market: command.market, signer });
      const blobs = new BlobCache((hash) => client.blob(hash));
      const { instance, version } = command;
      const blob = blobs.get.bind(blobs);
      const onFarewell = (farewell: Farewell | undefined) => scope.postMessage({ type: 'farewell', farewell });
      const openDevice = () => openWebGpu();
      contributor = new Contributor({ client, blob, openDevice, instance, version, onState: report, onFarewell });
    }
    contributor.ask = command.ask ?? '0';
    contributor.start();
  };

  const obey = async (command: Command) => {
    switch (command.type) {
      case 'start':
        return begin(command);
      case 'pause':
        return contributor?.pause();
      case 'resume':
        return contributor?.start();
      case 'stop':
        await contributor?.stop();
        unlock?.();
        unlock = undefined;
        return undefined;
    }
  };
  scope.addEventListener('message', (event) => {
    obey(event.data).catch((error: unknown) => {
      fail('internal', `Something went wrong: ${error instanceof Error ? error.message : String(error)}`);
    });
  });
}

/** Takes the lock if it is free; the answer gives it back. */
async function lock(): Promise<(() => void) | undefined> {
  const { locks } = navigator;
  if (!locks) return () => {};
  return new Promise((resolve) => {
    void locks.request(LOCK, { ifAvailable: true }, (held) => {
      if (!held) return resolve(undefined);
      return new Promise<void>((release) => resolve(() => release()));
    });
  });
}
