import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { compilePattern } from "./pattern.ts";

describe("patterns", () => {
  it("match as JavaScript's do from the start, where both know the syntax", () => {
    const patterns = [
      ".*lm_head",
      "model\\.layers\\.\\d+\\.mlp\\.(gate|up)_proj$",
      "^(?!.*lm_head).*$",
      ".*layers\\.(5[6-9]|6[0-3])\\..*",
      "(?:a|ab)(?:c|bcd)(?=d*)d*$",
      "[^a-c]+x?",
      "a{2}b{1,}c{0,2}$",
      "(a*)*b",
      "(a|b)*?c",
      "\\w+\\.\\D",
      "[]x]|[-.]",
      "}{",
      "",
      "a||b$",
    ];
    const names = fc.oneof(
      fc.constantFrom(
        "lm_head",
        "model.layers.57.mlp.up_proj",
        "model.layers.1.mlp.gate_proj",
        "abcd",
        "aabcc",
      ),
      fc.string({ unit: fc.constantFrom(..."abcdx._0-]}{56"), maxLength: 12 }),
    );
    for (const source of patterns) {
      // JavaScript reads "[]x]" otherwise than Python.
      const oracle = new RegExp(`^(?:${source.replace("[]", "[\\]")})`);
      const pattern = compilePattern(source);
      fc.assert(
        fc.property(names, (name) => {
          expect(pattern(name), `${source} on ${name}`).toBe(oracle.test(name));
        }),
        { seed: 7, numRuns: 200 },
      );
    }
  });

  it.each([
    "(a",
    "a)",
    "[a",
    "\\1",
    "(?<=a)b",
    "*a",
    "a**",
    "\\",
    "\\b",
    "(?P<n>a)",
    "(".repeat(40),
    "a".repeat(600),
  ])("refuses %s", (source) => {
    expect(() => compilePattern(source)).toThrow(expect.objectContaining({ reason: "invalid-config" }));
  });

  it.each([
    "(a*)*(a*)*(a*)*b",
    "(a+)+$",
    "(.*)(.*)(.*)(.*)(.*)x",
    "((((){999}){999}){999}){999}",
    "(a?){400}(a?){400}b",
  ])("stops %s", (source) => {
    const start = performance.now();
    const pattern = compilePattern(source);
    try {
      expect(pattern(`${"a".repeat(400)}c`)).toBe(false);
    } catch (error) {
      expect(error).toMatchObject({ reason: "invalid-config" });
    }
    expect(performance.now() - start).toBeLessThan(1000);
  });

  it("matches no names of absurd length", () => {
    expect(compilePattern(".*")("a".repeat(1e6))).toBe(false);
  });
});
