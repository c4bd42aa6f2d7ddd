import { denseBytes } from "./dense-types.ts";
import { LowbitError } from "./errors.ts";
import type { FieldPlan } from "./quant-bits.ts";
import {
  type BitField,
  type BitPiece,
  isUnpacked,
  type QuantType,
  type ScaleField,
  type ScaleFormat,
} from "./quant-type.ts";

export interface ZeroPlan extends FieldPlan {
  readonly offset: number;
  /** Absent: an integer. */
  readonly format?: ScaleFormat;
}

export interface ScalePlan {
  readonly super?: FieldPlan & { readonly format: ScaleFormat };
  readonly sub?: FieldPlan & { readonly offset: number };
  readonly multiplier: number;
}

/**
 * The gather table of a QuantType. After it, a weight is `S · (levels[k] · unit − Z) − M` where k, the level index, is found as
 *
 *     affine: k = code                      levels = code − zero, unit = 1
 *     book:   k = index[variant · entries·dimension + code·dimension + j]    variant = 2·deltaIndex + signBit
 *
 * (variant = deltaIndex without signs; two's complement codes get 2^(bits−1) added, and so does their zero), so that a
 * kernel needs only small unsigned codes and, for books, a table of at most 256 signed bytes. Codebooks whose values are no such
 * bytes have `floats` instead: k = code and the value is floats[k].
 */
export interface QuantPlan {
  readonly type: QuantType;
  /** ints: k − zero is the value. book: levels[k] is. dense: the block is a plain number. */
  readonly family: "ints" | "book" | "dense";
  /** Bits that hold k. */
  readonly levelBits: number;
  /** ints: subtracted from k. */
  readonly zero: number;
  /** book: signed integers; times `unit` they are the values. Empty where `floats` are given. */
  readonly levels: Int8Array;
  /** book of any f32 values. */
  readonly floats?: Float32Array;
  /** A power of two. */
  readonly unit: number;
  /** book: level index by variant, codebook entry and position in the entry. */
  readonly index: Uint8Array;
  readonly dimension: number;
  /** undefined where codes come from `unpack`. */
  readonly code?: FieldPlan;
  readonly scale: ScalePlan;
  readonly min?: ScalePlan;
  readonly zeroPoint?: ZeroPlan;
  readonly sign?: FieldPlan & { readonly parity: boolean };
  readonly delta?: FieldPlan;
  /** Weights over which scale, zero point and min are constant. */
  readonly group: number;
}

const plans = new WeakMap<QuantType, QuantPlan>();

/** Compiles a type, once. Throws `type-unsupported` if the description contradicts itself. */
export function planOf(type: QuantType): QuantPlan {
  let plan = plans.get(type);
  if (plan === undefined) {
    plan = compile(type);
    plans.set(type, plan);
  }
  return plan;
}

function compile(type: QuantType): QuantPlan {
  checkSizes(type);
  const scale = compileScale(type, type.scale);
  const min = type.min && compileScale(type, type.min);
  const zeroPoint = compileZero(type);
  const spans = [scale.super, scale.sub, min?.super, min?.sub, zeroPoint]
    .map((field) => field?.per)
    .filter((per) => per !== undefined);
  const group = Math.min(type.block, ...spans);
  for (const span of spans) {
    if (span % group !== 0) fail(type, `scales cover ${span} weights and ${group}, which do not nest`);
  }
  const common = {
    type,
    scale,
    ...(min && { min }),
    ...(zeroPoint && { zeroPoint }),
    group,
    unit: 1,
    zero: 0,
    dimension: 1,
    levels: new Int8Array(0),
    index: new Uint8Array(0),
  };
  const { values } = type;
  if (values.kind === "dense") {
    if (type.zero || type.round) fail(type, "plain numbers have no zero point and are not rounded");
    const bytes = denseBytes[values.format];
    if (type.block !== 1 || type.bytes !== bytes) {
      fail(type, `a block of ${type.block} in ${type.bytes} bytes, but ${values.format} is 1 in ${bytes}`);
    }
    return { ...common, family: "dense", levelBits: type.bytes * 8 };
  }
  const code = isUnpacked(type.code) ? undefined : compileField(type, type.code);
  const codeBits = isUnpacked(type.code) ? type.code.bits : (code?.bits ?? 0);
  if (values.kind === "affine") {
    const bias = code?.signed ? 2 ** (codeBits - 1) : 0;
    if (type.sign || type.delta) fail(type, "signs and deltas belong to codebooks");
    if (type.code.per !== 1) fail(type, "an affine code covers one weight");
    if (codeBits < 1 || codeBits > 8) fail(type, `an affine code has ${codeBits} bits; 1 to 8 are possible`);
    if (!Number.isInteger(values.zero)) fail(type, `its zero is ${values.zero}, not an integer`);
    return {
      ...common,
      ...(code && { code }),
      family: "ints",
      levelBits: codeBits,
      zero: values.zero + bias,
    };
  }
  const { dimension, table } = values;
  if (code?.signed) fail(type, "codes of a codebook are unsigned");
  if (type.code.per !== dimension) {
    fail(type, `the code covers ${type.code.per} weights, the codebook ${dimension}`);
  }
  if (table.length % dimension !== 0 || table.length / dimension < 2 ** codeBits) {
    fail(
      type,
      `the codebook has ${table.length / dimension} entries, ${codeBits}-bit codes need ${2 ** codeBits}`,
    );
  }
  const sign = type.sign && { ...compileField(type, type.sign.field), parity: type.sign.parity ?? false };
  const signBits = sign?.parity ? 7 : 8;
  if (sign && (sign.per !== 8 || sign.bits !== signBits)) {
    fail(type, `signs have ${sign.bits} bits per ${sign.per} weights, expected ${signBits} per 8`);
  }
  const delta = type.delta && compileField(type, type.delta.field);
  if (delta && (type.delta?.values.length ?? 0) < 2 ** delta.bits) {
    fail(type, `${type.delta?.values.length} deltas for a field of ${delta.bits} bits`);
  }
  return {
    ...common,
    ...compileBook(type, table),
    ...(code && { code }),
    ...(sign && { sign }),
    ...(delta && { delta }),
    family: "book",
    dimension,
  };
}

/** Positions are kept in 16 bits, so a block has at most 8 KiB. */
function checkSizes(type: QuantType): void {
  const fits = (value: number, most: number): boolean =>
    Number.isInteger(value) && value >= 1 && value <= most;
  if (!fits(type.block, 65536)) fail(type, `its block has ${type.block} weights; 1 to 65536 are possible`);
  if (!fits(type.bytes, 8192)) fail(type, `its block has ${type.bytes} bytes; 1 to 8192 are possible`);
}

/** The distinct values over all variants become the levels. */
function compileBook(
  type: QuantType,
  table: readonly number[],
): Pick<QuantPlan, "levels" | "floats" | "unit" | "index" | "levelBits"> {
  const signs = type.sign ? [1, -1] : [1];
  const variants = (type.delta?.values ?? [0]).flatMap((delta) =>
    signs.map((sign) => table.map((value) => sign * (value + delta))),
  );
  const distinct = [...new Set(variants.flat().map((value) => value + 0))].sort((a, b) => a - b);
  let unit = 1;
  while (unit > 2 ** -8 && distinct.some((value) => !Number.isInteger(value / unit))) unit /= 2;
  const levels = distinct.map((value) => value / unit);
  // Without signs a level is its own code, so that planes can hold the codes as they are.
  const plain = variants.length === 1 && type.code.per === 1;
  if (levels.some((level) => !Number.isInteger(level) || level < -128 || level > 127)) {
    if (!plain || type.delta || table.length > 256 || table.some((value) => Number.isNaN(value))) {
      fail(type, "codebook values must be signed bytes times a power of two");
    }
    return {
      levels: new Int8Array(0),
      floats: Float32Array.from(table),
      unit: 1,
      index: Uint8Array.from(table, (_, k) => k),
      levelBits: Math.max(1, Math.ceil(Math.log2(table.length))),
    };
  }
  const order = plain ? table.map((value) => value / unit) : levels;
  const position = new Map(order.map((level, k) => [level + 0, k]));
  const index = plain
    ? table.map((_, k) => k)
    : variants.flat().map((value) => position.get(value / unit + 0) ?? 0);
  return {
    levels: Int8Array.from(order),
    unit,
    index: Uint8Array.from(index),
    levelBits: Math.max(1, Math.ceil(Math.log2(order.length))),
  };
}

function compileScale(type: QuantType, scale: ScaleField | undefined): ScalePlan {
  const multiplier = scale?.multiplier ?? 1;
  if (!Number.isInteger(Math.log2(Math.abs(multiplier)))) {
    fail(type, `the multiplier ${multiplier} is not a power of two`);
  }
  return {
    multiplier,
    ...(scale?.super && { super: { ...compileField(type, scale.super.field), format: scale.super.format } }),
    ...(scale?.sub && { sub: { ...compileField(type, scale.sub.field), offset: scale.sub.offset ?? 0 } }),
  };
}

function compileZero(type: QuantType): ZeroPlan | undefined {
  if (type.zero === undefined) return undefined;
  if (type.min || type.scale?.sub) fail(type, "a zero point goes with neither a min nor a sub-scale");
  const { field, offset = 0, format } = type.zero;
  if (!Number.isInteger(offset)) fail(type, `its zero point is shifted by ${offset}, not an integer`);
  return { ...compileField(type, field), offset, ...(format && { format }) };
}

function compileField(type: QuantType, field: BitField): FieldPlan {
  const count = type.block / field.per;
  if (!Number.isInteger(count)) {
    fail(type, `a field covers ${field.per} weights, the block has ${type.block}`);
  }
  let bits = 0;
  const pieces = field.pieces.map((piece) => {
    if (!Number.isInteger(piece.bits) || piece.bits < 1) fail(type, `a piece has ${piece.bits} bits`);
    const values = piece.dims.reduce((product, [size]) => product * size, 1);
    if (values !== count) fail(type, `a piece has ${values} values, its field ${count}`);
    const positions = Uint16Array.from({ length: count }, (_, i) => {
      const position = positionOf(piece, i);
      if (!Number.isInteger(position) || position < 0 || position + piece.bits > type.bytes * 8) {
        fail(type, `bit ${position} is outside the block`);
      }
      return position;
    });
    const shift = bits;
    bits += piece.bits;
    const withinByte = positions.every((position) => (position & 7) + piece.bits <= 8);
    return { positions, bits: piece.bits, shift, withinByte };
  });
  if (bits < 1 || bits > 32) fail(type, `a field has ${bits} bits; 1 to 32 are possible`);
  return { per: field.per, count, bits, signed: field.signed ?? false, pieces };
}

function positionOf(piece: BitPiece, i: number): number {
  let position = piece.at;
  let rest = i;
  for (const [size, stride] of piece.dims) {
    position += (rest % size) * stride;
    rest = Math.floor(rest / size);
  }
  return position;
}

function fail(type: QuantType, what: string): never {
  throw new LowbitError("type-unsupported", `Quantization type ${type.name} is described wrongly: ${what}.`, {
    reason: "invalid-description",
  });
}
