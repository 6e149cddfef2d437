// Manifests: canonical bytes, and the checks that a runtime makes before it obeys one.
//
// The market refuses a manifest that makes no sense (shapes, bindings, WGSL). A worker trusts it no further than it must: an
// unknown field or version is refused here too, because ignoring it could silently change a computation.

import type { Buffer, Compare, Dtype, Kernel, Manifest, Pass, Policy, Product, Relation } from './api.js';
import { blobId, isHash, type Hash } from './hash.js';

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<Dtype, number>> = { i8: 1, u8: 1, f16: 2, i32: 4, u32: 4, f32: 4 };

/** What a worker obeys at most, by the names of the check that the market makes (crates/program; a test compares them). */
export const BOUNDS = {
  KERNELS_MAX: 16,
  BUFFERS_MAX: 32,
  PASSES_MAX: 64,
  BINDINGS_MAX: 8,
  AXES_MAX: 8,
  BUFFER_BYTES_MAX: 2 ** 32 - 4,
  MEMORY_BYTES_MAX: 64 * 2 ** 30,
  TIME_MS_MAX: 10 * 60 * 1000,
  KERNEL_BYTES_MAX: 256 * 2 ** 10,
} as const;

/** What is wrong with a manifest, and where. */
export class ManifestError extends Error {
  constructor(
    /** Such as `program.passes[0].bind[2]`. */
    readonly field: string,
    message: string,
  ) {
    super(field ? `${field}: ${message}` : message);
    this.name = 'ManifestError';
  }
}

/** Where a buffer's bytes come from or go to. */
export type BufferSource =
  | { kind: 'input'; index: number }
  | { kind: 'blob'; blob: Hash }
  | { kind: 'output'; index: number }
  | { kind: 'scratch' };

/** Where this buffer's bytes come from or go to. Throws when not exactly one place is named. */
export function bufferSource(buffer: Buffer, field: string): BufferSource {
  const sources: BufferSource[] = [];
  if (buffer.input != null) sources.push({ kind: 'input', index: buffer.input });
  if (buffer.blob != null) sources.push({ kind: 'blob', blob: buffer.blob });
  if (buffer.output != null) sources.push({ kind: 'output', index: buffer.output });
  if (buffer.scratch) sources.push({ kind: 'scratch' });
  const [source, second] = sources;
  if (!source || second) throw new ManifestError(field, 'exactly one of input, blob, output and scratch is wanted');
  return source;
}

/** Bytes that a buffer's elements take, before padding. */
export function lengthBytes(buffer: Buffer): number {
  return buffer.shape.reduce((product, extent) => product * extent, DTYPE_BYTES[buffer.dtype]);
}

/** Reads a manifest. Throws a {@link ManifestError} on an unknown field, a missing one, or one of the wrong form. */
export function parseManifest(value: unknown): Manifest {
  const manifest = readManifest(value);
  checkBounds(manifest);
  return manifest;
}

function readManifest(value: unknown): Manifest {
  const manifest = fields(value, '', ['version', 'runtime', 'kind', 'program', 'limits', 'verify'], ['needs']);
  if (manifest['version'] !== 1) throw new ManifestError('version', 'only version 1 is known');
  word(manifest['runtime'], 'runtime', ['wgsl']);
  word(manifest['kind'], 'kind', ['batch', 'inference', 'training']);

  const program = fields(manifest['program'], 'program', ['kernels', 'buffers', 'passes'], []);
  for (const [name, kernel] of named(program['kernels'], 'program.kernels'))
    checkKernel(kernel, `program.kernels.${name}`);
  for (const [name, buffer] of named(program['buffers'], 'program.buffers'))
    checkBuffer(buffer, `program.buffers.${name}`);
  list(program['passes'], 'program.passes').forEach((pass, i) => checkPass(pass, `program.passes[${i}]`));

  const limits = fields(manifest['limits'], 'limits', ['memory_bytes_max', 'time_ms_max'], []);
  count(limits['memory_bytes_max'], 'limits.memory_bytes_max');
  count(limits['time_ms_max'], 'limits.time_ms_max');

  if (manifest['needs'] !== undefined) {
    const needs = fields(manifest['needs'], 'needs', [], ['features', 'storage_buffer_bytes_min']);
    if (needs['features'] !== undefined)
      list(needs['features'], 'needs.features').forEach((f) => text(f, 'needs.features'));
    if (needs['storage_buffer_bytes_min'] !== undefined)
      count(needs['storage_buffer_bytes_min'], 'needs.storage_buffer_bytes_min');
  }
  checkVerify(manifest['verify']);
  return manifest as unknown as Manifest;
}

/** Whoever brought the manifest: it takes no more memory, time and names than any may. */
function checkBounds({ program, limits }: Manifest): void {
  within(limits.memory_bytes_max, BOUNDS.MEMORY_BYTES_MAX, 'limits.memory_bytes_max');
  within(limits.time_ms_max, BOUNDS.TIME_MS_MAX, 'limits.time_ms_max');
  within(Object.keys(program.kernels).length, BOUNDS.KERNELS_MAX, 'program.kernels');
  within(Object.keys(program.buffers).length, BOUNDS.BUFFERS_MAX, 'program.buffers');
  within(program.passes.length, BOUNDS.PASSES_MAX, 'program.passes');
  program.passes.forEach(({ bind, dispatch }, i) => {
    within(bind.length, BOUNDS.BINDINGS_MAX, `program.passes[${i}].bind`);
    within(dispatch.length, 3, `program.passes[${i}].dispatch`);
  });
  for (const name of [...Object.keys(program.kernels), ...Object.keys(program.buffers)]) {
    if (!/^[A-Za-z_][A-Za-z0-9_]{0,31}$/.test(name))
      throw new ManifestError('program', `${JSON.stringify(name.slice(0, 40))} is not a name`);
  }
  let bytes = 0;
  for (const [name, buffer] of Object.entries(program.buffers)) {
    within(buffer.shape.length, BOUNDS.AXES_MAX, `program.buffers.${name}.shape`);
    within(lengthBytes(buffer), BOUNDS.BUFFER_BYTES_MAX, `program.buffers.${name}.shape`);
    bytes += Math.ceil(lengthBytes(buffer) / 4) * 4;
  }
  if (bytes > limits.memory_bytes_max)
    throw new ManifestError('limits.memory_bytes_max', `the buffers take ${bytes} bytes`);
}

function within(found: number, max: number, at: string): void {
  if (!(found >= 1 && found <= max)) throw new ManifestError(at, `${found} is not between 1 and ${max}`);
}

function checkKernel(value: unknown, at: string): void {
  const kernel = fields(value, at, ['blob', 'entry'], ['overrides']);
  if (!isHash(kernel['blob'])) throw new ManifestError(`${at}.blob`, 'expected 64 lower-case hex digits');
  text(kernel['entry'], `${at}.entry`);
  if (kernel['overrides'] === undefined) return;
  for (const [name, override] of named(kernel['overrides'], `${at}.overrides`)) {
    if (override !== 'auto') count(override, `${at}.overrides.${name}`, 0xffff_ffff);
  }
}

function checkBuffer(value: unknown, at: string): void {
  const sources = ['input', 'blob', 'output', 'scratch'];
  const buffer = fields(value, at, ['dtype', 'shape'], [...sources, 'compare', 'resident']);
  word(buffer['dtype'], `${at}.dtype`, Object.keys(DTYPE_BYTES));
  list(buffer['shape'], `${at}.shape`).forEach((extent, i) => count(extent, `${at}.shape[${i}]`, 0xffff_ffff));
  if (buffer['input'] != null) count(buffer['input'], `${at}.input`, 0xffff_ffff);
  if (buffer['output'] != null) count(buffer['output'], `${at}.output`, 0xffff_ffff);
  if (buffer['blob'] != null && !isHash(buffer['blob']))
    throw new ManifestError(`${at}.blob`, 'expected 64 lower-case hex digits');
  if (buffer['scratch'] !== undefined && typeof buffer['scratch'] !== 'boolean') {
    throw new ManifestError(`${at}.scratch`, 'expected true or false');
  }
  if (buffer['resident'] != null) text(buffer['resident'], `${at}.resident`);
  const compare = buffer['compare'];
  if (compare != null && compare !== 'exact') {
    const tolerance = fields(compare, `${at}.compare`, ['abs'], ['rel', 'outliers_max', 'mean_abs_max']);
    for (const [name, bound] of Object.entries(tolerance)) {
      if (typeof bound !== 'number') throw new ManifestError(`${at}.compare.${name}`, 'expected a number');
    }
  }
  bufferSource(value as Buffer, at);
}

function checkPass(value: unknown, at: string): void {
  const pass = fields(value, at, ['kernel', 'bind', 'dispatch'], []);
  text(pass['kernel'], `${at}.kernel`);
  list(pass['bind'], `${at}.bind`).forEach((name, i) => text(name, `${at}.bind[${i}]`));
  list(pass['dispatch'], `${at}.dispatch`).forEach((size, i) => {
    if (typeof size !== 'string') count(size, `${at}.dispatch[${i}]`, 0xffff_ffff);
  });
}

function checkVerify(value: unknown): void {
  if (!Array.isArray(value)) return checkPolicy(value, 'verify');
  value.forEach((policy, i) => {
    checkPolicy(policy, `verify[${i}]`);
  });
}

/** The keys of each policy beside `policy` itself. */
const POLICY_KEYS: Readonly<Record<string, [required: string[], optional: string[]]>> = {
  audit: [['rate_min'], []],
  quorum: [['agree'], ['of']],
  canary: [[], []],
  freivalds: [['products'], ['rate']],
  algebraic: [['relations'], ['rate']],
};

function checkPolicy(value: unknown, at: string): void {
  const name = (value as { policy?: unknown } | null)?.policy;
  word(name, `${at}.policy`, Object.keys(POLICY_KEYS));
  const [required, optional] = POLICY_KEYS[name as string] ?? [[], []];
  const policy = fields(value, at, ['policy', ...required], optional);
  for (const key of ['rate_min', 'rate']) {
    if (key in policy && typeof policy[key] !== 'number') throw new ManifestError(`${at}.${key}`, 'expected a number');
  }
  if ('agree' in policy) count(policy['agree'], `${at}.agree`, 0xffff_ffff);
  if (policy['of'] != null) count(policy['of'], `${at}.of`, 0xffff_ffff);
  if ('products' in policy) {
    list(policy['products'], `${at}.products`).forEach((product, i) => {
      checkProduct(product, `${at}.products[${i}]`, []);
    });
  }
  if ('relations' in policy) {
    list(policy['relations'], `${at}.relations`).forEach((relation, i) => {
      checkRelation(relation, `${at}.relations[${i}]`);
    });
  }
}

function checkRelation(value: unknown, at: string): void {
  const name = (value as { relation?: unknown } | null)?.relation;
  word(name, `${at}.relation`, ['product', 'sorted']);
  if (name === 'product') return checkProduct(value, at, ['relation']);
  const sorted = fields(value, at, ['relation', 'input', 'output'], ['descending']);
  for (const key of ['input', 'output']) text(sorted[key], `${at}.${key}`);
  flag(sorted['descending'], `${at}.descending`);
}

function checkProduct(value: unknown, at: string, tag: string[]): void {
  const product = fields(value, at, [...tag, 'a', 'b', 'c'], ['b_transposed', 'bias']);
  for (const key of ['a', 'b', 'c']) text(product[key], `${at}.${key}`);
  if (product['bias'] != null) text(product['bias'], `${at}.bias`);
  flag(product['b_transposed'], `${at}.b_transposed`);
}

function flag(value: unknown, at: string): void {
  if (value !== undefined && typeof value !== 'boolean') throw new ManifestError(at, 'expected true or false');
}

function fields(value: unknown, at: string, required: string[], optional: string[]): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ManifestError(at, 'expected an object');
  const object = value as Record<string, unknown>;
  for (const name of Object.keys(object)) {
    if (!required.includes(name) && !optional.includes(name))
      throw new ManifestError(at, `unknown field ${JSON.stringify(name)}`);
  }
  for (const name of required) {
    if (!Object.hasOwn(object, name)) throw new ManifestError(at, `${JSON.stringify(name)} is missing`);
  }
  return object;
}

function named(value: unknown, at: string): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new ManifestError(at, 'expected an object');
  return Object.entries(value);
}

function list(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw new ManifestError(at, 'expected a list');
  return value;
}

function text(value: unknown, at: string): void {
  if (typeof value !== 'string') throw new ManifestError(at, 'expected text');
}

function word(value: unknown, at: string, words: string[]): void {
  if (typeof value !== 'string' || !words.includes(value))
    throw new ManifestError(at, `expected one of ${words.join(', ')}`);
}

function count(value: unknown, at: string, max = Number.MAX_SAFE_INTEGER): void {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > max) {
    throw new ManifestError(at, 'expected a whole number');
  }
}

/** The manifest's canonical JSON: compact, fields in the order of the format, maps sorted, defaults spelled out. */
export function manifestText(manifest: Manifest): string {
  const { program, limits, needs, verify } = manifest;
  return object([
    ['version', String(manifest.version)],
    ['runtime', JSON.stringify(manifest.runtime)],
    ['kind', JSON.stringify(manifest.kind)],
    [
      'program',
      object([
        ['kernels', map(program.kernels, kernelText)],
        ['buffers', map(program.buffers, bufferText)],
        ['passes', `[${program.passes.map(passText).join(',')}]`],
      ]),
    ],
    [
      'limits',
      object([
        ['memory_bytes_max', String(limits.memory_bytes_max)],
        ['time_ms_max', String(limits.time_ms_max)],
      ]),
    ],
    [
      'needs',
      object([
        ['features', JSON.stringify(needs?.features ?? [])],
        ['storage_buffer_bytes_min', String(needs?.storage_buffer_bytes_min ?? 0)],
      ]),
    ],
    ['verify', Array.isArray(verify) ? `[${verify.map(policyText).join(',')}]` : policyText(verify)],
  ]);
}

/** The blob id of the manifest's canonical bytes. */
export function manifestHash(manifest: Manifest): Promise<Hash> {
  return blobId(new TextEncoder().encode(manifestText(manifest)));
}

function policyText(policy: Policy): string {
  const name: [string, string] = ['policy', JSON.stringify(policy.policy)];
  switch (policy.policy) {
    case 'audit':
      return object([name, ['rate_min', floatText(policy.rate_min)]]);
    case 'quorum':
      return object([name, ['agree', String(policy.agree)], ['of', policy.of != null ? String(policy.of) : undefined]]);
    case 'canary':
      return object([name]);
    case 'freivalds':
      return object([
        name,
        ['products', `[${policy.products.map((product) => productText(product)).join(',')}]`],
        ['rate', floatText(policy.rate ?? 1)],
      ]);
    case 'algebraic':
      return object([
        name,
        ['relations', `[${policy.relations.map(relationText).join(',')}]`],
        ['rate', floatText(policy.rate ?? 1)],
      ]);
  }
}

function relationText(relation: Relation): string {
  if (relation.relation === 'product') return productText(relation, 'product');
  return object([
    ['relation', '"sorted"'],
    ['input', JSON.stringify(relation.input)],
    ['output', JSON.stringify(relation.output)],
    ['descending', relation.descending ? 'true' : undefined],
  ]);
}

function productText(product: Product, relation?: string): string {
  return object([
    ['relation', relation && JSON.stringify(relation)],
    ['a', JSON.stringify(product.a)],
    ['b', JSON.stringify(product.b)],
    ['c', JSON.stringify(product.c)],
    ['b_transposed', product.b_transposed ? 'true' : undefined],
    ['bias', product.bias != null ? JSON.stringify(product.bias) : undefined],
  ]);
}

function kernelText(kernel: Kernel): string {
  const overrides = Object.keys(kernel.overrides ?? {}).length > 0 ? kernel.overrides : undefined;
  return object([
    ['blob', JSON.stringify(kernel.blob)],
    ['entry', JSON.stringify(kernel.entry)],
    ['overrides', overrides && map(overrides, (value) => JSON.stringify(value))],
  ]);
}

function bufferText(buffer: Buffer): string {
  return object([
    ['input', buffer.input != null ? String(buffer.input) : undefined],
    ['blob', buffer.blob != null ? JSON.stringify(buffer.blob) : undefined],
    ['output', buffer.output != null ? String(buffer.output) : undefined],
    ['scratch', buffer.scratch ? 'true' : undefined],
    ['dtype', JSON.stringify(buffer.dtype)],
    ['shape', JSON.stringify(buffer.shape)],
    ['compare', buffer.compare != null ? compareText(buffer.compare) : undefined],
    ['resident', buffer.resident != null ? JSON.stringify(buffer.resident) : undefined],
  ]);
}

function compareText(compare: Compare): string {
  if (compare === 'exact') return '"exact"';
  return object([
    ['abs', floatText(compare.abs)],
    ['rel', floatText(compare.rel ?? 0)],
    ['outliers_max', floatText(compare.outliers_max ?? 0)],
    ['mean_abs_max', compare.mean_abs_max != null ? floatText(compare.mean_abs_max) : undefined],
  ]);
}

function passText(pass: Pass): string {
  return object([
    ['kernel', JSON.stringify(pass.kernel)],
    ['bind', JSON.stringify(pass.bind)],
    ['dispatch', JSON.stringify(pass.dispatch)],
  ]);
}

function object(entries: [string, string | undefined][]): string {
  const present = entries.filter(([, value]) => value !== undefined);
  return `{${present.map(([key, value]) => `${JSON.stringify(key)}:${value}`).join(',')}}`;
}

function map<T>(entries: Record<string, T>, print: (value: T) => string): string {
  // Rust sorts by bytes of UTF-8, which is the order of code points and not JavaScript's order of UTF-16 units.
  const points = (key: string) => [...key].map((c) => c.codePointAt(0) ?? 0);
  const sorted = Object.entries(entries).sort(([a], [b]) => {
    const [x, y] = [points(a), points(b)];
    for (let i = 0; i < Math.min(x.length, y.length); i++) if (x[i] !== y[i]) return (x[i] ?? 0) - (y[i] ?? 0);
    return x.length - y.length;
  });
  return object(sorted.map(([key, value]) => [key, print(value)]));
}

/** A 64-bit float as serde_json prints it: shortest digits, plain between 10⁻⁵ and 10¹⁶, always a point or an exponent. */
function floatText(value: number): string {
  if (value === 0) return Object.is(value, -0) ? '-0.0' : '0.0';
  const [digits = '', exponentText = '0'] = Math.abs(value).toExponential().split('e');
  const exponent = Number(exponentText);
  const sign = value < 0 ? '-' : '';
  if (exponent < -5 || exponent >= 16) return `${sign}${digits}e${exponent < 0 ? '' : '+'}${exponent}`;
  const plain = digits.replace('.', '');
  if (exponent < 0) return `${sign}0.${'0'.repeat(-exponent - 1)}${plain}`;
  const whole = plain.slice(0, exponent + 1).padEnd(exponent + 1, '0');
  return `${sign}${whole}.${plain.slice(exponent + 1) || '0'}`;
}
