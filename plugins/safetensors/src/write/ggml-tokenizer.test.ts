import { readFileSync } from "node:fs";
import { Tokenizer as Oracle } from "@huggingface/tokenizers";
import { LowbitError, memorySource, preTokenizers } from "@lowbit/core";
import { plainMetadata, readGguf } from "@lowbit/gguf";
import { describeWithData, testData, tinyModel } from "@lowbit/testing";
import { createTokenizer } from "@lowbit/tokenizers";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ggmlTokenizer, type MadeTokenizer } from "./ggml-tokenizer.ts";

type Metadata = ReadonlyMap<string, unknown>;

async function metadataOf(path: string): Promise<Metadata> {
  return plainMetadata((await readGguf(memorySource(readFileSync(testData(path) as string)))).metadata);
}

/** As it comes back from the files. */
function made(metadata: Metadata): MadeTokenizer {
  const tokenizer = ggmlTokenizer(metadata, 512);
  if (tokenizer === undefined) throw new Error("there is no tokenizer");
  return JSON.parse(JSON.stringify(tokenizer)) as MadeTokenizer;
}

/** Words, white space, digits, scripts, signs and literal tokens in any order. */
function hostileText(literals: readonly string[]): fc.Arbitrary<string> {
  const units = (all: string) => fc.string({ unit: fc.constantFrom(...all), maxLength: 6 });
  const piece = fc.oneof(
    fc.string({ unit: "grapheme", maxLength: 10 }),
    fc.string({ maxLength: 12 }),
    units(" \n\t\r\u00a0\u3000\u2028"),
    units("0123٣½²."),
    units(" aeioutns"),
    fc.constantFrom(
      "🙂",
      "👩‍👩‍👧‍👦",
      "e\u0301",
      "ก็",
      "हिन्दी",
      "العربية",
      "한국어",
      "東京都",
      "Straße",
      "ABCdef",
      "HTMLParser",
    ),
    fc.constantFrom(
      "'s",
      "'LL",
      "don't",
      "I'M",
      " world",
      "Hello",
      "function() {",
      "return x;\n    ",
      "http://a.b/c?d=e",
      "!!!",
      "...",
    ),
    fc.constantFrom("<|", "|>", "<|im_end", "</s", "▁", "▁▁", "##x", ...literals),
  );
  return fc.array(piece, { maxLength: 10 }).map((parts) => parts.join(""));
}

function compare(
  metadata: Metadata,
  options: { runs: number; texts?: readonly string[]; oracleFuzz?: boolean; blank?: readonly string[] },
): void {
  const files = made(metadata);
  const source = createTokenizer({ kind: "ggml", metadata });
  const ours = createTokenizer({ kind: "huggingface", tokenizer: files.tokenizer, config: files.settings });
  const oracle = new Oracle(files.tokenizer, files.settings);
  expect(ours.bos).toBe(source.bos);
  expect(ours.eos).toBe(source.eos);
  expect(ours.vocabularySize).toBe(source.vocabularySize);
  for (const id of source.endTokens) expect(ours.endTokens.has(id)).toBe(true);
  for (let id = 0; id < source.vocabularySize; id += 97)
    expect(ours.isSpecial(id)).toBe(source.isSpecial(id));
  const literals = Array.from({ length: source.vocabularySize }, (_, id) => id)
    .filter((id) => source.isSpecial(id))
    .slice(0, 20)
    .map((id) => source.token(id) ?? "");
  const check = (text: string, withOracle = options.oracleFuzz ?? true): void => {
    for (const addSpecial of [true, false]) {
      const expected = source.encode(text, { addSpecial, parseSpecial: true });
      expect(ours.encode(text, { addSpecial, parseSpecial: true }), JSON.stringify(text)).toEqual(expected);
      const theirs = withOracle && oracle.encode(text, { add_special_tokens: addSpecial }).ids;
      if (theirs) expect(theirs, `oracle: ${JSON.stringify(text)}`).toEqual(expected);
      expect(ours.decode(expected)).toBe(source.decode(expected));
    }
  };
  for (const text of options.texts ?? []) check(text, true);
  for (const text of options.blank ?? []) check(text, false);
  fc.assert(
    fc.property(hostileText(literals), (text) => check(text)),
    { numRuns: options.runs, seed: 7 },
  );
}

const suites = ["deepseek-coder", "falcon", "gpt-2", "llama-spm", "mpt", "phi-3", "bert-bge"];
const suiteFile = (name: string): string => `models/tokenizers/ggml-vocab-${name}.gguf`;

for (const name of suites) {
  describeWithData(`the vocabulary ${name}`, [suiteFile(name), `${suiteFile(name)}.inp`], () => {
    it("gives the same ids from tokenizer.json", async () => {
      const texts = readFileSync(testData(`${suiteFile(name)}.inp`) as string, "utf8").split(
        "\n__ggml_vocab_test__\n",
      );
      // The oracle counts other blocks as Chinese, and lowers Greek by words.
      const oracleFuzz = name !== "bert-bge";
      compare(await metadataOf(suiteFile(name)), { runs: 300, texts, oracleFuzz });
    });
  });
}

describeWithData("GPT-2's vocabulary", [suiteFile("gpt-2")], () => {
  it.each(preTokenizers.map(({ names }) => names[0] as string))("cut as %s", async (pre) => {
    const metadata = new Map([...(await metadataOf(suiteFile("gpt-2"))), ["tokenizer.ggml.pre", pre]]);
    compare(metadata, { runs: 100 });
  });
});

describe("small vocabularies", () => {
  const tiny = (vocabulary: "spm" | "bpe"): Map<string, unknown> =>
    new Map(plainMetadata(tinyModel({ architecture: "llama", vocabulary }).metadata));

  it.each(["spm", "bpe"] as const)("%s", (kind) => compare(tiny(kind), { runs: 200 }));

  it("spm without a space in front, with eos", () => {
    const metadata = tiny("spm");
    metadata.set("tokenizer.ggml.add_space_prefix", false);
    metadata.set("tokenizer.ggml.add_eos_token", true);
    compare(metadata, { runs: 200 });
  });

  const letters = [..."\u2581abcdefghijklmnopqrstuvwxyzABC0123.,!é"];
  const pieces = [
    "\u2581the",
    "the",
    "\u2581wor",
    "ld",
    "world",
    "in",
    "ing",
    "\u2581in",
    "ou",
    "aeiou",
    "st",
    "\u2581H",
    "ello",
  ];
  const unigram = (settings: Record<string, unknown> = {}): Map<string, unknown> => {
    const tokens = ["<pad>", "</s>", "<unk>", ...letters, ...pieces];
    return new Map<string, unknown>([
      ["tokenizer.ggml.model", "t5"],
      ["tokenizer.ggml.tokens", tokens],
      [
        "tokenizer.ggml.scores",
        Float32Array.from(tokens, (token, i) => (i < 3 ? 0 : -3 - token.length / 7 - i / 11)),
      ],
      ["tokenizer.ggml.token_type", Int32Array.from(tokens, (_, i) => [3, 3, 2][i] ?? 1)],
      ["tokenizer.ggml.padding_token_id", 0],
      ...Object.entries(settings).map(([key, value]) => [`tokenizer.ggml.${key}`, value] as const),
    ]);
  };

  it.each([{}, { add_space_prefix: true }, { add_space_prefix: true, remove_extra_whitespaces: true }])(
    "unigram %o",
    (settings) => compare(unigram(settings), { runs: 300, blank: [" ", "   ", " \n "] }),
  );

  it("does not write what it cannot say", () => {
    const refused = (change: Record<string, unknown>, kind: "spm" | "bpe" = "bpe"): string => {
      try {
        made(new Map([...tiny(kind), ...Object.entries(change)]));
      } catch (error) {
        if (LowbitError.is(error)) return `${error.code}/${error.reason}`;
        throw error;
      }
      return "ok";
    };
    expect(refused({})).toBe("ok");
    expect(refused({ "tokenizer.ggml.pre": "unheard-of" })).toBe("format-unsupported/unknown-pre-tokenizer");
    expect(refused({ "tokenizer.ggml.model": "rwkv" })).toBe("format-unsupported/unknown-tokenizer");
    expect(refused({ "tokenizer.ggml.tokens": [1] })).toBe("file-corrupt/invalid-type");
    expect(refused({ "tokenizer.ggml.tokens": ["a", "a"] })).toBe("file-corrupt/invalid-type");
    const tokens = tiny("spm").get("tokenizer.ggml.tokens") as string[];
    const withLast = (token: string) => ({ "tokenizer.ggml.tokens": [...tokens.slice(0, -1), token] });
    expect(refused(withLast("x".repeat(2000)), "spm")).toBe("file-corrupt/limit-exceeded");
    expect(refused(withLast("<s>"), "spm")).toBe("file-corrupt/duplicate");
    expect(refused({ "tokenizer.ggml.merges": ["ab"] })).toBe("file-corrupt/invalid-value");
    expect(refused({ "tokenizer.ggml.scores": new Float32Array(3) }, "spm")).toBe(
      "file-corrupt/invalid-type",
    );
    expect(refused({ "tokenizer.ggml.bos_token_id": 1e6 })).toBe("file-corrupt/invalid-type");
  });

  it("keeps several chat templates, and all ids that end a turn", () => {
    const metadata = tiny("bpe");
    metadata.set("tokenizer.chat_template", "main");
    metadata.set("tokenizer.chat_template.tool_use", "tools");
    metadata.set("tokenizer.ggml.eot_token_id", 5);
    const { settings, generation } = made(metadata);
    expect(settings.chat_template).toEqual([
      { name: "default", template: "main" },
      { name: "tool_use", template: "tools" },
    ]);
    expect(generation.eos_token_id).toEqual([319, 5]);
  });
});
