import { defaultClientConditions } from 'vite';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  // The SDK is taken from its source, so that no build of it has to come first.
  resolve: { conditions: ['source', ...defaultClientConditions] },
  ssr: { resolve: { conditions: ['source'] } },
  build: {
    target: 'es2023',
    // Data URLs and inline scripts would need holes in the content security policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  worker: { format: 'es' },
  server: { proxy: { '/v1': 'http://127.0.0.1:7700' } },
  test: { include: ['test/**/*.test.ts'] },
});
