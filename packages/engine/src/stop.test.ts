import fc from "fast-check";
import { expect, it } from "vitest";
import { createStopMatcher } from "./stop.ts";

const run = (pieces: readonly string[], stops: readonly string[]) => {
  const matcher = createStopMatcher(stops);
  const out: string[] = [];
  for (const piece of pieces) {
    const { text, stopped } = matcher.push(piece);
    out.push(text);
    if (stopped) return { text: out.join(""), stopped, out };
  }
  return { text: out.join("") + matcher.flush(), stopped: false, out };
};

it("passes text on at once when nothing in it could begin a stop string", () => {
  expect(run(["hello ", "world"], ["xyz"]).out).toEqual(["hello ", "world"]);
});

it("holds back what could begin one", () => {
  expect(run(["ab", "c", "abd"], ["abd"]).out).toEqual(["", "abc", ""]);
});

it("stops at the one that is complete first", () => {
  expect(run(["xabc"], ["abcd", "bc"])).toMatchObject({ text: "xa", stopped: true });
});

it("equals a search in the whole text, however it is cut", () => {
  const letters = fc.constantFrom("a", "b", "ab", "ba", "c");
  const stop = fc
    .array(fc.constantFrom("a", "b", "c"), { minLength: 1, maxLength: 4 })
    .map((parts) => parts.join(""));
  fc.assert(
    fc.property(
      fc.array(letters, { maxLength: 30 }),
      fc.array(stop, { minLength: 1, maxLength: 1 }),
      (pieces, stops) => {
        const whole = pieces.join("");
        const at = whole.indexOf(stops[0] ?? "");
        const { text, stopped } = run(pieces, stops);
        expect(stopped).toBe(at >= 0);
        expect(text).toBe(at >= 0 ? whole.slice(0, at) : whole);
      },
    ),
    { numRuns: 500 },
  );
});
