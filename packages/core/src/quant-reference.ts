import { decodeDense, decodeScale, floatToHalf, halfToFloat, roundToBf16 } from "./dense-types.ts";
import { LowbitError } from "./errors.ts";
import { readFields } from "./quant-bits.ts";
import { planOf, type QuantPlan, type ScalePlan, type ZeroPlan } from "./quant-plan.ts";
import { isUnpacked, type QuantType } from "./quant-type.ts";
import { type LinearWeight, rowsOf } from "./weight.ts";

/** Room for what one block's fields hold. */
interface Scratch {
  readonly levels: Uint8Array;
  readonly fields: Int32Array;
  readonly signs: Int32Array;
  readonly deltas: Int32Array;
}

function scratchOf(block: number): Scratch {
  return {
    levels: new Uint8Array(block),
    fields: new Int32Array(block),
    signs: new Int32Array(block),
    deltas: new Int32Array(block),
  };
}

/**
 * Decodes whole blocks to f32: the truth that every backend is tested against. Each product rounds to f32 as in ggml:
 * S = super·sub, value − Z, then S·that, then minus M. Throws `bad-argument` if `blocks` is not whole blocks or `out` has no room.
 */
export function dequantize(type: QuantType, blocks: Uint8Array, out: Float32Array): Float32Array {
  const plan = planOf(type);
  const count = blocks.length / type.bytes;
  if (!Number.isInteger(count) || out.length < count * type.block) {
    throw new LowbitError(
      "bad-argument",
      `${type.name}: ${blocks.length} bytes for ${out.length} weights; a block of ${type.block} has ${type.bytes} bytes.`,
      { reason: "block-size" },
    );
  }
  if (type.values.kind === "dense") {
    decodeDense(type.values.format, blocks, out);
    return out;
  }
  const scratch = scratchOf(type.block);
  const { levels } = scratch;
  const { group } = plan;
  const scales = new Float32Array(type.block / group);
  const mins = new Float32Array(type.block / group);
  const zeros = new Float32Array(type.block / group);
  const round = roundings[type.round ?? "f32"];
  const values = levelValues(plan);
  for (let b = 0, element = 0; b < count; b++) {
    const start = b * type.bytes;
    gatherLevels(plan, blocks, start, scratch);
    gatherScales(plan.scale, group, blocks, start, scratch.fields, scales);
    if (plan.min) gatherScales(plan.min, group, blocks, start, scratch.fields, mins);
    if (plan.zeroPoint) gatherZeros(plan.zeroPoint, group, blocks, start, scratch.fields, zeros);
    for (let g = 0, e = 0; g < scales.length; g++) {
      const scale = scales[g]!;
      const min = mins[g]!;
      const zero = zeros[g]!;
      for (const end = e + group; e < end; e++, element++) {
        const product = scale * Math.fround(values[levels[e]!]! - zero);
        out[element] = round(plan.min ? Math.fround(product) - min : product);
      }
    }
  }
  return out;
}

const roundings = {
  f32: (value: number): number => value,
  f16: (value: number): number => halfToFloat(floatToHalf(value)),
  bf16: roundToBf16,
};

/**
 * All values of a weight: f32, `experts · out` rows of `in` in the order of the inputs, row scales applied, bias not. Segments that
 * overlap are summed; columns that no segment covers are 0. Throws `bad-argument` where blocks and shape do not fit.
 */
export function denseWeight(weight: LinearWeight): Float32Array {
  const { in: width, permute, rowScale, segments } = weight;
  const rows = rowsOf(weight);
  const out = new Float32Array(rows * width);
  for (const { type, from, to, blocks } of segments) {
    const row = new Float32Array(to - from);
    const bytes = (row.length / type.block) * type.bytes;
    for (let r = 0; r < rows; r++) {
      dequantize(type, blocks.subarray(r * bytes, (r + 1) * bytes), row);
      for (let j = 0; j < row.length; j++) {
        const at = r * width + (permute ? permute[from + j]! : from + j);
        out[at] = out[at]! + row[j]!;
      }
    }
  }
  if (rowScale) for (let i = 0; i < out.length; i++) out[i] = out[i]! * rowScale[Math.floor(i / width)]!;
  return out;
}

/** The value that a level index stands for, before scaling. */
export function levelValue(plan: QuantPlan, level: number): number {
  if (plan.floats) return plan.floats[level] ?? 0;
  return plan.family === "book" ? (plan.levels[level] ?? 0) * plan.unit : level - plan.zero;
}

function levelValues(plan: QuantPlan): Float32Array {
  return Float32Array.from({ length: 256 }, (_, level) => levelValue(plan, level));
}

/** The level index of each weight of one block. Signed codes are shifted to be unsigned by adding 2^(bits−1). */
export function readLevels(plan: QuantPlan, block: Uint8Array, levels: Uint8Array): void {
  gatherLevels(plan, block, 0, { ...scratchOf(plan.type.block), levels });
}

function gatherLevels(plan: QuantPlan, bytes: Uint8Array, start: number, scratch: Scratch): void {
  const { type, code } = plan;
  const { levels, fields } = scratch;
  if (isUnpacked(type.code)) {
    type.code.unpack(bytes.subarray(start, start + type.bytes), levels);
    if (plan.family === "book") fields.set(levels);
  } else if (code !== undefined) {
    readFields(code, bytes, start, fields);
    const bias = code.signed ? 2 ** (code.bits - 1) : 0;
    if (plan.family === "ints") for (let i = 0; i < code.count; i++) levels[i] = fields[i]! + bias;
  }
  if (plan.family === "book") lookUp(plan, bytes, start, scratch);
}

/** Codebook entries, codes being in `fields`, to level indices. */
function lookUp(plan: QuantPlan, bytes: Uint8Array, start: number, scratch: Scratch): void {
  const { index, sign, delta, dimension, type } = plan;
  const { levels, fields, signs, deltas } = scratch;
  const size = type.values.kind === "book" ? type.values.table.length : 0;
  if (sign) {
    readFields(sign, bytes, start, signs);
    if (sign.parity) for (let i = 0; i < sign.count; i++) signs[i] = withParity(signs[i]!);
  }
  if (delta) readFields(delta, bytes, start, deltas);
  for (let e = 0, i = 0; e < type.block; i++) {
    const entry = fields[i]! * dimension;
    for (let j = 0; j < dimension; j++, e++) {
      const shifted = delta ? deltas[Math.floor(e / delta.per)]! : 0;
      const variant = sign ? 2 * shifted + ((signs[e >> 3]! >> (e & 7)) & 1) : shifted;
      levels[e] = index[variant * size + entry + j]!;
    }
  }
}

/** Seven signs and an eighth that makes the number of minus signs even. */
function withParity(signs: number): number {
  let parity = signs ^ (signs >> 4);
  parity ^= parity >> 2;
  parity ^= parity >> 1;
  return signs | ((parity & 1) << 7);
}

/** One scale for each `group` weights of the block that starts at byte `start`. */
function gatherScales(
  plan: ScalePlan,
  group: number,
  bytes: Uint8Array,
  start: number,
  fields: Int32Array,
  out: Float32Array,
): void {
  out.fill(1);
  if (plan.super) {
    const span = plan.super.per / group;
    readFields(plan.super, bytes, start, fields);
    for (let i = 0; i < plan.super.count; i++) {
      out.fill(decodeScale(plan.super.format, fields[i]! >>> 0), i * span, (i + 1) * span);
    }
  }
  if (plan.sub) {
    const { per, offset } = plan.sub;
    readFields(plan.sub, bytes, start, fields);
    for (let g = 0; g < out.length; g++) out[g] = out[g]! * (fields[Math.floor((g * group) / per)]! + offset);
  }
  if (plan.multiplier !== 1) for (let g = 0; g < out.length; g++) out[g] = out[g]! * plan.multiplier;
}

/** One zero point for each `group` weights. */
function gatherZeros(
  plan: ZeroPlan,
  group: number,
  bytes: Uint8Array,
  start: number,
  fields: Int32Array,
  out: Float32Array,
): void {
  const { per, offset, format } = plan;
  readFields(plan, bytes, start, fields);
  for (let g = 0; g < out.length; g++) {
    const field = fields[Math.floor((g * group) / per)]!;
    out[g] = format ? decodeScale(format, field >>> 0) : field + offset;
  }
}
