import { readFileSync } from "node:fs";
import { dequantize, memorySource, type QuantType } from "@lowbit/core";
import { readSafetensors } from "@lowbit/packing";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { swapBlocks, wordsOf } from "./endian.ts";
import { readGguf } from "./read.ts";
import { F32, F64, ggmlTypes, I8, I16, IQ2_XXS, MXFP4, NVFP4, Q4_K, Q5_1, Q6_K, Q8_0 } from "./types.ts";

describe("swapBlocks", () => {
  test.each([...ggmlTypes.values()])(
    "$name: words lie inside the block, apart, and swapping twice is nothing",
    (type) => {
      const touched = wordsOf(type).flatMap(({ at, size, count, stride }) =>
        Array.from({ length: count * size }, (_, i) => at + Math.floor(i / size) * stride + (i % size)),
      );
      expect(new Set(touched).size).toBe(touched.length);
      expect(Math.max(-1, ...touched)).toBeLessThan(type.bytes);
      fc.assert(
        fc.property(fc.uint8Array({ minLength: type.bytes * 3, maxLength: type.bytes * 3 }), (bytes) => {
          expect(swapBlocks(type, swapBlocks(type, bytes))).toEqual(bytes);
        }),
        { numRuns: 5 },
      );
    },
  );

  test.each<[QuantType, number[]]>([
    [I8, []],
    [I16, [1, 0]],
    [F32, [3, 2, 1, 0]],
    [F64, [7, 6, 5, 4, 3, 2, 1, 0]],
    [Q8_0, [1, 0, 2, 3, 4]],
    [Q5_1, [1, 0, 3, 2, 7, 6, 5, 4, 8, 9]],
    [Q4_K, [1, 0, 3, 2, 4, 5, 6]],
    [IQ2_XXS, [1, 0, 2, 3, 4, 5, 9, 8, 7, 6, 10, 11, 12, 13, 17, 16, 15, 14, 18]],
    [MXFP4, [0, 1, 2]],
    [NVFP4, [0, 1, 2, 3, 4]],
  ])("$name block begins with these bytes of the other order", (type, order) => {
    const bytes = Uint8Array.from({ length: type.bytes }, (_, i) => i);
    expect([...swapBlocks(type, bytes).subarray(0, order.length)]).toEqual(order);
  });

  test("leaves its input alone, and takes an id", () => {
    const bytes = Uint8Array.from({ length: 210 }, (_, i) => i);
    const swapped = swapBlocks(14, bytes);
    expect([bytes[208], bytes[209]]).toEqual([208, 209]);
    expect([swapped[207], swapped[208], swapped[209]]).toEqual([207, 209, 208]);
    expect(dequantize(Q6_K, swapped, new Float32Array(256))).not.toEqual(
      dequantize(Q6_K, bytes, new Float32Array(256)),
    );
  });

  test("an unknown id is an error", () => {
    expect(() => swapBlocks(4, new Uint8Array(0))).toThrow("no ggml tensor type 4");
  });
});

const bigEndian = "golden/gguf/container-be-quant.gguf";
const expectedValues = "golden/gguf/container-be-quant.expect.safetensors";

describeWithData("a big-endian file made by ggml's converter", [bigEndian, expectedValues], () => {
  test("every tensor decodes to the values of the little-endian original", async () => {
    const bytes = Uint8Array.from(readFileSync(testData(bigEndian) as string));
    const expected = await floats(Uint8Array.from(readFileSync(testData(expectedValues) as string)));
    const header = await readGguf(memorySource(bytes));
    expect(header.bigEndian).toBe(true);
    expect(new Set(header.tensors.map(({ name }) => name))).toEqual(new Set(expected.keys()));
    for (const { name, type, offset, bytes: length } of header.tensors) {
      const values = expected.get(name) ?? new Float32Array(0);
      const blocks = swapBlocks(type, bytes.subarray(offset, offset + length));
      expect(dequantize(type, blocks, new Float32Array(values.length))).toEqual(values);
    }
  });
});

/** The f32 tensors of a safetensors file. */
async function floats(bytes: Uint8Array): Promise<Map<string, Float32Array>> {
  const { tensors } = await readSafetensors(memorySource(bytes));
  return new Map(
    [...tensors.values()].map(({ name, offset, bytes: length }) => [
      name,
      new Float32Array(bytes.slice(offset, offset + length).buffer),
    ]),
  );
}
