// One button between an idle GPU and paid work, and at every moment the reason why it earns or does not.

import { parseAmount, toTokens } from '@plexus/sdk';
import type { ContributorState, LogEntry, Phase } from '@plexus/sdk/worker';
import { useEffect, useState } from 'preact/hooks';

import {
  type Lack,
  askPay,
  askedPay,
  contribution,
  findLacks,
  useContribution,
  walletAddress,
} from '../contributing.js';
import { clock, count, microseconds, sentence, tokens } from '../format.js';
import { Fact } from '../parts.js';
import { Link } from '../route.js';

export function Contribute() {
  const [lacks, setLacks] = useState<Lack[]>();
  const state = useContribution();
  useEffect(() => {
    void findLacks().then((found) => {
      setLacks(found);
      // For tests and the demo alone: a link must never start somebody's GPU.
      const asked = navigator.webdriver && new URLSearchParams(location.search).get('autostart') === '1';
      if (asked && found.length === 0 && contribution.state.phase === 'stopped') contribution.start();
    });
  }, []);
  if (!lacks) return <section class="narrow quiet">Looking at this browser…</section>;
  if (lacks.length > 0) return <Unable lacks={lacks} />;
  return (
    <div class="contribute">
      <Panel state={state} />
      <div class="contribute-side">
        {state.reason.code === 'gpu_unavailable' && <NoAdapter />}
        <Numbers state={state} />
        <Log entries={state.log} />
        <Terms phase={state.phase} />
        <Wallet />
      </div>
    </div>
  );
}

const TITLES: Record<Phase, string> = {
  stopped: 'Ready when you are',
  starting: 'Starting',
  waiting: 'Waiting for work',
  working: 'Computing',
  pausing: 'Ending the work in hand',
  paused: 'Paused',
  failed: 'Stopped',
};

/** The dial with the package in hand, the state in words, the buttons. */
function Panel({ state }: { state: ContributorState }) {
  const { phase, current } = state;
  const busy = current !== undefined && phase !== 'waiting';
  // A package of one unit has no progress to show, only that it goes on.
  const turning = busy && current.units === 1;
  const share = !busy ? 0 : turning ? 0.14 : current.unitsDone / current.units;
  const turn = 2 * Math.PI * 88;
  return (
    <section class="panel" data-phase={phase} aria-label="Contribution">
      <h1 class="visually-hidden">Contribute with this browser</h1>
      <div class="dial">
        <svg viewBox="0 0 200 200" aria-hidden="true">
          <circle class="dial-track" cx="100" cy="100" r="88" />
          <circle
            class={turning ? 'dial-share turning' : 'dial-share'}
            cx="100"
            cy="100"
            r="88"
            stroke-dasharray={`${share * turn} ${turn}`}
          />
          <g class="dial-ticks">
            {Array.from({ length: 60 }, (_, i) => (
              <line x1="100" y1="26" x2="100" y2={i % 5 === 0 ? 33 : 29} transform={`rotate(${i * 6} 100 100)`} />
            ))}
          </g>
        </svg>
        <div class="dial-text">
          {phase === 'stopped' || phase === 'paused' || phase === 'failed' ? (
            <button
              type="button"
              class="start"
              onClick={() => (phase === 'paused' ? contribution.resume() : contribution.start())}
            >
              {phase === 'paused' ? 'Resume' : 'Start'}
            </button>
          ) : (
            <>
              <output class="dial-number">{rate(state.unitsPerMinute)}</output>
              <span class="dial-label">units a minute</span>
            </>
          )}
        </div>
      </div>
      <div class="status" role="status" aria-live="polite">
        <strong>{TITLES[phase]}</strong>
        <p>{sentence(state.reason.text)}</p>
      </div>
      <div class="buttons">
        <button
          type="button"
          onClick={() => contribution.pause()}
          disabled={!['starting', 'waiting', 'working'].includes(phase)}
        >
          Pause
        </button>
        <button type="button" onClick={() => contribution.stop()} disabled={phase === 'stopped' || phase === 'pausing'}>
          Stop
        </button>
      </div>
      <p class="quiet small center">
        {state.adapter ? (
          <span class="adapter">{state.adapter}</span>
        ) : (
          'Your GPU is not touched before you press Start.'
        )}
      </p>
    </section>
  );
}

function rate(perMinute: number): string {
  return perMinute < 10 ? perMinute.toFixed(1) : count(Math.round(perMinute));
}

function Numbers({ state }: { state: ContributorState }) {
  const { current } = state;
  return (
    <section class="numbers" aria-label="Numbers">
      <dl class="facts big">
        <Fact label="earned since start">
          <span class="tokens" data-field="earned-now">
            {tokens(state.earnedNow)}
            <small> tokens</small>
          </span>
        </Fact>
        <Fact label="earned ever">{state.earned === undefined ? '–' : tokens(state.earned)}</Fact>
        <Fact label="units computed">
          <span data-field="units">{count(state.units)}</span>
        </Fact>
      </dl>
      <p class="package">
        {current ? (
          <>
            <Link href={`/jobs/${current.job}`}>{current.name ?? current.job}</Link>
            <span>
              unit {count(Math.min(current.unitsDone + 1, current.units))} of {count(current.units)} in this package
            </span>
            <progress value={current.unitsDone} max={current.units} aria-label="Package in hand" />
          </>
        ) : (
          <span class="quiet">No package in hand.</span>
        )}
      </p>
    </section>
  );
}

function Log({ entries }: { entries: LogEntry[] }) {
  return (
    <section aria-labelledby="log-title">
      <h2 id="log-title">What happened</h2>
      {entries.length === 0 && <p class="nothing">Units appear here as this tab computes them.</p>}
      <ol class="log">
        {entries.slice(0, 30).map((entry) => (
          <li key={entry.number} class={entry.kind}>
            <time>{clock(entry.at)}</time>
            <span>{entry.text}</span>
            {entry.deviceUs !== undefined && <span class="quiet">{microseconds(entry.deviceUs)}</span>}
          </li>
        ))}
      </ol>
    </section>
  );
}

/** What this tab works for; told to the market with the next Start. */
function Terms({ phase }: { phase: Phase }) {
  const [text, setText] = useState(() => toTokens(parseAmount(askedPay())));
  const [wrong, setWrong] = useState(false);
  const change = (tokens: string) => {
    setText(tokens);
    try {
      askPay(tokens);
      setWrong(false);
    } catch {
      setWrong(true);
    }
  };
  const idle = ['stopped', 'paused', 'failed'].includes(phase);
  return (
    <section aria-labelledby="terms-title">
      <h2 id="terms-title">Your terms</h2>
      <p>
        <label>
          Work only for jobs that pay at least{' '}
          <input
            type="text"
            inputMode="decimal"
            size={10}
            value={text}
            disabled={!idle}
            aria-invalid={wrong}
            onInput={(event) => change(event.currentTarget.value)}
          />{' '}
          tokens a compute second.
        </label>
      </p>
      <p class="quiet small">
        {wrong
          ? 'That is not an amount of tokens, such as 0.05; the last one that was holds.'
          : 'A compute second is what a device of 1 TFLOP/s does in a second. 0 takes every job. It changes while you do not contribute.'}
      </p>
    </section>
  );
}

function Wallet() {
  const [address, setAddress] = useState('');
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    void walletAddress().then(setAddress);
  }, []);
  const copy = async () => {
    await navigator.clipboard.writeText(address);
    setCopied(true);
  };
  return (
    <section class="wallet" aria-labelledby="wallet-title">
      <h2 id="wallet-title">Your wallet</h2>
      <p class="address">
        <code>{address}</code>
        <button type="button" onClick={() => void copy()}>
          {copied ? 'Copied' : 'Copy'}
        </button>
      </p>
      <p class="quiet small">
        Its key was made in this browser and cannot leave it, so it cannot be exported or stolen by a page. It lives
        with this site’s data: clearing that loses the key. No funded wallet is needed to earn.
      </p>
    </section>
  );
}

const LACKS: Record<Lack, [string, string]> = {
  secure: [
    'This page was not opened securely',
    'Browsers give WebGPU and keys only to pages on https:// or on localhost. Open the market by its https address.',
  ],
  webgpu: [
    'This browser has no WebGPU',
    'WebGPU is how a page computes on your graphics card. It is missing or switched off here.',
  ],
  ed25519: [
    'This browser cannot make Ed25519 keys',
    'Your work is signed and paid to a key of that kind, which stays in the browser.',
  ],
  storage: [
    'This browser keeps no data for this page',
    'The key that is paid lives in the browser’s storage, which private windows and some settings forbid.',
  ],
};

/** What is missing, what works instead. */
function Unable({ lacks }: { lacks: Lack[] }) {
  return (
    <section class="narrow unable" role="alert">
      <h1>This browser can’t contribute yet</h1>
      {lacks.map((lack) => (
        <div class="lack" data-lack={lack}>
          <h2>{LACKS[lack][0]}</h2>
          <p>{LACKS[lack][1]}</p>
        </div>
      ))}
      <Alternatives />
    </section>
  );
}

function NoAdapter() {
  return (
    <section class="unable" role="alert">
      <h2>Your browser offers no GPU</h2>
      <p>
        WebGPU is there, but no graphics adapter. Check that hardware acceleration is on in the browser’s settings and
        that the graphics driver is up to date. On Linux, Chrome needs <code>chrome://flags/#enable-unsafe-webgpu</code>{' '}
        on many machines.
      </p>
      <Alternatives />
    </section>
  );
}

function Alternatives() {
  return (
    <>
      <h2>What works</h2>
      <table class="plain">
        <thead>
          <tr>
            <th scope="col">browser</th>
            <th scope="col">from version</th>
          </tr>
        </thead>
        <tbody>
          <tr>
            <td>Chrome, Edge and other Chromium browsers</td>
            <td>137 on Windows, macOS, ChromeOS and Android 12; on Linux with the WebGPU flag</td>
          </tr>
          <tr>
            <td>Safari</td>
            <td>26 on macOS, iOS and iPadOS</td>
          </tr>
          <tr>
            <td>Firefox</td>
            <td>141 on Windows, 145 on Macs with Apple silicon; elsewhere with dom.webgpu.enabled</td>
          </tr>
        </tbody>
      </table>
      <h2>Or without a browser</h2>
      <p>The native worker runs on any machine with Vulkan, Metal or DirectX 12, and uses all of its GPU:</p>
      <pre>
        <code>plexus worker --market {location.origin}</code>
      </pre>
      <p>
        You can still <Link href="/">watch the network</Link> from here.
      </p>
    </>
  );
}
