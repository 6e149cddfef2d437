// What several pages draw.

import type { Job, JobState, Progress, WorkerKind, WorkerState } from '@plexus/sdk';
import type { ComponentChildren } from 'preact';

import { count, percent, shortKey, tokens } from './format.js';

/** An amount in tokens. */
export function Tokens({ of: baseUnits, unit = true }: { of: string; unit?: boolean }) {
  return (
    <span class="tokens">
      {tokens(baseUnits)}
      {unit && <small> tokens</small>}
    </span>
  );
}

export function Key({ of: key }: { of: string }) {
  return (
    <code class="key" title={key}>
      {shortKey(key)}
    </code>
  );
}

export function Pill({ state }: { state: JobState | WorkerState }) {
  return <span class={`pill ${state}`}>{state}</span>;
}

export function Fact({ label, children, wide }: { label: string; children: ComponentChildren; wide?: boolean }) {
  return (
    <div class={wide ? 'fact wide' : 'fact'}>
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

const PARTS: [keyof Progress, string][] = [
  ['accepted', 'verified and paid'],
  ['checking', 'being verified'],
  ['leased', 'computing'],
  ['parked', 'given up'],
  ['waiting', 'waiting'],
  ['blocked', 'waiting for results'],
  ['skipped', 'not needed'],
];

/** A bar of a job's units by where they are. */
export function ProgressBar({ job, legend = false }: { job: Job; legend?: boolean }) {
  const done = percent(job.progress.accepted, job.units);
  return (
    <>
      <div
        class="progress"
        role="progressbar"
        aria-label={`Units of ${job.name} verified`}
        aria-valuenow={Math.round(done)}
        aria-valuemin={0}
        aria-valuemax={100}
      >
        {PARTS.map(([part]) => (
          <i class={part} style={{ width: `${percent(job.progress[part] ?? '0', job.units)}%` }} />
        ))}
      </div>
      {legend && (
        <ul class="legend">
          {PARTS.filter(([part]) => (job.progress[part] ?? '0') !== '0' || part === 'accepted').map(([part, label]) => (
            <li>
              <i class={`swatch ${part}`} />
              <b>{count(job.progress[part] ?? '0')}</b> {label}
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

/** What verification did, in words. */
export function Verification({ job }: { job: Job }) {
  const { checked, by_verifier, algebraic, sampled_out, disputed, rejected } = job.verification;
  if (checked === '0' && algebraic === '0' && sampled_out === '0' && disputed === '0')
    return <span class="quiet">nothing to verify yet</span>;
  return (
    <span>
      <b>{count(checked)}</b> re-executed
      {by_verifier !== '0' && <span class="quiet"> ({count(by_verifier)} by the market)</span>}
      {algebraic !== '0' && (
        <>
          {', '}
          <b>{count(algebraic)}</b> checked by the market without executing
        </>
      )}
      {', '}
      <b>{count(sampled_out)}</b> not drawn
      {disputed !== '0' && (
        <>
          {', '}
          <b class="bad">{count(disputed)}</b> disputed
        </>
      )}
      {rejected !== '0' && (
        <>
          {', '}
          <b class="bad">{count(rejected)}</b> run again
        </>
      )}
    </span>
  );
}

/** A chip for a native worker, a window for a browser. */
export function KindIcon({ kind }: { kind: WorkerKind }) {
  const label = kind === 'browser' ? 'browser tab' : 'native worker';
  return (
    <svg class="kind" viewBox="0 0 20 20" role="img" aria-label={label}>
      <title>{label}</title>
      {kind === 'browser' ? (
        <path d="M2.5 4.5h15v11h-15zM2.5 8h15M5 6.2h.01M7.4 6.2h.01" />
      ) : (
        <path d="M5.5 5.5h9v9h-9zM8 8h4v4H8zM8 2.5v3M12 2.5v3M8 14.5v3M12 14.5v3M2.5 8h3M2.5 12h3M14.5 8h3M14.5 12h3" />
      )}
    </svg>
  );
}
