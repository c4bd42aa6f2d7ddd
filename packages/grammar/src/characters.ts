import type { Expression, Expressions } from "./expression.ts";
import { union } from "./expression.ts";

/** Code points as pairs of first and last, ascending, apart. */
export type CodePoints = readonly number[];

/** How a character is written: as it stands, or as a part of a JSON string. */
export type Writing = (expressions: Expressions, points: CodePoints) => Expression;

/** Every code point but surrogates, which are no characters. */
export const allCharacters: CodePoints = [0, 0xd7ff, 0xe000, 0x10ffff];

export function complement(points: CodePoints): CodePoints {
  const ranges: number[] = [];
  let from = 0;
  for (let i = 0; i < points.length; i += 2) {
    if (points[i]! > from) ranges.push(from, points[i]! - 1);
    from = points[i + 1]! + 1;
  }
  if (from <= 0x10ffff) ranges.push(from, 0x10ffff);
  return ranges;
}

function intersection(a: CodePoints, b: CodePoints): CodePoints {
  return complement(union([...complement(a), ...complement(b)]));
}

const shortEscapes = new Map([
  [0x08, "b"],
  [0x09, "t"],
  [0x0a, "n"],
  [0x0c, "f"],
  [0x0d, "r"],
  [0x22, '"'],
  [0x5c, "\\"],
]);
/** What must be escaped in a JSON string. */
const escaped: CodePoints = [0x00, 0x1f, 0x22, 0x22, 0x5c, 0x5c];

/** UTF-8. Surrogates fall out. */
export const plainWriting: Writing = (expressions, points) => {
  const all = intersection(points, allCharacters);
  const found: Expression[] = [];
  for (let i = 0; i < all.length; i += 2) addUtf8(expressions, all[i]!, all[i + 1]!, found);
  return expressions.choice(found);
};

/**
 * One way to write each character, so that complements are exact: as it stands where JSON lets it, else the short escape, else
 * four lower-case hexadecimal digits.
 */
export const jsonWriting: Writing = (expressions, points) => {
  const found = [plainWriting(expressions, intersection(points, complement(escaped)))];
  const rest = intersection(points, escaped);
  const texts: string[] = [];
  for (let i = 0; i < rest.length; i += 2) {
    for (let point = rest[i]!; point <= rest[i + 1]!; point++) {
      const short = shortEscapes.get(point);
      const hex = `u${point.toString(16).padStart(4, "0")}`;
      texts.push(`\\${short ?? hex}`);
    }
  }
  if (texts.length > 0) found.push(expressions.anyOf(texts));
  return expressions.choice(found);
};

/** A character of a JSON string in any of its writings; surrogate escapes only in pairs. */
export function anyJsonCharacter(expressions: Expressions): Expression {
  const { sequence, choice, set, bytes, anyOf } = expressions;
  const hex = set([0x30, 0x39, 0x41, 0x46, 0x61, 0x66]);
  const digits = (text: string): Expression =>
    set(Array.from(text, (digit) => Array(2).fill(digit.charCodeAt(0))).flat());
  const dD = digits("dD");
  const unit = choice([
    sequence(digits("0123456789abcefABCEF"), hex, hex, hex),
    sequence(dD, digits("01234567"), hex, hex),
  ]);
  const high = sequence(dD, digits("89abAB"), hex, hex);
  const low = sequence(dD, digits("cdefCDEF"), hex, hex);
  return choice([
    plainWriting(expressions, intersection(allCharacters, complement(escaped))),
    sequence(
      bytes("\\"),
      choice([
        anyOf([...'"\\/bfnrt']),
        sequence(bytes("u"), choice([unit, sequence(high, bytes("\\u"), low)])),
      ]),
    ),
  ]);
}

/** Splits a range of code points where the number or the fixed part of its UTF-8 bytes changes. */
function addUtf8(expressions: Expressions, from: number, to: number, found: Expression[]): void {
  for (const end of [0x7f, 0x7ff, 0xffff]) {
    if (from > end || to <= end) continue;
    addUtf8(expressions, from, end, found);
    addUtf8(expressions, end + 1, to, found);
    return;
  }
  // Bytes after the first hold six bits each: split until every byte but one prefix runs over its whole range.
  for (let bits = 6; bits <= 18; bits += 6) {
    const mask = (1 << bits) - 1;
    if (from >> bits === to >> bits || length(to) <= bits / 6) continue;
    if ((from & mask) !== 0) {
      addUtf8(expressions, from, from | mask, found);
      addUtf8(expressions, (from | mask) + 1, to, found);
      return;
    }
    if ((to & mask) !== mask) {
      addUtf8(expressions, from, (to & ~mask) - 1, found);
      addUtf8(expressions, to & ~mask, to, found);
      return;
    }
  }
  const [first, last] = [utf8Of(from), utf8Of(to)];
  found.push(expressions.sequence(...first.map((byte, i) => expressions.set([byte, last[i]!]))));
}

const length = (point: number): number => (point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4);

const encoder = new TextEncoder();
const utf8Of = (point: number): number[] => [...encoder.encode(String.fromCodePoint(point))];
