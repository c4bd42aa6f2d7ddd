import { definePlugin, type Packing, type Plugin } from "@lowbit/core";
import { detectBitsandbytes, openBitsandbytes } from "./read.ts";
import { bitsandbytesWriter } from "./write.ts";

/** bitsandbytes checkpoints (NF4, FP4, LLM.int8), packed as they lie on disk: reader and writer. */
export function bitsandbytes(): Plugin {
  return definePlugin({ name: "bitsandbytes", apiVersion: 1, packings: [bitsandbytesPacking] });
}

/** The packing itself, for use without an engine. */
export const bitsandbytesPacking: Packing = {
  name: "bitsandbytes",
  detect: detectBitsandbytes,
  open: openBitsandbytes,
  writer: bitsandbytesWriter,
};
