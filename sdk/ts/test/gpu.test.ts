// The parts of the GPU runtime that need no GPU.

import { readFileSync } from 'node:fs';

import { expect, test } from 'vitest';

import {
  GpuError,
  PACKED_4X8_WGSL,
  SPEED_WGSL,
  Tuner,
  packedFunctions,
  readDeclarations,
  withPackedFunctions,
} from '../src/gpu/index.js';

test('bindings are read with their access', () => {
  const wgsl = `
    // @group(0) @binding(9) var<storage> commented: array<u32>;
    /* @group(0) @binding(8) /* nested */ var<storage> too: array<u32>; */
    @id(7) override TILE: u32 = 8;
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @binding(1) @group(0)
    var<storage,read_write> y : array<u32>;
    @group(0) @binding(2) var<uniform> size: vec4<u32>;
    @group(0) @binding(3) var<storage> z: array<u32>;
    @group(1) @binding(0) var<uniform> elsewhere: u32;
    var<workgroup> shared_: array<u32, 4>;
    @compute @workgroup_size(TILE) fn main() { y[0] = x[0] + size.x + z[0]; }
  `;
  const { bindings, overrideIds } = readDeclarations(wgsl, 'main');
  expect([...bindings].sort()).toEqual([
    [0, 'read'],
    [1, 'read_write'],
    [2, 'uniform'],
    [3, 'read'],
  ]);
  expect([...overrideIds]).toEqual([['TILE', 7]]);
});

test('of two variables with one number the entry point gets its own', () => {
  const wgsl = `
    @group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(0) var<storage, read_write> b: array<u32>;
    fn write() { b[0] = 1u; }
    @compute @workgroup_size(1) fn reads() { let x = a[0]; }
    @compute @workgroup_size(1) fn writes() { write(); }
    @compute @workgroup_size(1) fn both() { b[0] = a[0]; }
  `;
  expect(readDeclarations(wgsl, 'reads').bindings.get(0)).toBe('read');
  expect(readDeclarations(wgsl, 'writes').bindings.get(0)).toBe('read_write');
  expect(() => readDeclarations(wgsl, 'both')).toThrow(GpuError);
});

test('the fastest accepted candidate stays', () => {
  const tuner = new Tuner([4, 8, 16, 32]);
  const times: Record<number, number> = { 4: 90, 8: 40, 16: 60 };
  const tried: number[] = [];
  while (tuner.next !== undefined) {
    const value = tuner.next;
    tried.push(value);
    if (times[value] === undefined) tuner.reject(value);
    else tuner.record(value, times[value]);
  }
  expect(tried).toEqual([4, 8, 16, 32]);
  expect(tuner.settled).toBe(true);
  expect(tuner.best).toBe(8);
});

test('the tab measures with the native worker’s kernel', () => {
  const native = readFileSync(new URL('../../../crates/gpu/src/speed.wgsl', import.meta.url), 'utf8');
  expect(SPEED_WGSL).toBe(native);
});

test('stand-ins for packed functions are the library’s', () => {
  const library = readFileSync(new URL('../../../kernels/packed_4x8/packed_4x8.wgsl', import.meta.url), 'utf8');
  expect(PACKED_4X8_WGSL).toBe(library);
});

test('a kernel gets the stand-ins that it calls, and those that they call', () => {
  const declared = (text: string) => [...text.matchAll(/^fn (\w+)/gm)].map(([, name]) => name);
  // What it mentions in comments, or declares itself, is not missing.
  expect(declared(withPackedFunctions('fn main() { let a = dot4I8Packed(1u, 2u); } // pack4xU8(b)'))).toEqual([
    'main',
    'dot4I8Packed',
    'unpack4xI8',
  ]);
  expect(declared(withPackedFunctions('fn dot4I8Packed(a: u32, b: u32) -> i32 { return 1; }'))).toEqual([
    'dot4I8Packed',
  ]);
  expect(declared(withPackedFunctions('fn f() { _ = pack4xI8Clamp(vec4i()); }'))).toEqual([
    'f',
    'pack4xI8Clamp',
    'pack4xI8',
    'pack4xU8',
  ]);
  expect(withPackedFunctions('fn main() {}')).toBe('fn main() {}');
});

test('a kernel no longer requires the packed functions, and no line moves', () => {
  const feature = 'packed_4x8_integer_dot_product';
  const wgsl = `requires ${feature},\n  readonly_and_readwrite_storage_textures;\nfn main() {}`;
  const text = withPackedFunctions(wgsl);
  expect(text).not.toContain(feature);
  expect(text).toContain('requires readonly_and_readwrite_storage_textures;');
  expect(text.indexOf('fn main')).toBeGreaterThan(text.indexOf('textures;'));
  expect(withPackedFunctions(`requires ${feature};\nfn main() {}`).trim()).toBe('fn main() {}');
  expect(withPackedFunctions(`requires ${feature};\nfn main() {}`)).toMatch(/\nfn main/);
});

test('a browser says whether it has the packed functions', () => {
  const gpu = (features: string[]) => ({ wgslLanguageFeatures: new Set(features) }) as unknown as GPU;
  expect(packedFunctions(gpu(['packed_4x8_integer_dot_product']))).toBe(true);
  expect(packedFunctions(gpu([]))).toBe(false);
  expect(packedFunctions({} as GPU)).toBe(false);
});
