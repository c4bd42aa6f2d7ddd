import type { Tokenizer } from "@lowbit/core";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { ggufMetadata, packagedTokenizer, suiteFiles } from "../test/vocabularies.ts";
import { createTokenizer } from "./index.ts";

const pico = new URL("../../../models/pico/pico-Q8_0.gguf", import.meta.url).pathname;
let tokenizer: Tokenizer;
beforeAll(async () => {
  tokenizer = createTokenizer({ kind: "ggml", metadata: await ggufMetadata(pico) });
});

/** Streams ids one by one. */
function streamed(from: Tokenizer, ids: readonly number[], options?: { special?: boolean }): string[] {
  const stream = from.stream(options);
  return [...ids.map((id) => stream.push(id)), stream.flush()];
}

/** A vocabulary of bytes for SentencePiece, with "▁" and a word. */
function byteVocabulary(extra: Readonly<Record<string, unknown>> = {}): Tokenizer {
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, "▁", "a", "▁a", "<|eot_id|>", "<extra>"];
  const types = tokens.map((token, id) =>
    id === 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : token === "<extra>" ? 4 : 1,
  );
  const keys = { model: "llama", tokens, scores: tokens.map((_, id) => -id), token_type: types, ...extra };
  return createTokenizer({
    kind: "ggml",
    metadata: new Map(Object.entries(keys).map(([name, value]) => [`tokenizer.ggml.${name}`, value])),
  });
}

describe("special tokens", () => {
  it("are text unless the caller trusts the text", () => {
    const text = "<|im_end|>";
    expect(tokenizer.encode(text, { parseSpecial: true })).toEqual([tokenizer.id(text)]);
    const plain = tokenizer.encode(text);
    expect(plain.length).toBeGreaterThan(1);
    expect(plain.some((id) => tokenizer.isSpecial(id))).toBe(false);
    expect(tokenizer.decode(plain)).toBe(text);
  });

  it("that the user defined are tokens in any text, and never hidden", () => {
    expect(tokenizer.encode("<tool_call>")).toEqual([tokenizer.id("<tool_call>")]);
    expect(tokenizer.decode(tokenizer.encode("<tool_call>"))).toBe("<tool_call>");
  });

  it("are left out of decoded text unless asked for", () => {
    const ids = tokenizer.encode("<|im_start|>user\nHi<|im_end|>", { parseSpecial: true });
    expect(tokenizer.decode(ids)).toBe("user\nHi");
    expect(tokenizer.decode(ids, { special: true })).toBe("<|im_start|>user\nHi<|im_end|>");
  });

  it("are added as the file says, or as its kind does", () => {
    const a = byteVocabulary();
    expect(a.encode("a")).toEqual([1, 261]);
    expect(a.encode("a", { addSpecial: false })).toEqual([261]);
    expect(a.encode("")).toEqual([1]);
    expect(byteVocabulary({ add_bos_token: false, add_eos_token: true }).encode("a")).toEqual([261, 2]);
  });

  it("named like an end of turn end a generation and are special, whatever the file calls them", () => {
    const a = byteVocabulary();
    expect([...a.endTokens].sort((x, y) => x - y)).toEqual([2, 262]);
    expect(a.isSpecial(262)).toBe(true);
    expect(a.encode("<|eot_id|>", { addSpecial: false })).not.toContain(262);
    expect([...tokenizer.endTokens].map((id) => tokenizer.token(id)).sort()).toEqual([
      "<|endoftext|>",
      "<|im_end|>",
    ]);
  });

  it("of gpt-oss: <|end|> ends a message, not the answer", async () => {
    const gptoss = createTokenizer({ kind: "huggingface", ...(await packagedTokenizer("gptoss")) });
    const ends = [...gptoss.endTokens].map((id) => gptoss.token(id));
    expect(ends).toEqual(expect.arrayContaining(["<|return|>", "<|call|>", "<|endoftext|>"]));
    expect(ends).not.toContain("<|end|>");
  });

  it("of tokenizer.json are added by the template, or by the configuration", async () => {
    const gemma = createTokenizer({ kind: "huggingface", ...(await packagedTokenizer("gemma3")) });
    expect(gemma.encode("a")[0]).toBe(gemma.id("<bos>"));
    const deepseek = createTokenizer({ kind: "huggingface", ...(await packagedTokenizer("deepseek_v3")) });
    expect(deepseek.bos).toBe(0);
    expect(deepseek.encode("a")[0]).toBe(0);
    expect(deepseek.encode("a", { addSpecial: false })[0]).not.toBe(0);
  });
});

describe("decoding", () => {
  it("gives back any well-formed text", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
        const bytes = byteVocabulary();
        expect(bytes.decode(bytes.encode(text))).toBe(text);
      }),
      { numRuns: 200 },
    );
  });

  it("streams what it decodes at once, for any ids", () => {
    const bytes = byteVocabulary();
    for (const each of [tokenizer, bytes]) {
      const id = fc.nat({ max: each.vocabularySize - 1 });
      fc.assert(
        fc.property(fc.array(id), fc.boolean(), (ids, special) => {
          expect(streamed(each, ids, { special }).join("")).toBe(each.decode(ids, { special }));
        }),
      );
    }
  });

  it("never streams part of a character", () => {
    const text = "a🙂é東👩‍👩‍👧";
    const bytes = byteVocabulary();
    for (const each of [tokenizer, bytes]) {
      const parts = streamed(each, each.encode(text));
      expect(parts.join("")).toBe(text);
      for (const part of parts) expect(part).not.toMatch(/[\p{Cs}\ufffd]/u);
    }
  });

  it("holds back an unfinished character until the end", () => {
    const bytes = byteVocabulary();
    const stream = bytes.stream();
    const [first, second] = [...new TextEncoder().encode("é")].map((byte) => 3 + byte);
    expect(stream.push(first!)).toBe("");
    expect(stream.push(second!)).toBe("é");
    expect(stream.push(first!)).toBe("");
    expect(stream.flush()).toBe("\ufffd");
    expect(stream.flush()).toBe("");
  });

  it("replaces bytes that are no UTF-8, and keeps U+FEFF", () => {
    const bytes = byteVocabulary();
    expect(bytes.decode([3 + 0xff, 260])).toBe("\ufffda");
    expect(bytes.decode(bytes.encode("\ufeffa"))).toBe("\ufeffa");
    expect(tokenizer.decode(tokenizer.encode("\ud800x"))).toBe("\ufffdx");
  });

  it("takes off the space that encoding put first, and no other", () => {
    const bytes = byteVocabulary();
    expect(bytes.decode(bytes.encode("a a"))).toBe("a a");
    expect(bytes.decode(bytes.encode("  a"))).toBe("  a");
    const plain = byteVocabulary({ add_space_prefix: false });
    expect(plain.decode(plain.encode(" a"))).toBe(" a");
    expect(plain.encode("a", { addSpecial: false })).toEqual([260]);
  });

  it("refuses ids that are none", () => {
    for (const id of [-1, 0.5, tokenizer.vocabularySize, Number.NaN]) {
      expect(() => tokenizer.decode([id])).toThrow(
        expect.objectContaining({ code: "bad-argument", reason: "invalid-token" }) as Error,
      );
    }
  });
});

describe("vocabulary", () => {
  it("looks up both ways", () => {
    for (let id = 0; id < tokenizer.vocabularySize; id++) expect(tokenizer.id(tokenizer.token(id)!)).toBe(id);
    expect(tokenizer.token(tokenizer.vocabularySize)).toBeUndefined();
    expect(tokenizer.id("no such token")).toBeUndefined();
  });
});

describe("a space before text", () => {
  it("follows every literal token, as in llama.cpp", () => {
    const a = byteVocabulary();
    expect(a.encode("a<extra>a", { addSpecial: false })).toEqual([261, 263, 261]);
  });
});

describeWithData("Phi-3's special tokens", suiteFiles("phi-3").slice(0, 1), () => {
  it("swallow the white space after them, but for three", async () => {
    const phi = createTokenizer({
      kind: "ggml",
      metadata: await ggufMetadata(testData(suiteFiles("phi-3")[0]!)!),
    });
    const encode = (text: string): number[] => phi.encode(text, { addSpecial: false, parseSpecial: true });
    expect(encode("<|user|>\nHi<|end|>\n<|assistant|>\n")).toEqual(encode("<|user|>Hi<|end|><|assistant|>"));
    expect(encode("<|endoftext|>\n")).not.toEqual(encode("<|endoftext|>"));
  });
});
