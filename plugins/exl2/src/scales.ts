import { floatToHalf, halfToFloat } from "@lowbit/core";
import { scaleTable } from "./layout.ts";

export interface SplitScales {
  /** q_scale_max, a half. */
  readonly max: number;
  /** 4-bit codes, one for each output. */
  readonly codes: Uint8Array;
}

/**
 * The maximum and the codes that make exactly these scales (halves) of one group, or undefined where none do. `hint` is a maximum to
 * prefer: several can make the same scales, and codes as well.
 */
export function splitScales(scales: Uint16Array, hint?: number): SplitScales | undefined {
  for (const max of candidates(scales, hint)) {
    const codes = codesOf(scales, max);
    if (codes) return { max, codes };
  }
  return undefined;
}

/** The largest scale is (c + 1)² times max / 256 for one of 16 codes c, apart from two roundings to half. */
function* candidates(scales: Uint16Array, hint: number | undefined): Generator<number> {
  if (hint !== undefined) yield hint;
  let largest = 0;
  for (const scale of scales) if ((scale & 0x7fff) > (largest & 0x7fff)) largest = scale;
  for (let c = 15; c >= 0; c--) {
    const unit = floatToHalf(halfToFloat(largest) / (c + 1) ** 2);
    // Neighbours round to the same scale as well; the nearest first.
    for (const step of [0, 1, -1]) {
      const max = floatToHalf(halfToFloat(unit + step) * 256);
      if ((max & 0x7c00) !== 0x7c00) yield max;
    }
  }
}

function codesOf(scales: Uint16Array, max: number): Uint8Array | undefined {
  const table = scaleTable(max);
  const codes = new Uint8Array(scales.length);
  for (const [n, scale] of scales.entries()) {
    const code = table.indexOf(scale);
    if (code < 0) return undefined;
    codes[n] = code;
  }
  return codes;
}
