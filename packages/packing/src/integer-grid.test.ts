import {
  denseWeight,
  floatToBits,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  planOf,
  roundToBf16,
} from "@lowbit/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  buildGrid,
  type GridShape,
  gridShapeOf,
  gridType,
  integerGrid,
  wordsOf,
  writeCodes,
} from "./index.ts";

const encoders = {
  f16: floatToHalf,
  bf16: (v: number) => floatToBits(roundToBf16(v)) >>> 16,
  f32: floatToBits,
};
const decoders = {
  f16: halfToFloat,
  bf16: (bits: number) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? 0,
  f32: (bits: number) => new Float32Array(Uint32Array.of(bits).buffer)[0] ?? 0,
};

const grids = fc.record({
  bits: fc.integer({ min: 1, max: 8 }),
  group: fc.constantFrom(5, 8, 16, 32, 48, 64, 91, 128, 2048, 2080),
  columns: fc.constantFrom(64, 96, 160, 4160),
  rows: fc.integer({ min: 1, max: 3 }),
  scale: fc.constantFrom("f16" as const, "bf16" as const, "f32" as const),
  zero: fc.constantFrom(0, 3, "integer" as const, "f32" as const, "f16" as const),
  random: fc.infiniteStream(fc.nat(2 ** 16)),
});

describe("integer grids", () => {
  it("hold scale · (code − zero) exactly, and give back what went in", () => {
    fc.assert(
      fc.property(grids, ({ bits, group, columns, rows, scale, zero, random }) => {
        const next = (): number => random.next().value as number;
        const shape: GridShape = { bits, group, scale, zero };
        const builder = buildGrid(rows, columns, shape);
        const streamed = buildGrid(rows, columns, shape);
        const groups = Math.ceil(columns / Math.min(group, columns));
        expect(builder.groups).toBe(groups);
        const expected = new Float32Array(rows * columns);
        const written: { codes: Uint8Array; scales: number[]; zeros: number[] }[] = [];
        for (let r = 0; r < rows; r++) {
          const codes = Uint8Array.from({ length: columns }, () => next() & (2 ** bits - 1));
          const scales = Array.from({ length: groups }, () => encoders[scale]((next() - 32768) / 1e5));
          const zeros = Array.from({ length: groups }, () =>
            typeof zero === "number"
              ? zero
              : zero === "integer"
                ? next() & 255
                : encoders[zero](next() / 1e4),
          );
          builder.row(r, codes, scales, zeros);
          const stream = new Uint32Array(wordsOf(columns, bits));
          writeCodes(stream, { bits }, codes);
          streamed.stream(r, stream, scales, zeros);
          written.push({ codes, scales, zeros });
          for (let c = 0; c < columns; c++) {
            const g = Math.floor(c / Math.min(group, columns));
            const z = zero === "f16" || zero === "f32" ? decoders[zero](zeros[g] ?? 0) : (zeros[g] ?? 0);
            expected[r * columns + c] = decoders[scale](scales[g] ?? 0) * Math.fround((codes[c] ?? 0) - z);
          }
        }
        expect(streamed.segments).toEqual(builder.segments);
        const weight: LinearWeight = { out: rows, in: columns, segments: builder.segments };
        expect(denseWeight(weight).map((v) => v + 0)).toEqual(expected.map((v) => v + 0));
        const view = integerGrid(weight);
        if (zero === "f32" || zero === "f16") {
          expect(view).toBeUndefined();
          return;
        }
        expect(view).toMatchObject({ bits, group: Math.min(group, columns), scale, zero, groups });
        written.forEach(({ codes, scales, zeros }, r) => {
          const read = {
            codes: new Uint8Array(columns),
            scales: new Uint32Array(groups),
            zeros: new Uint8Array(groups),
          };
          view?.row(r, read.codes, read.scales, read.zeros);
          expect(read.codes).toEqual(codes);
          expect([...read.scales].map((v) => v >>> 0)).toEqual(scales.map((v) => v >>> 0));
          expect([...read.zeros]).toEqual(zeros);
        });
      }),
      { seed: 11, numRuns: 60 },
    );
  });

  it("cost little more than their codes and scales", () => {
    const type = gridType({ bits: 4, group: 4096, scale: "f16", zero: 8 });
    expect(type).toMatchObject({ block: 1024, bytes: 514 });
    expect(gridShapeOf(type)?.group).toBe(4096);
    expect(planOf(type)).toMatchObject({ family: "ints", levelBits: 4, zero: 8, group: 1024 });
    expect(gridType({ bits: 4, group: 4096, scale: "f16", zero: 8 })).toBe(type);
  });

  it("round where the shape says so", () => {
    const builder = buildGrid(1, 32, { bits: 8, group: 32, scale: "f32", zero: 0, round: "f16" });
    builder.row(0, new Uint8Array(32).fill(255), [floatToBits(1.1)]);
    const [value] = denseWeight({ out: 1, in: 32, segments: builder.segments });
    expect(value).toBe(halfToFloat(floatToHalf(Math.fround(1.1) * 255)));
  });

  it("hold a min in place of a zero point", () => {
    const builder = buildGrid(1, 32, { bits: 4, group: 32, scale: "f16", zero: 0, min: "f16" });
    builder.row(0, new Uint8Array(32).fill(5), [floatToHalf(0.5)], [floatToHalf(-3)]);
    expect(denseWeight({ out: 1, in: 32, segments: builder.segments })[0]).toBe(-0.5);
    expect(integerGrid({ out: 1, in: 32, segments: builder.segments })).toBeUndefined();
  });
});
