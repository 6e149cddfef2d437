// The golden vectors that Rust writes: the SDK must compute the same bytes.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

import type { Buffer, InputSplit, OutputCommitment, Receipt } from '../src/api.js';
import { fromTokens, parseAmount, shareBps, toTokens } from '../src/amount.js';
import { batchOf } from '../src/batch.js';
import {
  commitmentTo,
  packageRoot,
  parseU64,
  receiptBytes,
  receiptDigest,
  sealingKeyBytes,
  unitLeafBytes,
} from '../src/bytes.js';
import { Expression, ExpressionError } from '../src/expression.js';
import { digest, fromHex, toHex } from '../src/hash.js';
import { idNumber, idText, parseUnitId } from '../src/ids.js';
import { keyBytes, keyText, signatureBytes, webCryptoSigner } from '../src/keys.js';
import {
  type BufferSource,
  ManifestError,
  bufferSource,
  lengthBytes,
  manifestHash,
  manifestText,
  parseManifest,
} from '../src/manifest.js';
import { verifyStrict } from '../src/verify.js';
import * as merkle from '../src/merkle.js';
import { unitInput } from '../src/split.js';

function read(name: string) {
  return JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}`, import.meta.url), 'utf8'));
}
const vectors = read('protocol.json');
const utf8 = new TextEncoder();

/** The same bytes as the Rust test's generator of that name. */
function bytes(length: number, seed: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length }, (_, i) => ((Math.imul(i, 2_654_435_761) + seed) >>> 13) & 0xff);
}

test('batches of blobs', () => {
  for (const { lengths, head, sha256 } of vectors.batches) {
    const batch = batchOf(lengths.map((length: number, i: number) => bytes(length, i)));
    expect(toHex(batch.subarray(0, 4 + 4 * lengths.length))).toBe(head);
    expect(toHex(digest(batch))).toBe(sha256);
  }
});

test('hashes', () => {
  for (const { text, sha256 } of vectors.hashes) expect(toHex(digest(utf8.encode(text)))).toBe(sha256);
});

test('keys are base58 of 32 bytes and nothing else', () => {
  for (const { public: text, public_hex } of vectors.keys.valid) {
    expect(toHex(keyBytes(text))).toBe(public_hex);
    expect(keyText(fromHex(public_hex))).toBe(text);
  }
  expect(keyText(new Uint8Array(32))).toBe(vectors.keys.zeros);
  for (const text of vectors.keys.invalid) expect(() => keyBytes(text), JSON.stringify(text)).toThrow(RangeError);
});

test('ids read what they print', () => {
  for (const { number, text } of vectors.ids.valid) {
    expect(idNumber('job', text)).toBe(BigInt(number));
    expect(idText('job', BigInt(number))).toBe(text);
  }
  const { unit } = vectors.ids;
  expect(parseUnitId(unit.text)).toEqual({ job: unit.job, index: BigInt(unit.index) });
  for (const text of vectors.ids.invalid) expect(() => idNumber('job', text), JSON.stringify(text)).toThrow(RangeError);
});

test('amounts', () => {
  const { tokens, invalid_tokens, invalid_base_units, shares } = vectors.amounts;
  for (const { tokens: text, base_units, printed } of tokens) {
    expect(fromTokens(text)).toBe(parseAmount(base_units));
    expect(toTokens(parseAmount(base_units))).toBe(printed);
  }
  for (const text of invalid_tokens) expect(() => fromTokens(text), JSON.stringify(text)).toThrow(RangeError);
  for (const text of invalid_base_units) expect(() => parseAmount(text), JSON.stringify(text)).toThrow(RangeError);
  for (const { base_units, bps, share } of shares) expect(shareBps(BigInt(base_units), bps)).toBe(BigInt(share));
});

test('Merkle roots and inclusion proofs', () => {
  for (const { count, root, proofs } of vectors.merkle) {
    const leaves = Array.from({ length: count }, (_, i) => merkle.leafHash(new Uint8Array([i])));
    expect(toHex(merkle.root(leaves)), `${count} leaves`).toBe(root);
    for (const { index, path } of proofs) {
      const made = merkle.proof(leaves, index) ?? [];
      expect(made.map(toHex), `leaf ${index} of ${count}`).toEqual(path);
      const holds = (i: number, n: number, siblings: Uint8Array[]) =>
        merkle.verify(fromHex(root), leaves[index] as Uint8Array, BigInt(i), BigInt(n), siblings);
      expect(holds(index, count, made)).toBe(true);
      expect(holds(count, count, made)).toBe(false);
      if (count > 1) {
        expect(holds((index + 1) % count, count, made)).toBe(false);
        expect(holds(index, count, made.slice(1))).toBe(false);
      }
    }
    expect(merkle.proof(leaves, count)).toBeUndefined();
  }
});

test('commitments to outputs', async () => {
  for (const { length, seed, commitment } of vectors.commitments) {
    expect(await commitmentTo(bytes(length, seed)), `${length} bytes`).toEqual(commitment);
  }
});

test('unit leaves and package roots', () => {
  for (const { units, package_root } of vectors.packages) {
    for (const unit of units) {
      expect(toHex(unitLeafBytes(unit))).toBe(unit.borsh);
      expect(toHex(merkle.leafHash(unitLeafBytes(unit)))).toBe(unit.leaf_hash);
    }
    expect(packageRoot(units as { job: string; unit: string; outputs: OutputCommitment[] }[])).toBe(package_root);
  }
});

test('receipts have the same bytes, digest and signature', async () => {
  for (const { receipt, signed_bytes, digest: wanted, seed, signature } of vectors.receipts as (Record<
    string,
    string
  > & {
    receipt: Receipt;
  })[]) {
    const signed = receiptBytes(receipt);
    expect(toHex(signed)).toBe(signed_bytes);
    expect(receiptDigest(receipt)).toBe(wanted);
    const signer = await seededSigner(fromHex(seed as string));
    expect(signer.address).toBe(receipt.worker);
    expect(await signer.sign(signed)).toBe(signature);
    expect(verifyStrict(keyBytes(receipt.worker), signed, signatureBytes(signature as string))).toBe(true);
  }
});

test('sealing keys have the same bytes and signature', async () => {
  for (const { record, signed_bytes, seed, signature } of vectors.sealing_keys.records) {
    const signed = sealingKeyBytes(record);
    expect(toHex(signed)).toBe(signed_bytes);
    const signer = await seededSigner(fromHex(seed));
    expect(await signer.sign(signed)).toBe(signature);
    expect(verifyStrict(keyBytes(record.worker), signed, signatureBytes(signature))).toBe(true);
  }
});

test('verification is as strict as in Rust', () => {
  for (const { about, public: key, message, signature, valid } of vectors.signatures) {
    expect(verifyStrict(keyBytes(key), fromHex(message), signatureBytes(signature)), about).toBe(valid);
  }
});

test('inputs are cut into units and padded with zeros', () => {
  const blob = fromHex(vectors.splits.blob);
  for (const { split, unit, bytes: wanted } of vectors.splits.cases as {
    split: InputSplit;
    unit: string;
    bytes: string;
  }[]) {
    expect(toHex(unitInput(split, parseU64(unit), blob)), JSON.stringify(split)).toBe(wanted);
  }
});

test('manifests have the same canonical bytes', async () => {
  for (const { manifest, canonical, hash } of vectors.manifests.valid) {
    const parsed = parseManifest(manifest);
    expect(manifestText(parsed)).toBe(canonical);
    expect(await manifestHash(parsed)).toBe(hash);
    expect(manifestText(parseManifest(JSON.parse(canonical)))).toBe(canonical);
  }
});

test('malformed manifests are refused', () => {
  for (const { about, manifest } of vectors.manifests.invalid) {
    expect(() => parseManifest(manifest), about).toThrow(ManifestError);
  }
});

describe('plans', () => {
  for (const { name, manifest, manifest_blob, buffers, variants_of_kernel } of read('plans.json').vectors) {
    test(name, async () => {
      const parsed = parseManifest(manifest);
      expect(await manifestHash(parsed)).toBe(manifest_blob);
      for (const [buffer, { source, length_bytes }] of Object.entries<Record<string, any>>(buffers)) {
        const planned = parsed.program.buffers[buffer] as Buffer;
        expect(lengthBytes(planned)).toBe(length_bytes);
        expect(sourceOf(bufferSource(planned, buffer))).toEqual(source);
      }
      for (const [kernel, variants] of Object.entries<
        { overrides: Record<string, number>; dispatch_of_pass: object }[]
      >(variants_of_kernel)) {
        for (const { overrides, dispatch_of_pass } of variants) {
          for (const [pass, workgroups] of Object.entries(dispatch_of_pass)) {
            const planned = parsed.program.passes[Number(pass)];
            const sizes = [0, 1, 2].map((axis) =>
              Expression.parse(String(planned?.dispatch[axis] ?? 1)).value(overrides),
            );
            expect(sizes, `${kernel} with ${JSON.stringify(overrides)}`).toEqual(workgroups);
          }
        }
      }
    });
  }

  const sourceOf = (source: BufferSource) => {
    if (source.kind === 'scratch') return 'scratch';
    return source.kind === 'blob' ? { blob: source.blob } : { [source.kind]: source.index };
  };
});

describe('dispatch expressions', () => {
  const evaluate = (text: string, overrides: Record<string, number>) => {
    try {
      return { value: Expression.parse(text).value(overrides) };
    } catch (error) {
      if (!(error instanceof ExpressionError)) throw error;
      return { error: error.code, position: error.position };
    }
  };

  test('of the protocol', () => {
    const { overrides, cases } = vectors.expressions;
    for (const { text, value, error, position } of cases) {
      expect(evaluate(text, overrides), text).toEqual(error ? { error, position } : { value });
    }
  });

  test('of programs', () => {
    const { overrides, vectors: cases } = read('expressions.json');
    for (const { text, value } of cases) {
      const found = evaluate(text, overrides);
      expect('value' in found ? found.value : 'error', text).toBe(value);
    }
  });
});

async function seededSigner(seed: Uint8Array<ArrayBuffer>) {
  // PKCS #8 of an Ed25519 seed (RFC 8410) is a fixed prefix and the seed.
  const pkcs8 = new Uint8Array([...fromHex('302e020100300506032b657004220420'), ...seed]);
  const privateKey = await crypto.subtle.importKey('pkcs8', pkcs8, 'Ed25519', true, ['sign']);
  const { x = '' } = await crypto.subtle.exportKey('jwk', privateKey);
  const publicKey = await crypto.subtle.importKey('jwk', { kty: 'OKP', crv: 'Ed25519', x }, 'Ed25519', true, [
    'verify',
  ]);
  return webCryptoSigner({ privateKey, publicKey });
}
