import { readFileSync } from "node:fs";
import { dequantize } from "@lowbit/core";
import { describeWithData, testData } from "@lowbit/testing";
import { expect, test } from "vitest";
import { ggmlTypes } from "./types.ts";

interface TensorCase {
  id: string;
  format: string;
  ggml_type: number;
  type_name: string;
  rows: number;
  cols: number;
  block_elems: number;
  block_bytes: number;
  files: { raw: string; dequant_f32: string };
}

/** Positions where the bits differ; two NaNs count as equal. */
function differences(actual: Float32Array, expected: Float32Array): number[] {
  const a = new Uint32Array(actual.buffer);
  const b = new Uint32Array(expected.buffer);
  const both = (i: number): boolean => Number.isNaN(actual[i]) && Number.isNaN(expected[i]);
  return Array.from(a.keys()).filter((i) => a[i] !== b[i] && !both(i));
}

function golden(path: string): Uint8Array {
  return Uint8Array.from(readFileSync(testData(`golden/${path}`) as string));
}

describeWithData("reference dequantization is bit-equal to ggml's", ["golden/manifest.json"], () => {
  const manifest = JSON.parse(readFileSync(testData("golden/manifest.json") as string, "utf8")) as {
    cases: TensorCase[];
  };
  const cases = manifest.cases.filter((item) => item.format === "ggml-tensor");

  test.each(cases)("$id", (item) => {
    const type = ggmlTypes.get(item.ggml_type);
    if (type === undefined) throw new Error(`no type ${item.ggml_type}`);
    expect([type.name, type.block, type.bytes]).toEqual([item.type_name, item.block_elems, item.block_bytes]);
    const expected = new Float32Array(golden(item.files.dequant_f32).buffer);
    expect(expected.length).toBe(item.rows * item.cols);
    const actual = dequantize(type, golden(item.files.raw), new Float32Array(expected.length));
    expect(differences(actual, expected)).toEqual([]);
  });

  test("every type but the plain integers and F64 has a case", () => {
    const covered = new Set(cases.map((item) => item.ggml_type));
    expect([...ggmlTypes.keys()].filter((id) => !covered.has(id))).toEqual([24, 25, 26, 27, 28]);
  });
});
