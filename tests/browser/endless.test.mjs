// A unit that outlives its limit in a tab: the lease ends, the tab says so, takes its GPU again and goes on.

import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers, until } from './browsers.mjs';
import { startMarket } from './market.mjs';

// A loop that never ends would stay in a software adapter's threads for ever, and lavapipe cuts loops after 65,535 rounds: this
// one ends by itself, many seconds after its limit even on a machine with nothing else to do. The job is then cancelled, so
// that its unit is not tried again and again.
const slow = `
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  var value = x[0] + id.x;
  for (var i = 0u; i < x[0]; i++) { value = (value ^ (value >> 7u)) * 1664525u + 1013904223u; }
  if id.x == 0u || value == 1u { y[0] = value; }
}`;
const square = `
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@compute @workgroup_size(1) fn main() { y[0] = x[0] * x[0]; }`;

for (const [name, launch] of installedBrowsers()) {
  test(`${name}: a unit that does not end costs its lease, and the tab lives on`, { timeout: 240_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, phaseIs, 'waiting');

    const endless = await market.plexus('submit', job(market, 'endless', slow, '[65000]', name === 'firefox' ? '[10240]' : '[1536]'));
    const told = await until(page, () => document.querySelector('.log .problem')?.textContent);
    assert.match(told, /ran longer than 300 ms/);
    await market.plexus('job', 'cancel', endless.id);

    const squares = await market.plexus('submit', job(market, 'squares', square, '{ from = 0, to = 4 }', '[1]'), '--wait');
    assert.equal(squares.state, 'done');
    const { money, progress, reason } = await market.get(`/v1/jobs/${endless.id}`);
    assert.deepEqual([progress.accepted, money.paid], ['0', '0'], 'nothing of the endless job was accepted');
    assert.ok(reason.text, 'its owner can see why');
  });
}

function job(market, name, kernel, sweep, dispatch) {
  const folder = path.join(market.folder, name);
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'main.wgsl'), kernel);
  const file = path.join(folder, 'job.toml');
  writeFileSync(
    file,
    `version = 1
name = "${name}"
[kernels.main]
file = "main.wgsl"
[inputs.x]
sweep = ${sweep}
dtype = "u32"
[outputs.y]
dtype = "u32"
shape = [1]
join = { file = "y.csv" }
[[passes]]
kernel = "main"
bind = ["x", "y"]
dispatch = ${dispatch}
[pay]
unit_price = "0.001"
[limits]
time_ms_max = 300
`,
  );
  return file;
}

// What follows runs in pages.

function phaseIs(phase) {
  return document.querySelector('[data-phase]')?.dataset.phase === phase;
}
