import { type CheckpointSource, type ModelConfig, memorySource, type TokenizerSource } from "@lowbit/core";
import { ggufWriter, plainMetadata, readGguf } from "@lowbit/gguf";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { hostileText } from "../test/texts.ts";
import { packagedTokenizer } from "../test/vocabularies.ts";
import { createTokenizer } from "./index.ts";

const config: ModelConfig = {
  architecture: "llama",
  contextLength: 128,
  vocabularySize: 0,
  embeddingSize: 32,
  layers: 1,
  feedForwardSize: 32,
  heads: 1,
  kvHeads: 1,
  keySize: 32,
  valueSize: 32,
  normEpsilon: 1e-5,
  rope: { dimensions: 32, base: 10_000, pairing: "adjacent" },
};

/** The keys that GGUF's writer makes of a tokenizer. */
async function keysOf(tokenizer: TokenizerSource, vocabularySize: number): Promise<Map<string, unknown>> {
  const parts: Uint8Array[] = [];
  const source: CheckpointSource = {
    format: "other",
    config: { ...config, vocabularySize },
    metadata: new Map(),
    tokenizer,
  };
  const writer = await ggufWriter(source, {});
  const create = async () => ({
    write: async (bytes: Uint8Array) => void parts.push(bytes.slice()),
    close: () => Promise.resolve(),
  });
  await writer.finish({ create }, []);
  return plainMetadata((await readGguf(memorySource(new Uint8Array(Buffer.concat(parts))))).metadata);
}

describe("a tokenizer.json that was written as GGUF", () => {
  it.each([
    ["llama3", "gpt2", "llama3"],
    ["qwen2_5", "gpt2", "qwen2"],
    ["qwen3", "gpt2", "qwen2"],
    ["gemma3", "llama", "default"],
    ["gptoss", "gpt2", "gpt-4o"],
    ["deepseek_v3", "gpt2", "deepseek-v3"],
  ] as const)("%s encodes and decodes as before", async (name, model, pre) => {
    const source: TokenizerSource = { kind: "huggingface", ...(await packagedTokenizer(name)) };
    const before = createTokenizer(source);
    // Models pad their tables.
    const metadata = await keysOf(source, before.vocabularySize + 3);
    expect([metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")]).toEqual([model, pre]);
    const after = createTokenizer({ kind: "ggml", metadata });
    expect(after.eos).toBe(before.eos);
    if (before.bos !== undefined) expect(after.bos).toBe(before.bos);
    expect([...after.endTokens].sort()).toEqual([...before.endTokens].sort());
    const specials = Array.from({ length: before.vocabularySize }, (_, id) => id).filter(before.isSpecial);
    expect(specials.filter((id) => !after.isSpecial(id))).toEqual([]);
    expect(after.chatTemplate).toBe(before.chatTemplate);
    const literals = specials.slice(0, 40).flatMap((id) => before.token(id) ?? []);
    fc.assert(
      fc.property(hostileText(literals), (text) => {
        // GGUF has no word for the composing of characters that Qwen wants, and Gemma's marks for spaces are spaces there.
        const composed = text.normalize("NFC").replaceAll("▁", model === "llama" ? " " : "▁");
        for (const parseSpecial of [true, false]) {
          const ids = before.encode(composed, { parseSpecial });
          expect(after.encode(composed, { parseSpecial })).toEqual(ids);
          expect(after.decode(ids)).toBe(before.decode(ids));
        }
      }),
      { numRuns: 500, seed: 20261125 },
    );
  });
});
