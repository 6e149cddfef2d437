// A browser tab lends its GPU to a real market: real jobs, verified by the market's own worker, and paid.

import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers, until } from './browsers.mjs';
import { root, startMarket } from './market.mjs';

for (const [name, launch] of installedBrowsers()) {
  test(`${name}: a tab is idle until Start, then computes a job, is checked and paid`, { timeout: 240_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage({ before: countTouches });
    // Nor does a link that says so start it, except for a browser that a program drives.
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, hasButton, 'Start');
    assert.equal(await page.evaluate(() => globalThis.touches), 0, 'nothing touches the GPU before Start');
    assert.deepEqual((await workers(market)).length, 0);

    await page.evaluate(press, 'Start');
    await until(page, phaseIs, 'waiting');
    const job = await market.plexus(
      'submit', path.join(root, 'examples/digits/job.toml'), '--out', path.join(market.folder, 'out'),
    );
    assert.equal(job.state, 'done');
    assert.ok(job.files[0].accuracy >= 0.96, `accuracy ${job.files[0].accuracy}`);

    const [worker, ...others] = await workers(market);
    assert.deepEqual(others, []);
    assert.equal(worker.kind, 'browser');
    assert.equal(worker.units, job.units);
    assert.equal(worker.earned, job.money.paid);
    assert.ok(BigInt(worker.earned) > 0n);
    const shown = await until(page, (units) => {
      const text = document.querySelector('[data-field="units"]')?.textContent ?? '';
      return text.replace(/\D/g, '') === units && text;
    }, job.units);
    assert.ok(shown);
  });

  test(`${name}: a tab pauses, says so, and resumes`, { timeout: 120_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch();
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, phaseIs, 'waiting');
    assert.equal((await workers(market)).length, 1);
    await page.evaluate(press, 'Pause');
    await until(page, phaseIs, 'paused');
    await page.evaluate(press, 'Resume');
    await until(page, phaseIs, 'waiting');
    assert.equal((await workers(market)).filter((worker) => worker.state !== 'gone').length, 1);
  });

  test(`${name}: a browser without WebGPU gets a clear answer`, { timeout: 60_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch();
    t.after(() => browser.close());
    const page = await browser.newPage({ before: hideWebGpu });
    await page.goto(`${market.url}/contribute`);
    const text = await until(page, () => document.querySelector('[data-lack="webgpu"]')?.textContent);
    assert.match(text, /no WebGPU/);
    assert.equal(await page.evaluate(hasButton, 'Start'), false);
  });
}

/** Providers' workers that the market knows. */
async function workers(market) {
  const { items } = await market.get('/v1/workers');
  return items.filter((worker) => !worker.verifier);
}

// What follows runs in pages.

function countTouches() {
  Object.defineProperty(Navigator.prototype, 'webdriver', { get: () => false });
  globalThis.touches = 0;
  const { requestAdapter } = globalThis.GPU.prototype;
  globalThis.GPU.prototype.requestAdapter = function (...args) {
    globalThis.touches += 1;
    return requestAdapter.apply(this, args);
  };
  const { Worker } = globalThis;
  globalThis.Worker = class extends Worker {
    constructor(...args) {
      super(...args);
      globalThis.touches += 1;
    }
  };
}

function hideWebGpu() {
  Object.defineProperty(Navigator.prototype, 'gpu', { get: () => undefined, configurable: true });
}

function hasButton(label) {
  return [...document.querySelectorAll('button')].some((button) => button.textContent.trim() === label);
}

function press(label) {
  [...document.querySelectorAll('button')].find((button) => button.textContent.trim() === label).click();
}

function phaseIs(phase) {
  return document.querySelector('[data-phase]')?.dataset.phase === phase;
}
