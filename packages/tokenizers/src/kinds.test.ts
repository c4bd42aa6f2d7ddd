import { readFileSync } from "node:fs";
import { Tokenizer as Oracle } from "@huggingface/tokenizers";
import type { Tokenizer } from "@lowbit/core";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ggufMetadata, suiteCases, suiteFiles } from "../test/vocabularies.ts";
import { createTokenizer } from "./index.ts";

interface UnigramFixture {
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  /** Base64. */
  readonly charsmap: string;
  readonly cases: readonly (readonly [text: string, ids: readonly number[]])[];
}

const unigram = JSON.parse(
  readFileSync(new URL("../fixtures/unigram.json", import.meta.url), "utf8"),
) as UnigramFixture;

describe("Unigram", () => {
  const charsmap = Uint8Array.from(atob(unigram.charsmap), (character) => character.charCodeAt(0));

  it("encodes as SentencePiece does, from GGUF metadata", () => {
    const tokenizer = ggml({
      model: "t5",
      tokens: unigram.tokens,
      scores: unigram.scores,
      token_type: unigram.types,
      precompiled_charsmap: charsmap,
      add_space_prefix: true,
      remove_extra_whitespaces: true,
    });
    for (const [text, ids] of unigram.cases) {
      expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids);
      // T5 ends a text with eos.
      expect(tokenizer.encode(text), text).toEqual([...ids, 1]);
    }
  });

  it("encodes as SentencePiece does, from tokenizer.json", () => {
    const tokenizer = createTokenizer({
      kind: "huggingface",
      tokenizer: {
        added_tokens: [0, 1, 2].map((id) => ({ id, content: unigram.tokens[id], special: true })),
        normalizer: {
          type: "Sequence",
          normalizers: [
            { type: "Precompiled", precompiled_charsmap: unigram.charsmap },
            { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
            { type: "Strip", strip_left: true, strip_right: true },
          ],
        },
        pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
        decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
        model: {
          type: "Unigram",
          unk_id: 2,
          vocab: unigram.tokens.map((token, id) => [token, unigram.scores[id]]),
        },
      },
    });
    for (const [text, ids] of unigram.cases) {
      // Here words are encoded one by one, so unknown ones stay apart, and Strip takes off line ends as well.
      if ((ids.includes(2) && /\S\s+\S/.test(text)) || text.includes("\n")) continue;
      expect(tokenizer.encode(text, { addSpecial: false }), text).toEqual(ids);
    }
  });

  it("finds the likeliest cut of all", () => {
    const tokens = ["<pad>", "</s>", "<unk>", "a", "b", "ab", "ba", "aab", "bb"];
    fc.assert(
      fc.property(
        fc.array(fc.nat({ max: 50 }), { minLength: 6, maxLength: 6 }),
        fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 9 }),
        (costs, text) => {
          const scores = [0, 0, 0, ...costs.map((cost) => -cost)];
          const tokenizer = ggml({ model: "t5", tokens, scores, token_type: [3, 3, 2, 1, 1, 1, 1, 1, 1] });
          const ids = tokenizer.encode(text, { addSpecial: false });
          expect(tokenizer.decode(ids)).toBe(text);
          const total = ids.reduce((sum, id) => sum + scores[id]!, 0);
          expect(total).toBe(bestCut(text, tokens.slice(3), scores.slice(3)));
        },
      ),
    );
  });
});

/** By trying every cut. */
function bestCut(text: string, tokens: readonly string[], scores: readonly number[]): number {
  if (text === "") return 0;
  const totals = tokens.map((token, i) =>
    text.startsWith(token)
      ? scores[i]! + bestCut(text.slice(token.length), tokens, scores)
      : Number.NEGATIVE_INFINITY,
  );
  return Math.max(...totals);
}

describe("SentencePiece BPE", () => {
  it("merges by score, leftmost first, as defined", () => {
    const bytes = Array.from(
      { length: 256 },
      (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`,
    );
    const pieces = ["▁", "a", "b", "▁a", "ab", "ba", "aa", "abab", "aab", "a▁", "▁▁"];
    const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...pieces];
    const types = tokens.map((_, id) => (id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1));
    const text = fc.string({ unit: fc.constantFrom("a", "b", " ", "é"), maxLength: 60 });
    const costs = fc.array(fc.nat({ max: 6 }), { minLength: pieces.length, maxLength: pieces.length });
    // With and without "a▁", which decides whether words may be encoded by themselves.
    for (const used of [tokens, tokens.map((token) => (token === "a▁" ? "zz" : token))]) {
      fc.assert(
        fc.property(text, costs, (input, cost) => {
          const scores = used.map((_, id) => (id < 259 ? 0 : -cost[id - 259]!));
          const tokenizer = ggml({ model: "llama", tokens: used, scores, token_type: types });
          const ids = tokenizer.encode(input, { addSpecial: false });
          expect(ids).toEqual(input === "" ? [] : mergeByScore(` ${input}`, used, scores));
        }),
        { numRuns: 200 },
      );
    }
  });
});

function mergeByScore(text: string, tokens: readonly string[], scores: readonly number[]): number[] {
  const symbols = [...text.replaceAll(" ", "▁")];
  for (;;) {
    let best = -1;
    let bestScore = Number.NEGATIVE_INFINITY;
    for (let i = 0; i + 1 < symbols.length; i++) {
      const id = tokens.indexOf(symbols[i]! + symbols[i + 1]!);
      if (id >= 0 && scores[id]! > bestScore) [best, bestScore] = [i, scores[id]!];
    }
    if (best < 0) break;
    symbols.splice(best, 2, symbols[best]! + symbols[best + 1]!);
  }
  return symbols.flatMap((symbol) => {
    const id = tokens.indexOf(symbol);
    return id >= 0 ? [id] : [...new TextEncoder().encode(symbol)].map((byte) => 3 + byte);
  });
}

function ggml(keys: Readonly<Record<string, unknown>>): Tokenizer {
  const entries = Object.entries(keys).map(([name, value]) => [`tokenizer.ggml.${name}`, value] as const);
  return createTokenizer({ kind: "ggml", metadata: new Map(entries) });
}

/** Text that both tokenizers must treat alike. */
const anyText = fc
  .array(
    fc.oneof(
      fc.string({ unit: "grapheme", maxLength: 8 }),
      fc.constantFrom(
        "Hello ",
        "world",
        "naïve",
        "東京",
        "don't",
        "été",
        "İ",
        "ß",
        "3.14",
        " ",
        "\n",
        "🙂",
        "한국어",
      ),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(""));

describeWithData("WordPiece from tokenizer.json", suiteFiles("bert-bge"), () => {
  /** The GGUF vocabulary with its phantom spaces turned back into "##". */
  const files = async () => {
    const tokens = (await ggufMetadata(testData(suiteFiles("bert-bge")[0]!)!)).get(
      "tokenizer.ggml.tokens",
    ) as string[];
    const plain = /^\[(?:PAD|UNK|CLS|SEP|MASK|unused\d+)\]$/;
    const vocab = Object.fromEntries(
      tokens.map((token, id) => [
        token.startsWith("▁") ? token.slice(1) : plain.test(token) ? token : `##${token}`,
        id,
      ]),
    );
    return {
      added_tokens: ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map((content) => ({
        id: vocab[content],
        content,
        special: true,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
      })),
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: true,
        strip_accents: null,
        lowercase: true,
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single: [
          { SpecialToken: { id: "[CLS]", type_id: 0 } },
          { Sequence: { id: "A", type_id: 0 } },
          { SpecialToken: { id: "[SEP]", type_id: 0 } },
        ],
        pair: [],
        special_tokens: {
          "[CLS]": { id: "[CLS]", ids: [101], tokens: ["[CLS]"] },
          "[SEP]": { id: "[SEP]", ids: [102], tokens: ["[SEP]"] },
        },
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      model: {
        type: "WordPiece",
        vocab,
        unk_token: "[UNK]",
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
      },
    };
  };

  it("passes llama.cpp's suite", async () => {
    const tokenizer = createTokenizer({ kind: "huggingface", tokenizer: await files() });
    for (const [text, ids] of suiteCases("bert-bge")) {
      expect(tokenizer.encode(text), text).toEqual([101, ...ids, 102]);
    }
  });

  it("encodes and decodes as the oracle does", async () => {
    const tokenizer = createTokenizer({ kind: "huggingface", tokenizer: await files() });
    const oracle = new Oracle(await files(), {});
    fc.assert(
      fc.property(anyText, (text) => {
        // The oracle sees no Chinese above U+FFFF; the Rust tokenizer and llama.cpp do.
        fc.pre(!/[\u{20000}-\u{2FFFF}]/u.test(text));
        const ids = tokenizer.encode(text, { addSpecial: false });
        expect(ids).toEqual(oracle.encode(text, { add_special_tokens: false }).ids);
        if (ids.length === 0) return;
        const cleaning = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
        expect(tokenizer.decode(ids)).toBe(oracle.decode(ids, cleaning));
      }),
      { numRuns: 1000, seed: 3 },
    );
  });
});

describeWithData("SentencePiece as merges in tokenizer.json", suiteFiles("llama-spm"), () => {
  it("passes llama.cpp's suite", async () => {
    const metadata = await ggufMetadata(testData(suiteFiles("llama-spm")[0]!)!);
    const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
    const scores = metadata.get("tokenizer.ggml.scores") as Float32Array;
    const ids = new Map(tokens.map((token, id) => [token, id]));
    const merges = tokens
      .flatMap((token, id) => {
        const characters = [...token];
        return characters.slice(1).flatMap((_, cut) => {
          const pair = [characters.slice(0, cut + 1).join(""), characters.slice(cut + 1).join("")] as const;
          return pair.every((part) => ids.has(part)) ? [{ pair, score: scores[id]! }] : [];
        });
      })
      .sort((a, b) => b.score - a.score)
      .map(({ pair }) => pair);
    const tokenizer = createTokenizer({
      kind: "huggingface",
      tokenizer: {
        added_tokens: [0, 1, 2].map((id) => ({ id, content: tokens[id], special: true })),
        normalizer: {
          type: "Sequence",
          normalizers: [
            { type: "Prepend", prepend: "▁" },
            { type: "Replace", pattern: { String: " " }, content: "▁" },
          ],
        },
        decoder: {
          type: "Sequence",
          decoders: [
            { type: "Replace", pattern: { String: "▁" }, content: " " },
            { type: "ByteFallback" },
            { type: "Fuse" },
            { type: "Strip", content: " ", start: 1, stop: 0 },
          ],
        },
        model: {
          type: "BPE",
          vocab: Object.fromEntries(ids),
          merges,
          unk_token: "<unk>",
          fuse_unk: true,
          byte_fallback: true,
        },
      },
      config: { bos_token: "<s>", eos_token: { content: "</s>" }, add_bos_token: true },
    });
    for (const [text, expected] of suiteCases("llama-spm")) {
      expect(tokenizer.encode(text), text).toEqual([1, ...expected]);
      expect(tokenizer.decode(expected), text).toBe(text);
    }
  });
});
