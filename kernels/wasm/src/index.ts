import type { BackendFactory } from "@lowbit/core";
import { type WasmOptions, wasmFactory } from "./factory.ts";
import { moduleUrl } from "./module-url.ts";

export type { WasmOptions } from "./factory.ts";
export type { KernelModules, Variant } from "./modules.ts";

/**
 * The SIMD WebAssembly backend: packed weights, int8 activations, one thread. The same model gives the same bits in every
 * engine and in both builds.
 */
export function wasm(options: WasmOptions = {}): BackendFactory {
  return wasmFactory(options, moduleUrl);
}
