import { definePlugin, type Plugin } from "@lowbit/core";

/** GPTQ checkpoints, packed as they lie on disk: reader and writer. */
export function gptq(): Plugin {
  return definePlugin({ name: "gptq", apiVersion: 1, packings: [] });
}
