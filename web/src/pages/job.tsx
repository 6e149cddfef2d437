// One job: where its units are, who computed them, what it costs, and its result.

import { type Job, type Page, ProblemError, type Unit, type UnitState } from '@plexus/sdk';
import { useEffect, useState } from 'preact/hooks';

import { clock, count, microseconds, plural, sentence, tokens } from '../format.js';
import { market, useLive } from '../live.js';
import { Fact, Key, KindIcon, Pill, ProgressBar, Tokens, Verification } from '../parts.js';
import { Preview } from '../preview.js';
import { Link } from '../route.js';

/** Units that the map draws. */
const UNITS_MAX = 2_000;
const REFRESH_MS = 1_000;

export function JobPage({ id }: { id: string }) {
  const { jobs, workers } = useLive();
  const [fetched, setFetched] = useState<Job>();
  const [missing, setMissing] = useState<string>();
  const live = jobs.find((job) => job.id === id);
  useEffect(() => {
    market.job(id).then(setFetched, (error: unknown) => {
      setMissing(error instanceof ProblemError ? error.problem.detail : 'the market does not answer');
    });
  }, [id]);
  const job = live ?? fetched;
  if (!job) {
    return (
      <section class="narrow">
        <h1>{id}</h1>
        <p>{missing ? `It cannot be shown: ${missing}.` : 'Asking the market…'}</p>
      </section>
    );
  }
  const kinds = new Map(workers.map((worker) => [worker.id, worker]));
  return (
    <article class="job-page">
      <header class="job-head">
        <p class="crumbs">
          <Link href="/">Network</Link> / {job.id}
        </p>
        <h1>{job.name}</h1>
        <Pill state={job.state} />
        {job.reason && job.state !== 'done' && <p class="reason">{sentence(job.reason.text)}</p>}
      </header>
      <section class="job-progress" aria-label="Progress">
        <ProgressBar job={job} legend />
      </section>
      <div class="job-columns">
        <div>
          <UnitMap job={job} />
          <section aria-labelledby="who">
            <h2 id="who">Who worked on it</h2>
            <table class="plain">
              <thead>
                <tr>
                  <th scope="col">worker</th>
                  <th scope="col" class="number">
                    units
                  </th>
                  <th scope="col" class="number">
                    checked
                  </th>
                  <th scope="col" class="number">
                    device time
                  </th>
                  <th scope="col" class="number">
                    paid
                  </th>
                </tr>
              </thead>
              <tbody>
                {job.workers.map((worker, i) => {
                  const known = kinds.get(worker.worker);
                  return (
                    <tr key={worker.worker}>
                      <td class="who">
                        <i class={`swatch worker-${i % 6}`} />
                        {known && <KindIcon kind={known.kind} />} {known?.device.adapter ?? ''}{' '}
                        <Key of={worker.worker} />
                      </td>
                      <td class="number">{count(worker.units)}</td>
                      <td class="number">{count(worker.checked)}</td>
                      <td class="number">{microseconds(Number(worker.device_us))}</td>
                      <td class="number">{tokens(worker.paid)}</td>
                    </tr>
                  );
                })}
              </tbody>
            </table>
            {job.workers.length === 0 && <p class="nothing">Nobody yet.</p>}
          </section>
        </div>
        <div>
          <section aria-labelledby="result">
            <h2 id="result">Result</h2>
            <Preview job={job} rows={8} />
            <ul class="files">
              {job.joins.map((join) => (
                <li key={join.output}>
                  <a href={market.resultUrl(job.id, join.output, job.state !== 'done')} download={join.file}>
                    {join.file}
                  </a>
                  {job.state !== 'done' && <span class="quiet"> so far</span>}
                </li>
              ))}
            </ul>
          </section>
          <section aria-labelledby="bill">
            <h2 id="bill">Bill</h2>
            <dl class="facts grid">
              <Fact label="a unit">
                <Tokens of={job.unit_price} />
              </Fact>
              <Fact label="escrowed">{tokens(job.money.escrowed)}</Fact>
              <Fact label="paid to workers">{tokens(job.money.paid)}</Fact>
              <Fact label="treasury">{tokens(job.money.treasury)}</Fact>
              <Fact label="burned">{tokens(job.money.burned)}</Fact>
              <Fact label="refunded">{tokens(job.money.refunded)}</Fact>
              <Fact label="still held">{tokens(job.money.held)}</Fact>
            </dl>
          </section>
          <section aria-labelledby="facts">
            <h2 id="facts">Facts</h2>
            <dl class="facts grid">
              <Fact label="verification" wide>
                <Verification job={job} />
              </Fact>
              <Fact label="kind">{job.kind}</Fact>
              <Fact label="units">{count(job.units)}</Fact>
              <Fact label="submitted">{clock(job.submitted_at)}</Fact>
              {job.ended_at && <Fact label="ended">{clock(job.ended_at)}</Fact>}
              <Fact label="owner">
                <Key of={job.owner} />
              </Fact>
              <Fact label="manifest" wide>
                <a class="hash" href={`/v1/blobs/${job.manifest}`}>
                  {job.manifest.slice(0, 24)}…
                </a>
              </Fact>
            </dl>
          </section>
        </div>
      </div>
    </article>
  );
}

/** Every unit as a cell, coloured by its state or by who computed it. */
function UnitMap({ job }: { job: Job }) {
  const units = useUnits(job);
  const [by, setBy] = useState<'state' | 'worker'>('state');
  const colours = new Map(job.workers.map((worker, i) => [worker.worker, `worker-${i % 6}`]));
  const total = Number(job.units);
  const columns = columnsOf(job, Math.min(total, UNITS_MAX));
  return (
    <section aria-labelledby="units">
      <div class="section-head">
        <h2 id="units">Units</h2>
        <div class="toggle" role="group" aria-label="Colour by">
          {(['state', 'worker'] as const).map((value) => (
            <button type="button" aria-pressed={by === value} onClick={() => setBy(value)}>
              by {value}
            </button>
          ))}
        </div>
      </div>
      <div
        class="units"
        role="img"
        aria-label={`${job.progress.accepted} of ${plural(job.units, 'unit')} verified`}
        style={{ gridTemplateColumns: `repeat(${columns}, minmax(0, 1fr))` }}
      >
        {units.map((unit) => (
          <i
            key={unit.id}
            class={by === 'worker' ? (unit.worker ? colours.get(unit.worker) : 'none') : unit.state}
            data-checked={unit.checked_by?.length ? '' : undefined}
            title={titleOf(unit)}
          />
        ))}
      </div>
      <p class="quiet small">
        {total > UNITS_MAX ? `The first ${count(UNITS_MAX)} of ${count(total)} units. ` : ''}A ring marks units that
        somebody else re-executed.
      </p>
    </section>
  );
}

const WORDS: Record<UnitState, string> = {
  blocked: 'waiting for the results it reads',
  waiting: 'waiting',
  leased: 'computing',
  checking: 'being verified',
  accepted: 'verified and paid',
  parked: 'given up',
  skipped: 'not needed any more',
};

function titleOf(unit: Unit): string {
  const by = unit.worker ? `, by ${unit.worker}` : '';
  const checked = unit.checked_by?.length ? `, re-executed by ${unit.checked_by.join(' and ')}` : '';
  return `${unit.id}: ${WORDS[unit.state]}${by}${checked}`;
}

/** Tiles lie as they do in the picture; others fill a compact field. */
function columnsOf(job: Job, units: number): number {
  const layout = job.joins[0]?.layout;
  if (layout?.kind === 'tiles') return Math.ceil(layout.width / layout.tile_width);
  return Math.max(1, Math.min(units, Math.max(25, Math.ceil(Math.sqrt(units * 2.5)))));
}

function useUnits(job: Job): Unit[] {
  const [units, setUnits] = useState<Unit[]>([]);
  const { accepted, checking, leased, parked } = job.progress;
  useEffect(() => {
    let current = true;
    const timer = setTimeout(
      () => {
        allUnits(job.id).then(
          (all) => current && setUnits(all),
          () => {},
        );
      },
      units.length === 0 ? 0 : REFRESH_MS,
    );
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [job.id, accepted, checking, leased, parked]);
  return units;
}

async function allUnits(job: string): Promise<Unit[]> {
  const units: Unit[] = [];
  let cursor: string | undefined;
  do {
    const page: Page<Unit> = await market.units(job, cursor ? { cursor } : {});
    units.push(...page.items);
    cursor = page.next ?? undefined;
  } while (cursor && units.length < UNITS_MAX);
  const index = (unit: Unit) => Number(unit.id.slice(unit.id.indexOf('/') + 1));
  return units.sort((a, b) => index(a) - index(b)).slice(0, UNITS_MAX);
}
