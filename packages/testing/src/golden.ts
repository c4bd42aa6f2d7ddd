import { readFileSync } from "node:fs";
import {
  type BackendFactory,
  decodeDense,
  type LinearWeight,
  memorySource,
  type PlainJson,
  rowsOf,
} from "@lowbit/core";
import { readSafetensors } from "@lowbit/packing";
import { testData } from "./data.ts";
import { testPlatform } from "./test-platform.ts";

/** A packed module among the golden vectors. */
export interface GoldenCase {
  readonly id: string;
  readonly format: string;
  readonly module: string;
  readonly files: { readonly packed: string; readonly expect: string };
  /** As `quantization_config` of config.json would be. */
  readonly config: PlainJson;
}

/** Those of the given formats; none where the data is absent. */
export function goldenCases(...formats: readonly string[]): GoldenCase[] {
  const path = testData("golden/manifest.json");
  const { cases } = path ? JSON.parse(readFileSync(path, "utf8")) : { cases: [] };
  return cases.filter(({ format, module }: GoldenCase) => formats.includes(format) && module !== undefined);
}

/** The f32 arrays of a golden file by name: w as [in, out], or [experts, out, in]; x as rows of inputs; y = x·w. */
export async function goldenArrays(file: string): Promise<ReadonlyMap<string, Float32Array>> {
  const path = testData(`golden/${file}`);
  if (!path) throw new Error(`there is no golden/${file}`);
  const bytes = new Uint8Array(readFileSync(path));
  const { tensors } = await readSafetensors(memorySource(bytes));
  const arrays = new Map<string, Float32Array>();
  for (const { name, dtype, offset, bytes: length } of tensors.values()) {
    if (dtype !== "F32") continue;
    const array = new Float32Array(length / 4);
    decodeDense("f32", bytes.subarray(offset, offset + length), array);
    arrays.set(name, array);
  }
  return arrays;
}

/** y = x·Wᵀ + bias on a backend, for as many rows as `x` has. A stack of experts counts as one tall matrix. */
export async function multiply(
  factory: BackendFactory,
  weight: LinearWeight,
  x: Float32Array,
): Promise<Float32Array> {
  const backend = await factory.create(testPlatform());
  try {
    const { experts: _, ...tall } = { ...weight, out: rowsOf(weight) };
    const uploaded = backend.upload(tall);
    const input = backend.ops.constant(x, x.length / weight.in, weight.in);
    const output = backend.ops.linear(input, uploaded);
    await backend.submit();
    return await backend.read(output);
  } finally {
    await backend.dispose();
  }
}
