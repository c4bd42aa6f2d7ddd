import type { Activation, ExpertConfig, ModelConfig, Tensor } from "@lowbit/core";
import type { Pass } from "./decoder.ts";

/** RMS norm with the weight of a role, over heads of `group` columns or the whole row. */
export function rmsNorm({ context, config }: Pass, x: Tensor, role: string, group?: number): Tensor {
  const weight = context.vector(role);
  return context.ops.rmsNorm(x, {
    weight,
    epsilon: config.normEpsilon,
    ...(group !== undefined && { group }),
  });
}

/** Layer norm with the weight and, where there is one, the bias of a role. */
export function layerNorm({ context, config }: Pass, x: Tensor, role: string): Tensor {
  const weight = context.vector(role);
  const bias = context.has(`${role}.bias`) ? context.vector(`${role}.bias`) : undefined;
  return context.ops.layerNorm(x, { weight, ...(bias && { bias }), epsilon: config.normEpsilon });
}

/** Does the layer see only a window? Without a pattern all do, if there is a window at all. */
export function isLocal(config: ModelConfig, layer: number): boolean {
  const { slidingWindow, slidingPattern } = config;
  if (slidingWindow === undefined) return false;
  return slidingPattern === undefined || layer % slidingPattern !== slidingPattern - 1;
}

/**
 * Self-attention from a normalised input to the output projection: projections (one matrix or three), norms of the heads
 * where the model has them, rotation, attention, a norm of the result where the model has one. The layer's window and base
 * follow from the configuration.
 */
export function selfAttention(pass: Pass, x: Tensor, layer: number): Tensor {
  const { context, config, batch } = pass;
  const { ops } = context;
  const prefix = `layers.${layer}.attn.`;
  const { heads, keySize } = config;
  const local = isLocal(config, layer);
  const angles = (local ? pass.localAngles : undefined) ?? pass.angles;
  const turn = (projected: Tensor, normRole: string): Tensor => {
    const normed = context.has(normRole) ? rmsNorm(pass, projected, normRole, keySize) : projected;
    if (angles === undefined || config.rope === undefined) return normed;
    return ops.rope(normed, angles, { headSize: keySize, pairing: config.rope.pairing });
  };
  const { q, k, v } = project(pass, x, prefix);
  const attended = ops.attention(turn(q, `${prefix}qNorm`), turn(k, `${prefix}kNorm`), v, {
    kv: context.kv,
    layer,
    batch,
    heads,
    scale: config.attentionScale ?? 1 / Math.sqrt(keySize),
    ...(local && config.slidingWindow !== undefined && { window: config.slidingWindow }),
    ...(config.attentionSoftcap !== undefined && { softcap: config.attentionSoftcap }),
    ...(config.causal === false && { causal: false }),
  });
  const normed = context.has(`${prefix}subNorm`) ? rmsNorm(pass, attended, `${prefix}subNorm`) : attended;
  return ops.linear(normed, context.weight(`${prefix}o`));
}

function project({ context, config }: Pass, x: Tensor, prefix: string): { q: Tensor; k: Tensor; v: Tensor } {
  const { ops } = context;
  if (!context.has(`${prefix}qkv`)) {
    return {
      q: ops.linear(x, context.weight(`${prefix}q`)),
      k: ops.linear(x, context.weight(`${prefix}k`)),
      v: ops.linear(x, context.weight(`${prefix}v`)),
    };
  }
  const { heads, kvHeads, keySize, valueSize } = config;
  const fused = ops.linear(x, context.weight(`${prefix}qkv`));
  const keys = heads * keySize;
  const values = keys + kvHeads * keySize;
  return {
    q: ops.columns(fused, 0, keys),
    k: ops.columns(fused, keys, values),
    v: ops.columns(fused, values, values + kvHeads * valueSize),
  };
}

/** down(activate(gate(x)) · up(x)); without a gate matrix the first half of up's rows is the gate. */
export function gatedFeedForward(
  pass: Pass,
  x: Tensor,
  prefix: string,
  kind: Activation,
  width: number = pass.config.feedForwardSize,
): Tensor {
  const { context } = pass;
  const { ops } = context;
  const up = ops.linear(x, context.weight(`${prefix}up`));
  const inner = context.has(`${prefix}gate`)
    ? ops.gate(ops.linear(x, context.weight(`${prefix}gate`)), up, kind)
    : ops.gate(ops.columns(up, 0, width), ops.columns(up, width, 2 * width), kind);
  const normed = context.has(`${prefix}subNorm`) ? rmsNorm(pass, inner, `${prefix}subNorm`) : inner;
  return ops.linear(normed, context.weight(`${prefix}down`));
}

/** Dense, or a mixture where the configuration has experts. `kind` is the family's activation. */
export function feedForward(pass: Pass, x: Tensor, prefix: string, kind: Activation): Tensor {
  const chosen = pass.config.activation ?? kind;
  const { experts } = pass.config;
  return experts === undefined
    ? gatedFeedForward(pass, x, prefix, chosen)
    : expertFeedForward(pass, x, prefix, chosen, experts);
}

/**
 * A mixture of experts: the router's softmax chooses, the chosen experts' outputs are weighted with its probabilities
 * (divided by their sum, if the model says so), and a shared expert, where there is one, is added behind its own gate.
 */
export function expertFeedForward(
  pass: Pass,
  x: Tensor,
  prefix: string,
  kind: Activation,
  experts: ExpertConfig,
): Tensor {
  const { context } = pass;
  const { ops } = context;
  const probabilities = ops.softmax(ops.linear(x, context.weight(`${prefix}router`)));
  const { ids, values } = ops.topK(probabilities, experts.used);
  const weights = experts.normalizeWeights ? ops.normalizeRows(values) : values;
  const gate = ops.expertLinear(x, context.weight(`${prefix}experts.gate`), ids);
  const up = ops.expertLinear(x, context.weight(`${prefix}experts.up`), ids);
  const inner = ops.gate(gate, up, kind);
  const down = ops.expertLinear(inner, context.weight(`${prefix}experts.down`), ids);
  const routed = ops.weightedSum(down, weights);
  const { sharedFeedForwardSize } = experts;
  if (sharedFeedForwardSize === undefined) return routed;
  const shared = gatedFeedForward(pass, x, `${prefix}shared.`, kind, sharedFeedForwardSize);
  const share = ops.activate(ops.linear(x, context.weight(`${prefix}shared.router`)), "sigmoid");
  return ops.add(routed, ops.weightedSum(shared, share));
}
