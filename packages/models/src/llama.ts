import type { Architecture } from "@lowbit/core";
import { feedForward, rmsNorm, selfAttention } from "./blocks.ts";
import { type Decoder, decode, keyTurn } from "./decoder.ts";
import { attentionSpecs, decoderSpecs, expertSpecs } from "./specs.ts";

const decoder: Decoder = {
  embed: ({ context, batch }) => context.ops.embed(context.weight("embed"), batch.tokens),
  attention(pass, x, layer) {
    const normed = rmsNorm(pass, x, `layers.${layer}.attn.norm`);
    return pass.context.ops.add(x, selfAttention(pass, normed, layer));
  },
  feedForward(pass, x, layer) {
    const normed = rmsNorm(pass, x, `layers.${layer}.ffn.norm`);
    return pass.context.ops.add(x, feedForward(pass, normed, `layers.${layer}.ffn.`, "silu"));
  },
};

/** Llama and its kin: Mistral, Mixtral (with `config.experts`), SmolLM. */
export const llama: Architecture = {
  id: "llama",
  names: ["llama", "mistral", "mistral3", "mixtral"],
  weights: (config) =>
    decoderSpecs(config, (prefix) => [...attentionSpecs(config, prefix), ...expertSpecs(config, prefix)]),
  forward: (context, batch, rows, output) => decode(decoder, context, batch, rows, output),
  keyTurn,
};
