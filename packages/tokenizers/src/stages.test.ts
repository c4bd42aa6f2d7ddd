import { LowbitError } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { runStages, type Stage } from "./model.ts";
import { compilePattern } from "./pattern.ts";
import { mapStage, type SplitBehavior, splitStage } from "./stages.ts";

function words(stages: readonly Stage[], text: string): string[] {
  const found: string[] = [];
  runStages(stages, text, true, (word) => found.push(word));
  return found;
}

describe("splitStage", () => {
  const expected: Readonly<Record<SplitBehavior, readonly string[]>> = {
    Removed: ["the", "final", "countdown"],
    Isolated: ["the", "-", "final", "-", "-", "countdown"],
    MergedWithPrevious: ["the-", "final-", "-", "countdown"],
    MergedWithNext: ["the", "-final", "-", "-countdown"],
    Contiguous: ["the", "-", "final", "--", "countdown"],
  };
  for (const [behavior, parts] of Object.entries(expected)) {
    it(`${behavior} is what tokenizer.json means by it`, () => {
      expect(words([splitStage(/-/gu, behavior as SplitBehavior)], "the-final--countdown")).toEqual(parts);
    });
  }

  it("swaps matches and gaps", () => {
    expect(words([splitStage(/[a-z]+/gu, "Removed", true)], "ab, cd!")).toEqual(["ab", "cd"]);
  });

  it("cuts what an earlier stage left, and sees only that", () => {
    const stages = [splitStage(/\d/gu), splitStage(/a+(?!\S)|b+/gu)];
    expect(words(stages, "aa1ab")).toEqual(["aa", "1", "a", "b"]);
  });

  it("says which piece starts the input", () => {
    const marks: string[] = [];
    const mark = mapStage((text, beginning) => (beginning ? `^${text}` : text));
    runStages([splitStage(/-/gu, "Removed"), mark], "a-b", true, (word) => marks.push(word));
    runStages([splitStage(/-/gu, "Removed"), mark], "-b", true, (word) => marks.push(word));
    runStages([mark], "c", false, (word) => marks.push(word));
    expect(marks).toEqual(["^a", "b", "b", "c"]);
  });

  it("is not cut by empty matches, nor inside a surrogate pair", () => {
    expect(words([splitStage(/x*/gu)], "🙂x🙂")).toEqual(["🙂", "x", "🙂"]);
  });

  it("turns an engine that gives up into an error", () => {
    const pattern = /a/gu;
    Object.defineProperty(pattern, "exec", {
      value: () => {
        throw new RangeError("Maximum call stack size exceeded");
      },
    });
    expect(() => words([splitStage(pattern)], "aa")).toThrow(LowbitError);
  });
});

describe("compilePattern", () => {
  const parts = (pattern: string, text: string): string[] =>
    words([splitStage(compilePattern(pattern))], text);

  it("spells out case-insensitive groups", () => {
    expect(parts("(?i:'s|'ll)|x", "A'SxS'Ll")).toEqual(["A", "'S", "x", "S", "'Ll"]);
    expect(parts("(?i:[a-b]|c(d))", "AcDCdz")).toEqual(["A", "cD", "Cd", "z"]);
  });

  it("means Unicode's white space, digits and word characters", () => {
    // JavaScript's own \s leaves out U+0085 and takes in U+FEFF.
    expect(parts("\\s+", "a\u0085\u00a0b\ufeffc")).toEqual(["a", "\u0085\u00a0", "b\ufeffc"]);
    expect(parts("[^\\s]+", "a\u0085b")).toEqual(["a", "\u0085", "b"]);
    expect(parts("\\d+", "a٣4²")).toEqual(["a", "٣4", "²"]);
    expect(parts("\\w+", "é_a\u0301!")).toEqual(["é_a\u0301", "!"]);
    expect(parts("\\bb\\b", "éb b")).toEqual(["éb ", "b"]);
  });

  it("translates what JavaScript writes otherwise", () => {
    expect(parts("\\p{Han}+", "a中文")).toEqual(["a", "中文"]);
    expect(parts("\\p{^L}", "a1")).toEqual(["a", "1"]);
    expect(parts("\\x{4e2d}|\\x41", "中A")).toEqual(["中", "A"]);
    expect(parts("[{|}\\-\\]]+", "a{}-]")).toEqual(["a", "{}-]"]);
    expect(parts("a++b?+", "aab")).toEqual(["aab"]);
    expect(parts("x{,2}y", "xxxy")).toEqual(["x", "xxy"]);
    expect(parts(".", "\n\r")).toEqual(["\n", "\r"]);
    expect(parts("^a|a$", "aa\naa")).toEqual(["a", "a", "\n", "a", "a"]);
    expect(parts("\\'\\ ", "a' ")).toEqual(["a", "' "]);
  });

  for (const pattern of [
    "(a+)+$",
    "(?:(?:a|b)*c)*",
    "a*a*a*a*b",
    "(?<name>a)",
    "(a",
    "a)",
    "[a",
    "[[:alpha:]]",
    "[a&&b]",
    "\\G",
    "\\p{Nonsense}",
    "*",
    "(".repeat(1000),
  ]) {
    it(`refuses ${pattern.slice(0, 20)}`, () => {
      expect(() => compilePattern(pattern)).toThrow(
        expect.objectContaining({ code: "format-unsupported", reason: "unsupported-pattern" }) as Error,
      );
    });
  }
});
