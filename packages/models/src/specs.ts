import type { ModelConfig, WeightSpec } from "@lowbit/core";

/** A matrix [out, in]; its bias, where it has one, comes with it. */
export function matrix(role: string, out: number, width: number): WeightSpec {
  return { role, kind: "linear", shape: [out, width] };
}

/** Matrices of all experts, [experts, out, in]. */
export function experts(role: string, count: number, out: number, width: number): WeightSpec {
  return { role, kind: "linear", shape: [count, out, width] };
}

export function vector(role: string, length: number): WeightSpec {
  return { role, kind: "vector", shape: [length] };
}

export function optional(spec: WeightSpec): WeightSpec {
  return { ...spec, optional: true };
}

/** What every decoder has around its layers, and `layer(prefix, index)` for each of them. */
export function decoderSpecs(
  config: ModelConfig,
  layer: (prefix: string, index: number) => readonly WeightSpec[],
): WeightSpec[] {
  const { layers, vocabularySize, embeddingSize, rope } = config;
  const factors = rope?.dimensions ? rope.dimensions / 2 : 0;
  const factorRoles = ["rope.factors", "rope.factors.long", "rope.factors.short"];
  return [
    matrix("embed", vocabularySize, embeddingSize),
    ...(rope ? factorRoles.map((role) => optional(vector(role, factors))) : []),
    ...Array.from({ length: layers }, (_, i) => layer(`layers.${i}.`, i)).flat(),
    vector("norm", embeddingSize),
    optional(matrix("head", vocabularySize, embeddingSize)),
  ];
}

/** Separate query, key, value and output projections. */
export function attentionSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  const { embeddingSize, heads, kvHeads, keySize, valueSize } = config;
  return [
    vector(`${prefix}attn.norm`, embeddingSize),
    matrix(`${prefix}attn.q`, heads * keySize, embeddingSize),
    matrix(`${prefix}attn.k`, kvHeads * keySize, embeddingSize),
    matrix(`${prefix}attn.v`, kvHeads * valueSize, embeddingSize),
    matrix(`${prefix}attn.o`, embeddingSize, heads * valueSize),
  ];
}

/** The same with one matrix for queries, keys and values. */
export function fusedAttentionSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  const { embeddingSize, heads, kvHeads, keySize, valueSize } = config;
  const rows = heads * keySize + kvHeads * (keySize + valueSize);
  return [
    vector(`${prefix}attn.norm`, embeddingSize),
    matrix(`${prefix}attn.qkv`, rows, embeddingSize),
    matrix(`${prefix}attn.o`, embeddingSize, heads * valueSize),
  ];
}

/** Norms of each query and key head. */
export function headNormSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  return [vector(`${prefix}attn.qNorm`, config.keySize), vector(`${prefix}attn.kNorm`, config.keySize)];
}

export function gatedSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  const { embeddingSize, feedForwardSize } = config;
  return [
    vector(`${prefix}ffn.norm`, embeddingSize),
    matrix(`${prefix}ffn.gate`, feedForwardSize, embeddingSize),
    matrix(`${prefix}ffn.up`, feedForwardSize, embeddingSize),
    matrix(`${prefix}ffn.down`, embeddingSize, feedForwardSize),
  ];
}

/** Router, experts and, where there is one, the shared expert with its own router. Needs `config.experts`. */
export function expertSpecs(config: ModelConfig, prefix: string): WeightSpec[] {
  const { embeddingSize, experts: moe } = config;
  if (moe === undefined) return gatedSpecs(config, prefix);
  const { count, feedForwardSize, sharedFeedForwardSize: shared } = moe;
  return [
    vector(`${prefix}ffn.norm`, embeddingSize),
    matrix(`${prefix}ffn.router`, count, embeddingSize),
    experts(`${prefix}ffn.experts.gate`, count, feedForwardSize, embeddingSize),
    experts(`${prefix}ffn.experts.up`, count, feedForwardSize, embeddingSize),
    experts(`${prefix}ffn.experts.down`, count, embeddingSize, feedForwardSize),
    ...(shared === undefined
      ? []
      : [
          matrix(`${prefix}ffn.shared.router`, 1, embeddingSize),
          matrix(`${prefix}ffn.shared.gate`, shared, embeddingSize),
          matrix(`${prefix}ffn.shared.up`, shared, embeddingSize),
          matrix(`${prefix}ffn.shared.down`, embeddingSize, shared),
        ]),
  ];
}
