// `dot4I8Packed` and its like for browsers whose WGSL lacks the language feature packed_4x8_integer_dot_product.
//
// The stand-ins go behind a kernel's own text, where they move no line of it. They are the library's
// (kernels/packed_4x8/packed_4x8.wgsl; a test compares the texts) and give the same bits as the built-in functions.

import { withoutComments } from './bindings.js';

const FEATURE = 'packed_4x8_integer_dot_product';

/** Whether this browser's WGSL has the functions. */
export function packedFunctions(gpu: GPU | undefined = globalThis.navigator?.gpu): boolean {
  return gpu?.wgslLanguageFeatures?.has(FEATURE) ?? false;
}

/** The kernel with a stand-in for each of the functions that it calls and does not declare, and not requiring them. */
export function withPackedFunctions(wgsl: string): string {
  let text = withoutRequirement(wgsl);
  for (let missing = calledButMissing(text); missing.length > 0; missing = calledButMissing(text)) {
    text += missing.map(([, source]) => `\n${source}`).join('');
  }
  return text;
}

/** The stand-ins by name. */
const STAND_INS = () =>
  new Map(
    PACKED_4X8_WGSL.split(/^(?=fn )/m)
      .filter((source) => source.startsWith('fn '))
      .map((source) => [source.slice(3, source.indexOf('(')), source]),
  );

function calledButMissing(wgsl: string): [string, string][] {
  const text = withoutComments(wgsl);
  const called = (name: string) => new RegExp(`(?<!fn\\s+)\\b${name}\\s*\\(`).test(text);
  const declared = (name: string) => new RegExp(`\\bfn\\s+${name}\\b`).test(text);
  return [...STAND_INS()].filter(([name]) => called(name) && !declared(name));
}

/** Blanks the feature out of `requires` directives; lines and columns stay. */
function withoutRequirement(wgsl: string): string {
  return wgsl.replace(/\brequires\b[^;]*;/g, (directive) => {
    const names = directive.slice('requires'.length, -1).split(',');
    const others = names.map((name) => name.trim()).filter((name) => name !== '' && name !== FEATURE);
    if (others.length === names.filter((name) => name.trim() !== '').length) return directive;
    const kept = others.length > 0 ? `requires ${others.join(', ')};` : '';
    return kept + directive.slice(kept.length).replace(/[^\n]/g, ' ');
  });
}

export const PACKED_4X8_WGSL = `// The functions of the language feature packed_4x8_integer_dot_product, for compilers that lack it: text that is put behind a
// kernel's own. A declaration of a module hides the built-in function of the same name, so that the same text also runs where
// the feature is there, and must give the same bits.

fn dot4I8Packed(a: u32, b: u32) -> i32 {
    let products = unpack4xI8(a) * unpack4xI8(b);
    return products.x + products.y + products.z + products.w;
}

fn dot4U8Packed(a: u32, b: u32) -> u32 {
    let products = unpack4xU8(a) * unpack4xU8(b);
    return products.x + products.y + products.z + products.w;
}

fn unpack4xI8(a: u32) -> vec4<i32> {
    return vec4<i32>(vec4<u32>(a << 24u, a << 16u, a << 8u, a)) >> vec4<u32>(24u);
}

fn unpack4xU8(a: u32) -> vec4<u32> {
    return (vec4<u32>(a) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(0xffu);
}

fn pack4xI8(a: vec4<i32>) -> u32 {
    return pack4xU8(vec4<u32>(a));
}

fn pack4xU8(a: vec4<u32>) -> u32 {
    let bytes = (a & vec4<u32>(0xffu)) << vec4<u32>(0u, 8u, 16u, 24u);
    return bytes.x | bytes.y | bytes.z | bytes.w;
}

fn pack4xI8Clamp(a: vec4<i32>) -> u32 {
    return pack4xI8(clamp(a, vec4<i32>(-128), vec4<i32>(127)));
}

fn pack4xU8Clamp(a: vec4<u32>) -> u32 {
    return pack4xU8(min(a, vec4<u32>(255u)));
}
`;
