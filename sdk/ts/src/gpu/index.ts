// Obeys manifests on WebGPU. Knows no market: bytes in, bytes out.

export * from './bindings.js';
export * from './device.js';
export * from './error.js';
export * from './packed.js';
export * from './program.js';
export * from './speed.js';
export * from './tuner.js';
