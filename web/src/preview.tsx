// What a job's result looks like so far: a picture that fills in, or a table's first rows.

import type { Job, JoinSpec } from '@plexus/sdk';
import { useEffect, useRef, useState } from 'preact/hooks';

import { market } from './live.js';

/** Between two looks at a result that grows. */
const REFRESH_MS = 1_500;
const ROWS_MAX = 8;
/** More of a CSV than the first rows can take is not read. */
const TEXT_BYTES_MAX = 64 * 1024;

/**
 * What `load` makes of the job's result, read again while units are accepted: one reading at a time, however long it takes, and
 * not more often than `REFRESH_MS`.
 */
function useResult<T>(job: Job, output: number, load: (url: string, signal: AbortSignal) => Promise<T>): T | undefined {
  const [result, setResult] = useState<T>();
  const latest = useRef(job);
  latest.current = job;
  useEffect(() => {
    const abort = new AbortController();
    const follow = async () => {
      for (let shown = ''; !abort.signal.aborted;) {
        const { id, state, progress } = latest.current;
        const version = `${state} ${progress.accepted}`;
        if (version !== shown && progress.accepted !== '0') {
          try {
            setResult(await load(market.resultUrl(id, output, state !== 'done'), abort.signal));
            shown = version;
          } catch {
            // Overloaded or away: the next round asks again.
          }
        }
        if (shown.startsWith('done ')) return;
        await new Promise((resolve) => setTimeout(resolve, REFRESH_MS));
      }
    };
    void follow();
    return () => abort.abort();
  }, [job.id, output]);
  return result;
}

export function Preview({ job, rows = 5 }: { job: Job; rows?: number }) {
  const join = job.joins[0];
  if (!join) return null;
  if (job.progress.accepted === '0') return <Empty join={join} />;
  if (join.format === 'png') return <Picture job={job} join={join} />;
  if (join.format === 'csv') return <Table job={job} join={join} rows={Math.min(rows, ROWS_MAX)} />;
  return <p class="preview empty">{join.file}</p>;
}

function Empty({ join }: { join: JoinSpec }) {
  const style = join.layout.kind === 'tiles' ? { aspectRatio: `${join.layout.width} / ${join.layout.height}` } : {};
  return (
    <div class={`preview empty ${join.format}`} style={style}>
      <span>{join.file}</span>
    </div>
  );
}

function Picture({ job, join }: { job: Job; join: JoinSpec }) {
  const shown = useResult(job, join.output, picture);
  useEffect(() => () => void (shown && URL.revokeObjectURL(shown)), [shown]);
  const { layout } = join;
  const size = layout.kind === 'tiles' ? { width: layout.width, height: layout.height } : {};
  if (!shown) return <Empty join={join} />;
  return <img class="preview picture" src={shown} {...size} alt={`${join.file}, the result of ${job.name} so far`} />;
}

function Table({ job, join, rows }: { job: Job; join: JoinSpec; rows: number }) {
  const lines = useResult(job, join.output, firstLines) ?? [];
  const [head, ...body] = lines.slice(0, rows + 1);
  if (!head) return <div class="preview empty csv" />;
  return (
    <table class="preview csv">
      <thead>
        <tr>
          {head.map((cell) => (
            <th scope="col">{cell}</th>
          ))}
        </tr>
      </thead>
      <tbody>
        {body.map((line) => (
          <tr>
            {line.map((cell) => (
              <td>{cell}</td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

/** The picture as it is now, decoded before it is shown so that it never flickers. */
async function picture(url: string, signal: AbortSignal): Promise<string> {
  const answer = await fetch(url, { signal, cache: 'no-store' });
  if (!answer.ok) throw new Error(`the result answered ${answer.status}`);
  const address = URL.createObjectURL(await answer.blob());
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    signal.throwIfAborted();
    return address;
  } catch (error) {
    URL.revokeObjectURL(address);
    throw error;
  }
}

/** The first lines of a CSV, without reading the rest of it. */
async function firstLines(url: string, signal: AbortSignal): Promise<string[][]> {
  const answer = await fetch(url, { signal, cache: 'no-store' });
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!answer.ok || !reader) throw new Error(`the result answered ${answer.status}`);
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? '';
    if (done || text.split('\n').length > ROWS_MAX + 2 || text.length > TEXT_BYTES_MAX) break;
  }
  void reader.cancel();
  const lines = text.split(/\r?\n/).filter((line) => line !== '');
  return lines.slice(0, ROWS_MAX + 1).map((line) => line.split(',').slice(0, 8));
}
