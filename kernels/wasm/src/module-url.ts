import type { ModuleName } from "./modules.ts";

/** Where this package ships a module. Bundlers need the literals. */
export function moduleUrl(name: ModuleName): URL {
  // A bundle may have no URL of its own; then the platform says what to do.
  if (import.meta.url === undefined) return new URL(`lowbit:/pkg/${name}/lowbit_kernels_bg.wasm`);
  switch (name) {
    case "relaxed":
      return new URL("../pkg/relaxed/lowbit_kernels_bg.wasm", import.meta.url);
    case "simd128":
      return new URL("../pkg/simd128/lowbit_kernels_bg.wasm", import.meta.url);
    case "relaxed-threads":
      return new URL("../pkg/relaxed-threads/lowbit_kernels_bg.wasm", import.meta.url);
    case "simd128-threads":
      return new URL("../pkg/simd128-threads/lowbit_kernels_bg.wasm", import.meta.url);
    case "relaxed-memory64":
      return new URL("../pkg/relaxed-memory64/lowbit_kernels_bg.wasm", import.meta.url);
  }
}
