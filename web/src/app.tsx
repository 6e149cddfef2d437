// Which page stands at which path, and the frame around them.

import { useEffect } from 'preact/hooks';

import { useContribution } from './contributing.js';
import { useLive } from './live.js';
import { Link, usePath } from './route.js';
import { Contribute } from './pages/contribute.js';
import { JobPage } from './pages/job.js';
import { Network } from './pages/network.js';

export function App() {
  const path = usePath();
  const [title, page] = pageAt(path);
  useEffect(() => {
    document.title = title ? `${title} · Plexus` : 'Plexus';
    window.scrollTo(0, 0);
  }, [path]);
  return (
    <>
      <a class="skip" href="#content">
        Skip to content
      </a>
      <Header path={path} />
      <main id="content">{page}</main>
      <footer class="footer">
        <span>Plexus market</span>
        <a href="/v1/openapi.json">API</a>
        <a href="/metrics">Metrics</a>
      </footer>
    </>
  );
}

function pageAt(path: string) {
  if (path === '/') return ['', <Network />] as const;
  if (path === '/contribute') return ['Contribute', <Contribute />] as const;
  const job = /^\/jobs\/(job-\d+)$/.exec(path)?.[1];
  if (job) return [job, <JobPage key={job} id={job} />] as const;
  return ['Not found', <NotFound path={path} />] as const;
}

function Header({ path }: { path: string }) {
  const { connection } = useLive();
  const contribution = useContribution();
  const working = contribution.phase === 'working';
  const running = working || contribution.phase === 'waiting' || contribution.phase === 'starting';
  return (
    <header class="header">
      <Link href="/" class="brand" aria-label="Plexus, the network">
        <Mark />
        <span>plexus</span>
      </Link>
      <nav aria-label="Pages">
        <Link href="/" aria-current={path === '/' || path.startsWith('/jobs') ? 'page' : undefined}>
          Network
        </Link>
        <Link href="/contribute" aria-current={path === '/contribute' ? 'page' : undefined}>
          Contribute
          {running && <i class={`dot ${working ? 'busy' : 'idle'}`} title={contribution.reason.text} />}
        </Link>
      </nav>
      <span class="connection" role="status" data-connection={connection}>
        <i class="dot" />
        {connection === 'live' ? 'live' : connection === 'connecting' ? 'connecting' : 'reconnecting'}
      </span>
    </header>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <g class="mark-lines">
        <path d="M5 7 27 5 26 25 8 27Z" />
        <path d="M5 7 26 25M27 5 8 27" />
      </g>
      <circle cx="5" cy="7" r="3" />
      <circle cx="27" cy="5" r="3" />
      <circle cx="26" cy="25" r="3" />
      <circle cx="8" cy="27" r="3" />
      <circle class="mark-heart" cx="16.4" cy="16" r="4" />
    </svg>
  );
}

function NotFound({ path }: { path: string }) {
  return (
    <section class="narrow">
      <h1>Nothing here</h1>
      <p>
        There is no page at <code>{path}</code>. <Link href="/">See the network</Link>.
      </p>
    </section>
  );
}
