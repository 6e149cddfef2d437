// The browser worker. `hostContributor` is the inside of a dedicated Web Worker; the page sends `Command`s and gets `Report`s.

export * from './blobs.js';
export * from './compute.js';
export * from './contributor.js';
export * from './host.js';
export * from './state.js';
