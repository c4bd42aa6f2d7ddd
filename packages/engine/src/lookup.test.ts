import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { createLookup } from "./lookup.ts";

describe("guesses from what was said", () => {
  it("go on as the latest place with the same longest ending did", () => {
    const lookup = createLookup([1, 2, 3, 4, 9, 2, 3, 5, 6, 7, 2, 3]);
    expect(lookup.guess(3)).toEqual([5, 6, 7]);
    expect(lookup.guess(0)).toEqual([]);
    lookup.push(4);
    expect(lookup.guess(9)).toEqual([9, 2, 3, 5, 6, 7, 2, 3, 4]);
    lookup.push(8);
    expect(lookup.guess(3)).toEqual([]);
  });

  it("are what a search finds", () => {
    const tokens = fc.array(fc.nat(2), { maxLength: 40 });
    fc.assert(
      fc.property(tokens, fc.integer({ min: 1, max: 5 }), (text, most) => {
        const guess = createLookup(text).guess(most);
        let wanted: number[] = [];
        for (let length = Math.min(4, text.length); length >= 2 && wanted.length === 0; length--) {
          const end = text.slice(-length).join();
          for (let at = text.length - 1; at >= length && wanted.length === 0; at--) {
            if (text.slice(at - length, at).join() === end) wanted = text.slice(at, at + most);
          }
        }
        expect(guess).toEqual(wanted);
      }),
    );
  });
});
