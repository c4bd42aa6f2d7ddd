import type { BackendFactory } from "@lowbit/core";
import { ReferenceBackend } from "./backend.ts";

export interface ReferenceOptions {
  /** Bytes of weights, cache and activations. @default the platform's limit */
  memoryLimitBytes?: number;
  /** Bytes of decoded matrices kept beside them for speed; 0 decodes each row each time. @default 268435456 (256 MiB) */
  decodedCacheBytes?: number;
}

/**
 * The readable truth: every operation as a plain loop. Runs wherever JavaScript does, slowly; other backends are tested
 * against it.
 */
export function reference(options: ReferenceOptions = {}): BackendFactory {
  const { memoryLimitBytes, decodedCacheBytes = 2 ** 28 } = options;
  return {
    name: "reference",
    probe: () => Promise.resolve({ available: true }),
    create: (platform) =>
      Promise.resolve(new ReferenceBackend(memoryLimitBytes ?? platform.memoryLimitBytes, decodedCacheBytes)),
  };
}
