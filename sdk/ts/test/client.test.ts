// The client against answers that the test gives.

import { expect, test } from 'vitest';

import { BlobMismatchError, Client, ProblemError, UnreachableError } from '../src/client.js';
import { blobId } from '../src/hash.js';
import { keyBytes, signatureBytes, webCryptoSigner } from '../src/keys.js';
import { verifyStrict } from '../src/verify.js';

type Call = { path: string; method: string; headers: Record<string, string>; body: any };
type Answer = (call: Call) => Response | undefined;

async function client(answer: Answer) {
  const pair = (await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair;
  const signer = await webCryptoSigner(pair);
  const calls: Call[] = [];
  let logins = 0;
  const json = (value: unknown, status = 200) => new Response(JSON.stringify(value), { status });
  const play = async (url: any, init: any = {}) => {
    const body = typeof init.body === 'string' ? JSON.parse(init.body) : init.body;
    const call = {
      path: String(url).slice('http://market.test'.length),
      method: init.method,
      headers: init.headers,
      body,
    };
    calls.push(call);
    const given = answer(call);
    if (given) return given;
    if (call.path === '/v1/auth/challenge')
      return json({ nonce: `n${logins}`, message: `log in ${logins}`, expires_at: '' });
    if (call.path === '/v1/auth/login') {
      expect(
        verifyStrict(
          keyBytes(signer.address),
          new TextEncoder().encode(`log in ${logins}`),
          signatureBytes(body.signature),
        ),
      ).toBe(true);
      logins++;
      return json({
        token: `t${logins}`,
        expires_at: new Date(Date.now() + 600_000).toISOString(),
        account: signer.address,
        key: signer.address,
      });
    }
    return json({});
  };
  return { client: new Client({ market: 'http://market.test/', signer, fetch: play as typeof fetch }), calls, signer };
}

const problem = (status: number, code: string) =>
  new Response(JSON.stringify({ type: '', title: 'No', status, code, detail: 'it is so', fix: 'do this' }), { status });

test('a call that needs it logs in once, by signing the challenge', async () => {
  const { client: market, calls } = await client(() => undefined);
  await market.receipts({ receipts: [] });
  await market.receipts({ receipts: [] });
  expect(calls.map((call) => call.path)).toEqual([
    '/v1/auth/challenge',
    '/v1/auth/login',
    '/v1/receipts',
    '/v1/receipts',
  ]);
  expect(calls[3]?.headers['authorization']).toBe('Bearer t1');
});

test('a token that is refused is renewed once', async () => {
  let refusals = 1;
  const { client: market, calls } = await client((call) =>
    call.path === '/v1/receipts' && refusals-- > 0 ? problem(401, 'unauthenticated') : undefined,
  );
  await market.receipts({ receipts: [] });
  expect(calls.filter((call) => call.path === '/v1/auth/login')).toHaveLength(2);
  expect(calls.at(-1)?.headers['authorization']).toBe('Bearer t2');

  const { client: banned } = await client((call) =>
    call.path === '/v1/receipts' ? problem(401, 'unauthenticated') : undefined,
  );
  await expect(banned.receipts({ receipts: [] })).rejects.toThrow(ProblemError);
});

test('a problem carries its code and fix', async () => {
  const { client: market } = await client((call) =>
    call.path === '/v1/jobs' ? problem(402, 'balance_too_low') : undefined,
  );
  const error = await market.submit({} as never).catch((e: unknown) => e);
  expect(error).toBeInstanceOf(ProblemError);
  expect((error as ProblemError).code).toBe('balance_too_low');
  expect((error as ProblemError).message).toBe('it is so (balance_too_low): do this');
});

test('what is safe to repeat is repeated, a lease request is not', async () => {
  let failures = 2;
  const { client: market, calls } = await client((call) => {
    if (call.path === '/v1/ledger' && failures-- > 0) throw new TypeError('refused');
    if (call.path === '/v1/leases') throw new TypeError('refused');
    return undefined;
  });
  await market.ledger();
  expect(calls).toHaveLength(3);
  await expect(market.lease({ instance: 'i', packages_max: 1 })).rejects.toThrow(UnreachableError);
  expect(calls.filter((call) => call.path === '/v1/leases')).toHaveLength(1);
});

test('a blob with other bytes than its name says is refused', async () => {
  const wanted = await blobId(new Uint8Array([1, 2, 3]));
  const { client: market } = await client((call) =>
    call.path.startsWith('/v1/blobs') ? new Response(new Uint8Array([1, 2, 4])) : undefined,
  );
  await expect(market.blob(wanted)).rejects.toThrow(BlobMismatchError);
});

test('a wallet delegates a session key by the same challenge', async () => {
  const { client: market, calls } = await client(() => undefined);
  const pair = (await crypto.subtle.generateKey('Ed25519', false, ['sign', 'verify'])) as CryptoKeyPair;
  const session = await webCryptoSigner(pair);
  await market.delegate(session, 3600);
  expect(calls[0]?.body.session).toEqual({ key: session.address, lifetime_s: 3600 });
  // The session key signs too: nobody may claim a key that is another's.
  const signature = signatureBytes(calls[1]?.body.session_signature);
  expect(verifyStrict(keyBytes(session.address), new TextEncoder().encode('log in 0'), signature)).toBe(true);
});
