// What can go wrong on a device, by what its user can do about it.

export type GpuErrorKind =
  /** There is no WebGPU, or no adapter. */
  | 'unavailable'
  /** The device is gone: driver reset, the browser's GPU process ended, or it was destroyed. */
  | 'device_lost'
  | 'out_of_memory'
  /** The program was refused: WGSL, bindings, workgroup sizes. */
  | 'program'
  /** A unit ran longer than its limit; the device was destroyed. */
  | 'timed_out';

export class GpuError extends Error {
  constructor(
    readonly kind: GpuErrorKind,
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
    this.name = 'GpuError';
  }
}

/** The typed form of what an error scope caught. */
export function fromScope(error: GPUError): GpuError {
  const memory = typeof GPUOutOfMemoryError !== 'undefined' && error instanceof GPUOutOfMemoryError;
  return new GpuError(memory ? 'out_of_memory' : 'program', error.message || 'the device ran out of memory');
}
