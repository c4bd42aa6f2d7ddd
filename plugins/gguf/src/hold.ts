import {
  denseWeight,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  type QuantType,
  rowsOf,
} from "@lowbit/core";
import { type IntegerGrid, integerGrid } from "@lowbit/packing";
import { holdingType, putCodes, quantizeTo } from "./quantize.ts";
import { BF16, F16, F32, ggmlTypeIds, Q4_0, Q4_1, Q5_0, Q8_0 } from "./types.ts";

/** A matrix in one type of ggml. */
export interface GgmlMatrix {
  readonly type: QuantType;
  readonly blocks: Uint8Array;
  /** Codes and scales are the source's own. */
  readonly moved: boolean;
}

/** Types for grids of integers, the smallest first: what has to be added to code − zero, and which results they hold. */
const gridTypes = [
  { type: Q4_0, bits: 4, shift: 8, low: -8, high: 7 },
  { type: Q4_1, bits: 4, shift: 0, low: 0, high: 15 },
  { type: Q5_0, bits: 5, shift: 16, low: -16, high: 15 },
  { type: Q8_0, bits: 8, shift: 0, low: -128, high: 127 },
] as const;

/**
 * The matrix with every value unchanged, in the smallest type that can: its own, a legacy type for integers with a scale in groups of 32,
 * or plain numbers. `preferred` is the plain type to try first.
 */
export function holdMatrix(weight: LinearWeight, preferred?: QuantType): GgmlMatrix {
  const [segment] = weight.segments;
  const plain = weight.permute === undefined && weight.rowScale === undefined;
  if (plain && segment && weight.segments.length === 1 && ggmlTypeIds.has(segment.type)) {
    return { type: segment.type, blocks: segment.blocks, moved: true };
  }
  const numbers = plain && segment && weight.segments.length === 1 ? plainType(segment.type) : undefined;
  if (numbers && segment) return { type: numbers, blocks: segment.blocks, moved: true };
  const held = plain ? holdGrid(weight) : undefined;
  if (held) return held;
  const values = denseWeight(weight);
  const type = holdingType(values, preferred);
  return { type, blocks: quantizeTo(type, values), moved: false };
}

/** ggml's type for plain numbers that another format has under a type of its own. */
function plainType({ values }: QuantType): QuantType | undefined {
  if (values.kind !== "dense") return undefined;
  return [F32, F16, BF16].find(
    (type) => type.values.kind === "dense" && type.values.format === values.format,
  );
}

/** Does every value fit this type as it is? Then the matrix in it. */
export function holdIn(weight: LinearWeight, type: QuantType): GgmlMatrix | undefined {
  const held = holdMatrix(weight);
  if (held.type === type) return held;
  const grid = weight.permute || weight.rowScale ? undefined : integerGrid(weight);
  const form = gridTypes.find((form) => form.type === type);
  return grid && form && fill(weight, grid, form);
}

function holdGrid(weight: LinearWeight): GgmlMatrix | undefined {
  const grid = integerGrid(weight);
  if (!grid) return undefined;
  for (const form of gridTypes) {
    const held = fill(weight, grid, form);
    if (held) return held;
  }
  return undefined;
}

function fill(
  weight: LinearWeight,
  grid: IntegerGrid,
  { type, bits, shift, low, high }: (typeof gridTypes)[number],
): GgmlMatrix | undefined {
  const { in: columns } = weight;
  if (grid.scale !== "f16" || grid.round || grid.group % 32 !== 0 || columns % 32 !== 0) return undefined;
  const rows = rowsOf(weight);
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(grid.groups);
  const zeros = new Uint8Array(grid.groups);
  const blocks = new Uint8Array((rows * columns * type.bytes) / 32);
  const out = new DataView(blocks.buffer);
  const shifted = new Int16Array(32);
  const withMin = type === Q4_1;
  let at = 0;
  for (let r = 0; r < rows; r++) {
    grid.row(r, codes, scales, zeros);
    for (let c = 0; c < columns; c += 32, at += type.bytes) {
      const g = Math.floor(c / grid.group);
      const zero = zeros[g]!;
      for (let i = 0; i < 32; i++) {
        const value = codes[c + i]! - (withMin ? 0 : zero);
        if (value < low || value > high) return undefined;
        shifted[i] = value + shift;
      }
      const scale = scales[g]!;
      out.setUint16(at, scale, true);
      if (withMin) {
        const min = -halfToFloat(scale) * zero;
        const half = floatToHalf(min);
        if (halfToFloat(half) !== min) return undefined;
        out.setUint16(at + 2, half, true);
      }
      if (bits === 8) for (let i = 0; i < 32; i++) out.setInt8(at + 2 + i, shifted[i]!);
      else putCodes(out, at + (withMin ? 4 : 2), bits, shifted);
    }
  }
  // The same codes but for their zero, which is where this type has it.
  const own = grid.bits === bits && grid.zero === (bits === 8 ? 128 : shift) && !withMin;
  return { type, blocks, moved: own };
}
