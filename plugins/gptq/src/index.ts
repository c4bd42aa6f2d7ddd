import { definePlugin, type Plugin } from "@lowbit/core";
import { detectGptq, openGptq } from "./read.ts";
import { gptqWriter } from "./write.ts";

/** GPTQ checkpoints of AutoGPTQ and GPTQModel, packed as they lie on disk. */
export function gptq(): Plugin {
  return definePlugin({
    name: "gptq",
    apiVersion: 1,
    packings: [{ name: "gptq", detect: detectGptq, open: openGptq, writer: gptqWriter }],
  });
}
