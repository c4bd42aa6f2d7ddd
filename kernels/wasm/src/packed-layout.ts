import {
  type DenseFormat,
  e4m3ToFloat,
  e5m2ToFloat,
  isUnpacked,
  planOf,
  type QuantPlan,
  type QuantType,
  type ScaleFormat,
  type ScalePlan,
} from "@lowbit/core";

/** How the planes hold a weight: the enums of c/type.h. */
export const packedModes: {
  readonly codes: 0;
  readonly table: 1;
  readonly signedTable: 2;
  readonly bytes: 3;
  readonly floats: 4;
} = {
  codes: 0,
  table: 1,
  signedTable: 2,
  bytes: 3,
  floats: 4,
};

/** What a type has besides scales: the enum of c/type.h. */
export const minKinds = { none: 0, min: 1, zero: 2, zeroFloat: 3 } as const;

/** floats of 8 bits whose finite codes are such numbers: the enum of c/type.h. */
export const floatForms = { any: 0, "f8-e4m3": 1, "f8-e5m2": 2 } as const;

/** Rows that lie together. */
export const bandRows = 16;

/** A type's planes: the dot product sees `operand − zero`, times `unit` the value before scaling. */
export interface PackedLayout {
  readonly plan: QuantPlan;
  readonly mode: 0 | 1 | 2 | 3 | 4;
  /** Bits of a stored code: 1 to 6, or 8. */
  readonly width: number;
  /** Columns per scale as the kernels see it. */
  readonly group: 16 | 32;
  readonly zero: number;
  readonly unit: number;
  /** table, signedTable: operand of each code. */
  readonly table: Int8Array;
  /** bytes: operand of each level. floats: the code stored for each, where it is not the level. */
  readonly stored: Int8Array;
  /** floats: value of each code, 16 or 256. */
  readonly floats?: Float32Array;
  readonly form: (typeof floatForms)[keyof typeof floatForms];
  /** A min, or scale · zero point. Its super-scales may be the scale's own, and then lie where those do. */
  readonly min?: ScalePlan;
  readonly minKind: (typeof minKinds)[keyof typeof minKinds];
  /** How the file holds zero points that are no integers. */
  readonly zeroFormat?: ScaleFormat;
}

const layouts = new WeakMap<QuantType, PackedLayout | { readonly none: true }>();

/** The packed layout of a type, or undefined where only dense will do: codes above 8 bits, groups that 16 does not divide, and the like. */
export function packedLayout(type: QuantType): PackedLayout | undefined {
  let layout = layouts.get(type);
  if (layout === undefined) {
    layout = choose(planOf(asBlocks(type))) ?? { none: true };
    layouts.set(type, layout);
  }
  return "none" in layout ? undefined : layout;
}

/** Numbers of one byte, seen as blocks of codes. */
function asBlocks(type: QuantType): QuantType {
  const { values } = type;
  const decode = values.kind === "dense" ? byteNumbers[values.format] : undefined;
  if (decode === undefined) return type;
  const code = { per: 1, pieces: [{ at: 0, bits: 8, dims: [[32, 8] as const] }] };
  if (decode === "signed") {
    return {
      name: type.name,
      block: 32,
      bytes: 32,
      code: { ...code, signed: true },
      values: { kind: "affine", zero: 0 },
    };
  }
  // Codes that stand for no finite number are refused when they are packed.
  const table = Array.from({ length: 256 }, (_, byte) => (Number.isFinite(decode(byte)) ? decode(byte) : 0));
  return { name: type.name, block: 32, bytes: 32, code, values: { kind: "book", dimension: 1, table } };
}

const byteNumbers: Partial<Record<DenseFormat, "signed" | ((byte: number) => number)>> = {
  i8: "signed",
  "f8-e4m3": e4m3ToFloat,
  "f8-e5m2": e5m2ToFloat,
};

function choose(plan: QuantPlan): PackedLayout | undefined {
  if (plan.family === "dense" || plan.levelBits > 8) return undefined;
  const second = minOf(plan);
  if (second === undefined) return undefined;
  const scales = second.min ? [plan.scale, second.min] : [plan.scale];
  const pers = scales
    .flatMap((scale) => [scale.super?.per, scale.sub?.per])
    .filter((per) => per !== undefined);
  if (pers.some((per) => per % 16 !== 0) || !scales.every(isByteScale) || !hasPlainFields(plan))
    return undefined;
  const group = pers.every((per) => per % 32 === 0) ? 32 : 16;
  const operands = plan.family === "ints" ? intOperands(plan) : bookOperands(plan);
  return operands && { plan, group, unit: plan.unit, form: floatForms.any, ...second, ...operands };
}

/** What is subtracted, as kernels see it; undefined where they cannot. */
function minOf(plan: QuantPlan): Pick<PackedLayout, "min" | "minKind" | "zeroFormat"> | undefined {
  const { scale, min, zeroPoint } = plan;
  if (zeroPoint === undefined) return min ? { min, minKind: minKinds.min } : { minKind: minKinds.none };
  const { format, ...field } = zeroPoint;
  if (format === undefined) {
    return { min: { ...scale, sub: field }, minKind: minKinds.zero };
  }
  const nested = scale.super !== undefined && scale.super.per !== field.per;
  if (nested || superBits[format] === undefined) return undefined;
  const product: ScalePlan = { multiplier: 1, super: { ...field, format: "f32" } };
  return { min: product, minKind: minKinds.zeroFloat, zeroFormat: format };
}

type Operands = Pick<PackedLayout, "mode" | "width" | "zero" | "table" | "stored" | "floats"> & {
  readonly form?: PackedLayout["form"];
};
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
  if (plan.floats) return floatOperands(plan.floats, plan.levelBits);
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

function floatOperands(values: Float32Array, levelBits: number): Operands {
  const small = levelBits <= 4;
  const floats = new Float32Array(small ? 16 : 256);
  floats.set(values);
  const width = small ? levelBits : 8;
  const form = { mode: packedModes.floats, width, zero: 0, table: noBytes };
  for (const format of ["f8-e4m3", "f8-e5m2"] as const) {
    const stored = small ? undefined : storedAs(format, floats);
    if (stored) return { ...form, stored, floats, form: floatForms[format] };
  }
  return { ...form, stored: noBytes, floats };
}

/** A code of the format for each of 256 values, its own where that is finite; undefined if the format has no such value. */
function storedAs(format: "f8-e4m3" | "f8-e5m2", values: Float32Array): Int8Array | undefined {
  const decode = format === "f8-e4m3" ? e4m3ToFloat : e5m2ToFloat;
  const numbers = Array.from({ length: 256 }, (_, code) => decode(code));
  const codes = Array.from(values, (value, code) =>
    Number.isFinite(numbers[code]) ? (Object.is(numbers[code], value) ? code : -1) : numbers.indexOf(value),
  );
  return codes.includes(-1) ? undefined : Int8Array.from(codes);
}

const superBits: Readonly<Record<string, number | undefined>> = { f32: 32, f16: 16, bf16: 16 };

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

/** A band of sixteen rows (c/linear.h): byte offsets of the parts of a chunk, and sizes. `columns`: a multiple of 32. */
export interface BandShape {
  readonly superAt: number;
  readonly subAt: number;
  readonly minSuperAt: number;
  readonly minSubAt: number;
  readonly codesAt: number;
  /** Columns of a chunk; the last one may have fewer. */
  readonly chunk: number;
  readonly chunkBytes: number;
  readonly bytes: number;
}

/** Columns that a chunk is to have, about: its codes take 4 to 16 kB, what processors fetch ahead well. */
const chunkColumns = 1024;

export function bandShape(layout: PackedLayout, columns: number): BandShape {
  const chunk = chunkOf(layout, columns);
  let end = 0;
  const place = (bytes: number): number => {
    const at = end;
    end += Math.ceil(bytes / 16) * 16;
    return at;
  };
  const parts = (scale: ScalePlan | undefined): readonly [number, number] => [
    place(
      scale?.super ? Math.ceil(chunk / scale.super.per) * bandRows * superItemBytes(scale.super.format) : 0,
    ),
    place(scale?.sub ? Math.ceil(chunk / scale.sub.per) * bandRows : 0),
  ];
  const [superAt, subAt] = parts(layout.plan.scale);
  const { min, plan } = layout;
  const shared = min?.super !== undefined && min.super === plan.scale.super;
  const [ownSuperAt, minSubAt] = parts(shared ? { ...min, super: undefined } : min);
  const minSuperAt = shared ? superAt : ownSuperAt;
  // Scales first, as they are read first; both parts are whole cache lines.
  const codesAt = Math.ceil(end / 64) * 64;
  const codeBytes = (count: number): number => (count / 32) * 16 * layout.width * (bandRows / 4);
  const chunkBytes = codesAt + codeBytes(chunk);
  const whole = Math.ceil(columns / chunk) - 1;
  const bytes = whole * chunkBytes + codesAt + codeBytes(columns - whole * chunk);
  return { superAt, subAt, minSuperAt, minSubAt, codesAt, chunk, chunkBytes, bytes };
}

/** Chunks of equal size, of whole blocks and scale groups; or one, where those are long. */
function chunkOf({ plan, min }: PackedLayout, columns: number): number {
  const scales = min ? [plan.scale, min] : [plan.scale];
  const pers = scales.flatMap((scale) => [scale.super?.per ?? 1, scale.sub?.per ?? 1]);
  const unit = [plan.type.block, 32, ...pers].reduce(leastCommonMultiple);
  const count = Math.ceil(columns / chunkColumns);
  const chunk = Math.ceil(columns / count / unit) * unit;
  return unit > chunkColumns ? columns : Math.min(chunk, columns);
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y > 0) [x, y] = [y, x % y];
  return (a / x) * b;
}

/** Bytes of a stored super-scale. */
export function superItemBytes(format: string): number {
  return Math.ceil((superBits[format] ?? 8) / 8);
}
