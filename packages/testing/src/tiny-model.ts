import { open } from "node:fs/promises";
import type { QuantType } from "@lowbit/core";
import { F32, type GgufContents, type GgufEntry, ggufBytes, writeGguf } from "@lowbit/gguf";
import { tensorsOf } from "./tiny-tensors.ts";
import { tinyVocabulary, type VocabularyKind } from "./tiny-vocabulary.ts";
import { randomBlocks } from "./tiny-weights.ts";

export type TinyArchitecture =
  | "llama"
  | "qwen2"
  | "qwen2moe"
  | "qwen3"
  | "qwen3moe"
  | "gemma"
  | "gemma2"
  | "gemma3"
  | "phi3"
  | "gpt2"
  | "bitnet";

/** Shape and quirks of a model; the defaults make one that runs in milliseconds. */
export interface TinyModelOptions {
  /** The value of `general.architecture`. */
  readonly architecture: TinyArchitecture;
  /** @default 1 */
  readonly seed?: number;
  /** @default 64 */
  readonly embeddingSize?: number;
  /** @default 2 */
  readonly layers?: number;
  /** @default 4 */
  readonly heads?: number;
  /** @default 2; gpt2: as many as heads */
  readonly kvHeads?: number;
  /** Width of a head. @default embeddingSize / heads */
  readonly keySize?: number;
  /** @default 96 */
  readonly feedForwardSize?: number;
  /** @default 128 */
  readonly contextLength?: number;
  /** @default 320 */
  readonly vocabularySize?: number;
  /** No output matrix: the embedding serves. @default false, and true for gemma, gpt2 and bitnet, which have none */
  readonly tied?: boolean;
  /** The feed-forward is a mixture; needed by qwen2moe and qwen3moe, allowed for llama (Mixtral). */
  readonly experts?: TinyExperts;
  /** @default 10000 */
  readonly ropeBase?: number;
  readonly ropeScaling?: TinyRopeScaling;
  /** gemma2 (layers 0, 2, …), gemma3 (five of six). @default 8 */
  readonly slidingWindow?: number;
  /** gemma2. @default 5, so that it shows */
  readonly attentionSoftcap?: number;
  /** gemma2. @default 6 */
  readonly finalSoftcap?: number;
  /** @default "bpe" for qwen and gpt2, else "spm" */
  readonly vocabulary?: VocabularyKind;
  /** `tokenizer.ggml.pre` of a BPE vocabulary. @default "qwen2" for qwen, else "gpt-2" */
  readonly pre?: string;
  /**
   * Type of each matrix; vectors, routers and position embeddings are F32 whatever it says. Plain numbers or integer codes.
   * @default F32
   */
  readonly type?: QuantType | ((name: string, shape: readonly number[]) => QuantType);
  /** Further metadata, or other values than the ones made up here. */
  readonly metadata?: ReadonlyMap<string, GgufEntry>;
}

export interface TinyExperts {
  readonly count: number;
  readonly used: number;
  /** @default 48 */
  readonly feedForwardSize?: number;
  /** qwen2moe. @default 56 */
  readonly sharedFeedForwardSize?: number;
}

export type TinyRopeScaling =
  | { readonly kind: "linear"; readonly factor: number }
  | { readonly kind: "yarn"; readonly factor: number; readonly originalContextLength: number }
  /** Written as llama.cpp does: divisors in a tensor `rope_freqs.weight`. */
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly originalContextLength: number;
      /** @default 1 */
      readonly lowFrequencyFactor?: number;
      /** @default 4 */
      readonly highFrequencyFactor?: number;
    }
  /** phi3: tensors `rope_factors_long.weight` and `rope_factors_short.weight`. */
  | { readonly kind: "longrope"; readonly originalContextLength: number; readonly attentionFactor?: number };

/** Every option decided. */
export type TinyShape = Required<Omit<TinyModelOptions, "experts" | "ropeScaling" | "metadata" | "type">> &
  Pick<TinyModelOptions, "experts" | "ropeScaling">;

/** True shapes of models in use, for measurements. Give them a `type`. */
export const modelShapes: {
  readonly [name in "smollm2-135m" | "qwen2.5-0.5b" | "llama-3.2-1b"]: TinyModelOptions;
} = {
  "smollm2-135m": {
    architecture: "llama",
    embeddingSize: 576,
    feedForwardSize: 1536,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    vocabularySize: 49152,
    contextLength: 8192,
    ropeBase: 100000,
    tied: true,
    vocabulary: "bpe",
    pre: "smollm",
  },
  "qwen2.5-0.5b": {
    architecture: "qwen2",
    embeddingSize: 896,
    feedForwardSize: 4864,
    layers: 24,
    heads: 14,
    kvHeads: 2,
    vocabularySize: 151936,
    contextLength: 32768,
    ropeBase: 1e6,
    tied: true,
  },
  "llama-3.2-1b": {
    architecture: "llama",
    embeddingSize: 2048,
    feedForwardSize: 8192,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    vocabularySize: 128256,
    contextLength: 131072,
    ropeBase: 500000,
    ropeScaling: { kind: "llama3", factor: 32, originalContextLength: 8192 },
    tied: true,
    vocabulary: "bpe",
    pre: "llama-bpe",
  },
};

/** A random-weight model of any shape as the contents of a GGUF file; the same for the same options. */
export function tinyModel(options: TinyModelOptions): GgufContents {
  const shape = decide(options);
  const { type = F32 } = options;
  return {
    metadata: new Map([...metadataOf(shape), ...(options.metadata ?? [])]),
    tensors: tensorsOf(shape).map((tensor) => {
      const { name, shape: dimensions } = tensor;
      const plain =
        dimensions.length < 2 || name.includes("ffn_gate_inp") || name.startsWith("position_embd");
      const wanted = typeof type === "function" ? type(name, dimensions) : type;
      const chosen = plain ? F32 : wanted;
      return { name, shape: dimensions, type: chosen, data: () => randomBlocks(tensor, chosen, shape.seed) };
    }),
  };
}

/** The same, as a file's bytes. */
export function tinyModelBytes(options: TinyModelOptions): Promise<Uint8Array> {
  return ggufBytes(tinyModel(options));
}

/** The same, as a file on disk, one tensor in memory at a time. */
export async function writeTinyModel(path: string, options: TinyModelOptions): Promise<void> {
  const file = await open(path, "w");
  try {
    await writeGguf({ write: (bytes) => file.appendFile(bytes) }, tinyModel(options));
  } finally {
    await file.close();
  }
}

function decide(options: TinyModelOptions): TinyShape {
  const { architecture, heads = 4, embeddingSize = 64 } = options;
  const qwen = architecture.startsWith("qwen");
  const alwaysTied = architecture.startsWith("gemma") || architecture === "gpt2" || architecture === "bitnet";
  return {
    seed: 1,
    layers: 2,
    kvHeads: architecture === "gpt2" ? heads : 2,
    keySize: embeddingSize / heads,
    feedForwardSize: 96,
    contextLength: 128,
    vocabularySize: 320,
    tied: alwaysTied,
    ropeBase: 10000,
    slidingWindow: 8,
    attentionSoftcap: 5,
    finalSoftcap: 6,
    vocabulary: qwen || architecture === "gpt2" ? "bpe" : "spm",
    pre: qwen ? "qwen2" : "gpt-2",
    ...options,
    heads,
    embeddingSize,
  };
}

function metadataOf(shape: TinyShape): Map<string, GgufEntry> {
  const { architecture: a, ropeScaling: scaling, experts } = shape;
  const u32 = (key: string, value: number): [string, GgufEntry] => [`${a}.${key}`, { type: "u32", value }];
  const f32 = (key: string, value: number): [string, GgufEntry] => [`${a}.${key}`, { type: "f32", value }];
  const text = (key: string, value: string): [string, GgufEntry] => [key, { type: "string", value }];
  const entries: [string, GgufEntry][] = [
    text("general.architecture", a),
    // Not the architecture's name: llama.cpp expects a "phi3" to have that model's own tokens.
    text("general.name", "random weights"),
    ["general.quantization_version", { type: "u32", value: 2 }],
    u32("context_length", shape.contextLength),
    u32("embedding_length", shape.embeddingSize),
    u32("block_count", shape.layers),
    u32("feed_forward_length", shape.feedForwardSize),
    u32("attention.head_count", shape.heads),
    u32("attention.head_count_kv", shape.kvHeads),
    f32(`attention.layer_norm_${a === "gpt2" ? "" : "rms_"}epsilon`, 1e-5),
  ];
  if (a !== "gpt2") {
    entries.push(
      u32("attention.key_length", shape.keySize),
      u32("attention.value_length", shape.keySize),
      u32("rope.dimension_count", shape.keySize),
      f32("rope.freq_base", shape.ropeBase),
    );
  }
  if (a === "gemma2") {
    entries.push(
      f32("attn_logit_softcapping", shape.attentionSoftcap),
      f32("final_logit_softcapping", shape.finalSoftcap),
    );
  }
  if (a === "gemma2" || a === "gemma3") entries.push(u32("attention.sliding_window", shape.slidingWindow));
  if (experts) {
    entries.push(u32("expert_count", experts.count), u32("expert_used_count", experts.used));
    if (a !== "llama") entries.push(u32("expert_feed_forward_length", experts.feedForwardSize ?? 48));
    if (a === "qwen2moe") {
      entries.push(u32("expert_shared_feed_forward_length", experts.sharedFeedForwardSize ?? 56));
    }
  }
  if (scaling?.kind === "linear" || scaling?.kind === "yarn") {
    entries.push(text(`${a}.rope.scaling.type`, scaling.kind), f32("rope.scaling.factor", scaling.factor));
  }
  if (scaling?.kind === "longrope") {
    entries.push(f32("rope.scaling.attn_factor", scaling.attentionFactor ?? 1));
  }
  if (scaling?.kind === "yarn" || scaling?.kind === "longrope") {
    entries.push(u32("rope.scaling.original_context_length", scaling.originalContextLength));
  }
  return new Map([...entries, ...tinyVocabulary(shape.vocabulary, shape.vocabularySize, shape.pre)]);
}
