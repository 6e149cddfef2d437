// A tab that is closed leaves the market at once: nobody waits for its silence to be noticed.

import assert from 'node:assert/strict';
import test from 'node:test';

import { installedBrowsers, until } from './browsers.mjs';
import { startMarket } from './market.mjs';

for (const [name, launch] of installedBrowsers()) {
  test(`${name}: a tab that goes away says so`, { timeout: 120_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, () => document.querySelector('[data-phase]')?.dataset.phase === 'waiting');
    assert.notEqual((await provider(market)).state, 'gone');

    await page.goto(`${market.url}/v1/health`);
    let worker = await provider(market);
    while (worker.state !== 'gone') worker = await provider(market);
    assert.equal(worker.reason.code, 'left');

    // The same browser is welcome again, with the key it had.
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, () => document.querySelector('[data-phase]')?.dataset.phase === 'waiting');
    const again = await provider(market);
    assert.equal(again.id, worker.id);
    assert.notEqual(again.state, 'gone');
  });
}

/** The one worker that is not the market's own. */
async function provider(market) {
  const { items } = await market.get('/v1/workers');
  return items.find((worker) => !worker.verifier);
}
