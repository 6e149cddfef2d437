// The network live: money, jobs, workers, payments.

import type { Job, Ledger, Payment, PaymentKind, Worker } from '@plexus/sdk';

import { clock, count, percent, plural, sentence, tokens } from '../format.js';
import { useLive } from '../live.js';
import { foldPayments } from '../payments.js';
import { Fact, Key, KindIcon, Pill, ProgressBar, Tokens, Verification } from '../parts.js';
import { Preview } from '../preview.js';
import { Link } from '../route.js';

export function Network() {
  const { loaded, jobs, workers, payments, ledger } = useLive();
  const present = workers.filter((worker) => worker.state !== 'gone');
  const busy = present.filter((worker) => worker.state === 'busy').length;
  const open = jobs.filter((job) => job.state === 'running' || job.state === 'waiting').length;
  return (
    <div class="network">
      <section class="summary" aria-label="Summary">
        <h1>
          <em>{count(present.length)}</em> {present.length === 1 ? 'worker' : 'workers'}, <em>{count(busy)}</em>{' '}
          computing. <em>{count(open)}</em> {open === 1 ? 'job' : 'jobs'} open.
        </h1>
        {ledger && <Money ledger={ledger} />}
      </section>
      <section class="jobs" aria-labelledby="jobs-title">
        <h2 id="jobs-title">Jobs</h2>
        {jobs.length === 0 && (
          <Nothing loaded={loaded} text="No job yet. Submit one:" command="plexus submit examples/digits/job.toml" />
        )}
        {jobs.map((job) => (
          <JobCard key={job.id} job={job} />
        ))}
      </section>
      <aside class="side">
        <section aria-labelledby="workers-title">
          <h2 id="workers-title">Workers</h2>
          {workers.length === 0 && <Nothing loaded={loaded} text="No worker yet. Be the first:" link />}
          <ul class="workers">
            {workers.map((worker) => (
              <WorkerRow key={worker.id} worker={worker} />
            ))}
          </ul>
        </section>
        <section aria-labelledby="payments-title">
          <h2 id="payments-title">Payments</h2>
          {payments.length === 0 && <Nothing loaded={loaded} text="No money has moved yet." />}
          <Payments payments={payments} workers={workers} />
        </section>
      </aside>
    </div>
  );
}

function Nothing({ loaded, text, command, link }: { loaded: boolean; text: string; command?: string; link?: boolean }) {
  if (!loaded) return <p class="nothing">Asking the market…</p>;
  return (
    <p class="nothing">
      {text} {command && <code>{command}</code>}
      {link && <Link href="/contribute">contribute with this browser</Link>}
    </p>
  );
}

const PLACES: [keyof Ledger & string, string][] = [
  ['available', 'in accounts'],
  ['held', 'in escrow'],
  ['treasury', 'treasury'],
  ['burned', 'burned'],
];

/** Where all money is: the four places add up to what ever came in. */
function Money({ ledger }: { ledger: Ledger }) {
  return (
    <div class="money">
      <div class="money-bar" aria-hidden="true">
        {PLACES.map(([place]) => (
          <i class={place} style={{ width: `${percent(ledger[place], ledger.deposited)}%` }} />
        ))}
      </div>
      <dl class="facts">
        <Fact label="deposited">
          <Tokens of={ledger.deposited} unit={false} />
        </Fact>
        {PLACES.map(([place, label]) => (
          <div class="fact">
            <dt>
              <i class={`swatch ${place}`} /> {label}
            </dt>
            <dd>
              <Tokens of={ledger[place]} unit={false} />
            </dd>
          </div>
        ))}
        <Fact label="paid to workers, ever">
          <Tokens of={ledger.paid} unit={false} />
        </Fact>
        <Fact label="refunded, ever">
          <Tokens of={ledger.refunded} unit={false} />
        </Fact>
      </dl>
    </div>
  );
}

function JobCard({ job }: { job: Job }) {
  const join = job.joins[0];
  return (
    <article class="job" data-state={job.state}>
      <div class="job-text">
        <header>
          <h3>
            <Link href={`/jobs/${job.id}`}>{job.name}</Link>
          </h3>
          <Pill state={job.state} />
          <span class="quiet id">{job.id}</span>
        </header>
        <ProgressBar job={job} />
        <p class="job-line">
          <span>
            <b>{count(job.progress.accepted)}</b> of {plural(job.units, 'unit')}
          </span>
          <span>
            <b>{Math.floor(percent(job.progress.accepted, job.units))} %</b>
          </span>
        </p>
        {job.reason && job.state !== 'done' && <p class="reason">{sentence(job.reason.text)}</p>}
        <dl class="facts small">
          <Fact label="verification" wide>
            <Verification job={job} />
          </Fact>
          <Fact label="paid">
            {tokens(job.money.paid)} <span class="quiet">of {tokens(job.money.escrowed)}</span>
          </Fact>
          <Fact label="burned">{tokens(job.money.burned)}</Fact>
          <Fact label="workers">{count(job.workers.length)}</Fact>
        </dl>
      </div>
      {join && (
        <Link class="job-preview" href={`/jobs/${job.id}`} tabIndex={-1} aria-hidden="true">
          <Preview job={job} />
        </Link>
      )}
    </article>
  );
}

function WorkerRow({ worker }: { worker: Worker }) {
  return (
    <li class="worker" data-state={worker.state}>
      <KindIcon kind={worker.kind} />
      <div class="worker-who">
        <span class="adapter" title={worker.device.adapter}>
          {worker.device.adapter}
        </span>
        <span class="quiet">
          <Key of={worker.id} />
          {worker.verifier ? ' the market’s verifier' : ` ${worker.kind}`}
        </span>
      </div>
      <Pill state={worker.state} />
      <p class="reason">{sentence(worker.reason.text)}</p>
      <p class="worker-line">
        <span>
          <b>{count(worker.units)}</b> units
        </span>
        {worker.checked !== '0' && (
          <span>
            <b>{count(worker.checked)}</b> checked
          </span>
        )}
        <span class="earned">
          <b>{tokens(worker.earned)}</b> earned
        </span>
      </p>
    </li>
  );
}

const PAYMENT_WORDS: Record<PaymentKind, string> = {
  deposit: 'deposit',
  escrow: 'into escrow',
  work: 'for work',
  check: 'for a check',
  treasury: 'to the treasury',
  burn: 'burned',
  refund: 'refund',
  bond: 'set aside as stake',
  unbond: 'stake given back',
  reward: 'reward',
  royalty: 'royalty',
};

const PAYMENT_ROWS_MAX = 40;

/** The stream of payments; it is read out only on demand. */
function Payments({ payments, workers }: { payments: Payment[]; workers: Worker[] }) {
  const kinds = new Map(workers.map((worker) => [worker.id, worker.kind]));
  return (
    <ol class="payments">
      {foldPayments(payments)
        .slice(0, PAYMENT_ROWS_MAX)
        .map(({ key, payment, treasury, burned }) => {
          const toSomebody = payment.account && payment.kind !== 'burn' && payment.kind !== 'treasury';
          const kind = toSomebody && payment.worker ? kinds.get(payment.worker) : undefined;
          return (
            <li key={key} class={payment.kind}>
              <time dateTime={payment.at}>{clock(payment.at)}</time>
              <span class="what">
                {PAYMENT_WORDS[payment.kind]} {kind && <KindIcon kind={kind} />}
                {toSomebody && <Key of={payment.worker ?? payment.account ?? ''} />}
                {payment.job && <span class="quiet"> {payment.job}</span>}
              </span>
              <span class="amount">{tokens(payment.amount)}</span>
              {(treasury || burned) && (
                <small class="shares">
                  {treasury && <span class="treasury">{tokens(treasury)} to the treasury</span>}
                  {burned && <span class="burn">{tokens(burned)} burned</span>}
                </small>
              )}
            </li>
          );
        })}
    </ol>
  );
}
