// What a device can do, tried rather than told: how fast it multiplies and adds 32-bit floats, and whether it ends loops early.
//
// The same product of two matrices as the native worker's (crates/gpu/src/speed.wgsl; a test compares the texts). It is a claim
// to begin with: what units really took overrules it.

import type { Device } from './device.js';
import { GpuError } from './error.js';

/** The flaw of devices that leave loops after 65,535 rounds, by its name in the protocol. */
export const FLAW_LOOP_ROUNDS = 'loop-rounds-65535';

/** The feature of devices without it, which jobs may need. */
export const FEATURE_LONG_LOOPS = 'long-loops';

export interface Measured {
  mflops: number;
  flaws: string[];
}

/** Edge of the matrices, as in the text. */
const SIZE = 256;
/** Edge of what one workgroup computes, as in the text. */
const TILE = 64;
const FLOPS = 2 * SIZE ** 3;
/** A dispatch that lasts this long is measured well: clocks in browsers are coarse. */
const LONG_ENOUGH_MS = 25;
/** No further dispatch begins after this time. */
const TIME_MS_MAX = 200;
const GROWTH = 4;
const PRODUCTS_MAX = 1 << 15;
const TRIES = 3;
/** A device that does not answer for this long is lost. */
const ANSWER_MS_MAX = 20_000;
/** More rounds than llvmpipe's limit, and few enough to take milliseconds. */
const ROUNDS = 70_000;

export const SPEED_WGSL = `// c = a · b for square matrices of 32-bit floats, in tiles of 64 by 64: 16 by 16 invocations with 4 by 4 sums each. Every
// workgroup along z computes the same product again, so that a dispatch can be made as long as its measurement needs.

const SIZE = 256u;
const DEPTH = 16u;

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<f32>;

var<workgroup> rows: array<array<vec4<f32>, 16>, 16>;
var<workgroup> columns: array<array<vec4<f32>, 16>, 16>;

fn four_rows(row: u32, column: u32) -> vec4<f32> {
    let at = row * SIZE + column;
    return vec4(a[at], a[at + SIZE], a[at + 2u * SIZE], a[at + 3u * SIZE]);
}

fn four_columns(row: u32, column: u32) -> vec4<f32> {
    let at = row * SIZE + column;
    return vec4(b[at], b[at + 1u], b[at + 2u], b[at + 3u]);
}

@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let row = 64u * group.y + 4u * local.y;
    let column = 64u * group.x + 4u * local.x;
    var sums: array<vec4<f32>, 4>;
    for (var k = 0u; k < SIZE; k += DEPTH) {
        rows[local.x][local.y] = four_rows(row, k + local.x);
        columns[local.y][local.x] = four_columns(k + local.y, column);
        workgroupBarrier();
        for (var i = 0u; i < DEPTH; i++) {
            let left = rows[i][local.y];
            let right = columns[i][local.x];
            sums[0] = fma(vec4(left.x), right, sums[0]);
            sums[1] = fma(vec4(left.y), right, sums[1]);
            sums[2] = fma(vec4(left.z), right, sums[2]);
            sums[3] = fma(vec4(left.w), right, sums[3]);
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let at = (row + i) * SIZE + column;
        for (var j = 0u; j < 4u; j++) {
            c[at + j] = sums[i][j];
        }
    }
}
`;

const COUNT_WGSL = `
@group(0) @binding(0) var<storage, read> rounds: array<u32>;
@group(0) @binding(1) var<storage, read_write> counted: array<u32>;
@compute @workgroup_size(1)
fn main() {
    for (var i = 0u; i < rounds[0]; i++) { counted[0] += 1u; }
}
`;

/** Takes about a quarter of a second, and two pipelines to be built. */
export async function measure(device: Device): Promise<Measured> {
  const flaws = (await endsLoopsEarly(device)) ? [FLAW_LOOP_ROUNDS] : [];
  return { mflops: await mflops(device), flaws };
}

/**
 * Waits until the device computes. After a unit that ran too long a software adapter may still be at it, and what comes next must
 * not be charged for that.
 */
export async function ready(device: Device): Promise<void> {
  await endsLoopsEarly(device);
}

async function mflops(device: Device): Promise<number> {
  const { gpu } = device;
  const bytes = 4 * SIZE * SIZE;
  const numbers = Float32Array.from({ length: SIZE * SIZE }, (_, i) => (i % 7) - 3);
  const { pipeline, group, buffers } = await device.checked(() => {
    const inputs = [0, 1].map(() =>
      gpu.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST }),
    );
    for (const input of inputs) gpu.queue.writeBuffer(input, 0, numbers);
    const buffers = [...inputs, gpu.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE })];
    return { buffers, ...program(gpu, SPEED_WGSL, buffers) };
  });
  const began = performance.now();
  let best = 0;
  for (let products = 1, tries = 0; tries < TRIES && performance.now() - began < TIME_MS_MAX;) {
    const submitted = performance.now();
    const tiles = SIZE / TILE;
    gpu.queue.submit([dispatched(gpu, pipeline, group, [tiles, tiles, products])]);
    await device.orLost(gpu.queue.onSubmittedWorkDone(), ANSWER_MS_MAX, () => late());
    const tookMs = Math.max(performance.now() - submitted, 0.01);
    best = Math.max(best, (FLOPS * products) / tookMs / 1_000);
    if (tookMs >= LONG_ENOUGH_MS || products === PRODUCTS_MAX) tries++;
    else products = Math.min(products * GROWTH, PRODUCTS_MAX);
  }
  for (const buffer of buffers) buffer.destroy();
  return Math.round(best);
}

/** Whether loops end before they should: llvmpipe gives each invocation 65,535 rounds, and is wrong without a word. */
async function endsLoopsEarly(device: Device): Promise<boolean> {
  const { gpu } = device;
  const made = await device.checked(() => {
    const rounds = gpu.createBuffer({ size: 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST });
    gpu.queue.writeBuffer(rounds, 0, new Uint32Array([ROUNDS]));
    const counted = gpu.createBuffer({ size: 4, usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC });
    const readBack = gpu.createBuffer({ size: 4, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const { pipeline, group } = program(gpu, COUNT_WGSL, [rounds, counted]);
    const commands = dispatched(gpu, pipeline, group, [1], (encoder) =>
      encoder.copyBufferToBuffer(counted, 0, readBack, 0, 4),
    );
    gpu.queue.submit([commands]);
    return { rounds, counted, readBack };
  });
  await device.orLost(made.readBack.mapAsync(GPUMapMode.READ), ANSWER_MS_MAX, () => late());
  const [counted] = new Uint32Array(made.readBack.getMappedRange().slice(0));
  for (const buffer of Object.values(made)) buffer.destroy();
  return counted !== ROUNDS;
}

function program(gpu: GPUDevice, code: string, buffers: readonly GPUBuffer[]) {
  const module = gpu.createShaderModule({ code });
  const pipeline = gpu.createComputePipeline({ layout: 'auto', compute: { module, entryPoint: 'main' } });
  const entries = buffers.map((buffer, binding) => ({ binding, resource: { buffer } }));
  return { pipeline, group: gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }) };
}

function dispatched(
  gpu: GPUDevice,
  pipeline: GPUComputePipeline,
  group: GPUBindGroup,
  [x, y = 1, z = 1]: [number, number?, number?],
  then?: (encoder: GPUCommandEncoder) => void,
): GPUCommandBuffer {
  const encoder = gpu.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(x, y, z);
  pass.end();
  then?.(encoder);
  return encoder.finish();
}

function late(): GpuError {
  return new GpuError('device_lost', 'the GPU did not end a measurement');
}
