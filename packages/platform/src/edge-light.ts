import type { Platform } from "@lowbit/core";
import { isolate, type PlatformOptions, webPlatform } from "./web.ts";

export type { NetworkOptions } from "./locations.ts";
export * from "./sources.ts";
export { defaultCache, type OutputOptions, outputPlace, type PlatformOptions } from "./web.ts";

/** Vercel's edge runtime: web APIs, isolates of 128 MiB, WebAssembly only as modules of the build. */
export function platform(options: PlatformOptions = {}): Platform {
  return webPlatform(isolate("edge-light"), options);
}
