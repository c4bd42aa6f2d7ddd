import { readFileSync } from "node:fs";
import { memorySource } from "@lowbit/core";
import { readSafetensors } from "@lowbit/packing";
import { describeWithData, testData } from "@lowbit/testing";
import { expect, test } from "vitest";
import { iq1s, iq2s, iq2xs, iq2xxs, iq3s, iq3xxs, unpackGrid } from "./grids.ts";

const tables = "golden/tables/ggml-tables.safetensors";

describeWithData("codebooks are ggml's, entry by entry", [tables], () => {
  test.each(Object.entries({ iq1s, iq2xxs, iq2xs, iq2s, iq3xxs, iq3s }))("%s", async (name, grid) => {
    const bytes = Uint8Array.from(readFileSync(testData(tables) as string));
    const tensor = (await readSafetensors(memorySource(bytes))).tensors.get(`${name}_grid`);
    if (tensor === undefined) throw new Error(`no table for ${name}`);
    const expected = new Int8Array(bytes.slice(tensor.offset, tensor.offset + tensor.bytes).buffer);
    expect(grid.dimension).toBe(tensor.shape[1]);
    expect(unpackGrid(grid)).toEqual([...expected]);
  });
});
