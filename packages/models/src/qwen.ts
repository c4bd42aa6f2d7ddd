import type { Architecture, ModelConfig, WeightSpec } from "@lowbit/core";
import { keyTurn } from "./decoder.ts";
import { llama } from "./llama.ts";
import { attentionSpecs, decoderSpecs, expertSpecs, headNormSpecs } from "./specs.ts";

// Layers are built as Llama's; biases of q, k and v, norms of the heads and shared experts are in the weights.

/** Qwen 2 and 2.5, and the mixture with a shared expert. */
export const qwen2: Architecture = {
  id: "qwen2",
  names: ["qwen2", "qwen2moe", "qwen2_moe"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [...attentionSpecs(config, prefix), ...expertSpecs(config, prefix)]),
  forward: llama.forward,
  keyTurn,
};

/** Qwen 3, dense and mixture: norms of the query and key heads. */
export const qwen3: Architecture = {
  id: "qwen3",
  names: ["qwen3", "qwen3moe", "qwen3_moe"],
  weights: (config) => decoderSpecs(config, (prefix) => qwen3Layer(config, prefix)),
  forward: llama.forward,
  keyTurn,
};

function qwen3Layer(config: ModelConfig, prefix: string): WeightSpec[] {
  return [
    ...attentionSpecs(config, prefix),
    ...headNormSpecs(config, prefix),
    ...expertSpecs(config, prefix),
  ];
}
