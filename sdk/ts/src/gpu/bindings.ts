// What a WGSL text declares: the bindings of an entry point and the numbers of its overrides.
//
// A pipeline with an explicit layout takes a binding that the shader declares but never uses, which `layout: 'auto'` drops. This
// reads declarations only; whether the WGSL is valid is for the market's checks and the browser's compiler to say.

import { GpuError } from './error.js';

export type Access = 'uniform' | 'read' | 'read_write';

export interface Declarations {
  /** How each `@group(0) @binding(i)` of the entry point is declared. */
  bindings: Map<number, Access>;
  /** Numbers of overrides with an `@id`, which pipelines must then use instead of the name. */
  overrideIds: Map<string, number>;
}

/** Reads the declarations that matter to `entry`. */
export function readDeclarations(wgsl: string, entry: string): Declarations {
  const text = withoutComments(wgsl);
  const functions = functionBodies(text);
  const used = reachable(functions, entry);
  const bindings = new Map<number, Access>();
  const variables = variableDeclarations(text);
  // Two variables may share a number when no entry point uses both, so one that the entry point uses goes first.
  for (const { name, binding, access } of variables.sort(
    (a, b) => Number(used.has(b.name)) - Number(used.has(a.name)),
  )) {
    const taken = bindings.get(binding);
    if (taken === undefined) bindings.set(binding, access);
    else if (taken !== access && used.has(name)) {
      throw new GpuError('program', `two variables of ${entry} use binding ${binding}`);
    }
  }
  const overrideIds = new Map<string, number>();
  for (const [, id = '', name = ''] of text.matchAll(/@id\s*\(\s*(\d+)\s*\)\s*override\s+([\p{L}_][\p{L}\p{N}_]*)/gu)) {
    overrideIds.set(name, Number(id));
  }
  return { bindings, overrideIds };
}

function variableDeclarations(text: string): { name: string; binding: number; access: Access }[] {
  const pattern =
    /((?:@(?:group|binding)\s*\(\s*\d+[iu]?\s*\)\s*){2})var\s*<\s*(uniform|storage)\s*(?:,\s*(read_write|read|write)\s*)?,?\s*>\s*([\p{L}_][\p{L}\p{N}_]*)/gu;
  const found = [];
  for (const [, attributes = '', space, access, name = ''] of text.matchAll(pattern)) {
    if (Number(/@group\s*\(\s*(\d+)/.exec(attributes)?.[1]) !== 0) continue;
    const binding = Number(/@binding\s*\(\s*(\d+)/.exec(attributes)?.[1]);
    const how: Access =
      space === 'uniform' ? 'uniform' : access === 'read_write' || access === 'write' ? 'read_write' : 'read';
    found.push({ name, binding, access: how });
  }
  return found;
}

/** The text with comments as spaces; block comments nest in WGSL. */
export function withoutComments(text: string): string {
  let result = '';
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const pair = text.slice(i, i + 2);
    if (pair === '/*') {
      depth++;
      i++;
    } else if (pair === '*/' && depth > 0) {
      depth--;
      i++;
      result += ' ';
    } else if (depth === 0 && pair === '//') {
      while (i < text.length && text[i] !== '\n') i++;
      result += '\n';
    } else if (depth === 0) {
      result += text[i];
    }
  }
  return result;
}

/** The identifiers in the body of each function. */
function functionBodies(text: string): Map<string, Set<string>> {
  const functions = new Map<string, Set<string>>();
  for (const match of text.matchAll(/\bfn\s+([\p{L}_][\p{L}\p{N}_]*)/gu)) {
    const start = text.indexOf('{', match.index);
    if (start < 0) continue;
    let end = start;
    for (let depth = 0; end < text.length; end++) {
      if (text[end] === '{') depth++;
      else if (text[end] === '}' && --depth === 0) break;
    }
    const body = text.slice(start, end);
    functions.set(match[1] ?? '', new Set(body.match(/[\p{L}_][\p{L}\p{N}_]*/gu) ?? []));
  }
  return functions;
}

/** The identifiers that `entry` names, itself or through the functions that it calls. */
function reachable(functions: Map<string, Set<string>>, entry: string): Set<string> {
  const seen = new Set([entry]);
  for (const name of seen) for (const identifier of functions.get(name) ?? []) seen.add(identifier);
  return seen;
}
