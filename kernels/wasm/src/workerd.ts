import type { BackendFactory } from "@lowbit/core";
import relaxed from "../pkg/relaxed/lowbit_kernels_bg.wasm";
import simd128 from "../pkg/simd128/lowbit_kernels_bg.wasm";
import { type WasmOptions, wasmFactory } from "./factory.ts";

export type { WasmOptions } from "./factory.ts";
export type { KernelModules, ModuleName, Variant } from "./modules.ts";

/** As in index.ts. Cloudflare Workers compile nothing from bytes: the modules are imported, and the bundler hands them to the runtime as modules. */
export function wasm(options: WasmOptions = {}): BackendFactory {
  return wasmFactory({ modules: { relaxed, simd128 }, ...options });
}
