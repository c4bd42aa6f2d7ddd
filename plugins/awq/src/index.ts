import { definePlugin, type Plugin } from "@lowbit/core";

/** AWQ checkpoints, packed as they lie on disk: reader and writer. */
export function awq(): Plugin {
  return definePlugin({ name: "awq", apiVersion: 1, packings: [] });
}
