import { dequantize, planOf } from "@lowbit/core";
import { BF16, F16, F32, ggmlTypes, IQ4_NL, Q3_K, Q4_0, Q4_1, Q4_K, Q6_K, Q8_0, TQ1_0 } from "@lowbit/gguf";
import { expect, test } from "vitest";
import { random } from "./random.ts";
import { roundToType } from "./round-to-type.ts";

const integers = [...ggmlTypes.values()].filter(
  (type) => planOf(type).family === "ints" && planOf(type).code,
);

test("integer types at hand", () => {
  expect(integers.map((type) => type.name)).toEqual(
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K TQ2_0 Q2_0".split(" "),
  );
});

/** Root of the mean squared error over that of the values. */
function relativeError(actual: Float32Array, expected: Float32Array): number {
  let error = 0;
  let power = 0;
  expected.forEach((value, i) => {
    error += ((actual[i] ?? 0) - value) ** 2;
    power += value ** 2;
  });
  return Math.sqrt(error / power);
}

test.each(integers)("$name: within half a step of uniform values", (type) => {
  const uniform = random(7);
  const values = Float32Array.from({ length: 2048 }, () => 0.3 * (2 * uniform() - 1));
  const decoded = dequantize(type, roundToType(type, values), new Float32Array(2048));
  // A step of 2/(levels − 1) of the amplitude gives a relative error of step/√12 · √3 = 1/(levels − 1); ternary and signed
  // codes lose a level, coarse sub-scales some more.
  const levels = 2 ** planOf(type).levelBits;
  expect(relativeError(decoded, values)).toBeLessThan(1.35 / (levels - (levels > 16 ? 8 : 2)));
});

test("values on the grid come back exactly", () => {
  const onGrid = (zero: number, most: number): Float32Array =>
    Float32Array.from({ length: 32 }, (_, i) => (i === 0 ? 0 - zero : i % most) * 0.25);
  for (const [type, zero, most] of [
    [Q4_0, 8, 7],
    [Q8_0, 128, 127],
    [Q4_1, 0, 16],
  ] as const) {
    const values = onGrid(zero, most);
    if (type === Q4_1) values[1] = 3.75;
    expect(dequantize(type, roundToType(type, values), new Float32Array(32))).toEqual(values);
  }
});

test("plain numbers", () => {
  const values = Float32Array.of(1, -3, 1 + 2 ** -9, 65504);
  expect([...dequantize(F32, roundToType(F32, values), new Float32Array(4))]).toEqual([...values]);
  expect([...dequantize(F16, roundToType(F16, values), new Float32Array(4))]).toEqual([...values]);
  expect([...dequantize(BF16, roundToType(BF16, values), new Float32Array(4))]).toEqual([1, -3, 1, 65536]);
});

test("zeros stay zeros", () => {
  for (const type of [Q4_0, Q4_1, Q3_K, Q4_K, Q6_K]) {
    const decoded = dequantize(type, roundToType(type, new Float32Array(256)), new Float32Array(256));
    expect(decoded.every((value) => value === 0)).toBe(true);
  }
});

test("codebooks and codes from functions are refused", () => {
  for (const type of [IQ4_NL, TQ1_0]) {
    expect(() => roundToType(type, new Float32Array(256))).toThrow("cannot be written by plain rounding");
  }
});
