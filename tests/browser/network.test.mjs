// The page at `/` follows a real market without being reloaded.

import assert from 'node:assert/strict';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers, until } from './browsers.mjs';
import { root, startMarket } from './market.mjs';

for (const [name, launch] of installedBrowsers()) {
  test(`${name}: the page shows workers, jobs with their result, and payments as they come`, { timeout: 240_000 }, async (t) => {
    const market = await startMarket(t);
    const problems = [];
    const browser = await launch({ log: (line) => /^(error|page error)/.test(line) && problems.push(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`${market.url}/`);
    await until(page, contains, 'No job yet');

    const tab = await browser.newPage();
    await tab.goto(`${market.url}/contribute?autostart=1`);
    await until(page, () => document.querySelector('.workers .worker .reason')?.textContent);

    const job = await market.plexus('submit', path.join(root, 'examples/digits/job.toml'));
    await until(page, () => document.querySelector('.job')?.dataset.state);
    await until(page, () => document.querySelector('.job')?.dataset.state === 'done', undefined, 120_000);
    // The first predictions, read from the result that the market joins.
    await until(page, () => document.querySelectorAll('.job table.preview td').length > 0);
    await until(page, () => document.querySelectorAll('.payments .work').length > 0);
    await until(page, () => document.querySelectorAll('.payments .burn').length > 0);

    await page.goto(`${market.url}/jobs/${job.id}`);
    await until(page, contains, 'predictions.csv');
    assert.deepEqual(problems, []);
  });
}

function contains(text) {
  return document.body.textContent.includes(text);
}
