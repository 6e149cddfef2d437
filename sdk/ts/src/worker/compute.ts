// The device as the contributor sees it: facts, and programs by the hash of their manifest.

import type { DeviceFacts, Manifest } from '../api.js';
import { type OpenOptions, Program, type UnitResult, openDevice } from '../gpu/index.js';
import type { Hash } from '../hash.js';

export interface ComputeProgram {
  run(inputs: readonly Uint8Array<ArrayBuffer>[]): Promise<UnitResult>;
}

export interface ComputeDevice {
  readonly facts: DeviceFacts;
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

/** Programs that stay prepared. */
const PROGRAMS_MAX = 8;

/** Opens the WebGPU device. */
export async function openWebGpu(options: OpenOptions = {}): Promise<ComputeDevice> {
  const device = await openDevice(options);
  const programs = new Map<Hash, Promise<Program>>();
  return {
    facts: device.facts,
    lost: device.lost,
    program(manifest, hash, blob) {
      let program = programs.get(hash);
      if (!program) {
        program = Program.create(device, manifest, blob);
        program.catch(() => programs.delete(hash));
      }
      programs.delete(hash);
      programs.set(hash, program);
      const [oldest] = programs;
      if (programs.size > PROGRAMS_MAX && oldest) {
        programs.delete(oldest[0]);
        void oldest[1].then((old) => old.dispose()).catch(() => {});
      }
      return program;
    },
    destroy: () => device.destroy(),
  };
}
