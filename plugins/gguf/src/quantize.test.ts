import { readFileSync } from "node:fs";
import { bitsToFloat, dequantize, floatToBits, floatToHalf, halfToFloat, type QuantType } from "@lowbit/core";
import { describeWithData, random, testData } from "@lowbit/testing";
import { describe, expect, it, test } from "vitest";
import { holdingType } from "./hold.ts";
import { BF16, F16, F32, quantizableTypes, quantizeTo } from "./index.ts";

interface TensorCase {
  id: string;
  format: string;
  type_name: string;
  variant: string;
  files: { raw: string; src_f32?: string };
}

const golden = (path: string): Uint8Array =>
  Uint8Array.from(readFileSync(testData(`golden/${path}`) as string));

describeWithData("rounding gives ggml's bytes", ["golden/manifest.json"], () => {
  const { cases } = JSON.parse(readFileSync(testData("golden/manifest.json") as string, "utf8")) as {
    cases: TensorCase[];
  };
  const plain = cases.filter(
    ({ format, variant, type_name: name }) =>
      format === "ggml-tensor" && /no importance/.test(variant ?? "") && quantizableTypes.has(name),
  );

  test("every type is among the golden ones", () => {
    expect(new Set(plain.map(({ type_name: name }) => name))).toEqual(new Set(quantizableTypes.keys()));
  });

  test.each(plain)("$type_name", ({ type_name: name, files }) => {
    const values = new Float32Array(golden(files.src_f32 as string).buffer);
    expect(quantizeTo(quantizableTypes.get(name)!, values)).toEqual(golden(files.raw));
  });
});

describe("rounding", () => {
  it.each([...quantizableTypes.values()])("$name: zeros stay zeros, errors are below a step", (type) => {
    const zeros = dequantize(type, quantizeTo(type, new Float32Array(256)), new Float32Array(256));
    expect(zeros.every((value) => value === 0)).toBe(true);
    const uniform = random(7);
    const values = Float32Array.from({ length: 64 * 32 }, () => uniform() - 0.4);
    const read = dequantize(type, quantizeTo(type, values), new Float32Array(values.length));
    const bits = (type.bytes * 8) / type.block;
    const step = type.block === 1 ? 2 ** -8 : 1.3 / (2 ** Math.floor(bits - 0.5) - 1);
    expect(Math.max(...read.map((value, i) => Math.abs(value - values[i]!)))).toBeLessThan(step);
  });
});

describe("the smallest plain type", () => {
  const holding = (values: Float32Array, first?: QuantType): QuantType => {
    const weight = {
      out: 1,
      in: values.length,
      segments: [{ type: F32, from: 0, to: values.length, blocks: quantizeTo(F32, values) }],
    };
    return holdingType(weight, first);
  };

  it("is the first that holds every value", () => {
    const half = Float32Array.from({ length: 5 }, (_, i) => halfToFloat(floatToHalf(i / 3)));
    expect(holding(half)).toBe(F16);
    expect(holding(Float32Array.of(1, 2 ** 30))).toBe(BF16);
    expect(holding(Float32Array.of(1, 2 ** 30, 1 + 2 ** -20))).toBe(F32);
    expect(holding(Float32Array.of(1, 2), BF16)).toBe(BF16);
    expect(holding(Float32Array.of(-0, Number.NaN, Number.POSITIVE_INFINITY))).toBe(F16);
  });

  it("agrees with rounding, for every half and its neighbours", () => {
    const round = (value: number): number => halfToFloat(floatToHalf(value));
    for (let half = 0; half < 0x7c00; half += 7) {
      const value = halfToFloat(half);
      const next = bitsToFloat(floatToBits(value) + 1);
      expect([half, holding(Float32Array.of(value))]).toEqual([half, F16]);
      if (round(next) !== next) expect([half, holding(Float32Array.of(next))]).not.toEqual([half, F16]);
    }
  });
});
