import { definePlugin, type Packing, type Plugin } from "@lowbit/core";
import { detectHqq, openHqq } from "./read.ts";
import { hqqWriter } from "./write.ts";

/** HQQ checkpoints of safetensors files, as transformers and hqq write them. */
export const hqqPacking: Packing = { name: "hqq", detect: detectHqq, open: openHqq, writer: hqqWriter };

/** HQQ checkpoints, packed as they lie on disk: reader and writer. */
export function hqq(): Plugin {
  return definePlugin({ name: "hqq", apiVersion: 1, packings: [hqqPacking] });
}
