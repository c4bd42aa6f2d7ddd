import type { Architecture } from "@lowbit/core";
import { keyTurn } from "./decoder.ts";
import { llama } from "./llama.ts";
import { attentionSpecs, decoderSpecs, gatedSpecs, vector } from "./specs.ts";

/** BitNet b1.58: Llama with a norm in front of every linear; the two more are `attn.subNorm` and `ffn.subNorm`. */
export const bitnet: Architecture = {
  id: "bitnet",
  names: ["bitnet", "bitnet-b1.58"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [
      ...attentionSpecs(config, prefix),
      vector(`${prefix}attn.subNorm`, config.heads * config.valueSize),
      ...gatedSpecs(config, prefix),
      vector(`${prefix}ffn.subNorm`, config.feedForwardSize),
    ]),
  forward: llama.forward,
  keyTurn,
};
