// The types of the market's HTTP API, made from its OpenAPI document, and the one generic type that OpenAPI cannot express.

export type * from './api.gen.js';

/** One page of a list, newest first. */
export interface Page<T> {
  items: T[];
  /** Pass as `cursor` for the next page; absent on the last one. */
  next?: string | null;
}
