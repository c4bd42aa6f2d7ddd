import { readFileSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf as readWithOracle } from "@huggingface/gguf";
import type { Checkpoint } from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import { safetensorsFormat } from "@lowbit/safetensors";
import {
  describeWithData,
  openModel,
  type TinyModelOptions,
  testData,
  testPlatform,
  tinyModelBytes,
  trackedFiles,
} from "@lowbit/testing";
import { llamaCpp } from "@lowbit/testing/llama-cpp";
import { createTokenizer } from "@lowbit/tokenizers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { divergenceFromTheirs, elsewhere, logits, reopened, theirLogits, written } from "../test/written.ts";
import { F16, type GgufCheckpoint, openGguf, Q4_1, Q5_1, Q8_0 } from "./index.ts";

const openFolder = (path: string): Promise<Checkpoint> =>
  safetensorsFormat().open(trackedFiles(testData(path) as string));

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
      ["golden/models/hf-f16", "golden/models/gguf/model-F16.gguf", "952K"],
      ["models/pico/hf", "models/pico/pico-f16.gguf", "3.4M"],
    ])("%s has the tensors of %s", async (path, wanted, label) => {
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
        "general.type",
        "general.size_label",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.add_eos_token",
        "llama.attention.key_length",
        "llama.attention.value_length",
        "general.quantization_version",
      ];
      const rest = (checkpoint: GgufCheckpoint) =>
        Object.fromEntries([...checkpoint.metadata].filter(([key]) => !apart.includes(key)));
      expect(rest(ours)).toEqual(rest(theirs));
      expect(ours.metadata.get("general.size_label")).toBe(label);
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

    // llama.cpp rounds activations to 8 bits: that much apart are its probabilities for f16 and Q8_0 as well.
    it.each([
      ["BF16", 1e-3],
      ["Q4_1", 3e-3],
      ["Q5_0", 3e-3],
      ["Q5_1", 3e-3],
      ["MXFP4", 3e-3],
      // Nonsense by then, whose probabilities are flat.
      ["TQ1_0", 3e-2],
      ["TQ2_0", 3e-2],
    ] as const)("%s is to llama.cpp what it is here", async (type, bound) => {
      const bytes = await written(await openFolder("models/pico/hf"), { type });
      expect(await divergenceFromTheirs(bytes)).toBeLessThan(bound);
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
    const bytes = await tinyModelBytes(shape);
    const source = await reopened(bytes);
    const rewritten = await written(elsewhere(source));
    const again = await reopened(rewritten);
    expect({ ...again.config, name: source.config.name }).toEqual(source.config);
    expect(await logits(again)).toEqual(await logits(source));
    // Weights and keys are what they were to llama.cpp, too.
    expect(await theirLogits(rewritten)).toEqual(await theirLogits(bytes));
  });

  it("keeps quantized files as they are, and says of others what they are", async () => {
    const type = (name: string, shape: readonly number[]) =>
      shape.length > 1 && name !== "token_embd.weight" ? Q5_1 : F16;
    const source = await reopened(
      await tinyModelBytes({
        architecture: "llama",
        type,
        metadata: new Map([["general.file_type", { type: "u32", value: 9 }]]),
      }),
    );
    const kept = await reopened(await written(source));
    expect(kept.metadata.get("general.file_type")).toBe(9);
    const options = { type: "Q8_0" };
    const eight = await reopened(await written(source, options));
    expect(eight.metadata.get("general.file_type")).toBe(7);
    expect(eight.entries().filter(({ shape, type }) => shape.length > 1 && type !== Q8_0)).toEqual([]);
  });

  it("says a type's number where no file said one", async () => {
    const { metadata, ...rest } = await reopened(await tinyModelBytes({ architecture: "llama", type: Q4_1 }));
    const bare = new Map([...metadata].filter(([key]) => key !== "general.file_type"));
    const again = await reopened(await written({ ...rest, config: rest.config, metadata: bare }));
    expect(again.metadata.get("general.file_type")).toBe(3);
  });

  it("without a tokenizer is a model all the same", async () => {
    const { tokenizer: _, ...source } = elsewhere(
      await reopened(await tinyModelBytes({ architecture: "llama" })),
    );
    const again = await reopened(await written(source));
    expect([again.tokenizer, again.metadata.get("tokenizer.ggml.model")]).toEqual([undefined, "none"]);
  });
});
