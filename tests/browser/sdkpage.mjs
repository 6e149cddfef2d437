// A page on a loopback origin that runs the SDK as the TypeScript compiler emits it, without a bundler or a market.

import { execFileSync } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

const imports = {
  '@plexus/sdk': '/sdk/ts/dist/index.js',
  '@plexus/sdk/gpu': '/sdk/ts/dist/gpu/index.js',
  '@plexus/sdk/worker': '/sdk/ts/dist/worker/index.js',
  '@noble/hashes/': '/node_modules/@noble/hashes/',
  '@noble/curves/': '/node_modules/@noble/curves/',
  '@scure/base': '/node_modules/@scure/base/index.js',
};
const html = `<!doctype html><title>sdk</title><script type="importmap">${JSON.stringify({ imports })}</script>`;
const types = { '.js': 'text/javascript', '.json': 'application/json', '.wgsl': 'text/plain' };

/** Compiles the SDK and serves the repository; the server ends with the test. Returns the page's address. */
export async function serveSdk(t) {
  const tsc = path.join(root, 'node_modules/typescript/bin/tsc');
  execFileSync(process.execPath, [tsc, '-p', path.join(root, 'sdk/ts/tsconfig.build.json')], { stdio: 'inherit' });
  const server = http.createServer(async (request, answer) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const type = types[path.extname(pathname)];
    const file = path.join(root, path.normalize(pathname));
    try {
      if (pathname === '/') answer.writeHead(200, { 'content-type': 'text/html' }).end(html);
      else if (!type) answer.writeHead(404).end();
      else answer.writeHead(200, { 'content-type': type }).end(await readFile(file));
    } catch {
      answer.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}/`;
}
