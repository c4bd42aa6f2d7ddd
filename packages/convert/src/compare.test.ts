import { denseType, denseWeight, floatToBits, floatToHalf, type LinearWeight } from "@lowbit/core";
import { buildGrid } from "@lowbit/packing";
import { random } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { compareVectors, compareWeights } from "./compare.ts";

const F32 = denseType("F32", "f32");

function dense(values: Float32Array, width: number, more: Partial<LinearWeight> = {}): LinearWeight {
  const blocks = new Uint8Array(values.slice().buffer);
  const rows = values.length / width;
  const out = rows / (more.experts ?? 1);
  return { out, in: width, segments: [{ type: F32, from: 0, to: width, blocks }], ...more };
}

/** A grid with a short last group, a permutation, row scales and experts. */
function grid(rows: number, width: number, seed: number): LinearWeight {
  const uniform = random(seed);
  const shape = { bits: 4, group: 16, scale: "f16", zero: "integer" } as const;
  const builder = buildGrid(rows, width, shape);
  const draw = (count: number, most: number) =>
    Array.from({ length: count }, () => Math.floor(uniform() * most));
  for (let r = 0; r < rows; r++) {
    const scales = Array.from({ length: builder.groups }, () => floatToHalf(uniform()));
    builder.row(r, Uint8Array.from(draw(width, 16)), scales, draw(builder.groups, 16));
  }
  const permute = Int32Array.from({ length: width }, (_, i) => (i * 7) % width);
  const rowScale = Float32Array.from({ length: rows }, () => uniform() + 0.5);
  return { out: rows / 2, in: width, experts: 2, permute, rowScale, segments: builder.segments };
}

describe("compareWeights", () => {
  it("finds a grid equal to its values, however they are stored", async () => {
    const weight = grid(6, 40, 1);
    const values = denseWeight(weight);
    const same = await compareWeights("x", weight, dense(values, 40, { experts: 2 }));
    expect(same).toEqual({ equal: true, relativeRms: 0, maxAbs: 0 });
    for (const at of [0, 100, values.length - 1]) {
      const changed = values.slice();
      changed[at] = changed[at]! + 0.25;
      const found = await compareWeights("x", weight, dense(changed, 40, { experts: 2 }));
      expect(found.equal).toBe(false);
      expect(found.maxAbs).toBe(Math.abs(changed[at]! - values[at]!));
    }
  });

  it("sees the smallest change in a matrix of many chunks", async () => {
    const width = 1024;
    const values = new Float32Array(2 ** 21 + 3 * width).fill(1);
    const changed = values.slice();
    changed[values.length - 1] = 1 + 2 ** -23;
    let pauses = 0;
    const pause = async () => {
      pauses++;
    };
    const found = await compareWeights("x", dense(values, width), dense(changed, width), { pause });
    expect(found).toMatchObject({ equal: false, maxAbs: 2 ** -23 });
    expect(found.relativeRms).toBeCloseTo(2 ** -23 / Math.sqrt(values.length), 15);
    expect(pauses).toBe(3);
  });

  it("looks at the rows it is told to, and at the bias", async () => {
    const values = new Float32Array(64).fill(1);
    const changed = values.slice();
    changed[17] = 2; // row 4 of 16
    expect((await compareWeights("x", dense(values, 4), dense(changed, 4), { rows: 2 })).equal).toBe(true);
    expect((await compareWeights("x", dense(values, 4), dense(changed, 4), { rows: 16 })).equal).toBe(false);
    const bias = (value: number) => ({ bias: new Float32Array(16).fill(value) });
    const found = await compareWeights("x", dense(values, 4, bias(1)), dense(values, 4, bias(1.5)), {
      rows: 2,
    });
    expect(found.maxAbs).toBe(0.5);
  });

  it("takes zeros of both signs as one value", () => {
    expect(compareVectors("x", Float32Array.of(0, -0), Float32Array.of(-0, 0)).equal).toBe(true);
    expect(compareVectors("x", Float32Array.of(0), Float32Array.of(0.5))).toEqual({
      equal: false,
      relativeRms: 0.5,
      maxAbs: 0.5,
    });
  });

  it("takes unlike NaNs as one value, and refuses what ceases to be a number", () => {
    const quiet = new Float32Array(Uint32Array.of(0x7fc00001).buffer);
    expect(floatToBits(quiet[0]!)).not.toBe(0);
    expect(compareVectors("x", quiet, Float32Array.of(Number.NaN)).equal).toBe(true);
    for (const [a, b] of [
      [1, Number.NaN],
      [1, Number.POSITIVE_INFINITY],
      [Number.POSITIVE_INFINITY, 65504],
      [Number.NaN, 0],
      [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
    ] as const) {
      expect(() => compareVectors("x", Float32Array.of(a), Float32Array.of(b))).toThrow(/would become/);
    }
  });

  it("refuses unequal shapes, and stops when it is told", async () => {
    const values = new Float32Array(64);
    for (const other of [
      dense(values, 8),
      dense(values.subarray(4), 4),
      dense(values, 4, { bias: new Float32Array(16) }),
    ]) {
      await expect(compareWeights("x", dense(values, 4), other)).rejects.toMatchObject({ code: "internal" });
    }
    const stopped = compareWeights("x", dense(values, 4), dense(values, 4), { signal: AbortSignal.abort() });
    await expect(stopped).rejects.toMatchObject({ code: "aborted" });
  });
});
