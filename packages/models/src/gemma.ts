import type { Architecture, ModelConfig, Tensor, WeightSpec } from "@lowbit/core";
import { feedForward, rmsNorm, selfAttention } from "./blocks.ts";
import { type Decoder, decode, keyTurn, type Pass } from "./decoder.ts";
import { attentionSpecs, decoderSpecs, gatedSpecs, headNormSpecs, vector } from "./specs.ts";

// Checkpoints of the original store norm weights less 1; formats add it, so that here they are plain RMS norms.

const decoder: Decoder = {
  embed({ context, config, batch }) {
    const x = context.ops.embed(context.weight("embed"), batch.tokens);
    return context.ops.scale(x, Math.sqrt(config.embeddingSize));
  },
  attention(pass, x, layer) {
    const prefix = `layers.${layer}.attn.`;
    const attended = selfAttention(pass, rmsNorm(pass, x, `${prefix}norm`), layer);
    return addNormed(pass, x, attended, `${prefix}postNorm`);
  },
  feedForward(pass, x, layer) {
    const prefix = `layers.${layer}.ffn.`;
    const made = feedForward(pass, rmsNorm(pass, x, `${prefix}norm`), prefix, "gelu-tanh");
    return addNormed(pass, x, made, `${prefix}postNorm`);
  },
};

/** x + norm(y), or x + y in models without that norm. */
function addNormed(pass: Pass, x: Tensor, y: Tensor, role: string): Tensor {
  const { context } = pass;
  return context.ops.add(x, context.has(role) ? rmsNorm(pass, y, role) : y);
}

const forward: Architecture["forward"] = (context, batch, rows, output) =>
  decode(decoder, context, batch, rows, output);

function layerSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  return [...attentionSpecs(config, prefix), ...gatedSpecs(config, prefix)];
}

function postNormSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  return [
    vector(`${prefix}attn.postNorm`, config.embeddingSize),
    vector(`${prefix}ffn.postNorm`, config.embeddingSize),
  ];
}

export const gemma: Architecture = {
  id: "gemma",
  names: ["gemma"],
  weights: (config) => decoderSpecs(config, (prefix) => layerSpecs(config, prefix)),
  forward,
  keyTurn,
};

/** Norms behind both halves; softcaps and alternating windows follow from the configuration. */
export const gemma2: Architecture = {
  id: "gemma2",
  names: ["gemma2"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [...layerSpecs(config, prefix), ...postNormSpecs(config, prefix)]),
  forward,
  keyTurn,
};

/** As Gemma 2, with norms of the query and key heads, and a rotation base of their own in layers with a window. */
export const gemma3: Architecture = {
  id: "gemma3",
  names: ["gemma3", "gemma3_text"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [
      ...layerSpecs(config, prefix),
      ...headNormSpecs(config, prefix),
      ...postNormSpecs(config, prefix),
    ]),
  forward,
  keyTurn,
};
