import { definePlugin, type Plugin } from "@lowbit/core";

/** EXL2 checkpoints of mixed bit rates, packed as they lie on disk: reader and writer. */
export function exl2(): Plugin {
  return definePlugin({ name: "exl2", apiVersion: 1, packings: [] });
}
