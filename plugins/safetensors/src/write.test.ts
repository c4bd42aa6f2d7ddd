import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { type Checkpoint, type ModelConfig, memorySource, singleFile } from "@lowbit/core";
import { openGguf } from "@lowbit/gguf";
import { readSafetensors } from "@lowbit/packing";
import {
  describeWithData,
  type TinyModelOptions,
  testData,
  tinyModelBytes,
  trackedFiles,
} from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { convertAll, referenceLogits } from "../test/convert.ts";
import { safetensorsFormat, writeHuggingFace } from "./index.ts";

const format = safetensorsFormat();
const openFolder = (path: string): Promise<Checkpoint> => format.open(trackedFiles(testData(path) as string));
const tokens = [1, 260, 300, 17, 200, 5, 299, 2];

async function tensorsOf(files: Record<string, Uint8Array>): Promise<Map<string, unknown>> {
  const all = new Map<string, unknown>();
  for (const [name, bytes] of Object.entries(files)) {
    if (!name.endsWith(".safetensors")) continue;
    const { tensors } = await readSafetensors(memorySource(bytes, name));
    for (const { name, dtype, shape, offset, bytes: size } of tensors.values()) {
      const data = createHash("sha256")
        .update(bytes.subarray(offset, offset + size))
        .digest("hex");
      all.set(name, { dtype, shape, data });
    }
  }
  return all;
}

function folderFiles(path: string, names: readonly string[]): Record<string, Uint8Array> {
  return Object.fromEntries(
    names.map((name) => [name, new Uint8Array(readFileSync(testData(`${path}/${name}`) as string))]),
  );
}

const parse = (bytes: Uint8Array | undefined): Record<string, unknown> =>
  JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;

describeWithData("golden folders", ["golden/models/hf-f16", "golden/models/hf-bf16-sharded"], () => {
  it.each([
    ["hf-f16", ["model.safetensors"]],
    ["hf-bf16-sharded", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]],
  ])("%s: the same tensors and files again", async (name, weightFiles) => {
    const path = `golden/models/${name}`;
    const source = await openFolder(path);
    const { files, stored } = await convertAll(source, await writeHuggingFace(source));
    const original = folderFiles(path, weightFiles);
    expect(await tensorsOf(files)).toEqual(await tensorsOf(original));
    expect([...stored.values()].every(({ moved }) => moved)).toBe(true);
    const beside = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"];
    for (const [file, bytes] of Object.entries(folderFiles(path, beside))) {
      expect(Buffer.from(files[file] ?? []).equals(bytes), file).toBe(true);
    }
    const config = parse(folderFiles(path, ["config.json"])["config.json"]);
    // The sharded folder says float16 of its bfloat16 weights.
    const dtype = name.includes("bf16") ? "bfloat16" : "float16";
    expect(parse(files["config.json"])).toEqual({ ...config, torch_dtype: dtype });
    expect(Object.keys(files).sort()).toEqual(["config.json", ...beside, "model.safetensors"].sort());
  });

  it("a GGUF file becomes the folder that it was made from", async () => {
    const source = await openGguf(trackedFiles(testData("golden/models/gguf/model-F16.gguf") as string));
    const { files, stored } = await convertAll(source, await writeHuggingFace(source));
    const path = "golden/models/hf-f16";
    expect(await tensorsOf(files)).toEqual(await tensorsOf(folderFiles(path, ["model.safetensors"])));
    expect([...stored.values()].every(({ moved }) => moved)).toBe(true);
    const made = await format.open(trackedFiles(files));
    expect(await referenceLogits(made, tokens)).toEqual(await referenceLogits(source, tokens));
    const original = parse(folderFiles(path, ["config.json"])["config.json"]);
    delete original.transformers_version;
    expect(parse(files["config.json"])).toMatchObject(original);
  });
});

const families: readonly TinyModelOptions[] = [
  { architecture: "llama" },
  { architecture: "llama", tied: true, ropeScaling: { kind: "linear", factor: 2.5 } },
  { architecture: "llama", ropeScaling: { kind: "yarn", factor: 4, originalContextLength: 32 } },
  { architecture: "llama", ropeScaling: { kind: "llama3", factor: 4, originalContextLength: 32 } },
  { architecture: "llama", ropeScaling: { kind: "llama3", factor: 3, originalContextLength: 50 } },
  { architecture: "llama", experts: { count: 4, used: 2 } },
  { architecture: "qwen2" },
  { architecture: "qwen2moe", experts: { count: 4, used: 2 } },
  { architecture: "qwen3", keySize: 24 },
  { architecture: "qwen3moe", experts: { count: 4, used: 2 } },
  { architecture: "gemma" },
  { architecture: "gemma2", layers: 4 },
  { architecture: "gemma3", layers: 7 },
  { architecture: "phi3" },
  {
    architecture: "phi3",
    ropeScaling: { kind: "longrope", originalContextLength: 96, attentionFactor: 1.25 },
  },
  { architecture: "gpt2" },
  { architecture: "bitnet" },
];

/** Divisors that no rule makes are written as LongRoPE, which needs a length that GGUF does not have. */
function withoutOriginal(config: ModelConfig): unknown {
  const scaling = config.rope?.scaling;
  if (config.architecture !== "llama" || scaling?.kind !== "factors") return config;
  return { ...config, rope: { ...config.rope, scaling: { ...scaling, originalContextLength: undefined } } };
}

describe("every family, from GGUF to a folder", () => {
  it.each(families.map((options) => [JSON.stringify(options), options] as const))(
    "%s",
    async (_, options) => {
      const source = await openGguf(singleFile(memorySource(await tinyModelBytes(options)), "model.gguf"));
      const { files, stored } = await convertAll(source, await writeHuggingFace(source));
      const made = await format.open(trackedFiles(files));
      expect([...stored].filter(([, { moved }]) => !moved)).toEqual([]);
      expect(withoutOriginal(made.config)).toEqual(withoutOriginal(source.config));
      expect(await referenceLogits(made, tokens)).toEqual(await referenceLogits(source, tokens));
      // And once more, as a folder that is copied.
      const again = await convertAll(made, await writeHuggingFace(made));
      expect(await tensorsOf(again.files)).toEqual(await tensorsOf(files));
      expect(parse(again.files["config.json"])).toEqual(parse(files["config.json"]));
      expect(again.files["tokenizer.json"]).toEqual(files["tokenizer.json"]);
    },
  );
});

describe("divisors of the rotation", () => {
  it("that a converter rounded in its own way are kept beside Llama 3's parameters", async () => {
    const ropeScaling = { kind: "llama3", factor: 4, originalContextLength: 32 } as const;
    const bytes = await tinyModelBytes({ architecture: "llama", ropeScaling });
    const source = await openGguf(singleFile(memorySource(bytes), "model.gguf"));
    const exact = await source.vector("rope.factors");
    const rounded = exact.map((value, i) => (value > 1 ? value * (1 + (i % 3) * 1e-7) : value));
    expect(rounded).not.toEqual(exact);
    const other: Checkpoint = {
      ...source,
      vector: async (role) => (role === "rope.factors" ? rounded : source.vector(role)),
    };
    const { files } = await convertAll(other, await writeHuggingFace(other));
    expect(parse(files["config.json"])).toMatchObject({
      rope_scaling: {
        rope_type: "llama3",
        factor: 4,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 32,
      },
    });
    const made = await format.open(trackedFiles(files));
    expect(await made.vector("rope.factors")).toEqual(rounded);
    const plain = await convertAll(source, await writeHuggingFace(source));
    expect(parse(plain.files["config.json"])).not.toHaveProperty("rope_factors");
  });
});
