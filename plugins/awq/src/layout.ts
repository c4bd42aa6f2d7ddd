import { writeCodes } from "@lowbit/packing";
import type { Layout } from "./config.ts";

/** In a gemm word, nibble i holds this of eight neighbouring outputs. */
const gemmOrder = [0, 2, 4, 6, 1, 3, 5, 7];
/** The nibble of output 8c + i. */
const gemmNibble = gemmOrder.map((_, i) => gemmOrder.indexOf(i));

/** Where each zero point and scale of one output lies. */
export interface Outline {
  readonly out: number;
  readonly columns: number;
  readonly groups: number;
  /** gemv, gemv_fast: words of eight zero points that an output has, filled up. */
  readonly words: number;
}

/** gemv fills a row's zero points up: their words are a multiple of 1, 2 or 4 for groups of at least 128, 64 and 32. */
export function zeroWords(columns: number, group: number): number {
  const multiple = group >= 128 ? 1 : group >= 64 ? 2 : 4;
  return Math.ceil(Math.ceil(Math.ceil(columns / group) / 8) / multiple) * multiple;
}

/** Do inputs and outputs fill words or tiles, and inputs groups? */
export function fits(layout: Layout, out: number, columns: number, group: number): boolean {
  const tile = { gemm: [8, 1], gemv: [1, 8], gemv_fast: [4, 64] }[layout] as [number, number];
  return out % tile[0] === 0 && columns % Math.max(8, tile[1]) === 0 && columns % group === 0;
}

/** Shapes of the three tensors. */
export function shapesOf(
  layout: Layout,
  { out, columns, groups, words }: Outline,
): { qweight: number[]; qzeros: number[]; scales: number[] } {
  switch (layout) {
    case "gemm":
      return { qweight: [columns, out / 8], qzeros: [groups, out / 8], scales: [groups, out] };
    case "gemv":
      return { qweight: [out, columns / 8], qzeros: [out, words], scales: [out, 8 * words] };
    case "gemv_fast":
      return { qweight: [out / 4, columns], qzeros: [8 * words, out], scales: [8 * words, out] };
  }
}

/** Item of output n and group g in the scales (and, in gemv_fast, in the zero points). */
export function scaleAt(layout: Layout, { out, words }: Outline, n: number, g: number): number {
  return layout === "gemv" ? n * 8 * words + g : g * out + n;
}

/** The integer zero point of output n and group g. */
export function readZero(
  layout: Layout,
  { out, words }: Outline,
  zeros: Uint32Array,
  n: number,
  g: number,
): number {
  const word = layout === "gemm" ? zeros[(g * out + n) >> 3]! : zeros[n * words + (g >> 3)]!;
  return (word >>> (4 * (layout === "gemm" ? gemmNibble[n & 7]! : g & 7))) & 15;
}

export function writeZero(
  layout: Layout,
  { out, words }: Outline,
  zeros: Uint32Array,
  n: number,
  g: number,
  zero: number,
): void {
  const at = layout === "gemm" ? (g * out + n) >> 3 : n * words + (g >> 3);
  zeros[at] = zeros[at]! | (zero << (4 * (layout === "gemm" ? gemmNibble[n & 7]! : g & 7)));
}

/** Outputs that are read at a time: those that share words. */
export const panelRows: Readonly<Record<Layout, number>> = { gemm: 8, gemv: 1, gemv_fast: 4 };

/** The codes of `panelRows` outputs from `first` on, each as a stream of columns / 8 words. */
export function readPanel(
  layout: Layout,
  { out, columns }: Outline,
  words: Uint32Array,
  first: number,
  panel: Uint32Array,
): void {
  const width = columns / 8;
  if (layout === "gemv") {
    panel.set(words.subarray(first * width, (first + 1) * width));
  } else if (layout === "gemm") {
    const stride = out / 8;
    for (let w = 0, from = first / 8; w < width; w++, from += 8 * stride) {
      for (let n = 0; n < 8; n++) {
        const shift = 4 * gemmNibble[n]!;
        let word = 0;
        for (let i = 0, at = from; i < 8; i++, at += stride) word |= ((words[at]! >>> shift) & 15) << (4 * i);
        panel[n * width + w] = word;
      }
    }
  } else {
    panel.fill(0);
    for (let n = 0; n < 4; n++) {
      for (let k = 0; k < columns; k++) {
        const position = fastPosition(first + n, k, columns);
        const code = (words[position >> 3]! >>> (4 * (position & 7))) & 15;
        const at = n * width + (k >> 3);
        panel[at] = panel[at]! | (code << (4 * (k & 7)));
      }
    }
  }
}

/** The inverse, of one output; `words` begin as zeros. */
export function writeRow(
  layout: Layout,
  { out, columns }: Outline,
  words: Uint32Array,
  n: number,
  codes: Uint8Array,
): void {
  if (layout === "gemv") {
    writeCodes(words, { bits: 4, at: (n * columns) / 8 }, codes);
  } else if (layout === "gemm") {
    const stride = out / 8;
    const shift = 4 * gemmNibble[n & 7]!;
    for (let k = 0, at = n >> 3; k < columns; k++, at += stride)
      words[at] = words[at]! | (codes[k]! << shift);
  } else {
    for (let k = 0; k < columns; k++) {
      const position = fastPosition(n, k, columns);
      words[position >> 3] = words[position >> 3]! | (codes[k]! << (4 * (position & 7)));
    }
  }
}

/**
 * Nibble of output n and input k in gemv_fast's 16-bit words. Inputs are shuffled within each 32 (as i = 8a + 2c + z from 8c + 2a + z, and
 * each eight of those with even places first); four outputs by 64 inputs then make 64 words, whose nibbles are read in the order of
 * words and bits.
 */
function fastPosition(n: number, k: number, columns: number): number {
  const source = k & 31;
  const c = source >> 3;
  const a = (source & 7) >> 1;
  const i = 8 * a + 2 * c + (source & 1);
  const eight = i & 7;
  const place = (i & ~7) + (eight & 1 ? 4 : 0) + (eight >> 1);
  const p = (k & ~31) + place;
  // f = 4j + v: nibble v of word j, and output · 64 + input in the tile.
  const f = 64 * (n & 3) + (p & 63);
  return 4 * ((n >> 2) * columns + (p & ~63)) + f;
}
