import { isUnpacked, planOf, type QuantPlan, type QuantType, type ScalePlan } from "@lowbit/core";

/** How the planes hold a weight: the enums of c/type.h. */
export const packedModes: {
  readonly codes: 0;
  readonly table: 1;
  readonly signedTable: 2;
  readonly bytes: 3;
} = {
  codes: 0,
  table: 1,
  signedTable: 2,
  bytes: 3,
};

/** A type's planes: the dot product sees `operand − zero`, times `unit` the value before scaling. */
export interface PackedLayout {
  readonly plan: QuantPlan;
  readonly mode: 0 | 1 | 2 | 3;
  /** Bits of a stored code: 1 to 6, or 8. */
  readonly width: number;
  /** Columns per scale as the kernels see it. */
  readonly group: 16 | 32;
  readonly zero: number;
  readonly unit: number;
  /** table, signedTable: operand of each code. */
  readonly table: Int8Array;
  /** bytes: operand of each level. */
  readonly stored: Int8Array;
}

const layouts = new WeakMap<QuantType, PackedLayout | { readonly none: true }>();

/** The packed layout of a type, or undefined where only dense will do: codes above 8 bits, groups that 16 does not divide, and the like. */
export function packedLayout(type: QuantType): PackedLayout | undefined {
  let layout = layouts.get(type);
  if (layout === undefined) {
    layout = choose(planOf(type)) ?? { none: true };
    layouts.set(type, layout);
  }
  return "none" in layout ? undefined : layout;
}

function choose(plan: QuantPlan): PackedLayout | undefined {
  if (plan.family === "dense" || plan.levelBits > 8) return undefined;
  const scales = plan.min ? [plan.scale, plan.min] : [plan.scale];
  const pers = scales
    .flatMap((scale) => [scale.super?.per, scale.sub?.per])
    .filter((per) => per !== undefined);
  if (pers.some((per) => per % 16 !== 0) || !scales.every(isByteScale) || !hasPlainFields(plan))
    return undefined;
  const group = pers.every((per) => per % 32 === 0) ? 32 : 16;
  const operands = plan.family === "ints" ? intOperands(plan) : bookOperands(plan);
  return operands && { plan, group, unit: plan.unit, ...operands };
}

type Operands = Pick<PackedLayout, "mode" | "width" | "zero" | "table" | "stored">;
const noBytes: Int8Array = new Int8Array(0);

function intOperands(plan: QuantPlan): Operands | undefined {
  // The kernels multiply Σq by a 16-bit zero point.
  if (!Number.isInteger(plan.zero) || Math.abs(plan.zero) > 32000) return undefined;
  if (plan.levelBits <= 6) {
    const { codes: mode } = packedModes;
    return { mode, width: plan.levelBits, zero: plan.zero, table: noBytes, stored: noBytes };
  }
  const half = 2 ** (plan.levelBits - 1);
  const stored = Int8Array.from({ length: 2 * half }, (_, level) => level - half);
  return { mode: packedModes.bytes, width: 8, zero: plan.zero - half, table: noBytes, stored };
}

function bookOperands(plan: QuantPlan): Operands {
  const { levels } = plan;
  if (levels.length > 16) {
    return { mode: packedModes.bytes, width: 8, zero: 0, table: noBytes, stored: levels };
  }
  const lowest = Math.min(...levels);
  if (Math.max(...levels) - lowest <= 127) {
    const table = levels.map((level) => level - lowest);
    return { mode: packedModes.table, width: plan.levelBits, zero: -lowest, table, stored: noBytes };
  }
  return { mode: packedModes.signedTable, width: 4, zero: 0, table: levels, stored: noBytes };
}

const superBits: Readonly<Record<string, number>> = { f32: 32, f16: 16, bf16: 16 };

/** Does the scale fit the planes: a raw super of its format's bits, a sub of a byte that its offset leaves exact? */
function isByteScale(scale: ScalePlan): boolean {
  if (Math.fround(scale.multiplier) !== scale.multiplier) return false;
  const { super: top, sub } = scale;
  if (top !== undefined && (top.signed || top.bits > (superBits[top.format] ?? 8))) return false;
  if (sub === undefined) return true;
  if (sub.bits > 8) return false;
  const first = sub.signed ? -(2 ** (sub.bits - 1)) : 0;
  const sums = Array.from({ length: 2 ** sub.bits }, (_, i) => first + i + sub.offset);
  return sums.every((sum) => Math.fround(sum) === sum);
}

/** The packer reads codes of any width in books, of at most 8 bits elsewhere, and knows unsigned signs and deltas only. */
function hasPlainFields(plan: QuantPlan): boolean {
  const { type, code, sign, delta } = plan;
  if (sign?.signed || delta?.signed) return false;
  if (delta !== undefined && (type.delta?.values.length ?? 0) < 2 ** delta.bits) return false;
  if (plan.family === "book" && code?.signed) return false;
  return isUnpacked(type.code)
    ? type.code.bits <= 8
    : code !== undefined && (plan.family === "book" || code.bits <= 8);
}

/** A book whose codes are not yet level indices. */
export function needsIndex(plan: QuantPlan): boolean {
  const direct = plan.dimension === 1 && plan.sign === undefined && plan.delta === undefined;
  return plan.family === "book" && !(direct && plan.index.every((level, i) => level === i));
}

/** Byte offsets of the parts of a record of four rows (c/linear.h), and its size. */
export interface RecordShape {
  readonly superAt: number;
  readonly subAt: number;
  readonly minSuperAt: number;
  readonly minSubAt: number;
  readonly bytes: number;
}

export function recordShape(layout: PackedLayout, columns: number): RecordShape {
  let end = (columns / 32) * 16 * layout.width;
  const place = (bytes: number): number => {
    const at = end;
    end += Math.ceil(bytes / 16) * 16;
    return at;
  };
  const parts = (scale: ScalePlan | undefined): readonly [number, number] => [
    place(scale?.super ? (columns / scale.super.per) * 4 * superItemBytes(scale.super.format) : 0),
    place(scale?.sub ? (columns / scale.sub.per) * 4 : 0),
  ];
  const [superAt, subAt] = parts(layout.plan.scale);
  const [minSuperAt, minSubAt] = parts(layout.plan.min);
  return { superAt, subAt, minSuperAt, minSubAt, bytes: end };
}

/** Bytes of a stored super-scale. */
export function superItemBytes(format: string): number {
  return Math.ceil((superBits[format] ?? 8) / 8);
}
