import type { LowbitError, LowbitErrorCode, QuantType } from "@lowbit/core";
import { type GridShape, packingError } from "@lowbit/packing";

/** The 16 values of NF4, by code: quantiles of the normal distribution. */
export const nf4Values: Float32Array = Float32Array.of(
  ...[-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635],
  ...[-0.18477343022823334, -0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725],
  ...[0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941],
  ...[0.7229568362236023, 1],
);

const fp4Magnitudes = [0, 0.0625, 8, 12, 4, 6, 2, 3].map((value) => value / 12);

/** The 16 values of FP4, by code: a sign above three bits. */
export const fp4Values: Float32Array = Float32Array.from([
  ...fp4Magnitudes,
  ...fp4Magnitudes.map((value) => -value),
]);

/** "nf4" and "fp4" differ in their tables only. */
export type FourBit = "nf4" | "fp4";

interface Book {
  readonly kind: FourBit;
  readonly table: Float32Array;
}

const maxTypes = 64;
const types = new Map<string, QuantType>();
const books = new WeakMap<QuantType, Book>();

/**
 * The type of 4-bit blocks: [f32 absmax][codes, the first weight of a byte in its high nibble], w = table[code] · absmax. The codes lie
 * as in the file. A block of one weight has its code in the low nibble.
 */
export function bookType(kind: FourBit, table: Float32Array, block: number): QuantType {
  const key = [kind, block, ...table.map((value) => (Object.is(value, -0) ? Number.NaN : value))].join(" ");
  const known = types.get(key);
  if (known) return known;
  const type: QuantType = {
    name: `${kind} b${block} f32`,
    block,
    bytes: 4 + Math.ceil(block / 2),
    code: {
      per: 1,
      pieces: [
        block === 1
          ? { at: 32, bits: 4, dims: [] }
          : {
              at: 36,
              bits: 4,
              dims: [
                [2, -4],
                [block / 2, 8],
              ],
            },
      ],
    },
    values: { kind: "book", dimension: 1, table: [...table] },
    scale: { super: { field: { per: block, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" } },
  };
  // A bound, because files choose the tables.
  if (types.size >= maxTypes) types.delete(types.keys().next().value ?? "");
  types.set(key, type);
  books.set(type, { kind, table: Float32Array.from(table) });
  return type;
}

/** The table of a type that `bookType` made. */
export function bookOf(type: QuantType): Book | undefined {
  return books.get(type);
}

/** 1/127 as the reference multiplies by it. */
export const int8Factor: number = Math.fround(7.874015718698502e-3);

/**
 * LLM.int8 as a grid: w = f32(f32(code · SCB) / 127). The scale in the blocks is SCB and the row scale 1/127 throughout, because only
 * this order of roundings gives the reference's bits. The scale repeats for every so many columns, a divisor of the row where
 * there is a good one.
 */
export function int8Shape(columns: number): GridShape {
  let group = Math.min(1024, columns);
  while (columns % group !== 0) group--;
  return { bits: 8, group: group >= Math.min(128, columns) ? group : 1024, scale: "f32", zero: 128 };
}

/** An absmax to quantize by. */
export function finite(absmax: number): number {
  if (Number.isFinite(absmax)) return absmax;
  throw fail("non-finite-value", "a weight to quantize is not finite", "bad-argument");
}

export function fail(reason: string, what: string, code?: LowbitErrorCode): LowbitError {
  return packingError("bitsandbytes", reason, what, code);
}
