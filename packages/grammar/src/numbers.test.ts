import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matches } from "../test/texts.ts";
import { explore } from "./explore.ts";
import { createExpressions } from "./expression.ts";
import { decimals, integers, type Limit } from "./numbers.ts";

const limit = (value: number, open = false): Limit => ({ value, open });

const within = (value: number, low?: Limit, high?: Limit): boolean =>
  (low === undefined || (low.open ? value > low.value : value >= low.value)) &&
  (high === undefined || (high.open ? value < high.value : value <= high.value));

const limits = (value: fc.Arbitrary<number>): fc.Arbitrary<Limit | undefined> =>
  fc.option(fc.record({ value, open: fc.boolean() }), { nil: undefined });

describe("integers", () => {
  it("are exactly those between the limits", () => {
    fc.assert(
      fc.property(
        limits(fc.integer({ min: -1200, max: 1200 })),
        limits(fc.integer({ min: -1200, max: 1200 })),
        (low, high) => {
          const expressions = createExpressions();
          const all = integers(expressions, low, high);
          for (let value = -1300; value <= 1300; value++) {
            if (matches(expressions, all, String(value)) !== within(value, low, high))
              throw new Error(`${value}`);
          }
        },
      ),
      { numRuns: 60, seed: 4 },
    );
  });

  it("have one writing: no leading zero, no plus, no negative zero, no point", () => {
    const expressions = createExpressions();
    const all = integers(expressions, undefined, undefined);
    for (const text of ["0", "7", "-7", "123456789012345"])
      expect(matches(expressions, all, text), text).toBe(true);
    for (const text of ["", "-", "00", "07", "+7", "-0", "7.0", "7e1", "1234567890123456"])
      expect(matches(expressions, all, text), text).toBe(false);
  });

  it("take limits between whole numbers, and those of a double's exact range", () => {
    const expressions = createExpressions();
    const small = integers(expressions, limit(0.5), limit(2.5, true));
    expect(["0", "1", "2", "3"].filter((text) => matches(expressions, small, text))).toEqual(["1", "2"]);
    const safe = integers(expressions, limit(Number.MIN_SAFE_INTEGER), limit(Number.MAX_SAFE_INTEGER));
    expect(matches(expressions, safe, "9007199254740991")).toBe(true);
    expect(matches(expressions, safe, "-9007199254740991")).toBe(true);
    expect(matches(expressions, safe, "9007199254740992")).toBe(false);
    const wide = integers(expressions, limit(-1e300), limit(1e300));
    expect(matches(expressions, wide, "-9007199254740991")).toBe(true);
    expect(matches(expressions, wide, "-9007199254740992")).toBe(false);
    const far = integers(expressions, limit(1e20), undefined);
    expect(far).not.toBe(expressions.nothing);
    expect(integers(expressions, limit(3), limit(2))).toBe(expressions.nothing);
  });
});

describe("decimals", () => {
  it("are between the limits as JSON.parse reads them", () => {
    const value = fc.oneof(
      fc.integer({ min: -50, max: 50 }),
      fc.double({ min: -30, max: 30, noNaN: true }),
      fc.constantFrom(0, 0.1, -0.25, 1e-7, 99.995, 1000000.5),
    );
    const digits = fc.tuple(fc.integer({ min: -60, max: 60 }), fc.stringMatching(/^\d{0,6}$/));
    fc.assert(
      fc.property(
        limits(value),
        limits(value),
        fc.array(digits, { minLength: 40, maxLength: 40 }),
        (low, high, tries) => {
          fc.pre(low !== undefined || high !== undefined);
          const expressions = createExpressions();
          const all = decimals(expressions, low, high);
          explore(expressions, all);
          const near = [low, high].flatMap((each) =>
            each ? [each.value.toFixed(3), each.value.toFixed(9), `${each.value}`] : [],
          );
          for (const text of [
            ...tries.map(([whole, fraction]) => (fraction === "" ? `${whole}` : `${whole}.${fraction}`)),
            ...near,
          ]) {
            if (/e|^-0(\.0*)?$/.test(text) || /\.\d{9,}/.test(text)) continue;
            const found = matches(expressions, all, text);
            if (found !== within(JSON.parse(text) as number, low, high)) throw new Error(`${text}: ${found}`);
          }
        },
      ),
      { numRuns: 300, seed: 5 },
    );
  });

  it("never round to an open limit", () => {
    const expressions = createExpressions();
    const below = decimals(expressions, limit(0, true), limit(100, true));
    for (const text of [
      "99.9999999999999999",
      "99.99999999999999999999",
      "0.00000000000000000000000001",
      "0",
      "0.0",
      "100",
    ])
      expect(matches(expressions, below, text), text).toBe(false);
    for (const text of ["99.999999999999", "0.000000000001", "50", "7.25"])
      expect(matches(expressions, below, text), text).toBe(true);
  });

  it("without limits are JSON's, of a length that ends", () => {
    const expressions = createExpressions();
    const all = decimals(expressions, undefined, undefined);
    for (const text of ["0", "-1.5", "1e10", "1.25E-7", "-0"])
      expect(matches(expressions, all, text), text).toBe(true);
    for (const text of ["01", ".5", "5.", "1e", "1e100", "+1", "0x1", "NaN", "1".repeat(16)])
      expect(matches(expressions, all, text), text).toBe(false);
  });
});
