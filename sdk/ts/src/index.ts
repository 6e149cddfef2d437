// The client of a Plexus market and the wire formats. The GPU runtime is `@plexus/sdk/gpu`, the worker `@plexus/sdk/worker`.

export * from './api.js';
export * from './amount.js';
export * from './batch.js';
export * from './bytes.js';
export * from './challenge.js';
export * from './client.js';
export * from './expression.js';
export * from './hash.js';
export * from './ids.js';
export * from './keys.js';
export * from './manifest.js';
export * from './opening.js';
export * from './verify.js';
export * as merkle from './merkle.js';
