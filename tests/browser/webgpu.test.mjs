// What every other browser test stands on: each installed browser gives a page and a dedicated worker a WebGPU device.

import assert from 'node:assert/strict';
import http from 'node:http';
import test from 'node:test';

import { findChromium, installedBrowsers } from './browsers.mjs';

test('Chromium is installed', () => {
  assert.ok(findChromium(), 'run `cargo xtask setup`, or set PLEXUS_CHROMIUM');
});

for (const [name, launch] of installedBrowsers()) {
  test(`${name} computes on WebGPU in a dedicated worker`, { timeout: 120_000 }, async (t) => {
    const origin = await serve(t);
    const browser = await launch({ log: (line) => t.diagnostic(line) });
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(origin);
    const answer = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const worker = new Worker('/worker.js');
          worker.onmessage = (event) => resolve(event.data);
          worker.onerror = (event) => resolve({ error: event.message });
        }),
    );
    assert.deepEqual(answer, { doubled: [2, 4, 6, 8] });
  });

  test(`${name} signs with an Ed25519 key that cannot leave it`, { timeout: 60_000 }, async (t) => {
    const origin = await serve(t);
    const browser = await launch();
    t.after(() => browser.close());
    const page = await browser.newPage();
    await page.goto(origin);
    const valid = await page.evaluate(async () => {
      const pair = await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify']);
      const message = new Uint8Array([1, 2, 3]);
      const signature = await crypto.subtle.sign('Ed25519', pair.privateKey, message);
      return crypto.subtle.verify('Ed25519', pair.publicKey, signature, message);
    });
    assert.equal(valid, true);
  });
}

const workerSource = `
  const code = \`
    @group(0) @binding(0) var<storage, read_write> values: array<u32>;
    @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3<u32>) { values[id.x] *= 2u; }
  \`;
  (async () => {
    const adapter = await navigator.gpu?.requestAdapter();
    if (!adapter) return { error: 'no adapter' };
    const device = await adapter.requestDevice();
    const pipeline = device.createComputePipeline({
      layout: 'auto',
      compute: { module: device.createShaderModule({ code }), entryPoint: 'main' },
    });
    const values = device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST });
    const read = device.createBuffer({ size: 16, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    device.queue.writeBuffer(values, 0, new Uint32Array([1, 2, 3, 4]));
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer: values } }] }));
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(values, 0, read, 0, 16);
    device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    return { doubled: [...new Uint32Array(read.getMappedRange())] };
  })().then(postMessage, (error) => postMessage({ error: String(error) }));
`;

/** A page on a loopback origin (WebGPU wants a secure context), closed when the test ends. */
async function serve(t) {
  const server = http.createServer((request, answer) => {
    const script = request.url === '/worker.js';
    answer.writeHead(200, { 'content-type': script ? 'text/javascript' : 'text/html' });
    answer.end(script ? workerSource : '<!doctype html><title>webgpu</title>');
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}/`;
}
