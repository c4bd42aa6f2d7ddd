import type { BackendFactory } from "@lowbit/core";
import relaxed from "../pkg/relaxed/lowbit_kernels_bg.wasm?module";
import simd128 from "../pkg/simd128/lowbit_kernels_bg.wasm?module";
import { type WasmOptions, wasmFactory } from "./factory.ts";

export type { WasmOptions } from "./factory.ts";
export type { KernelModules, ModuleName, Variant } from "./modules.ts";

/** As in index.ts. Vercel's edge runtime compiles nothing from bytes: its bundler gives modules for this suffix. */
export function wasm(options: WasmOptions = {}): BackendFactory {
  return wasmFactory({ modules: { relaxed, simd128 }, ...options });
}
