import { type BackendFactory, type BackendOptions, LowbitError, type Platform } from "@lowbit/core";
import { createBackend } from "./backend.ts";
import type { AddressSize } from "./memory.ts";
import {
  chooseVariant,
  type KernelModules,
  type ModuleName,
  measureDots,
  supportsMemory64,
  type Variant,
} from "./modules.ts";

export interface WasmOptions {
  /** Which build to run. "auto": relaxed SIMD where the engine has it and computes right, else simd128. @default "auto" */
  readonly variant?: "auto" | Variant;
  /** Compiled modules, for runtimes where neither the platform nor the bundler finds them. */
  readonly modules?: KernelModules;
  /**
   * Bits of addresses. "auto": 64, for memory beyond 4 GiB, where the model needs it and the engine has it, which is a little slower and always the relaxed
   * build; else 32. @default "auto"
   */
  readonly addressSize?: "auto" | 32 | 64;
  /** Most bytes of memory for weights, cache and activations. @default the platform's limit, at most 4 GiB, or 16 GiB with 64-bit addresses */
  readonly memoryLimitBytes?: number;
}

/** The backend with the modules at hand, or with those that the platform finds at `urls`. */
export function wasmFactory(options: WasmOptions, urls?: (name: ModuleName) => URL): BackendFactory {
  const { variant = "auto", modules, addressSize = "auto", memoryLimitBytes } = options;
  if (variant !== "auto" && variant !== "simd128" && variant !== "relaxed") {
    throw new LowbitError(
      "bad-argument",
      `wasm: variant is ${JSON.stringify(variant)}, expected "auto", "simd128" or "relaxed".`,
    );
  }
  if (memoryLimitBytes !== undefined && !(memoryLimitBytes > 0)) {
    throw new LowbitError("bad-argument", `wasm: memoryLimitBytes is ${memoryLimitBytes}, expected > 0.`);
  }
  if (addressSize !== "auto" && addressSize !== 32 && addressSize !== 64) {
    throw new LowbitError(
      "bad-argument",
      `wasm: addressSize is ${JSON.stringify(addressSize)}, expected "auto", 32 or 64.`,
    );
  }
  if (addressSize === 64 && variant === "simd128") {
    throw new LowbitError("bad-argument", "wasm: 64-bit addresses come with the relaxed build alone.");
  }
  const wide = (wanted: BackendOptions | undefined): AddressSize => {
    if (addressSize !== "auto") return addressSize;
    const large = (wanted?.weightBytes ?? 0) > manyBytes && variant !== "simd128" && modules === undefined;
    return large && supportsMemory64() ? 64 : 32;
  };
  const choose = (
    platform: Platform,
    wanted: BackendOptions | undefined,
    threads: number,
  ): ReturnType<typeof chooseVariant> => {
    const size = wide(wanted);
    const kind = { addressSize: size, shared: threads > 1 || size === 64 };
    return chooseVariant(platform, { variant, ...kind, urls, ...(modules && { modules }) });
  };
  return {
    name: "wasm",
    async probe(platform, wanted) {
      try {
        await choose(platform, wanted, threadCount(platform, wanted));
        return { available: true };
      } catch (error) {
        return { available: false, reason: error instanceof Error ? error.message : String(error) };
      }
    },
    async create(platform, wanted) {
      const create = async (threads: number): ReturnType<typeof createBackend> => {
        const chosen = await measureDots(await choose(platform, wanted, threads), platform);
        return createBackend(
          chosen,
          memoryLimitBytes ?? platform.memoryLimitBytes,
          platform.threads,
          threads,
        );
      };
      const threads = threadCount(platform, wanted);
      try {
        return await create(threads);
      } catch (error) {
        // Nobody asked for threads: a page that may not start any runs without.
        const refused = LowbitError.is(error) && error.reason === "no-threads";
        if (!refused || (wanted?.threads ?? "auto") !== "auto") throw error;
        return create(1);
      }
    },
  };
}

/** Weights of more than this leave too little of 4 GiB to the rest. */
const manyBytes = 3.25 * 2 ** 30;

/** Below this, a pass is over before other threads are awake. */
const fewBytes = 24 * 2 ** 20;
/** From here on "auto" leaves every second processor alone: they are often the second half of a core, or a slow one. */
const manyProcessors = 4;
/** More threads than this wait for memory, and for each other. */
const mostThreads = 8;

/**
 * How many threads serve best. More than there are processors never do: they would only take turns, so a larger number counts as that of the
 * processors.
 */
export function threadCount(
  platform: Platform,
  { threads = "auto", weightBytes }: BackendOptions = {},
): number {
  const processors = platform.threads?.processors ?? 1;
  if (threads !== "auto") {
    if (threads > 1 && platform.threads === undefined) {
      throw new LowbitError(
        "backend-unavailable",
        `${platform.name} has no threads that share memory here.`,
        {
          reason: "no-threads",
          plugin: "wasm",
          hint: 'In browsers the page must be cross-origin isolated (COOP and COEP headers); else use threads: 1 or "auto".',
        },
      );
    }
    return Math.min(threads, processors);
  }
  if (weightBytes === undefined || weightBytes < fewBytes) return 1;
  if (processors <= manyProcessors) return processors;
  return Math.min(mostThreads, Math.max(manyProcessors, Math.ceil(processors / 2)));
}
