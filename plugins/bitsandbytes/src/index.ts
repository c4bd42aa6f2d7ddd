import { definePlugin, type Plugin } from "@lowbit/core";

/** bitsandbytes checkpoints (NF4, FP4, LLM.int8), packed as they lie on disk: reader and writer. */
export function bitsandbytes(): Plugin {
  return definePlugin({ name: "bitsandbytes", apiVersion: 1, packings: [] });
}
