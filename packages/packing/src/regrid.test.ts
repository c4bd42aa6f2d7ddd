import { denseWeight, floatToHalf, halfToFloat, type LinearWeight } from "@lowbit/core";
import { random } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { buildGrid, integerGrid, quantizeGrid, regrid } from "./index.ts";

const [out, columns] = [3, 80];

function grid(zero: number | "integer", permute?: Int32Array): LinearWeight {
  const next = random(4);
  const builder = buildGrid(out, columns, { bits: 4, group: 32, scale: "f16", zero });
  for (let n = 0; n < out; n++) {
    const codes = Uint8Array.from({ length: columns }, () => next() * 16);
    builder.row(n, codes, [0x2000, 0x2401, 0x1999], [8, 8, 8]);
  }
  return { out, in: columns, segments: builder.segments, ...(permute && { permute }) };
}

describe("regrid", () => {
  it("leaves alone what is as readers make it", () => {
    const weight = grid(8);
    expect(regrid(weight, integerGrid(weight)!, 8)).toBe(weight);
    const shifted = grid(8, Int32Array.from({ length: columns }, (_, j) => (j + 32) % columns).sort());
    expect(regrid(shifted, integerGrid(shifted)!, 8)).toEqual(weight);
  });

  it("changes types, and sorts the inputs of a group, without a change of value", () => {
    const reversed = Int32Array.from({ length: columns }, (_, j) => columns - 1 - j);
    for (const permute of [undefined, reversed]) {
      const weight = { ...grid(8, permute), bias: Float32Array.of(1, 2, 3), provenance: { x: 1 } };
      const other = regrid(weight, integerGrid(weight)!, "integer");
      expect(other).toMatchObject({ out, in: columns, bias: weight.bias });
      expect(other.provenance).toBeUndefined();
      expect(denseWeight(other)).toEqual(denseWeight(weight));
      expect(integerGrid(other)!.zero).toBe("integer");
      const order = [...(other.permute ?? [])];
      for (const from of [0, 32, 64]) {
        const group = order.slice(from, from + 32);
        expect(group).toEqual([...group].sort((a, b) => a - b));
      }
    }
    const within = Int32Array.from({ length: columns }, (_, j) => (j < 64 ? j ^ 31 : j));
    const weight = grid(8, within);
    const other = regrid(weight, integerGrid(weight)!, 8);
    expect(other.permute).toBeUndefined();
    expect(denseWeight(other)).toEqual(denseWeight(weight));
  });
});

describe("quantizeGrid", () => {
  const one = (values: number[], shape: Partial<Parameters<typeof quantizeGrid>[2]>): number[] => {
    const full = { bits: 4, group: values.length, scale: "f16", zero: 8, ...shape } as const;
    const segments = quantizeGrid(Float32Array.from(values), values.length, full);
    return [...denseWeight({ out: 1, in: values.length, segments })];
  };

  it("takes the range of each group: around a middle, or from min to max", () => {
    const scale = halfToFloat(floatToHalf(2 / 15));
    expect(one([1, -1, 0.2, 0], {})).toEqual([7, -8, 2, 0].map((code) => Math.fround(code * scale)));
    // 15 steps of 0.25 from −0.75 on.
    expect(one([3, -0.75, 0.3, 0], { zero: "integer" })).toEqual([3, -0.75, 0.25, 0]);
    expect(one([3.75, 1, 0.3, 0.1], { zero: "integer" })).toEqual([3.75, 1, 0.25, 0]);
    // The zero point 1 in place of 0 costs the last step.
    expect(one([3.75, 1, 0.3, 0.1], { zero: "integer", lowestZero: 1 })).toEqual([3.5, 1, 0.25, 0]);
  });

  it("keeps zeros, and refuses what has no finite scale", () => {
    for (const scale of ["f16", "bf16", "f32"] as const) {
      expect(one([0, 0, 0], { scale })).toEqual([0, 0, 0]);
      expect(() => one([0, Number.NaN, 1], { scale })).toThrow(/no finite scale/);
      expect(() => one([0, Number.NEGATIVE_INFINITY, 1], { scale })).toThrow(/no finite scale/);
    }
    expect(() => one([1e7], {})).toThrow(/no finite scale/);
    expect(one([1e-9, -1e-9], {})).toEqual([0, 0]);
  });
});
