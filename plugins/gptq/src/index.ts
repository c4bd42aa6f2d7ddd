import { definePlugin, type Packing, type Plugin } from "@lowbit/core";
import { detectGptq, openGptq } from "./read.ts";
import { gptqWriter } from "./write.ts";

/** GPTQ modules: reader and writer. */
export const gptqPacking: Packing & Required<Pick<Packing, "writer">> = {
  name: "gptq",
  detect: detectGptq,
  open: openGptq,
  writer: gptqWriter,
};

/** GPTQ checkpoints of AutoGPTQ and GPTQModel, packed as they lie on disk. */
export function gptq(): Plugin {
  return definePlugin({ name: "gptq", apiVersion: 1, packings: [gptqPacking] });
}
