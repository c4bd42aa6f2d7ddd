import {
  floatToHalf,
  halfToFloat,
  type LowbitError,
  type LowbitErrorCode,
  type QuantType,
} from "@lowbit/core";
import { gridType, packingError } from "@lowbit/packing";

/** Bits of a code, widest first: the order in which groups must come. */
export const widths = [8, 6, 5, 4, 3, 2] as const;

/** Consecutive groups of equal bits and size, in the file's permuted order of the inputs. They become one segment. */
export interface Span {
  readonly bits: number;
  /** Input columns that share a scale per output. */
  readonly size: number;
  readonly groups: number;
  readonly firstGroup: number;
  /** Row of q_weight where it begins. */
  readonly firstWord: number;
  readonly from: number;
  readonly to: number;
  readonly type: QuantType;
}

/**
 * The type of a span: [f16 scale][codes]. w = f16(scale · (code − 2^(bits−1))). The codes are the bit stream of the file, so that
 * moving between the two copies words.
 */
export function typeOf(bits: number, size: number): QuantType {
  return gridType({ bits, group: size, scale: "f16", zero: 2 ** (bits - 1), round: "f16" });
}

/** Groups as a writer chooses them, in spans. */
export function spansOf(
  groups: readonly { readonly bits: number; readonly size: number }[],
): readonly Span[] {
  const spans: Span[] = [];
  let firstWord = 0;
  let from = 0;
  for (const [firstGroup, { bits, size }] of groups.entries()) {
    const last = spans.at(-1);
    const to = from + size;
    if (last?.bits === bits && last.size === size)
      spans[spans.length - 1] = { ...last, groups: last.groups + 1, to };
    else spans.push({ bits, size, groups: 1, firstGroup, firstWord, from, to, type: typeOf(bits, size) });
    firstWord += (size * bits) / 32;
    from = to;
  }
  return spans;
}

/**
 * Checks a table of groups, (bits, first row of q_weight) each: against the rows of q_weight, and `columns` inputs. Throws with
 * reasons unsupported-bits, invalid-order, invalid-offset, shape-mismatch.
 */
export function readGroups(
  where: string,
  table: Uint16Array,
  words: number,
  columns: number,
): readonly Span[] {
  const count = table.length / 2;
  const groups: { bits: number; size: number }[] = [];
  for (let i = 0; i < count; i++) {
    const bits = table[2 * i]!;
    if (!widths.some((width) => width === bits)) {
      throw fail(
        "unsupported-bits",
        `${where}: group ${i} has ${bits} bits; ${[...widths].reverse().join(", ")} are possible`,
        "type-unsupported",
      );
    }
    if (i > 0 && bits > table[2 * i - 2]!) {
      throw fail("invalid-order", `${where}: group ${i} has more bits than the one before it`);
    }
  }
  let rows = 0;
  for (let i = 0; i < count; i++) {
    const bits = table[2 * i]!;
    const first = table[2 * i + 1]!;
    const next = i + 1 < count ? table[2 * i + 3]! : words;
    if ((i === 0 && first !== 0) || next <= first || next > words) {
      throw fail("invalid-offset", `${where}: group ${i} lies in rows ${first} to ${next} of ${words}`);
    }
    const size = ((next - first) * 32) / bits;
    if (size % (bits === 2 ? 16 : 32) !== 0) {
      throw fail(
        "shape-mismatch",
        `${where}: group ${i} has ${size} columns of ${bits} bits, not a multiple of 32`,
      );
    }
    groups.push({ bits, size });
    rows += size;
  }
  if (rows !== columns) {
    throw fail("shape-mismatch", `${where}: its groups hold ${rows} inputs, its permutation ${columns}`);
  }
  const spans = spansOf(groups);
  const odd = spans.find(({ type, bits }) => (type.block * bits) % 8 !== 0);
  if (odd) {
    throw fail(
      "unsupported-group",
      `${where}: groups of ${odd.size} columns are not possible here`,
      "type-unsupported",
    );
  }
  return spans;
}

/**
 * The halves that the 16 scale codes stand for: f16((c + 1)² · f16(max / 256)). The inner rounding matters: below max = 2^-6 that
 * half is subnormal.
 */
export function scaleTable(max: number): Uint16Array {
  const unit = halfToFloat(floatToHalf(halfToFloat(max) / 256));
  return Uint16Array.from({ length: 16 }, (_, c) => floatToHalf((c + 1) ** 2 * unit));
}

/** Outputs that are worked on at a time: rows of q_weight are long, so they are crossed in strips. */
const strip = 32;

/**
 * Copies the codes of a span between the columns of q_weight, [words, padded], and blocks, `out` rows of them; the scale in front of
 * each block is `scales[group · out + row]`, a half.
 */
export function copySpan(
  span: Span,
  words: Uint32Array,
  padded: number,
  blocks: Uint8Array,
  out: number,
  scales: Uint16Array,
  direction: "to-blocks" | "to-words",
): void {
  const { bits, size, groups, firstWord, type } = span;
  const each = (size * bits) / 32;
  const parts = size / type.block;
  const codeBytes = type.bytes - 2;
  const stream = new Uint32Array(strip * each);
  const bytes = new Uint8Array(stream.buffer);
  for (let n = 0; n < out; n += strip) {
    const width = Math.min(strip, out - n);
    for (let g = 0; g < groups; g++) {
      const top = (firstWord + g * each) * padded + n;
      if (direction === "to-blocks") {
        for (let r = 0, at = top; r < each; r++, at += padded) {
          for (let i = 0; i < width; i++) stream[i * each + r] = words[at + i]!;
        }
      }
      for (let i = 0; i < width; i++) {
        let at = ((n + i) * groups + g) * parts * type.bytes;
        let from = i * each * 4;
        for (let p = 0; p < parts; p++, at += type.bytes, from += codeBytes) {
          if (direction === "to-blocks") {
            const scale = scales[g * out + n + i]!;
            blocks[at] = scale & 255;
            blocks[at + 1] = scale >> 8;
            blocks.set(bytes.subarray(from, from + codeBytes), at + 2);
          } else {
            scales[g * out + n + i] = blocks[at]! | (blocks[at + 1]! << 8);
            bytes.set(blocks.subarray(at + 2, at + 2 + codeBytes), from);
          }
        }
      }
      if (direction === "to-words") {
        for (let r = 0, at = top; r < each; r++, at += padded) {
          for (let i = 0; i < width; i++) words[at + i] = stream[i * each + r]!;
        }
      }
    }
  }
}

export function fail(reason: string, what: string, code?: LowbitErrorCode): LowbitError {
  return packingError("exl2", reason, what, code);
}
