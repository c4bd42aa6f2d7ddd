import { readFileSync } from "node:fs";
import { perplexity, type SequenceLogits, type TokenBatch } from "@lowbit/core";
import { openGguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import {
  describeWithData,
  type OpenModel,
  openModel,
  testData,
  testPlatform,
  trackedFiles,
} from "@lowbit/testing";
import { type LlamaCppOracle, llamaCpp } from "@lowbit/testing/llama-cpp";
import { expect, test } from "vitest";
import { architectures } from "./index.ts";

const textFile = "models/ppl_text_16k.txt";
const begin = 1;

const stories = "models/stories260K/stories260K-f32.gguf";
const bitllama = "models/bitllama-3M/bitllama-3M-f32.gguf";

async function open(path: string): Promise<OpenModel> {
  const checkpoint = await openGguf(trackedFiles(testData(path) ?? ""));
  const backend = await reference().create(testPlatform());
  return openModel({ checkpoint, architectures, backend, contextLength: 256 });
}

function sequence(model: OpenModel, tokens: Int32Array, from: number): TokenBatch {
  const positions = tokens.map((_, i) => from + i);
  return { tokens, positions, sequences: new Int32Array(tokens.length), pages: [model.pages()] };
}

/** The tokens of the whole text; llama.cpp's tokenizer serves, so that this is about the models alone. */
function textTokens(llama: LlamaCppOracle): number[] {
  const tokens = llama.tokenize(readFileSync(testData(textFile) ?? "", "utf8"));
  return tokens[0] === begin ? tokens : [begin, ...tokens];
}

function logitsOf(model: OpenModel): SequenceLogits {
  return (ids, from, to) =>
    model.forward(
      sequence(model, ids, 0),
      Int32Array.from({ length: to - from }, (_, i) => from + i),
    );
}

/** `count` tokens after a prompt, each the likeliest. */
async function greedy(model: OpenModel, prompt: readonly number[], count: number): Promise<number[]> {
  const written: number[] = [];
  let next = Int32Array.from(prompt);
  for (let position = 0; written.length < count; ) {
    const logits = await model.forward(sequence(model, next, position), Int32Array.of(next.length - 1));
    position += next.length;
    const best = logits.indexOf(Math.max(...logits));
    written.push(best);
    next = Int32Array.of(best);
  }
  return written;
}

describeWithData("stories260K", [stories, textFile], () => {
  test("perplexity is the one that llama-perplexity prints", { timeout: 180_000 }, async () => {
    const llama = await llamaCpp(testData(stories) ?? "");
    const tokens = textTokens(llama);
    await llama.dispose();
    const result = await perplexity(logitsOf(await open(stories)), tokens, { context: 256, bos: begin });
    expect(result.chunks).toBe(29);
    // Printed with four digits, from keys and values in halves.
    expect(Math.abs(result.perplexity / 3.9932 - 1)).toBeLessThan(1e-4);
  });
});

describeWithData("bitllama-3M", [bitllama, textFile], () => {
  // All 29 chunks give 3.59650, where llama-perplexity prints 3.5965; the first two take a fifteenth of the time.
  test("perplexity is that of llama.cpp's logits", { timeout: 180_000 }, async () => {
    const llama = await llamaCpp(testData(bitllama) ?? "");
    const tokens = textTokens(llama);
    const options = { context: 256, bos: begin, maxChunks: 2 };
    const theirs: SequenceLogits = async (ids, from, to) =>
      (await llama.logits([...ids])).subarray(from * llama.vocabularySize, to * llama.vocabularySize);
    const expected = await perplexity(theirs, tokens, options);
    const actual = await perplexity(logitsOf(await open(bitllama)), tokens, options);
    await llama.dispose();
    expect(actual.scoredTokens).toBe(254);
    // With F32 weights and cache both only differ in rounding.
    expect(Math.abs(actual.perplexity / expected.perplexity - 1)).toBeLessThan(1e-5);
  });
});

for (const path of [stories, bitllama]) {
  describeWithData(path, [path], () => {
    test("greedy text is llama.cpp's", async () => {
      const llama = await llamaCpp(testData(path) ?? "");
      const prompt = [begin, ...llama.tokenize("Once upon a time").filter((token) => token !== begin)];
      const written = await greedy(await open(path), prompt, 80);
      expect(written).toEqual(await llama.greedy(prompt, 80));
      expect(llama.detokenize(written)).toMatch(
        /^, there was a little girl named Lily\. She loved to play outside /,
      );
      await llama.dispose();
    });
  });
}
