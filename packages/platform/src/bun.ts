import type { Platform } from "@lowbit/core";
import { nodePlatform, type PlatformOptions } from "./node.ts";

export * from "./node.ts";

/** Bun, through the modules of Node.js that it offers. */
export function platform(options: PlatformOptions = {}): Platform {
  return nodePlatform("bun", options);
}
