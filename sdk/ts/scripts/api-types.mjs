// Writes the TypeScript types of the API from its OpenAPI document: one exported type a schema, with its documentation.
//
//   node scripts/api-types.mjs [DOCUMENT] [--output FILE]
//
// It covers what our document uses (objects, arrays, enums, oneOf, allOf, maps, nullable types) and refuses the rest, so that
// nothing turns into `unknown` in silence.

import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { fileURLToPath } from 'node:url';

const here = path.dirname(fileURLToPath(import.meta.url));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { output: { type: 'string', default: path.join(here, '../src/api.gen.ts') } },
});
const source = positionals[0] ?? path.join(here, '../../../docs/openapi.json');
const { schemas } = JSON.parse(readFileSync(source, 'utf8')).components;
writeFileSync(values.output, render(schemas));

function render(schemas) {
  const parts = ['// Made from docs/openapi.json by scripts/api-types.mjs; do not edit.\n'];
  for (const name of Object.keys(schemas).sort()) {
    // A generic type's schema has a name such as Page_Job; `String` is what utoipa calls RFC 3339 times.
    if (name === 'String') continue;
    const schema = schemas[name];
    const body = typeOf(schema, name, '');
    const form = body.startsWith('{') ? `export interface ${name} ${body}` : `export type ${name} = ${body};`;
    parts.push(`${comment(schema.description, '')}${form}\n`);
  }
  return parts.join('\n').replaceAll(' \n', '\n');
}

function typeOf(schema, where, indent) {
  if (schema.$ref)
    return schema.$ref
      .split('/')
      .pop()
      .replace(/^String$/, 'string');
  if (schema.enum) return schema.enum.map((value) => quote(value)).join(' | ');
  if (schema.const !== undefined) return quote(schema.const);
  const members = schema.oneOf ?? schema.anyOf;
  if (members) {
    const types = members.map((member) => typeOf(member, where, `${indent}  `));
    if (types.join(' | ').length < 80) return types.join(' | ');
    return types.map((type) => `\n${indent}  | ${type}`).join('');
  }
  if (schema.allOf) return schema.allOf.map((member) => typeOf(member, where, indent)).join(' & ');
  if (Array.isArray(schema.type)) {
    return schema.type.map((type) => typeOf({ ...schema, type }, where, indent)).join(' | ');
  }
  switch (schema.type) {
    case 'string':
    case 'boolean':
    case 'null':
      return schema.type;
    case 'integer':
    case 'number':
      return 'number';
    case 'array': {
      const item = typeOf(schema.items, where, indent);
      return /[ |&]/.test(item) ? `(${item})[]` : `${item}[]`;
    }
    case 'object':
      return object(schema, where, indent);
    default:
      throw new Error(`${where}: a schema of a kind that this script does not know: ${JSON.stringify(schema)}`);
  }
}

function object(schema, where, indent) {
  if (typeof schema.additionalProperties === 'object' && !schema.properties) {
    return `Record<string, ${typeOf(schema.additionalProperties, where, indent)}>`;
  }
  const inner = `${indent}  `;
  const required = new Set(schema.required ?? []);
  const fields = Object.entries(schema.properties ?? {}).map(([name, property]) => {
    const text = property.description ?? property.oneOf?.find((member) => member.description)?.description;
    const key = /^[A-Za-z_]\w*$/.test(name) ? name : quote(name);
    const type = typeOf(property, `${where}.${name}`, inner);
    return `${comment(text, inner)}${inner}${key}${required.has(name) ? '' : '?'}: ${type};\n`;
  });
  return fields.length > 0 ? `{\n${fields.join('')}${indent}}` : 'Record<string, never>';
}

function comment(text, indent) {
  if (!text) return '';
  const lines = text.trim().replaceAll('*/', '*\\/').split('\n');
  if (lines.length === 1) return `${indent}/** ${lines[0]} */\n`;
  return `${indent}/**\n${lines.map((line) => `${indent} * ${line}`.trimEnd()).join('\n')}\n${indent} */\n`;
}

function quote(value) {
  return typeof value === 'string' ? `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'` : String(value);
}
