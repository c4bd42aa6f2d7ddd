import type { ForwardContext, ModelConfig, RopeConfig } from "@lowbit/core";
import { expect, test } from "vitest";
import { keyTurn } from "./decoder.ts";
import { architectures } from "./index.ts";
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

/** A pair of angles behind another: what comes of turning twice. */
function after(first: Float32Array, second: Float32Array): number[] {
  const out: number[] = [];
  for (let i = 0; i < first.length; i += 2) {
    const [a, b, c, d] = [first[i]!, first[i + 1]!, second[i]!, second[i + 1]!];
    out.push(a * c - b * d, a * d + b * c);
  }
  return out;
}

test("keys that turn to another position are what they would be there, whatever the layer and the scaling", () => {
  const factors = Float32Array.from({ length: 32 }, (_, i) => 1 + i / 8);
  const scalings: readonly (readonly [RopeConfig, readonly number[]])[] = [
    [rope, [0]],
    [{ ...rope, pairing: "adjacent", scaling: { kind: "linear", factor: 4 } }, [0]],
    [{ ...rope, scaling: { kind: "yarn", factor: 4, originalContextLength: 1024 } }, [0]],
    [{ ...rope, scaling: { kind: "factors", attentionFactor: 1.19 } }, [0]],
    // Layers 4 and 6 see a window and have a base of their own, layer 5 sees all.
    [{ ...rope, base: 1e6, localBase: 1e4, scaling: { kind: "linear", factor: 8 } }, [4, 5, 6]],
  ];
  for (const [rotation, layers] of scalings) {
    const windows = layers.length > 1 ? { slidingWindow: 8, slidingPattern: 6 } : {};
    const context = {
      config: { rope: rotation, contextLength: 4096, ...windows } as unknown as ModelConfig,
      kv: { pages: 128, pageTokens: 32 },
      has: (role: string) => role === "rope.factors",
      values: () => factors,
    } as unknown as ForwardContext;
    for (const layer of layers) {
      const local = layers.length > 1 && layer !== 5 ? localRotationOf(rotation) : undefined;
      const own = local ?? rotationOf(rotation, rotation.scaling?.kind === "factors" ? factors : undefined);
      const { angles, pairing } = keyTurn(context, layer, -1200);
      expect(pairing).toBe(rotation.pairing);
      const moved = after(ropeAngles(own, Int32Array.of(1700)), angles);
      const there = ropeAngles(own, Int32Array.of(500));
      for (const [i, value] of moved.entries()) expect(Math.abs(value - there[i]!)).toBeLessThan(3e-7);
    }
  }
});

test("every family whose positions are a rotation lets them move; learned positions do not", () => {
  const fixed = architectures.filter(({ keyTurn: turn }) => turn === undefined).map(({ id }) => id);
  expect(fixed).toEqual(["gpt2"]);
});
