import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LiteralMatcher, type LiteralToken } from "./literals.ts";
import { PrefixIndex } from "./prefix-index.ts";

const text = fc.string({ unit: fc.constantFrom("a", "b", "🙂", "é"), maxLength: 12 });

describe("PrefixIndex", () => {
  it("finds every key at a place, short ones first", () => {
    fc.assert(
      fc.property(fc.uniqueArray(text, { maxLength: 20 }), text, fc.nat({ max: 6 }), (keys, where, start) => {
        const index = new PrefixIndex(keys.map((key, i) => [key, i]));
        const found: number[] = [];
        index.each(where, start, (value, length) => {
          expect(length).toBe(keys[value]!.length);
          found.push(value);
        });
        const expected = keys
          .map((key, i) => ({ key, i }))
          .filter(({ key }) => key !== "" && where.startsWith(key, start))
          .sort((a, b) => a.key.length - b.key.length)
          .map(({ i }) => i);
        expect(found).toEqual(expected);
        expect(index.longest(where, start)).toBe(expected.at(-1) ?? -1);
      }),
    );
  });
});

describe("LiteralMatcher", () => {
  const split = (tokens: readonly Partial<LiteralToken>[], where: string, parseSpecial = true): unknown[] => {
    const matcher = new LiteralMatcher(
      tokens.map((token, id) => ({ id, text: "", special: true, ...token })),
    );
    const parts: unknown[] = [];
    matcher.split(
      where,
      parseSpecial,
      (piece, beginning) => parts.push(beginning ? `^${piece}` : piece),
      (id) => parts.push(id),
    );
    return parts;
  };

  it("takes the leftmost, and the longest of those", () => {
    expect(split([{ text: "<a>" }, { text: "<a><b>" }, { text: "b><" }], "x<a><b><a>y")).toEqual([
      "^x",
      1,
      0,
      "y",
    ]);
  });

  it("finds special tokens only where the text is trusted", () => {
    const tokens = [{ text: "<s>" }, { text: "<s>!", special: false }];
    expect(split(tokens, "a<s>b<s>!", false)).toEqual(["^a<s>b", 1]);
    expect(split(tokens, "a<s>b<s>!", true)).toEqual(["^a", 0, "b", 1]);
  });

  it("swallows white space where the token says so", () => {
    expect(split([{ text: "<s>", stripRight: true }], "<s> \n a")).toEqual([0, "a"]);
    expect(split([{ text: "<m>", stripLeft: true }], "a \t<m> b")).toEqual(["^a", 0, " b"]);
    expect(split([{ text: "<m>", stripLeft: true }], "  <m>")).toEqual([0]);
  });

  it("leaves single words alone inside others", () => {
    expect(split([{ text: "cat", singleWord: true }], "cat concat cat_ (cat)")).toEqual([
      0,
      " concat cat_ (",
      0,
      ")",
    ]);
  });
});
