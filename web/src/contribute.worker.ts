import { hostContributor, type WorkerScope } from '@plexus/sdk/worker';

hostContributor(self as unknown as WorkerScope);
