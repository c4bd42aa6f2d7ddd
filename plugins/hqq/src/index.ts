import { definePlugin, type Plugin } from "@lowbit/core";

/** HQQ checkpoints, packed as they lie on disk: reader and writer. */
export function hqq(): Plugin {
  return definePlugin({ name: "hqq", apiVersion: 1, packings: [] });
}
