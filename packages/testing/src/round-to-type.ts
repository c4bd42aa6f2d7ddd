import {
  type FieldPlan,
  floatToBits,
  floatToHalf,
  halfToFloat,
  LowbitError,
  planOf,
  type QuantPlan,
  type QuantType,
  type ScaleFormat,
  type ScalePlan,
} from "@lowbit/core";

/**
 * The plainest quantizer: each group's scale (and min) covers its range and codes are rounded to nearest. Works from a type's
 * description, for plain numbers of 16 and 32 bits and every type whose codes are integers in bit fields. Meant for test
 * files: it searches for nothing. `values` must be whole blocks. Throws `type-unsupported` for other types.
 */
export function roundToType(type: QuantType, values: Float32Array): Uint8Array {
  const plan = planOf(type);
  const out = new Uint8Array((values.length / type.block) * type.bytes);
  if (type.values.kind === "dense") {
    const encode = encoders[type.values.format];
    if (encode === undefined) throw unsupported(type);
    const view = new DataView(out.buffer);
    values.forEach((value, i) => {
      if (type.bytes === 2) view.setUint16(i * 2, encode(value), true);
      else view.setUint32(i * 4, encode(value), true);
    });
    return out;
  }
  if (plan.family !== "ints" || plan.code === undefined) throw unsupported(type);
  for (let b = 0; b * type.block < values.length; b++) {
    const block = out.subarray(b * type.bytes, (b + 1) * type.bytes);
    quantizeBlock(plan, plan.code, values.subarray(b * type.block, (b + 1) * type.block), block);
  }
  return out;
}

const encoders: { readonly [format: string]: ((value: number) => number) | undefined } = {
  f32: floatToBits,
  f16: floatToHalf,
  bf16: (value) => {
    const bits = floatToBits(value);
    return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  },
};

function quantizeBlock(plan: QuantPlan, code: FieldPlan, values: Float32Array, block: Uint8Array): void {
  const groups = values.length / plan.group;
  const group = (g: number): Float32Array => values.subarray(g * plan.group, (g + 1) * plan.group);
  const most = 2 ** plan.levelBits - 1;
  const wantedMins = Array.from({ length: groups }, (_, g) => (plan.min ? -Math.min(...group(g)) : 0));
  const mins = plan.min ? writeScales(plan.min, wantedMins, plan.group, block) : wantedMins;
  const wantedScales = mins.map((min, g) => {
    const up = Math.max(...group(g)) + min;
    const down = Math.min(...group(g)) + min;
    return Math.max(up / (most - plan.zero), plan.zero > 0 ? -down / plan.zero : 0, 0);
  });
  const scales = writeScales(plan.scale, wantedScales, plan.group, block);
  const bias = code.signed ? 2 ** (code.bits - 1) : 0;
  for (let e = 0; e < values.length; e++) {
    const g = Math.floor(e / plan.group);
    const scale = scales[g] ?? 0;
    const level =
      scale === 0 ? plan.zero : Math.round(((values[e] ?? 0) + (mins[g] ?? 0)) / scale) + plan.zero;
    writeField(code, block, e, Math.min(most, Math.max(0, level)) - bias);
  }
}

/** Writes one scale per group as super × sub; returns what was stored. */
function writeScales(plan: ScalePlan, wanted: readonly number[], group: number, block: Uint8Array): number[] {
  const { sub } = plan;
  const mostSub = sub ? 2 ** (sub.signed ? sub.bits - 1 : sub.bits) - 1 + sub.offset : 1;
  const supers: number[] = [];
  if (plan.super) {
    const span = plan.super.per / group;
    for (let i = 0; i < plan.super.count; i++) {
      const part = wanted.slice(i * span, (i + 1) * span);
      // Without sub-scales the super-scale takes any sign.
      const top = sub ? Math.max(...part, 0) : (part[0] ?? 0);
      const [bits, value] = encodeScale(plan.super.format, top / mostSub / plan.multiplier);
      writeField(plan.super, block, i, bits);
      supers.push(...part.map(() => value));
    }
  }
  return wanted.map((scale, g) => {
    const factor = (supers[g] ?? 1) * plan.multiplier;
    if (!sub) return factor;
    const value = factor === 0 ? 0 : Math.min(mostSub, Math.max(0, Math.round(scale / factor)));
    writeField(sub, block, Math.floor((g * group) / sub.per), value - sub.offset);
    return factor * value;
  });
}

function encodeScale(format: ScaleFormat, value: number): readonly [bits: number, value: number] {
  if (format === "f32") return [floatToBits(value), Math.fround(value)];
  if (format !== "f16") {
    throw new LowbitError("type-unsupported", `There is no encoder for ${format} scales here.`, {
      reason: "unsupported-type",
    });
  }
  const half = floatToHalf(value);
  return [half, halfToFloat(half)];
}

/** Value `i` of a field; negative values in two's complement. */
function writeField(field: FieldPlan, block: Uint8Array, i: number, value: number): void {
  for (const piece of field.pieces) {
    const start = piece.positions[i] ?? 0;
    for (let bit = 0; bit < piece.bits; bit++) {
      const at = start + bit;
      const one = (value >> (piece.shift + bit)) & 1;
      block[at >> 3] = ((block[at >> 3] ?? 0) & ~(1 << (at & 7))) | (one << (at & 7));
    }
  }
}

function unsupported(type: QuantType): LowbitError {
  return new LowbitError("type-unsupported", `${type.name} cannot be written by plain rounding.`, {
    reason: "unsupported-type",
    hint: "Use plain numbers, or a type with integer codes in bit fields.",
  });
}
