// The examples with stages, computed by a browser tab: k-means on the first of its points, the sweep as it is, both against a
// plain computation of the same.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test from 'node:test';

import { installedBrowsers, until } from './browsers.mjs';
import { root, startMarket } from './market.mjs';

const axes = 64;
const clusters = 10;
const scale = 256;

for (const [name, launch] of installedBrowsers()) {
  test(`${name}: a tab computes jobs of several stages`, { timeout: 240_000 }, async (t) => {
    const market = await startMarket(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(`${market.url}/contribute?autostart=1`);
    await until(page, () => document.querySelector('[data-phase]')?.dataset.phase === 'waiting');

    async function run(file) {
      const out = path.join(market.folder, 'out');
      const job = await market.plexus('submit', file, '--wait', '--out', out);
      assert.equal(job.state, 'done');
      assert.equal(job.verification.rejected, '0');
      const [worker, ...others] = (await market.get('/v1/workers')).items.filter((one) => !one.verifier);
      assert.deepEqual([worker.kind, others], ['browser', []]);
      return { job, read: (file) => readFileSync(path.join(out, file)) };
    }

    await t.test('k-means ends with the labels and centroids of a plain computation', async () => {
      const small = smallKmeans(market.folder);
      const { job, read } = await run(small.file);
      const { labels, centroids, iterations } = kmeans(small.points, small.initial);
      assert.deepEqual(job.iteration, { current: iterations, reached: true, times_max: 60 });
      assert.equal(read('labels.csv').toString(), ['cluster', ...labels, ''].join('\n'));
      assert.deepEqual([...npyData(read('centroids.npy'), Int32Array)], centroids.flat());
    });

    await t.test('the sweep keeps the best quarter twice', async () => {
      const { job, read } = await run(path.join(root, 'examples/sweep/job.toml'));
      assert.deepEqual(job.stages.map((stage) => stage.progress.accepted), ['16', '1', '4', '1', '1']);
      const [first, second, best] = ['first.npy', 'second.npy', 'best.npy'].map((file) => models(read(file)));
      const rates = (found) => found.map((model) => model.rate);
      const byLoss = (found) => [...found].sort((a, b) => a.loss - b.loss);
      assert.deepEqual(rates(second), rates(byLoss(first)).slice(0, 4));
      assert.deepEqual(rates(best), rates(byLoss(second)).slice(0, 1));
      const points = rows(npyData(readFileSync(path.join(root, 'examples/sweep/points.npy')), Int32Array), axes + 1);
      for (const [found, steps] of [[first, 20], [second, 80], [best, 180]]) {
        for (const { rate, loss } of found) {
          const right = lossAfter(points, rate, steps);
          assert.ok(Math.abs(loss - right) < 0.01, `rate ${rate}, ${steps} steps: ${loss}, not ${right}`);
        }
      }
    });
  });
}

/** The k-means example with 300 points and a start of its own, in a folder of the test. */
function smallKmeans(folder) {
  const count = 300;
  const home = path.join(folder, 'kmeans');
  cpSync(path.join(root, 'examples/kmeans'), home, { recursive: true });
  const all = npyData(readFileSync(path.join(home, 'points.npy')), Int32Array).slice(0, count * (axes + 1));
  const points = rows(all, axes + 1);
  const initial = Array.from({ length: clusters }, (_, k) => points[30 * k].slice(0, axes).map((value) => scale * value));
  writeFileSync(path.join(home, 'points.npy'), npy(count, axes + 1, all));
  writeFileSync(path.join(home, 'initial.npy'), npy(clusters, axes, initial.flat()));
  const file = path.join(home, 'job.toml');
  // What the example expects is for all points.
  const text = readFileSync(file, 'utf8').replace('BLOCKS = 57', 'BLOCKS = 10').replaceAll(/, expect = "\w+\.npy"/g, '');
  writeFileSync(file, text);
  return { file, points, initial };
}

function kmeans(points, centroids) {
  for (let iterations = 1; ; iterations++) {
    const labels = points.map((point) => nearest(point, centroids));
    const moved = centroids.map((before, k) => {
      const members = points.filter((_, i) => labels[i] === k);
      if (members.length === 0) return before;
      return before.map((_, axis) => Math.floor((scale * members.reduce((sum, p) => sum + p[axis], 0)) / members.length));
    });
    if (JSON.stringify(moved) === JSON.stringify(centroids)) return { labels, centroids, iterations };
    centroids = moved;
  }
}

/** The first of the nearest centroids. */
function nearest(point, centroids) {
  const distances = centroids.map((centroid) =>
    centroid.reduce((sum, value, axis) => sum + (scale * point[axis] - value) ** 2, 0),
  );
  return distances.indexOf(Math.min(...distances));
}

/** The loss on the second half of the points after so many steps of gradient descent on the first half. */
function lossAfter(points, rate, steps) {
  const half = points.length / 2;
  const samples = points.map((row) => [...row.slice(0, axes).map((value) => value / 16), 1]);
  const odd = points.map((row) => row[axes]);
  const weights = new Array(axes + 1).fill(0);
  const belief = (sample) => {
    const sum = sample.reduce((all, value, axis) => all + weights[axis] * value, 0);
    const p = 1 / (1 + Math.exp(-Math.min(30, Math.max(-30, sum))));
    return Math.min(0.9999, Math.max(0.0001, p));
  };
  for (let step = 0; step < steps; step++) {
    const errors = samples.slice(0, half).map((sample, i) => belief(sample) - odd[i]);
    for (let axis = 0; axis <= axes; axis++) {
      weights[axis] -= (rate * errors.reduce((sum, error, i) => sum + error * samples[i][axis], 0)) / half;
    }
  }
  const losses = samples.slice(half).map((sample, i) => {
    const p = belief(sample);
    return -Math.log(odd[half + i] ? p : 1 - p);
  });
  return losses.reduce((a, b) => a + b) / half;
}

function models(bytes) {
  return rows(npyData(bytes, Float32Array), axes + 3).map(([loss, rate]) => ({ loss, rate }));
}

function rows(values, columns) {
  return Array.from({ length: values.length / columns }, (_, i) => [...values.slice(i * columns, (i + 1) * columns)]);
}

function npyData(bytes, Type) {
  const start = 10 + bytes.readUInt16LE(8);
  return new Type(Uint8Array.from(bytes.subarray(start)).buffer);
}

function npy(count, columns, values) {
  let header = `{'descr': '<i4', 'fortran_order': False, 'shape': (${count}, ${columns}), }`;
  header = `${header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11)}\n`;
  const head = Buffer.from('\x93NUMPY\x01\x00\x00\x00', 'latin1');
  head.writeUInt16LE(header.length, 8);
  return Buffer.concat([head, Buffer.from(header), Buffer.from(Int32Array.from(values).buffer)]);
}
