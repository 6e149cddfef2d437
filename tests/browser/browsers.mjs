// Finds and starts the browsers that the tests and the demo drive, with WebGPU on.
//
// On a machine without a GPU, Chromium computes with its own SwiftShader and Firefox with Mesa's lavapipe. Set
// PLEXUS_BROWSER_GPU=1 to let Chromium take a real device. What a page then does is not known here.

import { accessSync, constants, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const chromiumNames = ['chromium-headless-shell', 'chromium', 'google-chrome', 'google-chrome-stable', 'chromium-browser'];
const chromiumPlaces = [
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
];
const firefoxNames = ['firefox-esr', 'firefox'];
const firefoxPlaces = [
  '/Applications/Firefox.app/Contents/MacOS/firefox',
  'C:\\Program Files\\Mozilla Firefox\\firefox.exe',
];

/** Path of the Chromium to drive, or null. PLEXUS_CHROMIUM wins over what is on PATH. */
export const findChromium = () => find(process.env.PLEXUS_CHROMIUM, chromiumNames, chromiumPlaces);

/** Path of the Firefox to drive, or null. PLEXUS_FIREFOX wins over what is on PATH. */
export const findFirefox = () => find(process.env.PLEXUS_FIREFOX, firefoxNames, firefoxPlaces);

/**
 * Starts Chromium with a profile of its own that is deleted on close.
 *
 * @param {{ log?: (line: string) => void, args?: string[] }} [options] `log` receives the pages' console and errors
 * @returns {Promise<Browser>}
 */
export async function launchChromium({ log, args = [] } = {}) {
  const executablePath = findChromium();
  if (!executablePath) throw new Error('no Chromium found: run `cargo xtask setup` or set PLEXUS_CHROMIUM');
  const { chromium } = await import('playwright-core');
  const shell = executablePath.includes('headless-shell') || executablePath.includes('headless_shell');
  const profile = temporaryFolder('chromium');
  const gpu = process.env.PLEXUS_BROWSER_GPU
    ? ['--enable-features=Vulkan', '--ignore-gpu-blocklist']
    : ['--use-webgpu-adapter=swiftshader'];
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    // A full Chromium runs its new headless mode by the flag; the headless shell knows only its own.
    headless: shell,
    // The caller closes the browser when it gets these signals; playwright would end the whole process.
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    args: [
      ...(shell ? [] : ['--headless=new']),
      '--no-sandbox',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      // A worker's tab must not be slowed down because no one looks at it.
      '--disable-background-timer-throttling',
      '--disable-renderer-backgrounding',
      '--disable-backgrounding-occluded-windows',
      '--enable-unsafe-webgpu',
      ...gpu,
      ...args,
    ],
  });
  return {
    name: 'chromium',
    version: context.browser()?.version() ?? '',
    async newPage({ before } = {}) {
      const page = await context.newPage();
      if (log) listen(page, log);
      if (before) await page.addInitScript(before);
      return page;
    },
    async close() {
      await context.close();
      forget(profile);
    },
  };
}

/**
 * Starts Firefox (WebDriver BiDi) with a profile of its own that is deleted on close.
 *
 * @param {{ log?: (line: string) => void }} [options]
 * @returns {Promise<Browser>}
 */
export async function launchFirefox({ log } = {}) {
  const executablePath = findFirefox();
  if (!executablePath) throw new Error('no Firefox found: `apt-get install firefox-esr`, or set PLEXUS_FIREFOX');
  const puppeteer = (await import('puppeteer-core')).default;
  const home = temporaryFolder('firefox');
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath,
    headless: true,
    protocolTimeout: 180_000,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
    env: { ...process.env, HOME: home, XDG_RUNTIME_DIR: home, ...softwareVulkan() },
    extraPrefsFirefox: {
      'dom.webgpu.enabled': true,
      'dom.webgpu.workers.enabled': true,
      'dom.webgpu.allow-in-parent': true,
      'gfx.webgpu.ignore-blocklist': true,
      // Firefox slows the timers of pages that it takes for hidden.
      'dom.min_background_timeout_value': 4,
      'dom.timeout.enable_budget_timer_throttling': false,
      // It asks the network for nothing by itself.
      'app.normandy.enabled': false,
      'app.update.enabled': false,
      'browser.safebrowsing.update.enabled': false,
      'datareporting.policy.dataSubmissionEnabled': false,
      'extensions.systemAddon.update.enabled': false,
      'network.captive-portal-service.enabled': false,
      'network.connectivity-service.enabled': false,
      'services.settings.server': 'http://127.0.0.1:1',
      'toolkit.telemetry.enabled': false,
    },
  });
  return {
    name: 'firefox',
    version: await browser.version(),
    async newPage({ before } = {}) {
      const page = await browser.newPage();
      if (log) listen(page, log);
      if (before) await page.evaluateOnNewDocument(before);
      return page;
    },
    async close() {
      await browser.close();
      forget(home);
    },
  };
}

/**
 * The part of both drivers that tests use. Pages have `goto(url)`, `evaluate(function, argument)` and `close()`; the drivers
 * differ in `waitForFunction`, hence {@link until}. `before` is a function that runs in every document before its scripts.
 *
 * @typedef {{ name: string, version: string, newPage(options?: { before?: () => void }): Promise<any>, close(): Promise<void> }} Browser
 */

/** Waits until `condition` gives something truthy in the page, and returns it. */
export async function until(page, condition, argument, timeoutMs = 60_000) {
  const deadline = Date.now() + timeoutMs;
  for (;;) {
    const value = await page.evaluate(condition, argument);
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`after ${timeoutMs} ms still not: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Every browser that this machine has, for tests that run once per browser: `[name, launch]`. */
export function installedBrowsers() {
  const found = [];
  if (findChromium()) found.push(['chromium', launchChromium]);
  if (findFirefox()) found.push(['firefox', launchFirefox]);
  return found;
}

function find(named, names, places) {
  if (named) {
    if (!existsSync(named)) throw new Error(`${named} does not exist`);
    return named;
  }
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(path.delimiter)) {
      const candidate = path.join(folder, name);
      if (folder && executable(candidate)) return candidate;
    }
  }
  return places.find(executable) ?? null;
}

function executable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * The environment that chooses a Vulkan driver, for Firefox and native programs: without a GPU only lavapipe works, and the
 * others would only be tried in vain.
 */
export function softwareVulkan() {
  if (process.env.VK_ICD_FILENAMES || process.env.VK_DRIVER_FILES) return {};
  if (existsSync('/dev/dri') || existsSync('/dev/nvidia0')) return {};
  const folder = '/usr/share/vulkan/icd.d';
  const lavapipe = existsSync(folder) && readdirSync(folder).find((name) => name.startsWith('lvp_icd'));
  return lavapipe ? { VK_ICD_FILENAMES: path.join(folder, lavapipe) } : {};
}

function listen(page, log) {
  page.on('console', (message) => log(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => log(`page error: ${error}`));
}

function temporaryFolder(name) {
  return mkdtempSync(path.join(os.tmpdir(), `plexus-${name}-`));
}

function forget(folder) {
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
