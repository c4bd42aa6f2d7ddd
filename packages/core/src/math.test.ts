import fc from "fast-check";
import { expect, test } from "vitest";
import { portableMath } from "./math.ts";

const { exp, log, pow, sin, cos, tanh, normalCdf } = portableMath;

/** Worst relative difference over evenly spaced points; engines' own functions are good to about 1 ulp. */
function worst(
  actual: (x: number) => number,
  expected: (x: number) => number,
  from: number,
  to: number,
  absolute = false,
): number {
  let most = 0;
  for (let i = 0; i <= 20_000; i++) {
    const x = from + ((to - from) * i) / 20_000 + i * 1e-9;
    const truth = expected(x);
    const difference = Math.abs(actual(x) - truth);
    most = Math.max(most, absolute || truth === 0 ? difference : difference / Math.abs(truth));
  }
  return most;
}

test("exp, log and tanh follow the engine's", () => {
  expect(worst(exp, Math.exp, -700, 700)).toBeLessThan(1e-15);
  expect(worst(exp, Math.exp, -1, 1)).toBeLessThan(1e-15);
  expect(worst(log, Math.log, 1e-3, 3)).toBeLessThan(1e-15);
  expect(worst(log, Math.log, 1e-300, 1e300)).toBeLessThan(1e-15);
  expect(worst(tanh, Math.tanh, -20, 20)).toBeLessThan(4e-15);
  expect(worst(tanh, Math.tanh, -0.3, 0.3)).toBeLessThan(4e-15);
});

test("sin and cos over a context of a million positions", () => {
  for (const [from, to] of [
    [-7, 7],
    [0, 4096],
    [1e6, 1.5e6],
  ] as const) {
    expect(worst(sin, Math.sin, from, to, true)).toBeLessThan(1e-15);
    expect(worst(cos, Math.cos, from, to, true)).toBeLessThan(1e-15);
  }
  expect(worst(sin, Math.sin, 1e7, 2e7, true)).toBeLessThan(2e7 * 2 ** -52);
});

test("frequencies of rotary embeddings", () => {
  for (const base of [10_000, 500_000, 1e6, 1e7]) {
    for (let i = 0; i < 128; i++) {
      const truth = base ** (-i / 128);
      expect(Math.abs(pow(base, -i / 128) - truth) / truth).toBeLessThan(1e-14);
    }
  }
});

test("the normal distribution function: known values", () => {
  // From tables of high precision (Abramowitz & Stegun 26.2, and Φ(−5), Φ(−10) to 15 digits).
  const known = [
    [0, 0.5],
    [1, 0.841344746068543],
    [-1, 0.158655253931457],
    [2, 0.97724986805182],
    [3, 0.99865010196837],
    [-3, 1.349898031630095e-3],
    [-5, 2.866515718791939e-7],
    [-10, 7.61985302416053e-24],
  ] as const;
  for (const [x, truth] of known) expect(Math.abs(normalCdf(x) / truth - 1)).toBeLessThan(3e-14);
  expect(worst(normalCdf, (x) => 1 - normalCdf(-x), -6, 6, true)).toBeLessThan(1e-15);
  // Its slope is the density, also where the series and the fraction meet (z = 2, x = 2.83).
  const slope = (x: number): number => (normalCdf(x + 1e-4) - normalCdf(x - 1e-4)) / 2e-4;
  expect(worst(slope, (x) => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI), 2.7, 3, true)).toBeLessThan(
    1e-8,
  );
});

test("limits and NaN", () => {
  expect([exp(-800), exp(800), exp(0), exp(-740)]).toEqual([0, Number.POSITIVE_INFINITY, 1, Math.exp(-740)]);
  expect([log(0), log(-1), log(Number.POSITIVE_INFINITY), log(1)]).toEqual([
    Number.NEGATIVE_INFINITY,
    Number.NaN,
    Number.POSITIVE_INFINITY,
    0,
  ]);
  expect(log(5e-324)).toBeCloseTo(Math.log(5e-324), 10);
  expect([tanh(1000), tanh(-1000), tanh(0)]).toEqual([1, -1, 0]);
  expect([normalCdf(100), normalCdf(-100)]).toEqual([1, 0]);
  for (const f of [exp, log, sin, cos, tanh, normalCdf]) expect(f(Number.NaN)).toBeNaN();
});

test("identities at random places", () => {
  fc.assert(
    fc.property(fc.double({ min: -1e6, max: 1e6, noNaN: true }), (x) => {
      expect(Math.abs(sin(x) ** 2 + cos(x) ** 2 - 1)).toBeLessThan(1e-15);
      expect(Math.abs(log(exp(x / 2e3)) - x / 2e3)).toBeLessThan(1e-12);
    }),
  );
});
