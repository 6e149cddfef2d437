// A browser worker without a person: opens the contribute page in headless Chromium and keeps it open.
//
//   node tests/browser/worker.mjs http://127.0.0.1:7700/contribute?autostart=1
//
// Ends, and closes the browser, on SIGTERM, SIGINT or when its standard input is closed, so it never outlives the
// process that started it. Prints what the page logs. Whether the worker does any work is for the market to say.

import { findChromium, launchChromium } from './browsers.mjs';

const url = process.argv[2];
if (!url) {
  console.error('usage: node worker.mjs URL');
  process.exit(2);
}
if (!findChromium()) {
  console.error('no Chromium found: run `cargo xtask setup` or set PLEXUS_CHROMIUM');
  process.exit(3);
}

const browser = await launchChromium({ log: (line) => console.log(line) });
console.log(`chromium ${browser.version}`);

let closing = false;
async function close(code) {
  if (closing) return;
  closing = true;
  await browser.close().catch((error) => console.error(String(error)));
  process.exit(code);
}
process.on('SIGTERM', () => close(0));
process.on('SIGINT', () => close(0));
process.stdin.on('end', () => close(0));
process.stdin.on('error', () => close(0));
process.stdin.resume();

try {
  const page = await browser.newPage();
  page.on('crash', () => {
    console.error('the page crashed');
    close(1);
  });
  const answer = await page.goto(url);
  if (!answer?.ok()) throw new Error(`${url} answered ${answer?.status()}`);
  console.log(`open ${url}`);
} catch (error) {
  console.error(String(error));
  await close(1);
}
