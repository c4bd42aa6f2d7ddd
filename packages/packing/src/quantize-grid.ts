import type { WeightSegment } from "@lowbit/core";
import { decodeScale, floatToBits, floatToHalf, LowbitError, roundHalfEven, roundToBf16 } from "@lowbit/core";
import { buildGrid, type GridShape } from "./integer-grid.ts";

export interface RoundedGrid extends GridShape {
  readonly scale: "f16" | "bf16" | "f32";
  readonly zero: number | "integer";
  /** For formats that cannot store all zero points. @default 0 */
  readonly lowestZero?: number;
}

/**
 * Rounds rows of f32 to the nearest in a grid, each group by the range of its own weights: scale = 2·max|w| / (2^b − 1) around a `zero` in
 * the middle; else (max − min) / (2^b − 1) and zero = round(−min / scale), the range widened to hold 0. As the packers of GPTQ and AWQ do,
 * but scales are rounded to their format first, so that codes are the nearest under what is stored; a group of zeros has the range of −1
 * to 1. Throws `bad-argument`/non-finite where the format has no such scale.
 */
export function quantizeGrid(
  values: Float32Array,
  columns: number,
  shape: RoundedGrid,
): readonly WeightSegment[] {
  const { bits, group, scale: format, zero: declared, lowestZero = 0 } = shape;
  const rows = values.length / columns;
  const top = 2 ** bits - 1;
  const builder = buildGrid(rows, columns, shape);
  const codes = new Uint8Array(columns);
  const scales = new Uint32Array(builder.groups);
  const zeros = new Uint8Array(builder.groups);
  for (let n = 0; n < rows; n++) {
    const row = values.subarray(n * columns, (n + 1) * columns);
    for (let g = 0; g < scales.length; g++) {
      const from = g * group;
      const to = Math.min(from + group, columns);
      let low = 0;
      let high = 0;
      for (let k = from; k < to; k++) {
        low = Math.min(low, row[k]!);
        high = Math.max(high, row[k]!);
      }
      if (low === 0 && high === 0) [low, high] = [-1, 1];
      const width = typeof declared === "number" ? 2 * Math.max(-low, high) : high - low;
      scales[g] = Math.max(1, encoders[format](width / top));
      const scale = decodeScale(format, scales[g]!);
      if (!Number.isFinite(scale)) {
        const what = `Weights from ${low} to ${high} have no finite scale in ${format}.`;
        throw new LowbitError("bad-argument", what, { reason: "non-finite" });
      }
      const zero =
        typeof declared === "number"
          ? declared
          : Math.min(top, Math.max(lowestZero, roundHalfEven(-low / scale)));
      zeros[g] = zero;
      for (let k = from; k < to; k++) {
        codes[k] = Math.min(top, Math.max(0, roundHalfEven(row[k]! / scale) + zero));
      }
    }
    builder.row(n, codes, scales, zeros);
  }
  return builder.segments;
}

const encoders = {
  f16: floatToHalf,
  bf16: (value: number): number => floatToBits(roundToBf16(value)) >>> 16,
  f32: floatToBits,
};
