import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { awq } from "@lowbit/awq";
import { bitsandbytes } from "@lowbit/bitsandbytes";
import { compressedTensors } from "@lowbit/compressed-tensors";
import { type Checkpoint, memorySource, type Packing, type PackingOptions, singleFile } from "@lowbit/core";
import { exl2 } from "@lowbit/exl2";
import { openGguf } from "@lowbit/gguf";
import { gptq } from "@lowbit/gptq";
import { hqq } from "@lowbit/hqq";
import { readSafetensors } from "@lowbit/packing";
import {
  describeWithData,
  meanDivergence,
  type TinyModelOptions,
  testData,
  tinyModelBytes,
  trackedFiles,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { type Converted, convertAll, referenceLogits } from "../test/convert.ts";
import { safetensorsFormat, writeHuggingFace } from "./index.ts";

const packings = [gptq(), awq(), exl2(), bitsandbytes(), compressedTensors(), hqq()].flatMap(
  (plugin) => plugin.packings ?? [],
);
const format = safetensorsFormat();
const tokens = [1, 260, 300, 17, 200, 5, 299, 2];

async function pack(source: Checkpoint, name: string, options: PackingOptions = {}): Promise<Converted> {
  const packing = packings.find((packing) => packing.name === name) as Packing;
  const writer = packing.writer?.(options);
  if (!writer) throw new Error(`${name} does not write`);
  return convertAll(source, await writeHuggingFace(source, { packing: { name, writer } }));
}

const open = (files: Record<string, Uint8Array>): Promise<Checkpoint> =>
  format.open(trackedFiles(files), undefined, packings);

async function tiny(options: TinyModelOptions): Promise<Checkpoint> {
  return openGguf(singleFile(memorySource(await tinyModelBytes(options)), "model.gguf"));
}

async function tensorsOf(
  bytes: Uint8Array,
): Promise<Map<string, { dtype: string; shape: unknown; hash: string }>> {
  const { tensors } = await readSafetensors(memorySource(bytes));
  return new Map(
    [...tensors.values()].map(({ name, dtype, shape, offset, bytes: size }) => {
      const hash = createHash("sha256")
        .update(bytes.subarray(offset, offset + size))
        .digest("hex");
      return [name, { dtype, shape, hash }];
    }),
  );
}

const weightsFile = (files: Record<string, Uint8Array>): Uint8Array =>
  files["model.safetensors"] ?? files["output.safetensors"] ?? new Uint8Array(0);

const parse = (bytes: Uint8Array | undefined): Record<string, unknown> =>
  JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;

const goldens = [
  ["gptq-4bit-g128-v2", "gptq", { variant: "gptq_v2" }],
  ["gptq-4bit-g64-act", "gptq", {}],
  ["awq-gemm", "awq", { groupSize: 64 }],
  ["exl2-mixed", "exl2", {}],
  ["bnb-nf4", "bitsandbytes", {}],
] as const;

describeWithData("golden packed models", ["golden/models/gptq-4bit-g128-v2"], () => {
  it.each(goldens)("%s: the same bytes again", async (name, packing, options) => {
    const path = testData(`golden/models/${name}`) as string;
    const source = await format.open(trackedFiles(path), undefined, packings);
    const { files, stored } = await pack(source, packing, options);
    const file = name === "exl2-mixed" ? "output.safetensors" : "model.safetensors";
    const original = await tensorsOf(new Uint8Array(readFileSync(`${path}/${file}`)));
    expect(await tensorsOf(weightsFile(files))).toEqual(original);
    expect([...stored].filter(([, { moved }]) => !moved)).toEqual([]);
    const again = await open(files);
    expect(await referenceLogits(again, tokens)).toEqual(await referenceLogits(source, tokens));
  });
});

/** Wide enough for groups of 32 and words of codes. */
const wide = { embeddingSize: 128, feedForwardSize: 256, vocabularySize: 320 } as const;
const families: readonly TinyModelOptions[] = [
  { architecture: "llama", ...wide },
  { architecture: "llama", ...wide, experts: { count: 3, used: 2 } },
  { architecture: "qwen2", ...wide },
  { architecture: "qwen3moe", ...wide, experts: { count: 3, used: 2, feedForwardSize: 64 } },
  { architecture: "gemma2", ...wide },
  { architecture: "phi3", ...wide },
  { architecture: "gpt2", ...wide },
];
const methods: readonly (readonly [string, PackingOptions])[] = [
  ["gptq", { groupSize: 32 }],
  ["awq", { groupSize: 32 }],
  ["exl2", { bits: 5, groupSize: 32 }],
  ["bitsandbytes", {}],
  ["compressed-tensors", { groupSize: 32 }],
  ["hqq", { groupSize: 32 }],
];

describe.each(methods)("packed as %s", (name, options) => {
  it.each(families.map((family) => [JSON.stringify(family), family] as const))("%s", async (_, family) => {
    const source = await tiny(family);
    const { files, stored } = await pack(source, name, options);
    const made = await open(files);
    const logits = await referenceLogits(made, tokens);
    expect(meanDivergence(await referenceLogits(source, tokens), logits, 320)).toBeLessThan(0.5);
    const packed = made.entries().filter(({ segments }) => segments);
    expect(packed.length).toBeGreaterThan(0);
    // Every linear of a layer but those that choose experts.
    const plain = made
      .entries()
      .filter(({ role, shape, segments }) => role?.startsWith("layers.") && !segments && shape.length > 1);
    for (const { role } of plain) expect(role).toMatch(/router$/);
    // What was stored is what is read.
    for (const [role, { weight }] of stored) {
      if (weight instanceof Float32Array) expect(await made.vector(role)).toEqual(weight);
      else {
        const read = await made.weight(role);
        expect(read.segments.length, role).toBe(weight.segments.length);
        for (const [i, { blocks, type }] of read.segments.entries()) {
          expect(type, role).toBe(weight.segments[i]?.type);
          expect(Buffer.compare(blocks, weight.segments[i]?.blocks ?? new Uint8Array(0)), role).toBe(0);
        }
        expect(read.permute, role).toEqual(weight.permute);
        expect(read.bias, role).toEqual(weight.bias);
      }
    }
    expect(parse(files["config.json"])).toHaveProperty("quantization_config");
    await again(made, files, name, options);
  });
});

/** A copy of a packed folder is the same, byte for byte. */
async function again(
  made: Checkpoint,
  files: Record<string, Uint8Array>,
  name: string,
  options: PackingOptions,
): Promise<void> {
  const copy = await pack(made, name, options);
  expect(await tensorsOf(weightsFile(copy.files))).toEqual(await tensorsOf(weightsFile(files)));
  expect(parse(copy.files["config.json"])).toEqual(parse(files["config.json"]));
}
