import { readFileSync } from "node:fs";
import type { ModelConfig, TokenizerSource } from "@lowbit/core";
import { writeHuggingFace } from "@lowbit/safetensors";
import { describeWithData, testData, trackedFiles } from "@lowbit/testing";
import { createTokenizer } from "@lowbit/tokenizers";
import { describe, expect, it } from "vitest";
import { openGguf } from "./index.ts";
import { writeTokenizer } from "./write-tokenizer.ts";

type Json = Record<string, unknown>;

const config = (vocabularySize: number): ModelConfig => ({ vocabularySize }) as ModelConfig;

function keysOf(tokenizer: Json, settings: Json = {}, size = 16): Map<string, unknown> {
  const source = { kind: "huggingface", tokenizer, config: settings } as const;
  return new Map([...writeTokenizer(source, config(size))].map(([key, { value }]) => [key, value]));
}

/** tokenizer.json and tokenizer_config.json of a GGUF vocabulary, as the writer of folders has them. */
async function asFolder(
  path: string,
): Promise<{ ours: TokenizerSource; size: number; keys: Map<string, unknown> }> {
  const source = await openGguf(trackedFiles(testData(path) as string));
  const tokens = source.metadata.get("tokenizer.ggml.tokens") as string[];
  const { metadata, tokenizer } = source;
  const model: ModelConfig = {
    architecture: "llama",
    contextLength: 64,
    vocabularySize: tokens.length,
    embeddingSize: 8,
    layers: 1,
    feedForwardSize: 8,
    heads: 1,
    kvHeads: 1,
    keySize: 8,
    valueSize: 8,
    normEpsilon: 1e-5,
    rope: { dimensions: 8, base: 1e4, pairing: "adjacent" },
  };
  const writer = await writeHuggingFace({
    format: "gguf",
    metadata,
    config: model,
    ...(tokenizer && { tokenizer }),
  });
  const files = new Map<string, string>();
  const create = async (file: string) => ({
    write: async (bytes: Uint8Array) =>
      void files.set(file, (files.get(file) ?? "") + Buffer.from(bytes).toString("utf8")),
    close: () => Promise.resolve(),
  });
  await writer.finish({ create }, []);
  const json = (file: string): Json => JSON.parse(files.get(file) ?? "{}") as Json;
  return {
    ours: tokenizer as TokenizerSource,
    size: tokens.length,
    keys: keysOf(json("tokenizer.json"), json("tokenizer_config.json"), tokens.length),
  };
}

const vocabularies = ["gpt-2", "phi-3", "llama-spm", "falcon", "deepseek-coder", "mpt", "bert-bge"];
const paths = vocabularies.map((name) => `models/tokenizers/ggml-vocab-${name}.gguf`);

describeWithData(
  "vocabularies that went through tokenizer.json and back",
  [...paths, "models/stories260K"],
  () => {
    it.each([...paths, "models/stories260K/stories260K-F16.gguf"])("%s", async (path) => {
      const { ours, keys } = await asFolder(path);
      const before = createTokenizer(ours);
      const after = createTokenizer({ kind: "ggml", metadata: keys });
      expect([after.kind, after.vocabularySize, after.bos, after.eos]).toEqual([
        before.kind,
        before.vocabularySize,
        before.bos,
        before.eos,
      ]);
      const suite = testData(`${path}.inp`);
      const cases = suite ? readFileSync(suite, "utf8").split("\n__ggml_vocab_test__\n") : [];
      for (const text of [...cases, "Once upon a time,  there\twas — ünïcode 東京 🙂 <s> x\n\n y"]) {
        for (const addSpecial of [true, false]) {
          const ids = before.encode(text, { addSpecial });
          expect(after.encode(text, { addSpecial })).toEqual(ids);
          expect(after.decode(ids)).toEqual(before.decode(ids));
        }
      }
    });

    it("Phi 3 gets a name by which readers know its tokens", async () => {
      const { keys } = await asFolder("models/tokenizers/ggml-vocab-phi-3.gguf");
      expect(keys.get("general.name")).toBe("Phi-3");
    });
  },
);

const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: true };
const bpe: Json = { type: "BPE", vocab: { a: 0, b: 1, ab: 2, "<s>": 3, "</s>": 4 }, merges: ["a b"] };
const root: Json = { model: bpe, pre_tokenizer: bytes, normalizer: null };
const marks = { type: "Replace", pattern: { String: " " }, content: "▁" };

describe("keys", () => {
  it("name what stands around a text", () => {
    const single = [
      { SpecialToken: { id: "<s>" } },
      { Sequence: { id: "A" } },
      { SpecialToken: { id: "</s>" } },
    ];
    const special_tokens = { "<s>": { ids: [3] }, "</s>": { ids: [4] } };
    const framed = { ...root, post_processor: { type: "TemplateProcessing", single, special_tokens } };
    const expected = { bos_token_id: 3, eos_token_id: 4, add_bos_token: true, add_eos_token: true };
    for (const settings of [{}, { bos_token: "<s>", eos_token: { content: "</s>" } }]) {
      const keys = keysOf(framed, settings);
      for (const [key, value] of Object.entries(expected)) {
        expect([key, keys.get(`tokenizer.ggml.${key}`)]).toEqual([key, value]);
      }
    }
    expect(() => keysOf(framed, { bos_token: "a" })).toThrow(/bos is token 0, but texts get token 3/);
    const twice = { ...framed, post_processor: { ...framed.post_processor, single: [single[0], ...single] } };
    expect(() => keysOf(twice)).toThrow(/tokens 3, 3 before/);
    const roberta = {
      ...root,
      post_processor: { type: "RobertaProcessing", cls: ["<s>", 3], sep: ["</s>", 4] },
    };
    expect(keysOf(roberta).get("tokenizer.ggml.add_eos_token")).toBe(true);
  });

  it("name some bos, lest readers take another token", () => {
    const keys = keysOf(root, { eos_token: "</s>" });
    expect(keys.get("tokenizer.ggml.bos_token_id")).toBe(4);
    expect(keys.get("tokenizer.ggml.add_bos_token")).toBe(false);
    expect(keysOf(root, { pad_token: "<s>" }).get("tokenizer.ggml.eos_token_id")).toBe(3);
  });

  it("fill up the vocabulary, and keep what added tokens are", () => {
    const added = [
      { id: 5, content: "<|x|>", special: true },
      { id: 6, content: "<tool>", special: false },
    ];
    const keys = keysOf({ ...root, added_tokens: added }, {}, 8);
    expect(keys.get("tokenizer.ggml.tokens")).toEqual([
      "a",
      "b",
      "ab",
      "<s>",
      "</s>",
      "<|x|>",
      "<tool>",
      "[PAD7]",
    ]);
    expect(keys.get("tokenizer.ggml.token_type")).toEqual(Int32Array.of(1, 1, 1, 1, 1, 3, 4, 5));
  });

  it("hold every template", () => {
    const named = [
      { name: "default", template: "A" },
      { name: "tool_use", template: "B" },
    ];
    const keys = keysOf(root, { chat_template: named });
    expect(keys.get("tokenizer.chat_template")).toBe("A");
    expect(keys.get("tokenizer.chat_template.tool_use")).toBe("B");
  });

  it("say that a space comes first, which ByteLevel means where it says nothing", () => {
    expect(keysOf(root).has("tokenizer.ggml.add_space_prefix")).toBe(false);
    const bare = { ...root, pre_tokenizer: { type: "ByteLevel" } };
    expect(keysOf(bare).get("tokenizer.ggml.add_space_prefix")).toBe(true);
  });

  it("read maps as they read plain objects", () => {
    const mapped = (value: unknown): unknown => {
      if (Array.isArray(value)) return value.map(mapped);
      if (typeof value !== "object" || value === null) return value;
      return new Map(Object.entries(value).map(([key, inner]) => [key, mapped(inner)]));
    };
    const settings = { bos_token: { content: "<s>" }, add_bos_token: true };
    expect(keysOf(mapped(root) as Json, mapped(settings) as Json)).toEqual(keysOf(root, settings));
  });
});

describe("Unigram", () => {
  const pieces = ["</s>", "<unk>", "▁", "▁the", "▁cat", "t", "he", "c", "a", "s", "▁sat"];
  const vocab = pieces.map((piece, i) => [piece, i < 2 ? 0 : -1 - i / 8]);
  const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "always" };
  const t5: Json = {
    model: { type: "Unigram", unk_id: 1, vocab },
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "Replace", pattern: { Regex: " {2,}" }, content: " " }],
    },
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] },
    decoder: metaspace,
    added_tokens: [{ id: 0, content: "</s>", special: true }],
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A" } }, { SpecialToken: { id: "</s>" } }],
      special_tokens: { "</s>": { ids: [0] } },
    },
  };

  it("keeps its scores and spaces", () => {
    const settings = { eos_token: "</s>", unk_token: "<unk>" };
    const keys = keysOf(t5, settings, pieces.length);
    expect(keys.get("tokenizer.ggml.model")).toBe("t5");
    const before = createTokenizer({ kind: "huggingface", tokenizer: t5, config: settings });
    const after = createTokenizer({ kind: "ggml", metadata: keys });
    for (const text of ["the cat sat", " the   cat", "that", "cats xx the", ""]) {
      expect(after.encode(text)).toEqual(before.encode(text));
    }
    expect(after.bos).toBeUndefined();
  });

  it("keeps its character map", () => {
    const normalizer = { type: "Precompiled", precompiled_charsmap: btoa("\x01\x02\x03\xff") };
    const keys = keysOf({ ...t5, normalizer }, {}, pieces.length);
    expect(keys.get("tokenizer.ggml.precompiled_charsmap")).toEqual(Uint8Array.of(1, 2, 3, 255));
    const broken = { ...normalizer, precompiled_charsmap: "?" };
    expect(() => keysOf({ ...t5, normalizer: broken }, {}, pieces.length)).toThrow(/not base64/);
  });
});

describe("what GGUF has no keys for is refused:", () => {
  const spm: Json = {
    model: {
      ...bpe,
      byte_fallback: true,
      vocab: { a: 0, b: 1, ab: 2, c: 3, abc: 4, bc: 5 },
      merges: ["a b", "ab c"],
    },
    normalizer: marks,
  };
  it.each<[string, Json, RegExp]>([
    ["other kinds of models", { ...root, model: { ...bpe, type: "WordLevel" } }, /"WordLevel"/],
    ["normalizers of text", { ...root, normalizer: { type: "Lowercase" } }, /"Lowercase"/],
    ["BPE over characters", { ...root, pre_tokenizer: { type: "Whitespace" } }, /not bytes/],
    [
      "patterns without a name",
      {
        ...root,
        pre_tokenizer: { type: "Sequence", pretokenizers: [splitBy("x+"), { ...bytes, use_regex: false }] },
      },
      /splits by "x\+"/,
    ],
    [
      "patterns that swallow",
      { ...root, pre_tokenizer: { type: "Sequence", pretokenizers: [splitBy("x+", "Removed"), bytes] } },
      /"Removed"/,
    ],
    [
      "marked ends of words",
      { ...root, model: { ...bpe, end_of_word_suffix: "</w>" } },
      /end_of_word_suffix/,
    ],
    ["merges that are not SentencePiece's", spm, /"a" and "bc"/],
    ["spaces without marks", { ...spm, normalizer: null }, /no marks/],
    [
      "bytes in Unigram",
      { model: { type: "Unigram", vocab: [["a", 0]], unk_id: 0, byte_fallback: true } },
      /bytes/,
    ],
    ["WordPiece of another kind", { model: { type: "WordPiece", vocab: { a: 0 } } }, /BERT/],
    ["ids beyond the table", { ...root, added_tokens: [{ id: 99, content: "x" }] }, /99 of 16/],
  ])("%s", (_, tokenizer, message) => {
    expect(() => keysOf(tokenizer)).toThrow(message);
    expect(() => keysOf(tokenizer)).toThrow(expect.objectContaining({ code: "format-unsupported" }) as Error);
  });

  it("but not words that are tokens, where merges reach them all", () => {
    const whole = { ...root, model: { ...bpe, ignore_merges: true, vocab: { a: 0, b: 1, ab: 2 } } };
    expect(keysOf(whole).get("tokenizer.ggml.pre")).toBe("gpt-2");
    const unreached = { ...whole, model: { ...whole.model, merges: [] } };
    expect(() => keysOf(unreached)).toThrow(/which GGUF has no name for/);
  });
});

function splitBy(Regex: string, behavior = "Isolated"): Json {
  return { type: "Split", pattern: { Regex }, behavior, invert: false };
}
