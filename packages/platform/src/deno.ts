import type { Platform } from "@lowbit/core";
import { nodePlatform, type PlatformOptions } from "./node.ts";

export * from "./node.ts";

/** Deno, through the modules of Node.js that it offers. Loading a local model needs --allow-read, a remote one --allow-net. */
export function platform(options: PlatformOptions = {}): Platform {
  return nodePlatform("deno", options);
}
