// A real market for a test: the `plexus` binary on a free port with a store of its own, ended with the test.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { softwareVulkan } from './browsers.mjs';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

const suffix = process.platform === 'win32' ? '.exe' : '';
const binary =
  process.env.PLEXUS_BIN ?? path.join(root, process.env.CARGO_TARGET_DIR ?? 'target', 'debug', `plexus${suffix}`);
// Vulkan's loader complains on every start when there is no such folder.
const env = { XDG_RUNTIME_DIR: os.tmpdir(), ...process.env, ...softwareVulkan() };

/**
 * Starts a market whose own verifier checks what the only provider, a browser, does.
 *
 * @returns {Promise<{ url: string, get(path: string): Promise<any>, plexus(...args: string[]): Promise<any> }>} `plexus` runs
 *   a command against the market, with a wallet of the test, and gives the JSON that it prints
 */
export async function startMarket(t) {
  assert.ok(existsSync(binary), `${binary} is not there: run \`cargo build\` first`);
  const folder = mkdtempSync(path.join(os.tmpdir(), 'plexus-market-'));
  const args = ['up', '--listen', '127.0.0.1:0', '--data', path.join(folder, 'data'), '--json'];
  const child = spawn(binary, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise((resolve) => child.once('exit', resolve));
  createInterface({ input: child.stderr }).on('line', (line) => t.diagnostic(`market: ${line}`));
  t.after(async () => {
    child.kill('SIGTERM');
    await ended;
    rmSync(folder, { recursive: true, force: true });
  });
  const url = await new Promise((resolve, reject) => {
    createInterface({ input: child.stdout }).once('line', (line) => resolve(JSON.parse(line).address));
    child.once('exit', (code) => reject(new Error(`the market ended with code ${code}`)));
  });

  async function get(where) {
    const answer = await fetch(url + where);
    assert.equal(answer.status, 200, `${where}: ${answer.status}`);
    return answer.json();
  }

  async function plexus(...args) {
    const wallet = path.join(folder, 'wallet.json');
    const child = spawn(binary, [...args, '--market', url, '--wallet', wallet, '--json'], { env });
    let printed = '';
    let errors = '';
    child.stdout.on('data', (bytes) => (printed += bytes));
    child.stderr.on('data', (bytes) => (errors += bytes));
    const code = await new Promise((resolve) => child.once('close', resolve));
    assert.equal(code, 0, `plexus ${args.join(' ')}: ${errors}`);
    return JSON.parse(printed);
  }

  return { url, folder, get, plexus };
}
