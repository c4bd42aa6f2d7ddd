import { decodeDense, decodeScale } from "./dense-types.ts";
import { type FieldPlan, planOf, type QuantPlan, readField, type ScalePlan } from "./quant-plan.ts";
import { isUnpacked, type QuantType } from "./quant-type.ts";

/**
 * Decodes whole blocks to f32: the truth that every backend is tested against. Each product rounds to f32 as in ggml:
 * S = super·sub, then S·value, then minus M.
 */
export function dequantize(type: QuantType, blocks: Uint8Array, out: Float32Array): Float32Array {
  const plan = planOf(type);
  const count = Math.floor(blocks.length / type.bytes);
  if (type.values.kind === "dense") {
    decodeDense(type.values.format, blocks, out);
    return out;
  }
  const levels = new Uint8Array(type.block);
  for (let b = 0; b < count; b++) {
    const block = blocks.subarray(b * type.bytes, (b + 1) * type.bytes);
    readLevels(plan, block, levels);
    for (let start = 0; start < type.block; start += plan.group) {
      const scale = readScale(plan.scale, block, start);
      const min = plan.min ? readScale(plan.min, block, start) : 0;
      for (let e = start; e < start + plan.group; e++) {
        const product = Math.fround(scale * levelValue(plan, levels[e] ?? 0));
        out[b * type.block + e] = plan.min ? product - min : product;
      }
    }
  }
  return out;
}

/** The value that a level index stands for, before scaling. */
export function levelValue(plan: QuantPlan, level: number): number {
  return plan.family === "book" ? (plan.levels[level] ?? 0) * plan.unit : level - plan.zero;
}

/** The level index of each weight of one block. Signed codes are shifted to be unsigned by adding 2^(bits−1). */
export function readLevels(plan: QuantPlan, block: Uint8Array, levels: Uint8Array): void {
  const { type, code, sign, delta, dimension } = plan;
  if (isUnpacked(type.code)) {
    type.code.unpack(block, levels);
  } else if (code !== undefined) {
    const bias = code.signed ? 2 ** (code.bits - 1) : 0;
    for (let i = 0; i < code.count; i++) levels[i] = readField(code, block, i) + bias;
  }
  if (plan.family !== "book") return;
  const size = type.values.kind === "book" ? type.values.table.length : 0;
  // Backwards, because the codes stand at the front of the array that the levels fill.
  for (let e = type.block - 1; e >= 0; e--) {
    const entry = wideCode(plan, block, levels, Math.floor(e / dimension));
    const negative = sign ? signBit(sign, block, e) : 0;
    const shifted = delta ? readField(delta, block, Math.floor(e / delta.per)) : 0;
    const variant = (sign ? 2 : 1) * shifted + negative;
    levels[e] = plan.index[variant * size + entry * dimension + (e % dimension)] ?? 0;
  }
}

/** Codes above 8 bits do not fit the level array, so books read their field. */
function wideCode(plan: QuantPlan, block: Uint8Array, levels: Uint8Array, i: number): number {
  return plan.code ? readField(plan.code, block, i) : (levels[i] ?? 0);
}

function signBit(sign: FieldPlan & { parity: boolean }, block: Uint8Array, element: number): number {
  const bits = readField(sign, block, Math.floor(element / sign.per));
  const j = element % 8;
  if (!sign.parity || j < 7) return (bits >> j) & 1;
  let parity = 0;
  for (let rest = bits; rest > 0; rest >>= 1) parity ^= rest & 1;
  return parity;
}

/** Scale (or min) of the group that starts at element `start`. */
export function readScale(plan: ScalePlan, block: Uint8Array, start: number): number {
  let value = 1;
  if (plan.super) {
    const bits = readField(plan.super, block, Math.floor(start / plan.super.per));
    value = decodeScale(plan.super.format, bits);
  }
  if (plan.sub) {
    value = Math.fround(
      value * (readField(plan.sub, block, Math.floor(start / plan.sub.per)) + plan.sub.offset),
    );
  }
  return Math.fround(value * plan.multiplier);
}
