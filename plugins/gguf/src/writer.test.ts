import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf as readWithOracle } from "@huggingface/gguf";
import {
  type Checkpoint,
  type CheckpointWriter,
  denseWeight,
  floatToHalf,
  type LinearWeight,
  type StagedWeight,
  type StoredWeight,
  type WriterOptions,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import { buildGrid, type GridShape } from "@lowbit/packing";
import { safetensorsFormat } from "@lowbit/safetensors";
import {
  describeWithData,
  openModel,
  random,
  runModel,
  type TinyModelOptions,
  testData,
  testPlatform,
  tinyModelBytes,
  trackedFiles,
} from "@lowbit/testing";
import { llamaCpp } from "@lowbit/testing/llama-cpp";
import { createTokenizer } from "@lowbit/tokenizers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type GgufCheckpoint, ggufWriter, openGguf, Q4_0, Q4_1, Q5_0, Q8_0 } from "./index.ts";

/** Everything that the architecture wants, through the writer into one file. */
async function written(source: Checkpoint, options: WriterOptions = {}): Promise<Uint8Array> {
  const writer = await ggufWriter(source, options);
  const architecture = architectures.find(({ names }) => names.includes(source.config.architecture))!;
  const present = new Set(source.entries().map(({ role }) => role));
  const staged: StagedWeight[] = [];
  for (const { role, kind, optional } of architecture.weights(source.config)) {
    if (optional && !present.has(role)) continue;
    const stored: StoredWeight =
      kind === "vector"
        ? writer.storeVector(role, await source.vector(role))
        : writer.store(role, await source.weight(role));
    staged.push({ role, tensors: stored.tensors.map(staging) });
  }
  return finished(writer, staged);
}

function staging({ data, ...tensor }: StoredWeight["tensors"][number]): StagedWeight["tensors"][number] {
  return {
    ...tensor,
    bytes: data.length,
    async *read() {
      // In pieces, as files come.
      for (let at = 0; at < data.length; at += 1000) yield data.subarray(at, at + 1000);
    },
  };
}

async function finished(writer: CheckpointWriter, staged: readonly StagedWeight[]): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let closed = false;
  const create = async (file: string) => {
    expect(file).toBe(writer.fileName);
    return {
      write: async (bytes: Uint8Array) => void parts.push(bytes.slice()),
      close: async () => {
        closed = true;
      },
    };
  };
  await writer.finish({ create }, staged);
  expect(closed).toBe(true);
  return new Uint8Array(Buffer.concat(parts));
}

const reopened = (bytes: Uint8Array): Promise<GgufCheckpoint> =>
  openGguf(trackedFiles({ "m.gguf": bytes }, "m.gguf"));
const openFolder = (path: string): Promise<Checkpoint> =>
  safetensorsFormat().open(trackedFiles(testData(path) as string));

async function logits(checkpoint: Checkpoint): Promise<Float32Array> {
  const backend = await reference().create(testPlatform());
  try {
    return await runModel({ checkpoint, architectures, backend, tokens: [3, 17, 40, 2, 9] });
  } finally {
    await backend.dispose();
  }
}

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-gguf-writer-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describeWithData(
  "from Hugging Face folders",
  ["golden/models/hf-f16/config.json", "models/pico/hf/config.json"],
  () => {
    it.each([
      ["golden/models/hf-f16", "golden/models/gguf/model-F16.gguf"],
      ["models/pico/hf", "models/pico/pico-f16.gguf"],
    ])("%s has the tensors of %s", async (path, wanted) => {
      const bytes = await written(await openFolder(path));
      const ours = await reopened(bytes);
      const theirs = await openGguf(trackedFiles(testData(wanted) as string));
      expect(new Set(ours.entries().map(({ name }) => name))).toEqual(
        new Set(theirs.entries().map(({ name }) => name)),
      );
      for (const { name } of theirs.entries()) {
        expect([name, Buffer.compare(await ours.blocks(name), await theirs.blocks(name))]).toEqual([name, 0]);
      }
      const { name: _, ...config } = theirs.config;
      expect(ours.config).toEqual(config);
      // What transformers' files do not state, and what is only stated outright.
      const apart = [
        "general.name",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.add_eos_token",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "general.quantization_version",
      ];
      const rest = (checkpoint: GgufCheckpoint) =>
        Object.fromEntries([...checkpoint.metadata].filter(([key]) => !apart.includes(key)));
      expect(rest(ours)).toEqual(rest(theirs));
      const path2 = join(folder, "oracle.gguf");
      await writeFile(path2, bytes);
      const oracle = await readWithOracle(path2, { allowLocalFile: true });
      expect(oracle.tensorInfos.length).toBe(theirs.entries().length);
    });

    it("cuts text as tokenizer.json does", async () => {
      const source = await openFolder("models/pico/hf");
      const ours = createTokenizer((await reopened(await written(source))).tokenizer!);
      const theirs = createTokenizer(source.tokenizer!);
      const texts = readFileSync(testData("models/ppl_text_16k.txt") as string, "utf8").match(
        /[\s\S]{1,200}/g,
      )!;
      for (const text of [...texts, "<|im_start|>user\n don't 12345  <tool_call>"]) {
        for (const parseSpecial of [false, true]) {
          expect(ours.encode(text, { parseSpecial })).toEqual(theirs.encode(text, { parseSpecial }));
        }
      }
      expect([...ours.endTokens].sort()).toEqual([...theirs.endTokens].sort());
      const chat = [{ role: "user", content: "Hi" }] as const;
      expect(ours.renderChat?.(chat)).toBe(theirs.renderChat?.(chat));
    });

    it.each([undefined, "Q8_0", "Q4_0"])("runs in llama.cpp to the same text (%s)", async (type) => {
      const bytes = await written(await openFolder("models/pico/hf"), type === undefined ? {} : { type });
      const path = join(folder, `pico-${type}.gguf`);
      await writeFile(path, bytes);
      const checkpoint = await reopened(bytes);
      const tokenizer = createTokenizer(checkpoint.tokenizer!);
      const backend = await reference().create(testPlatform());
      const oracle = await llamaCpp(path);
      try {
        const model = await openModel({ checkpoint, architectures, backend, contextLength: 96 });
        for (const content of ["What is 12 + 7?", "What is the capital of France?"]) {
          const text = tokenizer.renderChat!([{ role: "user", content }]);
          const tokens = tokenizer.encode(text, { parseSpecial: true });
          expect(oracle.tokenize(text, true)).toEqual(tokens);
          const answer = [...tokens];
          for (let i = 0; i < 12; i++) {
            const batch = {
              tokens: Int32Array.from(answer),
              positions: Int32Array.from(answer.keys()),
              sequences: new Int32Array(answer.length),
              pages: [model.pages()],
            };
            const last = await model.forward(batch, Int32Array.of(answer.length - 1));
            answer.push(last.indexOf(Math.max(...last)));
          }
          expect(await oracle.greedy(tokens, 12)).toEqual(answer.slice(tokens.length));
        }
      } finally {
        await oracle.dispose();
        await backend.dispose();
      }
    });

    it("rounds to a type where one is asked", async () => {
      const source = await openFolder("models/pico/hf");
      const q8 = await reopened(await written(source, { type: "q8_0" }));
      const types = new Map(q8.entries().map(({ role, type }) => [role, type.name]));
      expect([types.get("embed"), types.get("layers.0.attn.q"), types.get("norm")]).toEqual([
        "Q8_0",
        "Q8_0",
        "F32",
      ]);
      expect(q8.metadata.get("general.file_type")).toBe(7);
      await expect(written(source, { type: "Q4_K" })).rejects.toMatchObject({
        code: "bad-argument",
        hint: expect.stringMatching(/Q4_0/),
      });
      const packing = { name: "gptq", writer: {} as never };
      await expect(written(source, { packing })).rejects.toMatchObject({
        code: "bad-argument",
        reason: "packing",
      });
    });
  },
);

const shapes: readonly (TinyModelOptions & { readonly name: string })[] = [
  { name: "llama", architecture: "llama" },
  {
    name: "llama, yarn",
    architecture: "llama",
    ropeScaling: { kind: "yarn", factor: 4, originalContextLength: 32 },
  },
  { name: "llama, linear", architecture: "llama", tied: true, ropeScaling: { kind: "linear", factor: 4 } },
  { name: "mixtral", architecture: "llama", experts: { count: 4, used: 2 } },
  { name: "qwen2", architecture: "qwen2", ropeBase: 1e6 },
  { name: "qwen2moe", architecture: "qwen2moe", experts: { count: 8, used: 3 } },
  { name: "qwen3", architecture: "qwen3", keySize: 32, tied: true },
  { name: "qwen3moe", architecture: "qwen3moe", keySize: 32, experts: { count: 8, used: 3 } },
  { name: "gemma", architecture: "gemma", keySize: 32 },
  { name: "gemma2", architecture: "gemma2", layers: 4, keySize: 32 },
  { name: "gemma3", architecture: "gemma3", layers: 7, ropeBase: 1e6 },
  { name: "phi3", architecture: "phi3" },
  {
    name: "phi3, longrope",
    architecture: "phi3",
    ropeScaling: { kind: "longrope", originalContextLength: 256 },
  },
  { name: "gpt2", architecture: "gpt2" },
  { name: "bitnet", architecture: "bitnet" },
];

describe("from GGUF", () => {
  it.each(shapes)("$name keeps its logits and its keys", async (shape) => {
    const bytes = await tinyModelBytes(shape);
    const source = await reopened(bytes);
    const again = await reopened(await written(source));
    expect(again.config).toEqual(source.config);
    for (const [key, value] of source.metadata) {
      if (!/file_type|quantization_version/.test(key))
        expect([key, again.metadata.get(key)]).toEqual([key, value]);
    }
    expect(await logits(again)).toEqual(await logits(source));
  });

  it.each(shapes)("$name, as if it came from elsewhere: its keys say the same model", async (shape) => {
    const source = await reopened(await tinyModelBytes(shape));
    const { config, entries, weight, vector } = source;
    const elsewhere = {
      format: "other",
      metadata: new Map(),
      config,
      entries,
      weight,
      vector,
      close: () => Promise.resolve(),
    } as unknown as Checkpoint;
    const again = await reopened(await written(elsewhere));
    expect(again.config).toEqual(config);
    expect(await logits(again)).toEqual(await logits(source));
  });
});

describe("grids of integers", () => {
  const grid = (shape: GridShape, zeros: (g: number) => number, top = 2 ** shape.bits): LinearWeight => {
    const uniform = random(shape.bits + shape.group);
    const builder = buildGrid(6, 256, shape);
    for (let r = 0; r < 6; r++) {
      const codes = Uint8Array.from({ length: 256 }, () => Math.floor(top * uniform()));
      const scales = Array.from({ length: builder.groups }, () => floatToHalf(0.01 + uniform()));
      builder.row(
        r,
        codes,
        scales,
        Array.from({ length: builder.groups }, (_, g) => zeros(g + r)),
      );
    }
    return { out: 6, in: 256, segments: builder.segments };
  };
  const f16 = { scale: "f16" } as const;

  it.each([
    ["4 bits around 8", grid({ bits: 4, group: 128, zero: 8, ...f16 }, () => 8), Q4_0, true],
    ["3 bits around 4", grid({ bits: 3, group: 64, zero: 4, ...f16 }, () => 4), Q4_0, false],
    ["4 bits from 0", grid({ bits: 4, group: 32, zero: 0, ...f16 }, () => 0), Q4_1, false],
    [
      "4 bits, any zero points",
      grid({ bits: 4, group: 128, zero: "integer", ...f16 }, (g) => g % 16),
      Q5_0,
      false,
    ],
    ["8 bits around 128", grid({ bits: 8, group: 256, zero: 128, ...f16 }, () => 128), Q8_0, true],
  ] as const)("%s", async (_, weight, type, moved) => {
    const writer = await ggufWriter({ format: "gguf", metadata: new Map(), config: {} as never }, {});
    const stored = writer.store("layers.0.attn.q", weight);
    expect([stored.tensors[0]?.dtype, stored.moved]).toEqual([type.name, moved]);
    expect(denseWeight(stored.weight as LinearWeight).map((v) => v + 0)).toEqual(
      denseWeight(weight).map((v) => v + 0),
    );
  });

  it("plain numbers where no type of integers has the values", async () => {
    const writer = await ggufWriter({ format: "gguf", metadata: new Map(), config: {} as never }, {});
    const shape = { bits: 4, group: 128, zero: 8, ...f16 } as const;
    const weight = grid(shape, () => 8);
    const permuted = { ...weight, permute: Int32Array.from({ length: 256 }, (_, j) => 255 - j) };
    const stored = writer.store("layers.0.attn.q", permuted);
    expect([stored.tensors[0]?.dtype, stored.moved]).toEqual(["F32", false]);
    expect(denseWeight(stored.weight as LinearWeight)).toEqual(denseWeight(permuted));
    const scaled = { ...weight, rowScale: new Float32Array(6).fill(2) };
    expect(denseWeight(writer.store("layers.0.attn.q", scaled).weight as LinearWeight)).toEqual(
      denseWeight(scaled),
    );
  });
});
