import { denseWeight, LowbitError, type PackedTensor } from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { wasm } from "@lowbit/kernels-wasm";
import {
  describeWithData,
  goldenCheckpoint,
  goldenExpected,
  goldenPacked,
  linearOn,
  packedTensors,
  transposed,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { gptqPacking as packing } from "./index.ts";

const byName = (tensors: readonly PackedTensor[]): PackedTensor[] =>
  [...tensors].sort((a, b) => (a.name < b.name ? -1 : 1));

describeWithData("files of the reference", ["golden/manifest.json"], () => {
  const { cases, malformed } = goldenPacked("gptq");

  describe.each(cases)("$id", (item) => {
    it("holds the values bit for bit, packed", async () => {
      const checkpoint = await goldenCheckpoint(item);
      expect(packing.detect(checkpoint)).toBe(1);
      const modules = await packing.open(checkpoint);
      const weight = await modules.weight(item.module);
      expect([weight.out, weight.in]).toEqual([item.out_features, item.in_features]);
      const expected = (await goldenExpected(item)).get("w")!;
      expect(transposed(denseWeight(weight), weight.out)).toEqual(expected.map((value) => value + 0));
      const { segments, bytes } = modules.describe(item.module)!;
      expect(segments).toEqual(weight.segments.map(({ type, from, to }) => ({ type, from, to })));
      const inMemory = weight.segments.reduce((sum, { blocks }) => sum + blocks.length, 0);
      // Within 0.2 bits a weight of the file, whose g_idx (32 bits an input) is not among the blocks.
      const file = bytes - 4 * weight.in;
      expect(Math.abs(inMemory - file) * 8).toBeLessThan(0.2 * weight.in * weight.out);
    });

    it("multiplies on the backends", async () => {
      const { bias, ...weight } = await (await packing.open(await goldenCheckpoint(item))).weight(
        item.module,
      );
      // The golden product is without it.
      expect(bias?.length ?? weight.out).toBe(weight.out);
      const expected = await goldenExpected(item);
      const [x, y] = [expected.get("x")!, expected.get("y")!];
      const most = y.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      const worst = (actual: Float32Array): number =>
        actual.reduce((worst, value, i) => Math.max(worst, Math.abs(value - y[i]!)), 0) / most;
      // Both round an f64 sum once.
      expect(worst(await linearOn(reference(), weight, x))).toBeLessThan(1e-6);
      // Activations are rounded to int8 per 32.
      expect(worst(await linearOn(wasm(), weight, x))).toBeLessThan(2e-2);
    });

    // A zero point of 0 is no packer's work in version 1.
    const { id, config } = item;
    it("is written back byte for byte", async () => {
      const checkpoint = await goldenCheckpoint(item);
      const weight = await (await packing.open(checkpoint)).weight(item.module);
      const { checkpoint_format: variant } = config as { checkpoint_format: string };
      const writer = packing.writer({ variant });
      if (id.includes("wrap")) {
        expect(writer.hold(weight)).toBeUndefined();
        expect(packing.writer({ variant: "gptq_v2" }).hold(weight)).toBe(weight);
        return;
      }
      expect(writer.hold(weight)).toBe(weight);
      expect(byName(writer.pack(item.module, weight))).toEqual(byName(await packedTensors(checkpoint)));
    });
  });

  it.each(malformed)("refuses $id", async (item) => {
    const error: unknown = await goldenCheckpoint(item)
      .then((checkpoint) => packing.open(checkpoint))
      .then((modules) => modules.weight(item.module))
      .catch((error: unknown) => error);
    expect(LowbitError.is(error) && item.expect.error.split(" or ")).toContain((error as LowbitError).reason);
  });
});
