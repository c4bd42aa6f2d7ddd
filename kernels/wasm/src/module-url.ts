import type { Variant } from "./modules.ts";

/** Where this package ships a module. Bundlers need the literals. */
export function moduleUrl(variant: Variant): URL {
  // A bundle may have no URL of its own; then the platform says what to do.
  if (import.meta.url === undefined) return new URL(`lowbit:/pkg/${variant}/lowbit_kernels_bg.wasm`);
  return variant === "relaxed"
    ? new URL("../pkg/relaxed/lowbit_kernels_bg.wasm", import.meta.url)
    : new URL("../pkg/simd128/lowbit_kernels_bg.wasm", import.meta.url);
}
