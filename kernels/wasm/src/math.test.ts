import type { Activation, Backend } from "@lowbit/core";
import { beforeAll, describe, expect, it } from "vitest";
import { backendOf, evaluate, randomOf, ulps } from "../test/support.ts";

const random = randomOf(7);
const samples = (count: number, low: number, high: number): Float32Array =>
  Float32Array.from({ length: count }, () => low + (high - low) * random());

/** erfc to f64, for t ≥ 0: a Taylor series near 0, a continued fraction (Lentz) beyond. */
function erfc(t: number): number {
  if (t < 2) {
    let term = t;
    let sum = t;
    for (let n = 1; n < 80; n++) {
      term *= -(t * t) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let fraction = 0;
  for (let n = 200; n > 0; n--) fraction = n / 2 / (t + fraction);
  return Math.exp(-t * t) / Math.sqrt(Math.PI) / (t + fraction);
}

const normalCdf = (x: number): number => (x < 0 ? erfc(-x / Math.SQRT2) / 2 : 1 - erfc(x / Math.SQRT2) / 2);

const logistic = (x: number): number => 1 / (1 + Math.exp(-x));
const exact = {
  sigmoid: logistic,
  silu: (x: number) => x * logistic(x),
  gelu: (x: number) => x * normalCdf(x),
  "gelu-tanh": (x: number) => x * logistic(2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)),
};

describe("math", () => {
  let backend: Backend;
  beforeAll(async () => {
    backend = await backendOf("simd128");
  });
  const activate = (x: Float32Array, kind: Activation): Promise<Float32Array> =>
    evaluate(backend, () => backend.ops.activate(backend.ops.constant(x, 1, x.length), kind));
  const worst = (actual: Float32Array, expected: (i: number) => number): number =>
    actual.reduce((most, value, i) => Math.max(most, ulps(value, expected(i))), 0);

  it("exp is within 1 ulp from 0 down to the subnormals, as softmax uses it", async () => {
    // The row's sum is a power of two in effect: only the first column is not tiny, so dividing by it is exact.
    const x = samples(20_000, -87, -18);
    const rows = new Float32Array(2 * x.length);
    x.forEach((value, i) => {
      rows[2 * i + 1] = value;
    });
    const y = await evaluate(backend, () => backend.ops.softmax(backend.ops.constant(rows, x.length, 2)));
    expect(
      worst(
        y.filter((_, i) => i % 2 === 1),
        (i) => Math.exp(x[i]!),
      ),
    ).toBeLessThan(1);
    const extremes = Float32Array.of(0, -104.5, 0, -90, 0, -1e30, 0, Number.NEGATIVE_INFINITY);
    const tails = await evaluate(backend, () => backend.ops.softmax(backend.ops.constant(extremes, 4, 2)));
    expect([...tails]).toEqual([1, 0, 1, Math.fround(Math.exp(-90)), 1, 0, 1, 0]);
  });

  it("tanh is within 2 ulp", async () => {
    const x = Float32Array.of(
      ...samples(10_000, -0.7, 0.7),
      ...samples(10_000, -12, 12),
      0,
      -0,
      1e-30,
      1e30,
      -1e30,
    );
    const y = await evaluate(backend, () => backend.ops.softcap(backend.ops.constant(x, 1, x.length), 1));
    expect(worst(y, (i) => Math.tanh(x[i]!))).toBeLessThan(2);
    expect(Object.is(y[x.length - 4], -0)).toBe(true);
  });

  it.each(["silu", "gelu", "gelu-tanh"] as const)("%s is within 3 ulp of max(|y|, |x|/4)", async (kind) => {
    const x = Float32Array.of(
      ...samples(10_000, -4, 4),
      ...samples(10_000, -14, 14),
      ...samples(2_000, -80, 80),
      0,
      -1e-20,
      1e30,
    );
    const y = await activate(x, kind);
    let most = 0;
    y.forEach((value, i) => {
      const expected = exact[kind](x[i]!);
      const unit = Math.max(Math.abs(expected), Math.abs(x[i]!) / 4);
      if (unit > 0) most = Math.max(most, Math.abs(value - expected) / (unit * 2 ** -23));
    });
    expect(most).toBeLessThan(3);
  });

  it.each(["silu", "gelu", "gelu-tanh", "sigmoid"] as const)(
    "%s keeps its relative accuracy where x is above −1",
    async (kind) => {
      const x = Float32Array.of(...samples(10_000, -1, 4), ...samples(10_000, 0, 20));
      expect(worst(await activate(x, kind), (i) => exact[kind](x[i]!))).toBeLessThan(5);
    },
  );

  it.each(["silu", "gelu", "gelu-tanh", "relu", "relu-squared", "sigmoid"] as const)(
    "%s hands NaN on",
    async (kind) => {
      const y = await activate(Float32Array.of(1, Number.NaN, -1, 0), kind);
      expect(y[1]).toBeNaN();
      expect([y[0], y[2], y[3]].every(Number.isFinite)).toBe(true);
    },
  );
});
