import { floatToHalf, halfToFloat, type LinearWeight, roundHalfEven, type WeightSegment } from "@lowbit/core";
import { writeCodes } from "@lowbit/packing";
import { fail, type Span, scaleTable, spansOf, widths } from "./layout.ts";

/**
 * Groups of two adjacent widths, the wider ones first: as many of them as `bits` per weight allow with all that is stored beside the
 * codes, which exllamav2 counts as 4 bits for each group and output, 48 for each group and 32 for each input. 8 bits are 8-bit
 * codes throughout. `columns` is a multiple of 32; the last group may be short.
 */
export function layerGroups(bits: number, out: number, columns: number, groupSize: number): readonly Span[] {
  const count = Math.ceil(columns / groupSize);
  if (bits === 8) return mix(8, 8, count, columns, groupSize);
  const beside = count * (48 + 4 * out) + 32 * columns;
  const codes = Math.max(2, (bits * out * columns - beside) / (out * columns));
  const low = widths.find((width) => width <= codes)!;
  const high = [...widths].reverse().find((width) => width > low) ?? low;
  const wide = Math.floor(((codes - low) * columns) / ((high - low) * groupSize) + 1e-6);
  return mix(high, low, Math.min(wide, count), columns, groupSize);
}

/** The reference's plan for output heads of 6 bits: 15 of 100 groups have 8. */
export function headGroups(columns: number): readonly Span[] {
  const groupSize = 128;
  const count = Math.ceil(columns / groupSize);
  return mix(8, 6, Math.floor(0.15 * count + 1e-6), columns, groupSize);
}

/** `wide` groups of `high` bits and then `low` ones. */
function mix(high: number, low: number, wide: number, columns: number, groupSize: number): readonly Span[] {
  return spansOf(
    Array.from({ length: Math.ceil(columns / groupSize) }, (_, g) => ({
      bits: g < wide ? high : low,
      size: Math.min(groupSize, columns - g * groupSize),
    })),
  );
}

/**
 * Rounds to nearest by the reference's rule, without its feedback of errors, for which it needs activations. `order` says which input each column
 * takes; the first ones have the wider codes. `values` is [out, columns].
 */
export function quantizeExl2(
  values: Float32Array,
  out: number,
  columns: number,
  spans: readonly Span[],
  order: Int32Array,
): LinearWeight {
  const scaleMax: number[] = [];
  const segments = spans.map((span): WeightSegment => {
    const { bits, size, groups, type, from, to } = span;
    const blocks = new Uint8Array(out * groups * (size / type.block) * type.bytes);
    const group = new Float32Array(out * size);
    for (let g = 0; g < groups; g++) {
      const inputs = order.subarray(from + g * size, from + (g + 1) * size);
      for (let n = 0, at = 0; n < out; n++) {
        for (let j = 0; j < size; j++, at++) group[at] = values[n * columns + inputs[j]!]!;
      }
      const max = quantizeGroup(group, out, size, bits, (n, scale, codes) => {
        let at = (n * groups + g) * (size / type.block) * type.bytes;
        for (let j = 0; j < size; j += type.block, at += type.bytes) {
          blocks[at] = scale & 255;
          blocks[at + 1] = scale >> 8;
          const words = new Uint32Array(Math.ceil((type.block * bits) / 32));
          writeCodes(words, { bits }, codes.subarray(j, j + type.block));
          blocks.set(new Uint8Array(words.buffer, 0, type.bytes - 2), at + 2);
        }
      });
      scaleMax.push(max);
    }
    return { type, from, to, blocks };
  });
  const permute = order.every((input, j) => input === j) ? undefined : order;
  return { out, in: columns, segments, ...(permute && { permute }), provenance: { exl2: { scaleMax } } };
}

/** Inputs by falling norm of their column; equal ones stay in order. */
export function orderByNorm(values: Float32Array, out: number, columns: number): Int32Array {
  const norms = new Float64Array(columns);
  for (let n = 0, at = 0; n < out; n++) {
    for (let k = 0; k < columns; k++, at++) norms[k] = norms[k]! + values[at]! ** 2;
  }
  if (!norms.every(Number.isFinite))
    throw fail("non-finite-value", "a weight to quantize is not finite", "bad-argument");
  return Int32Array.from(norms.keys()).sort((a, b) => norms[b]! - norms[a]! || a - b);
}

/** Outputs that the search for a factor looks at; its cost is a hundred times that of rounding. */
const searched = 128;
const factors = Array.from({ length: 97 }, (_, i) => 0.7 + (0.5 * i) / 96);

/** One group of one matrix, [out, size]; hands over each row's scale and codes and returns q_scale_max. Both are halves. */
function quantizeGroup(
  group: Float32Array,
  out: number,
  size: number,
  bits: number,
  row: (n: number, scale: number, codes: Uint8Array) => void,
): number {
  const base = new Float32Array(out);
  let largest = 0;
  for (let n = 0, at = 0; n < out; n++) {
    let top = 0;
    for (let j = 0; j < size; j++, at++) top = Math.max(top, Math.abs(group[at]!));
    base[n] = top / ((2 ** bits - 1) / 2);
    largest = Math.max(largest, base[n]!);
  }
  const most = 2 ** bits - 1;
  const zero = 2 ** (bits - 1);
  const codeOf = (value: number, scale: number): number =>
    scale === 0 ? zero : Math.min(most, Math.max(0, roundHalfEven(value / scale) + zero));
  const step = Math.max(1, Math.floor(out / searched));
  let best = floatToHalf(Math.min(largest, 65504));
  let bestError = Number.POSITIVE_INFINITY;
  for (const factor of factors) {
    const max = floatToHalf(Math.min(largest * factor, 65504));
    const table = scaleTable(max);
    let error = 0;
    for (let n = 0; n < out && error < bestError; n += step) {
      const scale = halfToFloat(table[scaleCode(base[n]!, max)]!);
      for (let j = 0, at = n * size; j < size; j++, at++) {
        const off = Math.abs(group[at]! - (codeOf(group[at]!, scale) - zero) * scale);
        // The 3.5-norm.
        error += off * off * off * Math.sqrt(off);
      }
    }
    if (error >= bestError) continue;
    best = max;
    bestError = error;
  }
  const table = scaleTable(best);
  const codes = new Uint8Array(size);
  for (let n = 0, at = 0; n < out; n++) {
    const scale = table[scaleCode(base[n]!, best)]!;
    const real = halfToFloat(scale);
    for (let j = 0; j < size; j++, at++) codes[j] = codeOf(group[at]!, real);
    row(n, scale, codes);
  }
  return best;
}

/** Scales are squares of sixteenths of the maximum. */
function scaleCode(base: number, max: number): number {
  const top = halfToFloat(max);
  return top === 0 ? 0 : Math.min(16, Math.max(1, roundHalfEven(16 * Math.sqrt(base / top)))) - 1;
}
