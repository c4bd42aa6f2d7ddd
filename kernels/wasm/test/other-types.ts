import { denseType, e4m3ToFloat, e5m2ToFloat, type QuantType } from "@lowbit/core";
import { type GridShape, gridType } from "@lowbit/packing";

const sines = (count: number): number[] => Array.from({ length: count }, (_, i) => Math.fround(Math.sin(i)));

/** Codes of a codebook behind a scale for each block. */
export function bookType(name: string, table: readonly number[], block: number, scale: 16 | 32): QuantType {
  const bits = Math.log2(table.length);
  const format = scale === 16 ? "f16" : "f32";
  return {
    name: `${name} per ${block}`,
    block,
    bytes: (scale + block * bits) / 8,
    code: { per: 1, pieces: [{ at: scale, bits, dims: [[block, bits]] }] },
    values: { kind: "book", dimension: 1, table },
    scale: { super: { field: { per: block, pieces: [{ at: 0, bits: scale, dims: [] }] }, format } },
  };
}

const finite = (decode: (byte: number) => number): number[] =>
  Array.from({ length: 256 }, (_, byte) => (Number.isFinite(decode(byte)) ? decode(byte) : 0));

const shapes: readonly GridShape[] = [
  ...[1, 2, 3, 4, 5, 6, 7, 8].map(
    (bits): GridShape => ({ bits, group: bits % 2 ? 128 : 64, scale: "f16", zero: "integer" }),
  ),
  { bits: 4, group: 16, scale: "f16", zero: "integer" },
  { bits: 4, group: 48, scale: "f16", zero: "integer" },
  { bits: 4, group: 96, scale: "f32", zero: "integer" },
  { bits: 3, group: 1024, scale: "bf16", zero: "integer" },
  { bits: 4, group: 1536, scale: "f16", zero: 8 },
  { bits: 8, group: 128, scale: "f32", zero: 128 },
  { bits: 4, group: 64, scale: "none", zero: "integer" },
  { bits: 8, group: 32, scale: "none", zero: 128 },
  { bits: 4, group: 64, scale: "f16", zero: 0, min: "f16" },
  { bits: 2, group: 32, scale: "f16", zero: 0, min: "f32" },
  { bits: 4, group: 64, scale: "f16", zero: "f16" },
  { bits: 8, group: 64, scale: "f32", zero: "f32" },
  { bits: 3, group: 32, scale: "bf16", zero: "bf16" },
  { bits: 4, group: 128, scale: "none", zero: "f16" },
  { bits: 6, group: 32, scale: "f16", zero: 32, round: "f16" },
  { bits: 4, group: 64, scale: "bf16", zero: "integer", round: "bf16" },
];

/** What formats other than GGUF bring: grids with zero points, groups of many sizes, codebooks of any numbers, numbers of 8 bits. */
export const otherTypes: readonly QuantType[] = [
  ...shapes.map(gridType),
  bookType("16 numbers", sines(16), 64, 32),
  bookType("16 numbers", sines(16), 48, 16),
  bookType("8 numbers", sines(8), 32, 16),
  bookType("128 numbers", sines(128), 32, 16),
  bookType("256 numbers", sines(256), 128, 32),
  bookType("e4m3", finite(e4m3ToFloat), 128, 32),
  bookType("e5m2", finite(e5m2ToFloat), 64, 16),
  { ...bookType("16 rounded numbers", sines(16), 64, 32), round: "bf16" },
  denseType("e4m3", "f8-e4m3"),
  denseType("e5m2", "f8-e5m2"),
  denseType("i8", "i8"),
];

/** What kernels leave out or add, relative to a weight: a last rounding; or one more of scale · zero point. */
export function inexactness(type: QuantType): number {
  return type.round === "f16" ? 2 ** -11 : type.round === "bf16" ? 2 ** -8 : 0;
}
