import { LowbitError } from "./errors.ts";
import {
  type BitField,
  isUnpacked,
  type QuantType,
  type ScaleField,
  type ScaleFormat,
} from "./quant-type.ts";

/** A bit field compiled to tables: where each of its values lies in a block. */
export interface FieldPlan {
  /** Consecutive weights that share a value. */
  readonly per: number;
  /** Values in a block. */
  readonly count: number;
  /** Bits of a value. */
  readonly bits: number;
  readonly signed: boolean;
  readonly pieces: readonly {
    /** Bit position in the block, for each value. */
    readonly positions: Uint16Array;
    readonly bits: number;
    /** Where the piece's lowest bit goes in the value. */
    readonly shift: number;
  }[];
}

export interface ScalePlan {
  readonly super?: FieldPlan & { readonly format: ScaleFormat };
  readonly sub?: FieldPlan & { readonly offset: number };
  readonly multiplier: number;
}

/**
 * The gather table of a QuantType. After it, a weight is `S · levels[k] · unit − M` where k, the level index, is found as
 *
 *     affine: k = code                      levels = code − zero, unit = 1
 *     book:   k = index[variant · entries·dimension + code·dimension + j]    variant = 2·deltaIndex + signBit
 *
 * (variant = deltaIndex without signs; two's complement codes get 2^(bits−1) added, and so does their zero), so that a kernel needs only small unsigned codes and, for books, a table of at most 256 signed bytes.
 */
export interface QuantPlan {
  readonly type: QuantType;
  /** ints: k − zero is the value. book: levels[k] is. dense: the block is a plain number. */
  readonly family: "ints" | "book" | "dense";
  /** Bits that hold k. */
  readonly levelBits: number;
  /** ints: subtracted from k. */
  readonly zero: number;
  /** book: signed integers; times `unit` they are the values. */
  readonly levels: Int8Array;
  /** A power of two. */
  readonly unit: number;
  /** book: level index by variant, codebook entry and position in the entry. */
  readonly index: Uint8Array;
  readonly dimension: number;
  /** undefined where codes come from `unpack`. */
  readonly code?: FieldPlan;
  readonly scale: ScalePlan;
  readonly min?: ScalePlan;
  readonly sign?: FieldPlan & { readonly parity: boolean };
  readonly delta?: FieldPlan;
  /** Weights over which scale and min are constant. */
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
  const scale = compileScale(type, type.scale);
  const min = type.min && compileScale(type, type.min);
  const groups = [scale, min].flatMap((s) => [s?.super?.per, s?.sub?.per]).filter((per) => per !== undefined);
  const common = {
    type,
    scale,
    ...(min && { min }),
    group: Math.min(type.block, ...groups),
    unit: 1,
    zero: 0,
    dimension: 1,
    levels: new Int8Array(0),
    index: new Uint8Array(0),
  };
  if (type.values.kind === "dense") {
    return { ...common, family: "dense", levelBits: type.bytes * 8 };
  }
  const code = isUnpacked(type.code) ? undefined : compileField(type, type.code);
  const codeBits = isUnpacked(type.code) ? type.code.bits : (code?.bits ?? 0);
  if (type.values.kind === "affine") {
    const bias = code?.signed ? 2 ** (codeBits - 1) : 0;
    if (type.sign || type.delta) fail(type, "signs and deltas belong to codebooks");
    if (type.code.per !== 1) fail(type, "an affine code covers one weight");
    return {
      ...common,
      ...(code && { code }),
      family: "ints",
      levelBits: codeBits,
      zero: type.values.zero + bias,
    };
  }
  const { dimension, table } = type.values;
  if (type.code.per !== dimension)
    fail(type, `the code covers ${type.code.per} weights, the codebook ${dimension}`);
  if (table.length % dimension !== 0 || table.length / dimension < 2 ** codeBits) {
    fail(
      type,
      `the codebook has ${table.length / dimension} entries, ${codeBits}-bit codes need ${2 ** codeBits}`,
    );
  }
  const sign = type.sign && { ...compileField(type, type.sign.field), parity: type.sign.parity ?? false };
  const delta = type.delta && compileField(type, type.delta.field);
  const book = compileBook(type, table);
  return {
    ...common,
    ...book,
    ...(code && { code }),
    ...(sign && { sign }),
    ...(delta && { delta }),
    family: "book",
    dimension,
  };
}

/** The distinct values over all variants become the levels. */
function compileBook(
  type: QuantType,
  table: readonly number[],
): Pick<QuantPlan, "levels" | "unit" | "index" | "levelBits"> {
  const signs = type.sign ? [1, -1] : [1];
  const variants = (type.delta?.values ?? [0]).flatMap((delta) =>
    signs.map((sign) => table.map((value) => sign * (value + delta))),
  );
  const distinct = [...new Set(variants.flat().map((value) => value + 0))].sort((a, b) => a - b);
  let unit = 1;
  while (unit > 2 ** -8 && distinct.some((value) => !Number.isInteger(value / unit))) unit /= 2;
  const levels = distinct.map((value) => value / unit);
  if (levels.some((level) => !Number.isInteger(level) || level < -128 || level > 127)) {
    fail(type, "codebook values must be signed bytes times a power of two");
  }
  // Without signs a level is its own code, so that planes can hold the codes as they are.
  const plain = variants.length === 1 && type.code.per === 1;
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
  return {
    multiplier: scale?.multiplier ?? 1,
    ...(scale?.super && { super: { ...compileField(type, scale.super.field), format: scale.super.format } }),
    ...(scale?.sub && { sub: { ...compileField(type, scale.sub.field), offset: scale.sub.offset ?? 0 } }),
  };
}

function compileField(type: QuantType, field: BitField): FieldPlan {
  const count = type.block / field.per;
  if (!Number.isInteger(count))
    fail(type, `a field covers ${field.per} weights, the block has ${type.block}`);
  let bits = 0;
  const pieces = field.pieces.map((piece) => {
    const values = piece.dims.reduce((product, [size]) => product * size, 1);
    if (values !== count) fail(type, `a piece has ${values} values, its field ${count}`);
    const positions = Uint16Array.from({ length: count }, (_, i) => {
      let position = piece.at;
      let rest = i;
      for (const [size, stride] of piece.dims) {
        position += (rest % size) * stride;
        rest = Math.floor(rest / size);
      }
      if (position < 0 || position + piece.bits > type.bytes * 8)
        fail(type, `bit ${position} is outside the block`);
      return position;
    });
    const shift = bits;
    bits += piece.bits;
    return { positions, bits: piece.bits, shift };
  });
  if (bits < 1 || bits > 32) fail(type, `a field has ${bits} bits; 1 to 32 are possible`);
  return { per: field.per, count, bits, signed: field.signed ?? false, pieces };
}

function fail(type: QuantType, what: string): never {
  throw new LowbitError("type-unsupported", `Quantization type ${type.name} is described wrongly: ${what}.`, {
    reason: "invalid-description",
  });
}

/** Reads `bits` (at most 32) at a bit position; bytes past the end read as zero. */
export function readBits(bytes: Uint8Array, position: number, bits: number): number {
  let value = 0;
  for (let have = 0; have < bits; ) {
    const at = position + have;
    const shift = at & 7;
    const take = Math.min(8 - shift, bits - have);
    value += (((bytes[at >> 3] ?? 0) >> shift) & ((1 << take) - 1)) * 2 ** have;
    have += take;
  }
  return value;
}

/** Value `i` of a field in the block at the start of `bytes`. */
export function readField(field: FieldPlan, bytes: Uint8Array, i: number): number {
  let value = 0;
  for (const piece of field.pieces) {
    value += readBits(bytes, piece.positions[i] ?? 0, piece.bits) * 2 ** piece.shift;
  }
  return field.signed && value >= 2 ** (field.bits - 1) ? value - 2 ** field.bits : value;
}
