// One manifest on one device: pipelines, buffers in a ring, and units one after the other.
//
// A unit's buffers are a set of the ring. While one unit is read back the next one computes, so `run` may be called again before
// its result is there. Outputs and scratch are cleared before each unit: a result is a function of the inputs alone. The
// manifest has been checked by the market; what the browser refuses nevertheless is an error of kind `program`.

import type { Kernel, Manifest } from '../api.js';
import { Expression } from '../expression.js';
import type { Hash } from '../hash.js';
import { BOUNDS, type BufferSource, bufferSource, lengthBytes } from '../manifest.js';
import { type Access, type Declarations, readDeclarations } from './bindings.js';
import { type Device, paddedTo4 } from './device.js';
import { GpuError } from './error.js';
import { packedFunctions, withPackedFunctions } from './packed.js';
import type { Tuner } from './tuner.js';

/** What one unit computed. */
export interface UnitResult {
  /** In output order. */
  outputs: Uint8Array<ArrayBuffer>[];
  /** Time on the device, in microseconds: measured by the GPU where it can, else until the read-back. */
  deviceUs: number;
}

/** Memory that a ring may take before it is made shorter. */
const RING_BYTES_MAX = 512 * 1024 * 1024;
const RING_LENGTH_MAX = 3;
/** A pipeline's first unit may include the driver's own compilation. */
const FIRST_UNIT_GRACE_MS = 2_000;
/** For what lies between submission and the device's work. */
const UNIT_GRACE_MS = 500;
/** The browser's compiler gets this long. */
const COMPILE_MS_MAX = 60_000;

interface PlannedBuffer {
  name: string;
  source: BufferSource;
  lengthBytes: number;
  /** Padded to whole words. */
  sizeBytes: number;
}

interface PlannedKernel {
  name: string;
  kernel: Kernel;
  module: GPUShaderModule;
  declarations: Declarations;
  layout: GPUPipelineLayout;
  bindLayout: GPUBindGroupLayout;
  fixed: Record<string, number>;
  auto: string[];
  tuner: Tuner | undefined;
  /** By the value of the `auto` overrides; 0 when there are none. */
  pipelines: Map<number, Promise<GPUComputePipeline>>;
  /** Values that already computed a unit. */
  warm: Set<number>;
}

interface PlannedPass {
  kernel: PlannedKernel;
  bind: PlannedBuffer[];
  dispatch: [Expression, Expression, Expression];
}

interface BufferSet {
  own: Map<string, GPUBuffer>;
  groups: GPUBindGroup[];
  staging: GPUBuffer;
}

type Choice = Map<PlannedKernel, number>;

/** A manifest that is ready to run. */
export class Program {
  readonly #device: Device;
  readonly #manifest: Manifest;
  readonly #buffers: Map<string, PlannedBuffer>;
  readonly #passes: PlannedPass[];
  readonly #outputs: { buffer: PlannedBuffer; offset: number }[];
  readonly #stagingBytes: number;
  readonly #shared: Map<string, GPUBuffer>;
  readonly #free: BufferSet[] = [];
  readonly #waiters: ((set: BufferSet) => void)[] = [];
  readonly #queries: GPUQuerySet | undefined;
  readonly #queryBuffer: GPUBuffer | undefined;
  #sets = 0;
  readonly #setsMax: number;
  readonly #setBytes: number;
  /** Submissions happen in the order of the calls. */
  #turn: Promise<unknown> = Promise.resolve();
  /** When the unit before this one left the device. */
  #before: Promise<unknown> = Promise.resolve();

  private constructor(
    device: Device,
    manifest: Manifest,
    buffers: Map<string, PlannedBuffer>,
    passes: PlannedPass[],
    shared: Map<string, GPUBuffer>,
  ) {
    this.#device = device;
    this.#manifest = manifest;
    this.#buffers = buffers;
    this.#passes = passes;
    this.#shared = shared;
    this.#outputs = [];
    let offset = 0;
    const outputs = [...buffers.values()].filter((buffer) => buffer.source.kind === 'output');
    for (const buffer of outputs.sort((a, b) => indexOf(a.source) - indexOf(b.source))) {
      this.#outputs.push({ buffer, offset });
      offset += Math.ceil(buffer.sizeBytes / 8) * 8;
    }
    if (device.timestamps) {
      const count = 2 * passes.length;
      this.#queries = device.gpu.createQuerySet({ type: 'timestamp', count });
      const usage = GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC;
      this.#queryBuffer = device.gpu.createBuffer({ size: 8 * count, usage });
      offset += 8 * count;
    }
    this.#stagingBytes = offset;
    const bytes = [...buffers.values()].reduce((sum, b) => sum + (b.source.kind === 'blob' ? 0 : b.sizeBytes), offset);
    this.#setBytes = bytes;
    this.#setsMax = Math.max(1, Math.min(RING_LENGTH_MAX, Math.floor(RING_BYTES_MAX / bytes)));
  }

  /** Prepares `manifest`. `blob` brings the bytes of kernels and shared buffers. */
  static async create(
    device: Device,
    manifest: Manifest,
    blob: (hash: Hash) => Promise<Uint8Array<ArrayBuffer>>,
  ): Promise<Program> {
    const { program } = manifest;
    const buffers = new Map<string, PlannedBuffer>();
    for (const [name, buffer] of Object.entries(program.buffers)) {
      const length = lengthBytes(buffer);
      const source = bufferSource(buffer, `program.buffers.${name}`);
      buffers.set(name, { name, source, lengthBytes: length, sizeBytes: Math.ceil(length / 4) * 4 });
    }
    const kernels = new Map<string, PlannedKernel>();
    for (const [name, kernel] of Object.entries(program.kernels)) {
      const pass = program.passes.find((candidate) => candidate.kernel === name);
      if (!pass) continue;
      const text = await blob(kernel.blob);
      if (text.length > BOUNDS.KERNEL_BYTES_MAX)
        throw new GpuError('program', `the text of kernel ${name} is larger than ${BOUNDS.KERNEL_BYTES_MAX} bytes`);
      const wgsl = new TextDecoder().decode(text);
      kernels.set(name, await planKernel(device, name, kernel, wgsl, pass.bind.length));
    }
    const passes = program.passes.map((pass, index): PlannedPass => {
      const kernel = kernels.get(pass.kernel);
      if (!kernel) throw new GpuError('program', `pass ${index} names the kernel ${pass.kernel}, which is not there`);
      const bind = pass.bind.map((name) => {
        const buffer = buffers.get(name);
        if (!buffer) throw new GpuError('program', `pass ${index} binds ${name}, which is not there`);
        return buffer;
      });
      checkWrites(index, kernel, bind);
      const [x, y, z] = [0, 1, 2].map((axis) => Expression.parse(String(pass.dispatch[axis] ?? 1)));
      return { kernel, bind, dispatch: [x as Expression, y as Expression, z as Expression] };
    });
    const contents = new Map<Hash, Uint8Array<ArrayBuffer>>();
    for (const { source } of buffers.values()) {
      if (source.kind === 'blob' && !contents.has(source.blob)) contents.set(source.blob, await blob(source.blob));
    }
    const shared = new Map<string, GPUBuffer>();
    try {
      return await device.checked(() => {
        for (const buffer of buffers.values()) {
          if (buffer.source.kind !== 'blob') continue;
          const bytes = contents.get(buffer.source.blob) as Uint8Array<ArrayBuffer>;
          if (bytes.length !== buffer.lengthBytes) {
            const wanted = `${buffer.name} takes ${buffer.lengthBytes} bytes`;
            throw new GpuError('program', `${wanted}, blob ${buffer.source.blob} has ${bytes.length}`);
          }
          shared.set(buffer.name, device.resident(buffer.source.blob, allocationBytes(buffer), bytes));
        }
        return new Program(device, manifest, buffers, passes, shared);
      });
    } catch (error) {
      device.forget(shared.values());
      throw error;
    }
  }

  /** Bytes that each input of a unit has, in input order. */
  get inputLengths(): number[] {
    const inputs = [...this.#buffers.values()].filter((buffer) => buffer.source.kind === 'input');
    return inputs.sort((a, b) => indexOf(a.source) - indexOf(b.source)).map((buffer) => buffer.lengthBytes);
  }

  /** Whether workgroup sizes are still being tried: units then run one at a time. */
  get exploring(): boolean {
    return this.#tuners().some((tuner) => !tuner.settled);
  }

  /**
   * Runs one unit. Resolves when its outputs are read back; call it again before that to keep the device busy.
   * Rejects with a {@link GpuError}.
   */
  async run(inputs: readonly Uint8Array<ArrayBuffer>[]): Promise<UnitResult> {
    const turn = this.#turn;
    let pass: (value?: unknown) => void = () => {};
    this.#turn = new Promise((resolve) => (pass = resolve));
    try {
      await turn;
      const set = await this.#takeSet();
      let running: Promise<UnitResult>;
      try {
        if (this.exploring) {
          await this.#before;
          running = this.#explore(set, inputs);
          await running.catch(() => {});
        } else {
          const choice = await this.#settledChoice();
          running = this.#execute(set, inputs, choice).then(({ result }) => result);
        }
      } catch (error) {
        this.#giveSet(set);
        throw error;
      }
      // The set is free again when its outputs are copied out; the turn passes on as soon as the unit is submitted.
      return await this.#finish(set, running, pass);
    } finally {
      pass();
    }
  }

  async #finish(set: BufferSet, running: Promise<UnitResult>, pass: () => void): Promise<UnitResult> {
    pass();
    try {
      return await running;
    } finally {
      this.#giveSet(set);
    }
  }

  /** Device memory that the buffers of all units in flight may take, without blobs. */
  get bytesMax(): number {
    return this.#setsMax * this.#setBytes;
  }

  /** Frees the buffers that no unit uses now; the next unit makes new ones. */
  trim(): void {
    for (const set of this.#free.splice(0)) {
      destroySet(set);
      this.#sets--;
    }
  }

  /** Frees the device memory that is not shared with other programs. */
  dispose(): void {
    for (const buffer of this.#shared.values()) this.#device.release(buffer);
    for (const set of this.#free) destroySet(set);
    this.#queries?.destroy();
    this.#queryBuffer?.destroy();
  }

  #tuners(): Tuner[] {
    const tuners = this.#passes.map((pass) => pass.kernel.tuner).filter((tuner) => tuner !== undefined);
    return [...new Set(tuners)];
  }

  /** Runs the unit with candidates that were not tried yet, and learns how long each kernel took. */
  async #explore(set: BufferSet, inputs: readonly Uint8Array<ArrayBuffer>[]): Promise<UnitResult> {
    const choice = await this.#candidateChoice();
    const trying = [...choice].filter(([kernel, value]) => kernel.tuner?.next === value);
    const { result, passUs, wallUs } = await this.#execute(set, inputs, choice);
    for (const [kernel, value] of trying) {
      const own = this.#passes.reduce((sum, pass, i) => sum + (pass.kernel === kernel ? (passUs?.[i] ?? 0) : 0), 0);
      kernel.tuner?.record(value, passUs ? own : wallUs);
    }
    return result;
  }

  /** One candidate for each kernel; without the GPU's own clock only one kernel varies at a time. */
  async #candidateChoice(): Promise<Choice> {
    const choice: Choice = new Map();
    let varied = false;
    for (const kernel of this.#kernels()) {
      const { tuner } = kernel;
      if (!tuner) {
        choice.set(kernel, 0);
        continue;
      }
      // A sibling kernel with the same tuner may have settled it meanwhile; a rejected candidate gives way to the next one.
      let value = tuner.best;
      while (tuner.next !== undefined && (value === undefined || this.#device.timestamps || !varied)) {
        value = tuner.next;
        if (await this.#accepts(kernel, value)) break;
        tuner.reject(value);
        value = tuner.best;
      }
      if (value === undefined)
        throw new GpuError('program', `the device takes no workgroup size of kernel ${kernel.name}`);
      varied ||= value === tuner.next;
      choice.set(kernel, value);
    }
    await Promise.all([...choice].map(([kernel, value]) => this.#pipeline(kernel, value)));
    return choice;
  }

  async #settledChoice(): Promise<Choice> {
    const choice: Choice = new Map();
    for (const kernel of this.#kernels()) {
      const value = kernel.tuner ? kernel.tuner.best : 0;
      if (value === undefined)
        throw new GpuError('program', `the device takes no workgroup size of kernel ${kernel.name}`);
      choice.set(kernel, value);
    }
    await Promise.all([...choice].map(([kernel, value]) => this.#pipeline(kernel, value)));
    return choice;
  }

  #kernels(): Set<PlannedKernel> {
    return new Set(this.#passes.map((pass) => pass.kernel));
  }

  async #accepts(kernel: PlannedKernel, value: number): Promise<boolean> {
    const max = this.#device.gpu.limits.maxComputeWorkgroupsPerDimension;
    try {
      for (const pass of this.#passes) {
        if (pass.kernel === kernel && workgroups(pass, overridesOf(kernel, value)).some((count) => count > max))
          return false;
      }
      await this.#pipeline(kernel, value);
      return true;
    } catch (error) {
      if (error instanceof GpuError && error.kind !== 'program') throw error;
      return false;
    }
  }

  #pipeline(kernel: PlannedKernel, value: number): Promise<GPUComputePipeline> {
    let pipeline = kernel.pipelines.get(value);
    if (!pipeline) kernel.pipelines.set(value, (pipeline = this.#compile(kernel, value)));
    return pipeline;
  }

  async #compile(kernel: PlannedKernel, value: number): Promise<GPUComputePipeline> {
    const { overrideIds } = kernel.declarations;
    const constants: Record<string, number> = {};
    for (const [name, constant] of Object.entries(overridesOf(kernel, value))) {
      constants[String(overrideIds.get(name) ?? name)] = constant;
    }
    const compute = { module: kernel.module, entryPoint: kernel.kernel.entry, constants };
    try {
      const made = this.#device.gpu.createComputePipelineAsync({ label: kernel.name, layout: kernel.layout, compute });
      return await compiled(this.#device, kernel.name, made);
    } catch (cause) {
      if (cause instanceof GpuError) throw cause;
      this.#device.check();
      throw new GpuError('program', `kernel ${kernel.name}: ${(cause as Error).message}`, { cause });
    }
  }

  async #execute(
    set: BufferSet,
    inputs: readonly Uint8Array<ArrayBuffer>[],
    choice: Choice,
  ): Promise<{ result: UnitResult; passUs: number[] | undefined; wallUs: number }> {
    const { gpu } = this.#device;
    const pipelines = new Map<PlannedKernel, GPUComputePipeline>();
    for (const [kernel, value] of choice) pipelines.set(kernel, await this.#pipeline(kernel, value));
    const cold = [...choice].some(([kernel, value]) => !kernel.warm.has(value));

    const missing = this.inputLengths.findIndex((length, i) => inputs[i]?.length !== length);
    if (missing >= 0)
      throw new GpuError('program', `input ${missing} of the unit has ${inputs[missing]?.length ?? 'no'} bytes`);
    this.#device.check();
    const scopes = this.#device.scopes();
    for (const [name, buffer] of set.own) {
      const { source } = this.#buffers.get(name) as PlannedBuffer;
      if (source.kind === 'input')
        gpu.queue.writeBuffer(buffer, 0, paddedTo4(inputs[source.index] as Uint8Array<ArrayBuffer>));
    }
    gpu.queue.submit([this.#encode(set, choice, pipelines)]);
    const caught = scopes();

    const submitted = performance.now();
    const before = this.#before;
    const mapped = set.staging.mapAsync(GPUMapMode.READ);
    this.#before = mapped.catch(() => {});
    await this.#device.orLost(before);
    const started = performance.now();
    const limitMs = this.#manifest.limits.time_ms_max + (cold ? FIRST_UNIT_GRACE_MS : UNIT_GRACE_MS);
    await this.#readBack(mapped, limitMs, caught);
    const wallUs = Math.max(1, Math.round((performance.now() - Math.max(submitted, started)) * 1000));
    for (const [kernel, value] of choice) kernel.warm.add(value);

    const copy = set.staging.getMappedRange().slice(0);
    set.staging.unmap();
    const outputs = this.#outputs.map(({ buffer, offset }) => new Uint8Array(copy, offset, buffer.lengthBytes));
    const passUs = this.#passTimes(copy, wallUs);
    const deviceUs = passUs ? Math.max(1, Math.round(passUs.reduce((sum, us) => sum + us, 0))) : wallUs;
    return { result: { outputs, deviceUs }, passUs, wallUs };
  }

  /** Waits for the read-back; destroys the device when the unit outlives its limit. */
  async #readBack(
    mapped: Promise<undefined | void>,
    limitMs: number,
    caught: Promise<GpuError | undefined>,
  ): Promise<void> {
    const late = () => {
      const error = new GpuError('timed_out', `a unit ran longer than ${this.#manifest.limits.time_ms_max} ms`);
      this.#device.destroy(error);
      return error;
    };
    try {
      await this.#device.orLost(mapped, limitMs, late);
    } catch (cause) {
      if (cause instanceof GpuError) throw cause;
      throw (await caught) ?? new GpuError('program', (cause as Error).message, { cause });
    }
    const error = await caught;
    if (error) throw error;
  }

  #encode(set: BufferSet, choice: Choice, pipelines: Map<PlannedKernel, GPUComputePipeline>): GPUCommandBuffer {
    const encoder = this.#device.gpu.createCommandEncoder();
    for (const [name, buffer] of set.own) {
      const kind = this.#buffers.get(name)?.source.kind;
      if (kind === 'output' || kind === 'scratch') encoder.clearBuffer(buffer);
    }
    this.#passes.forEach((planned, index) => {
      const writes = this.#queries && {
        querySet: this.#queries,
        beginningOfPassWriteIndex: 2 * index,
        endOfPassWriteIndex: 2 * index + 1,
      };
      const pass = encoder.beginComputePass(writes ? { timestampWrites: writes } : {});
      pass.setPipeline(pipelines.get(planned.kernel) as GPUComputePipeline);
      pass.setBindGroup(0, set.groups[index] as GPUBindGroup);
      pass.dispatchWorkgroups(...workgroups(planned, overridesOf(planned.kernel, choice.get(planned.kernel) ?? 0)));
      pass.end();
    });
    for (const { buffer, offset } of this.#outputs) {
      encoder.copyBufferToBuffer(set.own.get(buffer.name) as GPUBuffer, 0, set.staging, offset, buffer.sizeBytes);
    }
    if (this.#queries && this.#queryBuffer) {
      const count = 2 * this.#passes.length;
      encoder.resolveQuerySet(this.#queries, 0, count, this.#queryBuffer, 0);
      encoder.copyBufferToBuffer(this.#queryBuffer, 0, set.staging, this.#stagingBytes - 8 * count, 8 * count);
    }
    return encoder.finish();
  }

  /** Microseconds of each pass by the GPU's clock; nothing when it has none or it shows nonsense, as some drivers' do. */
  #passTimes(copy: ArrayBuffer, wallUs: number): number[] | undefined {
    if (!this.#queries) return undefined;
    const count = 2 * this.#passes.length;
    const ticks = new BigUint64Array(copy, this.#stagingBytes - 8 * count, count);
    const times = this.#passes.map((_, i) => Number((ticks[2 * i + 1] ?? 0n) - (ticks[2 * i] ?? 0n)) / 1000);
    const sum = times.reduce((a, b) => a + b, 0);
    return times.every((us) => us >= 0) && sum > 0 && sum <= wallUs * 1.5 ? times : undefined;
  }

  async #takeSet(): Promise<BufferSet> {
    this.#device.check();
    const free = this.#free.pop();
    if (free) return free;
    if (this.#sets < this.#setsMax) {
      this.#sets++;
      try {
        return await this.#device.checked(() => this.#makeSet());
      } catch (error) {
        this.#sets--;
        // A shorter ring is better than none.
        const short = error instanceof GpuError && error.kind === 'out_of_memory' && this.#sets > 0;
        if (!short) throw error;
      }
    }
    const given = new Promise<BufferSet>((resolve) => this.#waiters.push(resolve));
    return this.#device.orLost(given);
  }

  #giveSet(set: BufferSet): void {
    if (set.staging.mapState !== 'unmapped') set.staging.unmap();
    const waiter = this.#waiters.shift();
    if (waiter) waiter(set);
    else this.#free.push(set);
  }

  #makeSet(): BufferSet {
    const { gpu } = this.#device;
    const own = new Map<string, GPUBuffer>();
    for (const buffer of this.#buffers.values()) {
      const { kind } = buffer.source;
      if (kind === 'blob') continue;
      let usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;
      if (kind === 'input') usage |= GPUBufferUsage.UNIFORM;
      if (kind === 'output') usage |= GPUBufferUsage.COPY_SRC;
      own.set(buffer.name, gpu.createBuffer({ label: buffer.name, size: allocationBytes(buffer), usage }));
    }
    const groups = this.#passes.map(({ kernel, bind }) => {
      const entries = bind.map((buffer, binding) => {
        const resource = (own.get(buffer.name) ?? this.#shared.get(buffer.name)) as GPUBuffer;
        // The shader's arrayLength is that of the binding: the buffer's own size, not the one it was rounded up to.
        const size =
          kernel.declarations.bindings.get(binding) === 'uniform' ? allocationBytes(buffer) : buffer.sizeBytes;
        return { binding, resource: { buffer: resource, size } };
      });
      return gpu.createBindGroup({ layout: kernel.bindLayout, entries });
    });
    const staging = gpu.createBuffer({
      size: this.#stagingBytes,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    return { own, groups, staging };
  }
}

/** Inputs and blobs, which other units see too, are only read, and what is written has one name. */
function checkWrites(pass: number, { declarations }: PlannedKernel, bind: readonly PlannedBuffer[]): void {
  bind.forEach((buffer, binding) => {
    if (declarations.bindings.get(binding) !== 'read_write') return;
    const { kind } = buffer.source;
    if (kind === 'input' || kind === 'blob')
      throw new GpuError('program', `pass ${pass} writes ${buffer.name}, which is only read`);
    if (bind.indexOf(buffer) !== bind.lastIndexOf(buffer))
      throw new GpuError('program', `pass ${pass} writes ${buffer.name}, which it binds twice`);
  });
}

async function planKernel(
  device: Device,
  name: string,
  kernel: Kernel,
  wgsl: string,
  bindings: number,
): Promise<PlannedKernel> {
  const fixed: Record<string, number> = {};
  const auto: string[] = [];
  for (const [override, value] of Object.entries(kernel.overrides ?? {})) {
    if (value === 'auto') auto.push(override);
    else fixed[override] = value;
  }
  const { gpu } = device;
  const code = packedFunctions() ? wgsl : withPackedFunctions(wgsl);
  device.check();
  const scopes = device.scopes();
  const module = gpu.createShaderModule({ label: name, code });
  const [error, info] = await compiled(device, name, Promise.all([scopes(), module.getCompilationInfo()]));
  const message = info.messages.find((found) => found.type === 'error');
  if (message)
    throw new GpuError(
      'program',
      `kernel ${name} line ${message.lineNum} column ${message.linePos}: ${message.message}`,
    );
  if (error) throw new GpuError(error.kind, `kernel ${name}: ${error.message}`, { cause: error });
  // Not before: reading the declarations of a text that is no WGSL may take for ever.
  const declarations = readDeclarations(wgsl, kernel.entry);
  const entries = Array.from({ length: bindings }, (_, binding): GPUBindGroupLayoutEntry => {
    const access = declarations.bindings.get(binding);
    if (!access) throw new GpuError('program', `kernel ${name} declares no binding ${binding}`);
    return { binding, visibility: GPUShaderStage.COMPUTE, buffer: { type: bindingType(access) } };
  });
  const [bindLayout, layout] = await device.checked(() => {
    const group = gpu.createBindGroupLayout({ entries });
    return [group, gpu.createPipelineLayout({ bindGroupLayouts: [group] })] as const;
  });
  const tuner =
    auto.length > 0 ? device.tuner(JSON.stringify([kernel.blob, kernel.entry, kernel.overrides])) : undefined;
  return {
    name,
    kernel,
    module,
    declarations,
    layout,
    bindLayout,
    fixed,
    auto,
    tuner,
    pipelines: new Map(),
    warm: new Set(),
  };
}

/** What the browser's compiler makes of a kernel. One that it does not finish with costs the device: nothing else stops it. */
function compiled<T>(device: Device, kernel: string, pending: Promise<T>): Promise<T> {
  return device.orLost(pending, COMPILE_MS_MAX, () => {
    const error = new GpuError('timed_out', `kernel ${kernel} takes longer than ${COMPILE_MS_MAX / 1000} s to compile`);
    device.destroy(error);
    return error;
  });
}

function bindingType(access: Access): GPUBufferBindingType {
  if (access === 'uniform') return 'uniform';
  return access === 'read' ? 'read-only-storage' : 'storage';
}

function overridesOf(kernel: PlannedKernel, value: number): Record<string, number> {
  return { ...kernel.fixed, ...Object.fromEntries(kernel.auto.map((name) => [name, value])) };
}

function workgroups(pass: PlannedPass, overrides: Record<string, number>): [number, number, number] {
  const [x, y, z] = pass.dispatch;
  return [x.value(overrides), y.value(overrides), z.value(overrides)];
}

function indexOf(source: BufferSource): number {
  return source.kind === 'input' || source.kind === 'output' ? source.index : 0;
}

/** Uniform bindings come in steps of 16 bytes. */
function allocationBytes(buffer: PlannedBuffer): number {
  return Math.max(16, Math.ceil(buffer.sizeBytes / 16) * 16);
}

function destroySet(set: BufferSet): void {
  for (const buffer of set.own.values()) buffer.destroy();
  set.staging.destroy();
}
