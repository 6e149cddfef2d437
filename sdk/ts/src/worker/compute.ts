// The device as the contributor sees it: facts, and programs by the hash of their manifest.

import type { DeviceFacts, Manifest, WorkerOffer } from '../api.js';
import {
  type Device,
  FEATURE_LONG_LOOPS,
  FLAW_LOOP_ROUNDS,
  GpuError,
  type OpenOptions,
  Program,
  type UnitResult,
  measure,
  openDevice,
  ready,
} from '../gpu/index.js';
import type { Hash } from '../hash.js';
import { lengthBytes } from '../manifest.js';

export interface ComputeProgram {
  run(inputs: readonly Uint8Array<ArrayBuffer>[]): Promise<UnitResult>;
}

/** What a worker claims for its device, beside its facts. */
export type Claims = Pick<WorkerOffer, 'claimed_mflops' | 'memory_bytes' | 'flaws'>;

export interface ComputeDevice {
  readonly facts: DeviceFacts;
  /** Nothing is claimed without it. */
  readonly claims?: Claims;
  /** Resolves when the device is gone. */
  readonly lost: Promise<Error>;
  /** The program of a manifest, prepared once and kept while it is used. */
  program(
    manifest: Manifest,
    hash: Hash,
    blob: (hash: Hash) => Promise<Uint8Array<ArrayBuffer>>,
  ): Promise<ComputeProgram>;
  destroy(): void;
}

/** Device memory that a tab lends: browsers do not tell how much there is, and the page is not alone on the machine. */
const MEMORY_BYTES = 2 * 1024 ** 3;

/** Measured once a page: a device that was lost is the same when it comes back. */
let measured: { adapter: string; claims: Claims } | undefined;

/** What was found by trying is a feature too: jobs that loop for long need it. */
function factsWith(facts: DeviceFacts, { flaws }: Claims): DeviceFacts {
  if (flaws?.includes(FLAW_LOOP_ROUNDS)) return facts;
  return { ...facts, features: [...facts.features, FEATURE_LONG_LOOPS].sort() };
}

async function claimsOf(device: Device): Promise<Claims> {
  const { adapter, limits } = device.facts;
  try {
    if (measured?.adapter === adapter) {
      await ready(device);
    } else {
      const { mflops, flaws } = await measure(device);
      // A software adapter has two buffers' worth.
      const bytes = Math.min(2 * Number(limits.buffer_bytes_max), MEMORY_BYTES);
      measured = { adapter, claims: { claimed_mflops: String(mflops), memory_bytes: String(bytes), flaws } };
    }
  } catch (error) {
    device.destroy();
    throw error;
  }
  return measured.claims;
}

/** Programs that stay prepared. */
const PROGRAMS_MAX = 8;

/** Opens the WebGPU device. */
export async function openWebGpu(options: OpenOptions = {}): Promise<ComputeDevice> {
  const device = await openDevice(options);
  const claims = await claimsOf(device);
  const programs = new Map<Hash, Promise<Program>>();
  const ready = new Map<Hash, Program>();
  const lent = Number(claims.memory_bytes ?? MEMORY_BYTES);
  const order = (hash: Hash) => [...programs.keys()].indexOf(hash);
  return {
    facts: factsWith(device.facts, claims),
    claims,
    lost: device.lost,
    async program(manifest, hash, blob) {
      const bytes = Object.values(manifest.program.buffers).reduce((sum, buffer) => sum + lengthBytes(buffer), 0);
      if (bytes > lent) {
        throw new GpuError('program', `a unit takes ${bytes} bytes and this tab lends ${lent}`);
      }
      let program = programs.get(hash);
      if (!program) {
        program = Program.create(device, manifest, blob);
        program.then(
          (made) => programs.has(hash) && ready.set(hash, made),
          () => programs.delete(hash),
        );
      }
      programs.delete(hash);
      programs.set(hash, program);
      const [oldest] = programs;
      if (programs.size > PROGRAMS_MAX && oldest) {
        programs.delete(oldest[0]);
        ready.delete(oldest[0]);
        void oldest[1].then((old) => old.dispose()).catch(() => {});
      }
      // The buffers of programs that were used before make room for this one's.
      let held = 0;
      for (const [other, made] of [...ready].sort(([a], [b]) => order(b) - order(a))) {
        held += made.bytesMax;
        if (held > lent && other !== hash) made.trim();
      }
      return program;
    },
    destroy: () => device.destroy(),
  };
}
