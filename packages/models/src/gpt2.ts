import type { Architecture } from "@lowbit/core";
import { layerNorm, selfAttention } from "./blocks.ts";
import { type Decoder, decode } from "./decoder.ts";
import { decoderSpecs, fusedAttentionSpecs, matrix, vector } from "./specs.ts";

const decoder: Decoder = {
  /** Positions are learned: beyond the table `ops.embed` says so. */
  embed({ context, batch }) {
    const { ops } = context;
    return ops.add(
      ops.embed(context.weight("embed"), batch.tokens),
      ops.embed(context.weight("embed.position"), batch.positions),
    );
  },
  attention(pass, x, layer) {
    const normed = layerNorm(pass, x, `layers.${layer}.attn.norm`);
    return pass.context.ops.add(x, selfAttention(pass, normed, layer));
  },
  feedForward(pass, x, layer) {
    const { context } = pass;
    const { ops } = context;
    const prefix = `layers.${layer}.ffn.`;
    const up = ops.linear(layerNorm(pass, x, `${prefix}norm`), context.weight(`${prefix}up`));
    const down = ops.linear(ops.activate(up, "gelu-tanh"), context.weight(`${prefix}down`));
    return ops.add(x, down);
  },
  finalNorm: "layer",
};

/** GPT-2: learned positions, layer norms, biases everywhere. */
export const gpt2: Architecture = {
  id: "gpt2",
  names: ["gpt2"],
  weights(config) {
    const { embeddingSize, feedForwardSize, contextLength } = config;
    return [
      matrix("embed.position", contextLength, embeddingSize),
      ...decoderSpecs(config, (prefix) => [
        ...fusedAttentionSpecs(config, prefix),
        vector(`${prefix}attn.norm.bias`, embeddingSize),
        vector(`${prefix}ffn.norm`, embeddingSize),
        vector(`${prefix}ffn.norm.bias`, embeddingSize),
        matrix(`${prefix}ffn.up`, feedForwardSize, embeddingSize),
        matrix(`${prefix}ffn.down`, embeddingSize, feedForwardSize),
      ]),
      vector("norm.bias", embeddingSize),
    ];
  },
  forward: (context, batch, rows, output) => decode(decoder, context, batch, rows, output),
};
