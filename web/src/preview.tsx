// What a job's result looks like so far: a picture that fills in, or a table's first rows.

import type { Job, JoinSpec } from '@plexus/sdk';
import { useEffect, useRef, useState } from 'preact/hooks';

import { market } from './live.js';

/** Between two looks at a result that grows. */
const REFRESH_MS = 1_500;
const ROWS_MAX = 8;
/** More of a CSV than the first rows can take is not read. */
const TEXT_BYTES_MAX = 64 * 1024;

/** Counts up when the result should be read again: at once, then not more often than `REFRESH_MS`. */
function useRefresh(job: Job): number {
  const [version, setVersion] = useState(0);
  const last = useRef(0);
  const { accepted } = job.progress;
  useEffect(() => {
    const timer = setTimeout(
      () => {
        last.current = Date.now();
        setVersion((v) => v + 1);
      },
      Math.max(0, last.current + REFRESH_MS - Date.now()),
    );
    return () => clearTimeout(timer);
  }, [accepted, job.state]);
  return version;
}

export function Preview({ job, rows = 5 }: { job: Job; rows?: number }) {
  const join = job.joins[0];
  if (!join) return null;
  const partial = job.state !== 'done';
  const url = new URL(market.resultUrl(job.id, join.output, partial));
  if (job.progress.accepted === '0') return <Empty join={join} />;
  if (join.format === 'png') return <Picture job={job} join={join} url={url} />;
  if (join.format === 'csv') return <Table job={job} url={url} rows={Math.min(rows, ROWS_MAX)} />;
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

function Picture({ job, join, url }: { job: Job; join: JoinSpec; url: URL }) {
  const version = useRefresh(job);
  const [shown, setShown] = useState<string>();
  useEffect(() => {
    if (version === 0) return;
    const abort = new AbortController();
    picture(url, abort.signal).then(setShown, () => {});
    return () => abort.abort();
  }, [version]);
  useEffect(() => () => void (shown && URL.revokeObjectURL(shown)), [shown]);
  const { layout } = join;
  const size = layout.kind === 'tiles' ? { width: layout.width, height: layout.height } : {};
  if (!shown) return <Empty join={join} />;
  return <img class="preview picture" src={shown} {...size} alt={`${join.file}, the result of ${job.name} so far`} />;
}

function Table({ job, url, rows }: { job: Job; url: URL; rows: number }) {
  const version = useRefresh(job);
  const [lines, setLines] = useState<string[][]>([]);
  useEffect(() => {
    if (version === 0) return;
    const abort = new AbortController();
    firstLines(url, rows + 1, abort.signal).then(setLines, () => {});
    return () => abort.abort();
  }, [version]);
  const [head, ...body] = lines;
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
async function picture(url: URL, signal: AbortSignal): Promise<string> {
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
async function firstLines(url: URL, count: number, signal: AbortSignal): Promise<string[][]> {
  const answer = await fetch(url, { signal, cache: 'no-store' });
  const reader = answer.ok ? answer.body?.pipeThrough(new TextDecoderStream()).getReader() : undefined;
  if (!reader) return [];
  let text = '';
  for (;;) {
    const { value, done } = await reader.read();
    text += value ?? '';
    if (done || text.split('\n').length > count || text.length > TEXT_BYTES_MAX) break;
  }
  void reader.cancel();
  const lines = text.split(/\r?\n/).filter((line) => line !== '');
  return lines.slice(0, count).map((line) => line.split(',').slice(0, 8));
}
