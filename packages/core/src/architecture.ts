import type { Activation, KeyTurn, KvStore, Ops, Tensor, TokenBatch, Weight } from "./backend.ts";

/** Hyper-parameters under one set of names, whichever format they came from. A format fills it once. */
export interface ModelConfig {
  /** The field's id: "llama", "qwen2", "gemma3", … */
  readonly architecture: string;
  readonly name?: string;
  readonly contextLength: number;
  readonly vocabularySize: number;
  /** Width of the residual stream. */
  readonly embeddingSize: number;
  readonly layers: number;
  readonly feedForwardSize: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Width of one query/key head. */
  readonly keySize: number;
  /** Width of one value head. */
  readonly valueSize: number;
  readonly normEpsilon: number;
  readonly rope?: RopeConfig;
  /** Tokens a sliding layer looks back over, itself included. */
  readonly slidingWindow?: number;
  /** Of every `slidingPattern` layers the last one is global (gemma 3: 6, gemma 2: 2). */
  readonly slidingPattern?: number;
  /** Multiplies q·k. Absent: 1/√keySize. */
  readonly attentionScale?: number;
  readonly attentionSoftcap?: number;
  readonly finalSoftcap?: number;
  readonly experts?: ExpertConfig;
  /** Of the feed-forward block, where checkpoints of a family differ. Absent: the family's own. */
  readonly activation?: Activation;
  /** false for encoders. @default true */
  readonly causal?: boolean;
  readonly pooling?: "none" | "mean" | "cls" | "last";
}

export interface RopeConfig {
  /** Leading dimensions of each head that rotate. */
  readonly dimensions: number;
  readonly base: number;
  /** Base of sliding-window layers where it differs (gemma 3). */
  readonly localBase?: number;
  /** Which dimensions form a pair: (2i, 2i+1), or (i, i + dimensions/2). */
  readonly pairing: "adjacent" | "halves";
  readonly scaling?: RopeScaling;
}

export type RopeScaling =
  | { readonly kind: "linear"; readonly factor: number }
  | {
      readonly kind: "llama3";
      readonly factor: number;
      readonly originalContextLength: number;
      readonly lowFrequencyFactor: number;
      readonly highFrequencyFactor: number;
    }
  | {
      readonly kind: "yarn";
      readonly factor: number;
      readonly originalContextLength: number;
      /** @default 1 */
      readonly extrapolationFactor?: number;
      /** Multiplies the magnitude of the rotation on top of YaRN's own 1 + 0.1·ln(factor). @default 1 */
      readonly attentionFactor?: number;
      /** @default 32 */
      readonly betaFast?: number;
      /** @default 1 */
      readonly betaSlow?: number;
    }
  /** Per-frequency divisors stored as vectors: role "rope.factors", or "rope.factors.long"/"rope.factors.short". */
  | { readonly kind: "factors"; readonly originalContextLength?: number; readonly attentionFactor?: number };

export interface ExpertConfig {
  readonly count: number;
  /** Experts that each token visits. */
  readonly used: number;
  readonly feedForwardSize: number;
  /** Width of the shared expert, where there is one. */
  readonly sharedFeedForwardSize?: number;
  /** Divide the chosen probabilities by their sum. */
  readonly normalizeWeights: boolean;
}

/**
 * A weight an architecture asks for. Roles are canonical names that formats map their own names to:
 * "embed", "embed.position", "embed.norm", "norm", "head", "rope.factors[.long|.short]", and under "layers.N.":
 * attn.norm, attn.q, attn.k, attn.v, attn.qkv, attn.o, attn.qNorm, attn.kNorm, attn.subNorm, attn.postNorm,
 * ffn.norm, ffn.gate, ffn.up, ffn.down, ffn.subNorm, ffn.postNorm, ffn.router,
 * ffn.experts.gate|up|down, ffn.shared.gate|up|down, ffn.shared.router.
 * A linear's bias belongs to its LinearWeight; a layer norm's bias has the norm's role + ".bias".
 */
export interface WeightSpec {
  readonly role: string;
  /** linear: [out, in] matrix for `ops.linear`, also the embedding table; vector: f32 for norms and factors. */
  readonly kind: "linear" | "vector";
  /** Expected shape: [out, in], [experts, out, in], or [length]. */
  readonly shape: readonly number[];
  /** May be absent from the checkpoint. @default false */
  readonly optional?: boolean;
}

/** What a forward pass works with. */
export interface ForwardContext {
  readonly ops: Ops;
  /** The checkpoint's, except that `contextLength` is how long a sequence may become as the model was loaded. */
  readonly config: ModelConfig;
  readonly kv: KvStore;
  /** Throws `weight-missing` if the role is absent. */
  weight(role: string): Weight;
  vector(role: string): Tensor;
  /** Host copy of a vector (rope factors). */
  values(role: string): Float32Array;
  has(role: string): boolean;
}

/** A model family: one file. */
export interface Architecture {
  readonly id: string;
  /** `config.architecture` values it runs. */
  readonly names: readonly string[];
  weights(config: ModelConfig): readonly WeightSpec[];
  /**
   * Records one forward pass over the batch. `rows` are indices into the batch; the result has one row for each:
   * logits [rows, vocabularySize], or the final normalised hidden state [rows, embeddingSize] if `output` is "hidden".
   */
  forward(context: ForwardContext, batch: TokenBatch, rows: Int32Array, output: "logits" | "hidden"): Tensor;
  /**
   * How a layer's keys turn when their positions change by `by`. Only for models in which a position shows in nothing but the rotation of
   * queries and keys, so that it may change.
   */
  keyTurn?(context: ForwardContext, layer: number, by: number): KeyTurn;
}
