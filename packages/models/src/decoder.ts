import type { ForwardContext, KeyTurn, ModelConfig, RopeConfig, Tensor, TokenBatch } from "@lowbit/core";
import { isLocal, layerNorm, rmsNorm } from "./blocks.ts";
import { localRotationOf, type Rotation, ropeAngles, rotationOf } from "./rope.ts";

/** What a layer works with. */
export interface Pass {
  readonly context: ForwardContext;
  readonly config: ModelConfig;
  readonly batch: TokenBatch;
  /** cos and sin for `ops.rope`; absent in models without rotation. */
  readonly angles?: Tensor;
  /** The same for layers with a window, where their base differs. */
  readonly localAngles?: Tensor;
}

/** One half of a layer: takes the residual stream and gives the new one. */
export type Half = (pass: Pass, x: Tensor, layer: number) => Tensor;

export interface Decoder {
  /** The first residual stream. */
  readonly embed: (pass: Pass) => Tensor;
  readonly attention: Half;
  readonly feedForward: Half;
  /** @default "rms" */
  readonly finalNorm?: "rms" | "layer";
}

/**
 * The frame around all layers. Each half of a layer is a scope around the one before, so that of all activations only the
 * residual stream and what the current half makes are alive. Rows that nobody asked for are dropped after the last
 * attention.
 */
export function decode(
  decoder: Decoder,
  context: ForwardContext,
  batch: TokenBatch,
  rows: Int32Array,
  output: "logits" | "hidden",
): Tensor {
  const { ops, config } = context;
  const pass: Pass = { context, config, batch, ...rotations(context, batch) };
  let stream = (): Tensor => decoder.embed(pass);
  for (let layer = 0; layer < config.layers; layer++) {
    const before = stream;
    const last = layer === config.layers - 1;
    const middle = (): Tensor => ops.scope(() => decoder.attention(pass, before(), layer));
    const asked = (): Tensor => (last ? takeRows(pass, middle(), rows) : middle());
    stream = () => ops.scope(() => decoder.feedForward(pass, asked(), layer));
  }
  return ops.scope(() => {
    const x = stream();
    const norm = decoder.finalNorm === "layer" ? layerNorm : rmsNorm;
    const hidden = norm(pass, x, "norm");
    if (output === "hidden") return hidden;
    const logits = ops.linear(hidden, context.weight(context.has("head") ? "head" : "embed"));
    return config.finalSoftcap === undefined ? logits : ops.softcap(logits, config.finalSoftcap);
  });
}

/** Rows of the residual stream, without a copy if they are all of it. */
function takeRows({ context }: Pass, x: Tensor, rows: Int32Array): Tensor {
  const all = rows.length === x.rows && rows.every((row, i) => row === i);
  return all ? x : context.ops.gatherRows(x, rows);
}

function rotations(context: ForwardContext, batch: TokenBatch): Pick<Pass, "angles" | "localAngles"> {
  const { config, ops } = context;
  const { rope } = config;
  if (rope === undefined) return {};
  const constant = (angles: Float32Array): Tensor =>
    ops.constant(angles, batch.positions.length, rope.dimensions);
  const local = config.slidingWindow === undefined ? undefined : localRotationOf(rope);
  return {
    angles: constant(ropeAngles(globalRotation(context, rope), batch.positions)),
    ...(local && { localAngles: constant(ropeAngles(local, batch.positions)) }),
  };
}

function globalRotation(context: ForwardContext, rope: RopeConfig): Rotation {
  const role = factorRole(context);
  return rotationOf(rope, role === undefined ? undefined : context.values(role));
}

/** `Architecture.keyTurn` of models that rotate: by so many positions, with the base of the layer, and without the rotation's magnitude. */
export function keyTurn(context: ForwardContext, layer: number, by: number): KeyTurn {
  const { config } = context;
  const { rope } = config;
  // Where nothing rotates, nothing of a position is in the keys.
  if (rope === undefined) return { angles: new Float32Array(0), pairing: "halves" };
  const local = isLocal(config, layer) ? localRotationOf(rope) : undefined;
  const { frequencies } = local ?? globalRotation(context, rope);
  return { angles: ropeAngles({ frequencies, magnitude: 1 }, Int32Array.of(by)), pairing: rope.pairing };
}

/**
 * Models for long contexts have two sets of factors. Which one counts depends on how long the context may become, not on how
 * long it is: keys in the cache stay as they were turned. Undefined in models without factors.
 */
function factorRole(context: ForwardContext): string | undefined {
  const { config, kv } = context;
  const scaling = config.rope?.scaling;
  if (scaling?.kind !== "factors") return undefined;
  if (context.has("rope.factors")) return "rope.factors";
  const { originalContextLength: original = Number.POSITIVE_INFINITY } = scaling;
  const length = Math.min(config.contextLength, kv.pages * kv.pageTokens);
  return length > original ? "rope.factors.long" : "rope.factors.short";
}
