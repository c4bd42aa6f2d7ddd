import type { RopeConfig } from "@lowbit/core";
import { expect, test } from "vitest";
import { localRotationOf, ropeAngles, rotationOf } from "./rope.ts";

const rope: RopeConfig = { dimensions: 64, base: 10_000, pairing: "halves" };
const plain = Array.from({ length: 32 }, (_, i) => 10_000 ** (-i / 32));

function near(actual: Float64Array, expected: readonly number[], relative = 1e-12): void {
  expect(actual.length).toBe(expected.length);
  for (const [i, value] of actual.entries()) {
    expect(Math.abs(value / (expected[i] ?? 0) - 1)).toBeLessThan(relative);
  }
}

test("frequencies fall from 1 by the base", () => {
  const { frequencies, magnitude } = rotationOf(rope);
  near(frequencies, plain);
  expect(magnitude).toBe(1);
});

test("linear scaling divides all", () => {
  near(
    rotationOf({ ...rope, scaling: { kind: "linear", factor: 4 } }).frequencies,
    plain.map((f) => f / 4),
  );
});

test("factors divide each, with a magnitude where there is one; their number is checked", () => {
  const factors = Float32Array.from(plain, (_, i) => 1 + i / 8);
  const scaling = { kind: "factors", attentionFactor: 1.19 } as const;
  const { frequencies, magnitude } = rotationOf({ ...rope, scaling }, factors);
  near(
    frequencies,
    plain.map((f, i) => f / (1 + i / 8)),
  );
  expect(magnitude).toBe(1.19);
  expect(() => rotationOf(rope, new Float32Array(31))).toThrow("32 pairs of dimensions, but 31 factors");
});

test("llama3: by wavelength, as the divisors that converters write", () => {
  const [factor, low, high, original] = [8, 1, 4, 8192];
  const divisors = Array.from({ length: 64 }, (_, i) => {
    const wavelength = (2 * Math.PI) / 500_000 ** (-i / 64);
    if (wavelength < original / high) return 1;
    if (wavelength > original / low) return factor;
    const smooth = (original / wavelength - low) / (high - low);
    return 1 / ((1 - smooth) / factor + smooth);
  });
  const { frequencies } = rotationOf({
    dimensions: 128,
    base: 500_000,
    pairing: "halves",
    scaling: {
      kind: "llama3",
      factor,
      originalContextLength: original,
      lowFrequencyFactor: low,
      highFrequencyFactor: high,
    },
  });
  near(
    frequencies,
    divisors.map((divisor, i) => 500_000 ** (-i / 64) / divisor),
  );
  expect(divisors.filter((d) => d > 1 && d < 8).length).toBeGreaterThan(3);
});

test("YaRN: fast pairs stay, slow ones are stretched, between them a ramp", () => {
  const scaling = { kind: "yarn", factor: 4, originalContextLength: 4096 } as const;
  const { frequencies, magnitude } = rotationOf({ ...rope, scaling });
  // Pairs that make 32 turns and 1 turn in 4,096 positions: 10.46 and 22.51, rounded outwards.
  const turns = plain.map((f) => (4096 * f) / (2 * Math.PI));
  expect([turns.findIndex((t) => t < 32), turns.findIndex((t) => t < 1)]).toEqual([11, 23]);
  near(
    frequencies,
    plain.map((f, i) => {
      const ramp = Math.min(1, Math.max(0, (i - 10) / 13));
      return f * (1 - ramp) + (f / 4) * ramp;
    }),
  );
  expect(magnitude).toBeCloseTo(1 + 0.1 * Math.log(4), 12);
  const withoutBlend = rotationOf({
    ...rope,
    scaling: { ...scaling, extrapolationFactor: 0, attentionFactor: 2 },
  });
  near(
    withoutBlend.frequencies,
    plain.map((f) => f / 4),
  );
  expect(withoutBlend.magnitude).toBe(2);
});

test("layers with a window have their own base, unscaled", () => {
  expect(localRotationOf(rope)).toBeUndefined();
  const local = localRotationOf({
    ...rope,
    base: 1e6,
    localBase: 10_000,
    scaling: { kind: "linear", factor: 8 },
  });
  near(local?.frequencies ?? new Float64Array(0), plain);
});

test("angles are cos and sin pairs, rounded from f64, also far out", () => {
  const rotation = { ...rotationOf(rope), magnitude: 1.5 };
  const positions = Int32Array.of(0, 1, 131_071);
  const angles = ropeAngles(rotation, positions);
  positions.forEach((position, r) => {
    plain.forEach((frequency, i) => {
      // A frequency is good to 1e-15, so an angle of 1.3e5 to 1e-10.
      expect(Math.abs((angles[r * 64 + 2 * i] ?? 0) - 1.5 * Math.cos(position * frequency))).toBeLessThan(
        1e-7,
      );
      expect(Math.abs((angles[r * 64 + 2 * i + 1] ?? 0) - 1.5 * Math.sin(position * frequency))).toBeLessThan(
        1e-7,
      );
    });
  });
});
