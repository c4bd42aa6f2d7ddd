import { type BackendFactory, LowbitError } from "@lowbit/core";
import { createBackend } from "./backend.ts";
import { chooseVariant, type KernelModules, measureDots, type Variant } from "./modules.ts";

export interface WasmOptions {
  /** Which build to run. "auto": relaxed SIMD where the engine has it and computes right, else simd128. @default "auto" */
  readonly variant?: "auto" | Variant;
  /** Compiled modules, for runtimes where neither the platform nor the bundler finds them. */
  readonly modules?: KernelModules;
  /** Most bytes of memory for weights, cache and activations. @default the platform's limit, at most 4 GiB − 64 KiB */
  readonly memoryLimitBytes?: number;
}

/** The backend with the modules at hand, or with those that the platform finds at `urls`. */
export function wasmFactory(options: WasmOptions, urls?: (variant: Variant) => URL): BackendFactory {
  const { variant = "auto", modules, memoryLimitBytes } = options;
  if (variant !== "auto" && variant !== "simd128" && variant !== "relaxed") {
    throw new LowbitError(
      "bad-argument",
      `wasm: variant is ${JSON.stringify(variant)}, expected "auto", "simd128" or "relaxed".`,
    );
  }
  if (memoryLimitBytes !== undefined && !(memoryLimitBytes > 0)) {
    throw new LowbitError("bad-argument", `wasm: memoryLimitBytes is ${memoryLimitBytes}, expected > 0.`);
  }
  const choice = { variant, urls, ...(modules && { modules }) };
  return {
    name: "wasm",
    async probe(platform) {
      try {
        await chooseVariant(platform, choice);
        return { available: true };
      } catch (error) {
        return { available: false, reason: error instanceof Error ? error.message : String(error) };
      }
    },
    async create(platform) {
      return createBackend(
        await measureDots(await chooseVariant(platform, choice), platform),
        memoryLimitBytes ?? platform.memoryLimitBytes,
      );
    },
  };
}
