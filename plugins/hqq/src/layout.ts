import type { LowbitError, LowbitErrorCode, SafetensorsDtype } from "@lowbit/core";
import { packingError } from "@lowbit/packing";

/** How codes share a word: as many equal parts of the rows as there are shifts, the first part highest. */
export interface Packing {
  /** Bits of the largest code. */
  readonly bits: number;
  readonly shifts: readonly number[];
  readonly dtype: SafetensorsDtype & ("U8" | "I32");
}

const shifts = (bits: number, parts: number): number[] =>
  Array.from({ length: parts }, (_, part) => (parts - 1 - part) * bits);

export const packings: Readonly<Record<string, Packing>> = {
  "8bit_u8": { bits: 8, shifts: shifts(8, 1), dtype: "U8" },
  "4bit_u8": { bits: 4, shifts: shifts(4, 2), dtype: "U8" },
  "3bit_32": { bits: 3, shifts: shifts(3, 10), dtype: "I32" },
  "2bit_u8": { bits: 2, shifts: shifts(2, 4), dtype: "U8" },
  "1bit_u8": { bits: 1, shifts: shifts(1, 8), dtype: "U8" },
};

/** By the bits of a code; 1.58 stands for three levels. */
export const packingOfBits: Readonly<Record<string, string>> = {
  "8": "8bit_u8",
  "6": "8bit_u8",
  "5": "8bit_u8",
  "4": "4bit_u8",
  "3": "3bit_32",
  "2": "2bit_u8",
  "1.58": "2bit_u8",
  "1": "1bit_u8",
};

/**
 * A matrix [out, in] seen as groups. With axis 1 its numbers in order, cut into rows of `group`, each with a scale; with axis 0 cut
 * into `group` rows, each column with a scale.
 */
export interface View {
  readonly out: number;
  readonly in: number;
  readonly axis: 0 | 1;
  readonly group: number;
  /** Number of groups. */
  readonly groups: number;
  readonly rows: number;
  readonly columns: number;
  /** Bits of a code. */
  readonly bits: number;
  readonly packing: Packing;
  /** Rows of words: each holds one row of every part. */
  readonly packedRows: number;
}

/** Undefined where sizes do not divide. */
export function viewOf(
  shape: { readonly out: number; readonly in: number },
  axis: 0 | 1,
  group: number,
  bits: number,
  packing: Packing,
): View | undefined {
  const groups = (shape.out * shape.in) / group;
  if (!Number.isSafeInteger(groups) || groups < 1) return undefined;
  const [rows, columns] = axis === 1 ? [groups, group] : [group, groups];
  const packedRows = Math.ceil(rows / packing.shifts.length);
  // Only 32-bit words are filled up.
  if (packing.dtype === "U8" && packedRows * packing.shifts.length !== rows) return undefined;
  const { out, in: width } = shape;
  return { out, in: width, axis, group, groups, rows, columns, bits, packing, packedRows };
}

/** Codes of columns [from, from + count) of a row of the view, to `codes` from `at` on. */
export function unpackRow(
  { packing, packedRows, columns }: View,
  words: Uint8Array | Uint32Array,
  row: number,
  from: number,
  count: number,
  codes: Uint8Array,
  at: number,
): void {
  const shift = packing.shifts[Math.floor(row / packedRows)]!;
  const mask = 2 ** packing.bits - 1;
  let source = (row % packedRows) * columns + from;
  for (const end = at + count; at < end; at++, source++) codes[at] = (words[source]! >>> shift) & mask;
}

/** The inverse; words must be zero before. */
export function packRow(
  { packing, packedRows, columns }: View,
  words: Uint8Array | Uint32Array,
  row: number,
  codes: Uint8Array,
): void {
  const shift = packing.shifts[Math.floor(row / packedRows)]!;
  const target = (row % packedRows) * columns;
  for (let k = 0; k < columns; k++) words[target + k]! |= codes[k]! << shift;
}

export function fail(reason: string, what: string, code?: LowbitErrorCode): LowbitError {
  return packingError("hqq", reason, what, code);
}
