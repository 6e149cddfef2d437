// One WebGPU device: what it is, the blobs that stay on it, and how long the fastest workgroup sizes are remembered.
//
// Nothing here runs before `openDevice` is called, and a page calls it only after Start.

import type { DeviceFacts } from '../api.js';
import type { Hash } from '../hash.js';
import { GpuError, fromScope } from './error.js';
import { Tuner } from './tuner.js';

/** Features a program can ask for, plus the one that times passes. */
const FEATURES: readonly GPUFeatureName[] = ['shader-f16', 'subgroups' as GPUFeatureName, 'timestamp-query'];

/** Software adapters claim buffers that they cannot make: SwiftShader fails at 1 GiB. */
const SOFTWARE_BUFFER_BYTES_MAX = 256 * 1024 * 1024;
/** Memory for blobs that stay on the device between units. */
const RESIDENT_BYTES_MAX = 512 * 1024 * 1024;
/** A browser that does not answer for this long has lost its GPU process. */
const OPEN_MS_MAX = 20_000;

interface Resident {
  buffer: GPUBuffer;
  bytes: number;
  users: number;
}

/** A device with its caches. */
export class Device {
  readonly gpu: GPUDevice;
  readonly facts: DeviceFacts;
  /** Resolves, never rejects, when the device is gone. */
  readonly lost: Promise<GpuError>;
  /** Whether the GPU's own clock can time passes. */
  readonly timestamps: boolean;
  #lostError: GpuError | undefined;
  #tellLost: (error: GpuError) => void = () => {};
  /** Rejects what waits for the device. A set, because a handler per wait on one promise would never be freed. */
  readonly #waiting = new Set<(error: GpuError) => void>();
  readonly #residents = new Map<string, Resident>();
  readonly #tuners = new Map<string, Tuner>();
  readonly #candidates: readonly number[] | undefined;

  constructor(gpu: GPUDevice, facts: DeviceFacts, candidates?: readonly number[]) {
    this.gpu = gpu;
    this.facts = facts;
    this.timestamps = gpu.features.has('timestamp-query');
    this.#candidates = candidates;
    this.lost = new Promise((resolve) => (this.#tellLost = resolve));
    void gpu.lost.then((info) => {
      const why = info.message || info.reason || 'no reason given';
      this.#lose(new GpuError('device_lost', `the GPU device was lost: ${why}`));
    });
    gpu.addEventListener?.('uncapturederror', (event) => {
      console.warn(`WebGPU: ${(event as GPUUncapturedErrorEvent).error.message}`);
    });
  }

  /** Throws once the device is gone. */
  check(): void {
    if (this.#lostError) throw this.#lostError;
  }

  /** Ends the device and everything that waits for it, which then fails with `error`. */
  destroy(error = new GpuError('device_lost', 'the device was closed')): void {
    this.#lose(error);
    this.gpu.destroy();
  }

  /** `pending`, unless the device is lost first, or the time is over: then `late` says what to throw. */
  orLost<T>(pending: Promise<T>, limitMs = Number.POSITIVE_INFINITY, late?: () => GpuError): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = late && Number.isFinite(limitMs) ? setTimeout(() => end(() => reject(late())), limitMs) : undefined;
      const lose = (error: GpuError) => end(() => reject(error));
      const end = (settle: () => void) => {
        clearTimeout(timer);
        this.#waiting.delete(lose);
        settle();
      };
      this.#waiting.add(lose);
      pending.then(
        (value) => end(() => resolve(value)),
        (error: unknown) => end(() => reject(this.#lostError ?? error)),
      );
      if (this.#lostError) lose(this.#lostError);
    });
  }

  #lose(error: GpuError): void {
    if (this.#lostError) return;
    this.#lostError = error;
    this.#tellLost(error);
    for (const lose of [...this.#waiting]) lose(error);
  }

  /** The workgroup size search of one kernel, shared by all programs that use it. */
  tuner(key: string): Tuner {
    let tuner = this.#tuners.get(key);
    if (!tuner) this.#tuners.set(key, (tuner = new Tuner(this.#candidates)));
    return tuner;
  }

  /** A buffer with the blob's bytes, uploaded once. Give it back with {@link release}. */
  resident(blob: Hash, sizeBytes: number, bytes: Uint8Array<ArrayBuffer>): GPUBuffer {
    const key = `${blob}/${sizeBytes}`;
    let resident = this.#residents.get(key);
    if (!resident) {
      this.#makeRoom(sizeBytes);
      const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST;
      const buffer = this.gpu.createBuffer({ label: `blob ${blob.slice(0, 8)}`, size: sizeBytes, usage });
      this.gpu.queue.writeBuffer(buffer, 0, paddedTo4(bytes));
      resident = { buffer, bytes: sizeBytes, users: 0 };
    }
    // Used last: moves to the end of the map's order.
    this.#residents.delete(key);
    this.#residents.set(key, resident);
    resident.users++;
    return resident.buffer;
  }

  release(buffer: GPUBuffer): void {
    for (const resident of this.#residents.values()) if (resident.buffer === buffer) resident.users--;
  }

  /** Forgets resident buffers that could not be made. */
  forget(buffers: Iterable<GPUBuffer>): void {
    const lost = new Set(buffers);
    for (const [key, { buffer }] of this.#residents) if (lost.has(buffer)) this.#residents.delete(key);
  }

  /** Runs `make` and throws what the device found wrong with it. */
  async checked<T>(make: () => T): Promise<T> {
    this.check();
    const scopes = this.scopes();
    let made: T;
    try {
      made = make();
    } catch (error) {
      await scopes();
      throw error;
    }
    const error = await scopes();
    this.check();
    if (error) throw error;
    return made;
  }

  /** Begins to catch the device's errors; the answer ends that and brings the first one. */
  scopes(): () => Promise<GpuError | undefined> {
    this.gpu.pushErrorScope('out-of-memory');
    this.gpu.pushErrorScope('validation');
    return async () => {
      const caught = [this.gpu.popErrorScope(), this.gpu.popErrorScope()];
      // A scope of a lost device may never be answered for.
      const errors = this.orLost(Promise.all(caught.map((scope) => scope.catch(() => null))));
      const error = await errors.then((all) => all.find((found) => found !== null)).catch(() => undefined);
      return error ? fromScope(error) : undefined;
    };
  }

  #makeRoom(bytes: number): void {
    let held = bytes;
    for (const resident of this.#residents.values()) held += resident.bytes;
    for (const [key, resident] of this.#residents) {
      if (held <= RESIDENT_BYTES_MAX) return;
      if (resident.users > 0) continue;
      resident.buffer.destroy();
      this.#residents.delete(key);
      held -= resident.bytes;
    }
  }
}

/** `writeBuffer` takes whole words only. */
export function paddedTo4(bytes: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (bytes.length % 4 === 0) return bytes;
  const padded = new Uint8Array(bytes.length + 4 - (bytes.length % 4));
  padded.set(bytes);
  return padded;
}

export interface OpenOptions {
  /** Instead of `navigator.gpu`. */
  gpu?: GPU;
  /** Instead of all candidates for `auto` overrides. */
  candidates?: readonly number[];
}

/** Takes the most powerful device there is. Throws a {@link GpuError} of kind `unavailable` when there is none. */
export async function openDevice(options: OpenOptions = {}): Promise<Device> {
  const gpu = options.gpu ?? (globalThis.navigator as Navigator | undefined)?.gpu;
  if (!gpu) throw new GpuError('unavailable', 'this browser has no WebGPU');
  const adapter = await answered(gpu.requestAdapter({ powerPreference: 'high-performance' }));
  if (!adapter) throw new GpuError('unavailable', 'WebGPU is there, but the browser offers no adapter');
  const requiredFeatures = FEATURES.filter((feature) => adapter.features.has(feature));
  const { limits } = adapter;
  const requiredLimits = {
    maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
    maxBufferSize: limits.maxBufferSize,
    maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
    maxComputeWorkgroupSizeX: limits.maxComputeWorkgroupSizeX,
    maxComputeWorkgroupSizeY: limits.maxComputeWorkgroupSizeY,
    maxComputeWorkgroupSizeZ: limits.maxComputeWorkgroupSizeZ,
    maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
    maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
  };
  const device = await answered(adapter.requestDevice({ requiredFeatures, requiredLimits }));
  return new Device(device, factsOf(adapter), options.candidates);
}

/** What the market is told about the adapter. */
export function factsOf(adapter: GPUAdapter): DeviceFacts {
  const { limits, info } = adapter;
  const name = info.description || [info.vendor, info.architecture, info.device].filter(Boolean).join(' ');
  const software = info.isFallbackAdapter || /swiftshader|llvmpipe|lavapipe|warp|basic render/i.test(name);
  const bytesMax = software ? SOFTWARE_BUFFER_BYTES_MAX : Number.MAX_SAFE_INTEGER;
  return {
    kind: 'browser',
    adapter: name || 'WebGPU adapter',
    vendor: info.vendor,
    backend: 'webgpu',
    features: FEATURES.filter((feature) => adapter.features.has(feature)).sort(),
    limits: {
      storage_buffer_bytes_max: String(Math.min(limits.maxStorageBufferBindingSize, bytesMax)),
      buffer_bytes_max: String(Math.min(limits.maxBufferSize, bytesMax)),
      storage_buffers_max: limits.maxStorageBuffersPerShaderStage,
      workgroup_invocations_max: limits.maxComputeInvocationsPerWorkgroup,
      workgroup_bytes_max: limits.maxComputeWorkgroupStorageSize,
      workgroups_per_dimension_max: limits.maxComputeWorkgroupsPerDimension,
    },
  };
}

async function answered<T>(pending: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new GpuError('unavailable', 'the browser does not answer for its GPU')),
      OPEN_MS_MAX,
    );
  });
  try {
    return await Promise.race([pending, late]);
  } catch (cause) {
    if (cause instanceof GpuError) throw cause;
    throw new GpuError('unavailable', `the browser gave no GPU device: ${(cause as Error).message}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}
