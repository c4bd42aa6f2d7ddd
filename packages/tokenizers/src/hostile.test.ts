import { LowbitError } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { createTokenizer } from "./index.ts";

/** What a damaged description must end in. */
function rejects(make: () => unknown, code: string, reason: string): void {
  try {
    make();
  } catch (error) {
    if (!LowbitError.is(error)) throw error;
    expect([error.code, error.reason], error.message).toEqual([code, reason]);
    return;
  }
  throw new Error("no error was raised");
}

const bytes = Array.from(
  { length: 256 },
  (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
);
const spm = {
  model: "llama",
  tokens: ["<unk>", "<s>", "</s>", ...bytes, "a", "b", "ab"],
  scores: new Float32Array(262),
  token_type: Int32Array.from({ length: 262 }, (_, id) => (id < 3 ? 3 : id < 259 ? 6 : 1)),
};
const bpe = { model: "gpt2", pre: "gpt-2", tokens: ["a", "b", "ab", "Ġ"], merges: ["a b"] };

function ggml(keys: Record<string, unknown>, others: Record<string, unknown> = {}): unknown {
  const entries = Object.entries(keys).map(([name, value]) => [`tokenizer.ggml.${name}`, value] as const);
  return createTokenizer({ kind: "ggml", metadata: new Map([...entries, ...Object.entries(others)]) });
}

describe("damaged GGUF metadata", () => {
  const without = (keys: Record<string, unknown>, name: string) =>
    Object.fromEntries(Object.entries(keys).filter(([key]) => key !== name));

  it("the undamaged is taken", () => {
    expect(ggml(spm)).toBeDefined();
    expect(ggml(bpe)).toBeDefined();
  });

  const cases: readonly (readonly [string, Record<string, unknown>, string])[] = [
    ["tokens missing", without(bpe, "tokens"), "missing-metadata"],
    ["tokens a string", { ...bpe, tokens: "abc" }, "invalid-type"],
    ["no tokens", { ...bpe, tokens: [] }, "limit-exceeded"],
    ["a token that is a number", { ...bpe, tokens: ["a", 5, "ab", "b"] }, "invalid-type"],
    ["tokens that are all numbers", { ...bpe, tokens: new Int32Array(9) }, "invalid-type"],
    ["a token twice", { ...bpe, tokens: ["a", "b", "ab", "a"] }, "duplicate"],
    ["an endless token", { ...bpe, tokens: ["a", "b", "ab", "x".repeat(1e6)] }, "limit-exceeded"],
    ["merges missing", without(bpe, "merges"), "missing-metadata"],
    ["a merge of unknown parts", { ...bpe, merges: ["a c"] }, "invalid-value"],
    ["a merge into no token", { ...bpe, merges: ["b a"] }, "invalid-value"],
    ["a merge without a space", { ...bpe, merges: ["ab"] }, "invalid-value"],
    ["a merge that is a number", { ...bpe, merges: [7] }, "invalid-type"],
    ["scores missing", without(spm, "scores"), "missing-metadata"],
    ["too few scores", { ...spm, scores: new Float32Array(9) }, "invalid-value"],
    ["a score that is NaN", { ...spm, scores: new Float32Array(262).fill(Number.NaN) }, "invalid-value"],
    ["too few types", { ...spm, token_type: new Int32Array(9) }, "invalid-value"],
    ["a type that isn't one", { ...spm, token_type: new Int32Array(262).fill(259) }, "invalid-value"],
    ["bos beyond the vocabulary", { ...spm, bos_token_id: 262 }, "invalid-value"],
    ["eos that is a string", { ...spm, eos_token_id: "2" }, "invalid-type"],
    ["add_bos_token that is a number", { ...spm, add_bos_token: 1 }, "invalid-type"],
    [
      "a charsmap cut short",
      { ...spm, model: "t5", precompiled_charsmap: new Uint8Array(3) },
      "invalid-value",
    ],
    ["a charsmap of words", { ...spm, model: "t5", precompiled_charsmap: new Int32Array(8) }, "invalid-type"],
  ];
  for (const [name, keys, reason] of cases) it(name, () => rejects(() => ggml(keys), "file-corrupt", reason));

  it("a chat template that is no text", () =>
    rejects(() => ggml(bpe, { "tokenizer.chat_template": 5 }), "file-corrupt", "invalid-type"));

  it("an unknown model, and none", () => {
    rejects(() => ggml({ ...bpe, model: "rwkv" }), "format-unsupported", "unknown-tokenizer");
    rejects(() => ggml({ ...bpe, model: "constructor" }), "format-unsupported", "unknown-tokenizer");
    rejects(() => ggml(without(bpe, "model")), "format-unsupported", "missing-metadata");
  });

  it("an unknown pre-tokenizer: the error names it and the known ones", () => {
    const make = () => ggml({ ...bpe, pre: "gpt-9" });
    rejects(make, "format-unsupported", "unknown-pre-tokenizer");
    expect(make).toThrow(/"gpt-9".*llama-bpe.*qwen2/);
    rejects(() => ggml(without(bpe, "pre")), "format-unsupported", "unknown-pre-tokenizer");
  });

  it("a charsmap that points outside itself is found while encoding", () => {
    // One trie unit that sends every byte far away.
    const map = new Uint8Array(9);
    map.set([4, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0]);
    const tokenizer = ggml({ ...spm, model: "t5", precompiled_charsmap: map }) as ReturnType<
      typeof createTokenizer
    >;
    rejects(() => tokenizer.encode("a"), "file-corrupt", "invalid-offset");
  });

  it("a byte without a token is found while encoding", () => {
    const tokenizer = ggml(bpe) as ReturnType<typeof createTokenizer>;
    rejects(() => tokenizer.encode("abc"), "file-corrupt", "missing-token");
  });
});

describe("damaged tokenizer.json", () => {
  const byteLevel = { type: "ByteLevel", add_prefix_space: false };
  const model = {
    type: "BPE",
    vocab: { a: 0, b: 1, ab: 2 } as Record<string, unknown>,
    merges: [["a", "b"]] as unknown,
  };
  const root = { model, pre_tokenizer: byteLevel as unknown, added_tokens: [] as unknown };
  const make = (tokenizer: unknown, config?: unknown) => () =>
    createTokenizer({ kind: "huggingface", tokenizer, config });

  it("the undamaged is taken, as objects and as maps", () => {
    expect(make(root)().encode("ab")).toEqual([2]);
    const mapped = new Map<string, unknown>([
      [
        "model",
        new Map<string, unknown>([...Object.entries(model), ["vocab", new Map(Object.entries(model.vocab))]]),
      ],
      ["pre_tokenizer", new Map(Object.entries(byteLevel))],
    ]);
    expect(make(mapped)().encode("ab")).toEqual([2]);
  });

  const corrupt: readonly (readonly [string, unknown, string])[] = [
    ["nothing", null, "invalid-type"],
    ["an array", [], "invalid-type"],
    ["no model", { ...root, model: undefined }, "missing-metadata"],
    ["a model that is text", { ...root, model: "BPE" }, "invalid-type"],
    ["no vocabulary", { ...root, model: { ...model, vocab: {} } }, "limit-exceeded"],
    ["a negative id", { ...root, model: { ...model, vocab: { a: -1 } } }, "invalid-value"],
    ["an id with a fraction", { ...root, model: { ...model, vocab: { a: 0.5 } } }, "invalid-value"],
    ["an id that is text", { ...root, model: { ...model, vocab: { a: "0" } } }, "invalid-value"],
    ["a huge id", { ...root, model: { ...model, vocab: { a: 1e12 } } }, "invalid-value"],
    [
      "an id far beyond the others",
      { ...root, model: { ...model, vocab: { a: 0, b: 2_000_000 } } },
      "invalid-value",
    ],
    ["an id twice", { ...root, model: { ...model, vocab: { a: 0, b: 0 } } }, "duplicate"],
    ["merges that are a number", { ...root, model: { ...model, merges: 5 } }, "invalid-type"],
    ["a merge of unknown parts", { ...root, model: { ...model, merges: [["a", "x"]] } }, "invalid-value"],
    ["a merge of three", { ...root, model: { ...model, merges: [["a", "b", "c"]] } }, "invalid-type"],
    ["an added token without an id", { ...root, added_tokens: [{ content: "x" }] }, "invalid-value"],
    ["an added token beyond reason", { ...root, added_tokens: [{ id: 1e9, content: "x" }] }, "invalid-value"],
    [
      "a template of unknown tokens",
      {
        ...root,
        post_processor: {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "<s>" } }],
          special_tokens: { "<s>": { ids: [77] } },
        },
      },
      "invalid-value",
    ],
    ["a split without a pattern", { ...root, pre_tokenizer: { type: "Split" } }, "invalid-value"],
    [
      "a flood of text for each character",
      {
        ...root,
        normalizer: {
          type: "Replace",
          pattern: { String: "a" },
          content: "a".repeat(1e5),
        },
      },
      "limit-exceeded",
    ],
    [
      "sequences in sequences",
      {
        ...root,
        normalizer: {
          type: "Sequence",
          normalizers: [{ type: "Sequence", normalizers: [] }],
        },
      },
      "limit-exceeded",
    ],
  ];
  for (const [name, tokenizer, reason] of corrupt)
    it(name, () => rejects(make(tokenizer), "file-corrupt", reason));

  const unknown: readonly (readonly [string, unknown, string])[] = [
    ["a model", { ...root, model: { ...model, type: "WordLevel" } }, "unknown-tokenizer"],
    ["a normalizer", { ...root, normalizer: { type: "Klingon" } }, "unknown-tokenizer"],
    ["a pre-tokenizer", { ...root, pre_tokenizer: { type: "UnicodeScripts" } }, "unknown-tokenizer"],
    ["a decoder", { ...root, pre_tokenizer: null, decoder: { type: "CTC" } }, "unknown-tokenizer"],
    [
      "an end-of-word suffix",
      { ...root, model: { ...model, end_of_word_suffix: "</w>" } },
      "unknown-tokenizer",
    ],
    [
      "a pattern that could run for ever",
      {
        ...root,
        pre_tokenizer: {
          type: "Split",
          pattern: { Regex: "(a+)+$" },
          behavior: "Isolated",
        },
      },
      "unsupported-pattern",
    ],
  ];
  for (const [name, tokenizer, reason] of unknown) {
    it(`unknown: ${name}`, () => rejects(make(tokenizer), "format-unsupported", reason));
  }

  it("a chat template that is a number", () =>
    rejects(make(root, { chat_template: 5 }), "file-corrupt", "invalid-type"));

  it("names that objects inherit are plain tokens", () => {
    const vocab = JSON.parse('{"__proto__":0,"constructor":1,"a":2}') as Record<string, unknown>;
    const tokenizer = make({ ...root, model: { ...model, vocab, merges: [] } })();
    expect([tokenizer.id("__proto__"), tokenizer.id("constructor"), tokenizer.id("toString")]).toEqual([
      0,
      1,
      undefined,
    ]);
    expect(make(root, { toString: 1 })().eos).toBeUndefined();
  });
});

describe("hostile text", () => {
  const tokenizers = { bpe: ggml({ ...bpe, unknown_token_id: 3 }), spm: ggml(spm) } as Record<
    string,
    ReturnType<typeof createTokenizer>
  >;
  for (const [name, tokenizer] of Object.entries(tokenizers)) {
    for (const unit of ["a", "ab", " ", "\n", "中", "🙂", "\u0301", "\ud800", "<s>"]) {
      it(`${name}: ${JSON.stringify(unit)}, a million units long`, () => {
        const ids = tokenizer.encode(unit.repeat(1e6 / unit.length));
        expect(ids.length).toBeGreaterThan(0);
      }, 20_000);
    }
  }
});
