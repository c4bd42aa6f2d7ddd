import type { BackendFactory } from "@lowbit/core";
import { type WasmOptions, wasmFactory } from "./factory.ts";
import { moduleUrl } from "./module-url.ts";

export type { WasmOptions } from "./factory.ts";
export type { KernelModules, ModuleName, Variant } from "./modules.ts";

/**
 * The SIMD WebAssembly backend: packed weights, int8 activations, threads where they can share memory. The same model gives the same bits in
 * every engine, in every build and on any number of threads.
 */
export function wasm(options: WasmOptions = {}): BackendFactory {
  return wasmFactory(options, moduleUrl);
}
