import { readFileSync } from "node:fs";
import { denseWeight, LowbitError } from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import {
  describeWithData,
  goldenArrays,
  goldenCases,
  multiply,
  packedCheckpoint,
  packedTensors,
  testData,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { awq } from "./index.ts";

const packing = awq().packings![0]!;
const open = async (path: string, config: object) =>
  packing.open(await packedCheckpoint(testData(`golden/${path}`) as string, config as never));

/** Rows of inputs to rows of outputs. */
function transposed(values: Float32Array, rows: number): Float32Array {
  const columns = values.length / rows;
  return Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!);
}

describeWithData("files of the reference", ["golden/manifest.json"], () => {
  describe.each(goldenCases("awq"))("$id", ({ id, module, files, config }) => {
    it("holds the values bit for bit, packed", async () => {
      const modules = await open(files.packed, config as object);
      const weight = await modules.weight(module);
      const expected = (await goldenArrays(files.expect)).get("w")!;
      expect(transposed(denseWeight(weight), weight.out)).toEqual(expected.map((value) => value + 0));
      const described = modules.describe(module)!;
      expect(weight.segments.map(({ type }) => type)).toEqual(described.segments.map(({ type }) => type));
      const bytes = weight.segments.reduce((sum, { blocks }) => sum + blocks.length, 0);
      // gemv fills its scales up to eight groups, so its file is the larger one.
      expect((bytes - described.bytes) * 8).toBeLessThan(0.2 * weight.in * weight.out);
    });

    it("multiplies on the backends", async () => {
      const { bias, ...weight } = await (await open(files.packed, config as object)).weight(module);
      const arrays = await goldenArrays(files.expect);
      // The golden product is without it.
      expect(bias?.length ?? weight.out).toBe(weight.out);
      const x = arrays.get("x")!;
      const expected = arrays.get("y")!;
      const scale = Math.max(...expected.map(Math.abs));
      const exact = await multiply(reference(), weight, x);
      // Both round an f64 sum once.
      expect(Math.max(...exact.map((v, i) => Math.abs(v - expected[i]!))) / scale).toBeLessThan(1e-6);
      const fast = await multiply(wasm(), weight, x);
      // Activations are rounded to int8 per 32.
      expect(Math.max(...fast.map((v, i) => Math.abs(v - expected[i]!))) / scale).toBeLessThan(2e-2);
    });

    // gemv_fast stores rounded products of scale and zero point; it is read only.
    it.skipIf(id.includes("gemvfast"))("is written back byte for byte", async () => {
      const checkpoint = await packedCheckpoint(testData(`golden/${files.packed}`) as string, config);
      const weight = await (await packing.open(checkpoint)).weight(module);
      const { version: variant, group_size: groupSize } = config as { version: string; group_size: number };
      const writer = packing.writer!({ variant, groupSize });
      expect(writer.hold(weight)).toBe(weight);
      const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
      const written = [...writer.pack(module, weight)].sort(byName);
      expect(written).toEqual((await packedTensors(checkpoint)).sort(byName));
    });
  });

  const { malformed } = JSON.parse(readFileSync(testData("golden/manifest.json") as string, "utf8")) as {
    malformed: {
      id: string;
      format: string;
      path: string;
      module: string;
      config: object;
      expect: { error: string };
    }[];
  };
  it.each(malformed.filter(({ format }) => format === "awq"))("refuses $id", async (item) => {
    const error: unknown = await open(item.path, item.config)
      .then((modules) => modules.weight(item.module))
      .catch((error: unknown) => error);
    expect(LowbitError.is(error) && item.expect.error.split(" or ")).toContain((error as LowbitError).reason);
  });
});
