import type { TinyRopeScaling, TinyShape } from "./tiny-model.ts";

/** One tensor of a random model and how its values are drawn. */
export interface TinyTensor {
  readonly name: string;
  /** Slowest dimension first: [out, in]. */
  readonly shape: readonly number[];
  /** Values are uniform around `mean` with this standard deviation, or given. */
  readonly mean: number;
  readonly deviation: number;
  readonly values?: Float32Array;
}

/** Standard deviation of the logits: spread enough that errors show, not so much that one token takes all. */
const logitDeviation = 3;

/** The tensors of an architecture as llama.cpp names and orders them. */
export function tensorsOf(shape: TinyShape): TinyTensor[] {
  const { architecture: a, embeddingSize: width, vocabularySize, tied } = shape;
  const gemma = a.startsWith("gemma");
  const head = logitDeviation / Math.sqrt(width);
  // gemma multiplies its embedding by √width, so that with `head` a token's own logit would drown all others.
  const embedding = gemma ? 0.7 * head : tied ? head : 0.5;
  const tensors = [drawn("token_embd.weight", [vocabularySize, width], embedding)];
  if (a === "gpt2") tensors.push(drawn("position_embd.weight", [shape.contextLength, width], 0.3));
  tensors.push(...ropeTensors(shape.ropeScaling, shape));
  for (let layer = 0; layer < shape.layers; layer++) {
    const inside = a === "gpt2" ? gpt2Layer(shape) : [...attention(shape), ...feedForward(shape)];
    tensors.push(...inside.map((tensor) => ({ ...tensor, name: `blk.${layer}.${tensor.name}` })));
  }
  tensors.push(norm("output_norm", width));
  if (a === "gpt2") tensors.push(bias("output_norm", width));
  if (!tied) tensors.push(drawn("output.weight", [vocabularySize, width], head));
  return tensors;
}

function attention(shape: TinyShape): TinyTensor[] {
  const { architecture: a, embeddingSize: width, heads, kvHeads, keySize } = shape;
  const q = heads * keySize;
  const kv = kvHeads * keySize;
  const biased = a === "qwen2" || a === "qwen2moe";
  const normed = a === "qwen3" || a === "qwen3moe" || a === "gemma3";
  const input = norm("attn_norm", width);
  const output = matrix("attn_output", [width, q], a === "gemma" ? 4 : 1);
  if (a === "phi3") return [input, matrix("attn_qkv", [q + 2 * kv, width], 1.5), output];
  return [
    input,
    matrix("attn_q", [q, width], 1.5),
    matrix("attn_k", [kv, width], 1.5),
    matrix("attn_v", [kv, width]),
    output,
    ...(biased ? [bias("attn_q", q), bias("attn_k", kv), bias("attn_v", kv)] : []),
    ...(normed ? [norm("attn_q_norm", keySize), norm("attn_k_norm", keySize)] : []),
    ...(a === "bitnet" ? [norm("attn_sub_norm", q)] : []),
    ...(a === "gemma2" || a === "gemma3" ? [norm("post_attention_norm", width, 3)] : []),
  ];
}

function feedForward(shape: TinyShape): TinyTensor[] {
  const { architecture: a, embeddingSize: width, feedForwardSize: inner, experts } = shape;
  if (experts) return [norm("ffn_norm", width), ...mixture(shape, experts)];
  if (a === "phi3") {
    return [
      norm("ffn_norm", width),
      matrix("ffn_up", [2 * inner, width]),
      matrix("ffn_down", [width, inner]),
    ];
  }
  return [
    norm("ffn_norm", width),
    matrix("ffn_gate", [inner, width]),
    matrix("ffn_up", [inner, width]),
    matrix("ffn_down", [width, inner], a === "gemma" ? 4 : 1),
    ...(a === "bitnet" ? [norm("ffn_sub_norm", inner)] : []),
    ...(a === "gemma2" || a === "gemma3" ? [norm("post_ffw_norm", width, 3)] : []),
  ];
}

function mixture(shape: TinyShape, experts: NonNullable<TinyShape["experts"]>): TinyTensor[] {
  const { architecture: a, embeddingSize: width } = shape;
  const { count } = experts;
  const inner = a === "llama" ? shape.feedForwardSize : (experts.feedForwardSize ?? 48);
  const shared = experts.sharedFeedForwardSize ?? 56;
  return [
    matrix("ffn_gate_inp", [count, width], 2),
    matrix("ffn_gate_exps", [count, inner, width]),
    matrix("ffn_down_exps", [count, width, inner]),
    matrix("ffn_up_exps", [count, inner, width]),
    ...(a === "qwen2moe"
      ? [
          drawn("ffn_gate_inp_shexp.weight", [width], 1 / Math.sqrt(width)),
          matrix("ffn_gate_shexp", [shared, width]),
          matrix("ffn_up_shexp", [shared, width]),
          matrix("ffn_down_shexp", [width, shared]),
        ]
      : []),
  ];
}

function gpt2Layer({ embeddingSize: width, feedForwardSize: inner }: TinyShape): TinyTensor[] {
  return [
    norm("attn_norm", width),
    bias("attn_norm", width),
    matrix("attn_qkv", [3 * width, width], 1.5),
    bias("attn_qkv", 3 * width),
    matrix("attn_output", [width, width]),
    bias("attn_output", width),
    norm("ffn_norm", width),
    bias("ffn_norm", width),
    matrix("ffn_up", [inner, width]),
    bias("ffn_up", inner),
    matrix("ffn_down", [width, inner]),
    bias("ffn_down", width),
  ];
}

function ropeTensors(scaling: TinyRopeScaling | undefined, { keySize, ropeBase }: TinyShape): TinyTensor[] {
  const pairs = keySize / 2;
  if (scaling?.kind === "longrope") {
    const rising = (step: number): Float32Array =>
      Float32Array.from({ length: pairs }, (_, i) => 1 + step * i);
    return [given("rope_factors_long.weight", rising(0.7)), given("rope_factors_short.weight", rising(0.1))];
  }
  if (scaling?.kind !== "llama3") return [];
  const {
    factor,
    originalContextLength,
    lowFrequencyFactor: low = 1,
    highFrequencyFactor: high = 4,
  } = scaling;
  const divisors = Float32Array.from({ length: pairs }, (_, i) => {
    const wavelength = 2 * Math.PI * ropeBase ** ((2 * i) / keySize);
    if (wavelength < originalContextLength / high) return 1;
    if (wavelength > originalContextLength / low) return factor;
    const smooth = (originalContextLength / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  return [given("rope_freqs.weight", divisors)];
}

/** A linear weight that keeps its input's size, times `gain`. */
function matrix(name: string, shape: readonly number[], gain = 1): TinyTensor {
  return drawn(`${name}.weight`, shape, gain / Math.sqrt(shape.at(-1) ?? 1));
}

function norm(name: string, size: number, mean = 1): TinyTensor {
  return { ...drawn(`${name}.weight`, [size], 0.2), mean };
}

function bias(name: string, size: number): TinyTensor {
  return drawn(`${name}.bias`, [size], 0.2);
}

function drawn(name: string, shape: readonly number[], deviation: number): TinyTensor {
  return { name, shape, mean: 0, deviation };
}

function given(name: string, values: Float32Array): TinyTensor {
  return { name, shape: [values.length], mean: 0, deviation: 0, values };
}
