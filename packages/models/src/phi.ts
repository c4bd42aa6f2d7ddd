import type { Architecture } from "@lowbit/core";
import { keyTurn } from "./decoder.ts";
import { llama } from "./llama.ts";
import { decoderSpecs, fusedAttentionSpecs, matrix, vector } from "./specs.ts";

/** Phi 3 and 4: Llama's layers with fused matrices. `ffn.up` holds the gate's rows, then up's. */
export const phi3: Architecture = {
  id: "phi3",
  names: ["phi3"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [
      ...fusedAttentionSpecs(config, prefix),
      vector(`${prefix}ffn.norm`, config.embeddingSize),
      matrix(`${prefix}ffn.up`, 2 * config.feedForwardSize, config.embeddingSize),
      matrix(`${prefix}ffn.down`, config.embeddingSize, config.feedForwardSize),
    ]),
  forward: llama.forward,
  keyTurn,
};
