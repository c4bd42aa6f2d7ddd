import { expect, test } from "vitest";
import { describeWithData, testData } from "./data.ts";
import { llamaCpp, softmaxRows } from "./llama-cpp.ts";

const stories = "models/stories260K/stories260K-f32.gguf";

describeWithData("llama.cpp as an oracle", [stories], () => {
  test("continues a story as llama.cpp's own program does, and gives logits that do not depend on what came before", async () => {
    const llama = await llamaCpp(testData(stories) as string);
    try {
      expect(llama.vocabularySize).toBe(512);
      const prompt = [1, ...llama.tokenize("Once upon a time").filter((token) => token !== 1)];
      const text = llama.detokenize(await llama.greedy(prompt, 24));
      expect(text.trimStart()).toMatch(/^, there was a little girl named Lily\. She loved to play/);

      const both = await llama.logits(prompt);
      expect(both.length).toBe(prompt.length * 512);
      expect(both.every(Number.isFinite)).toBe(true);
      const shorter = await llama.logits(prompt.slice(0, 2));
      for (let i = 0; i < 2 * 512; i++) expect(shorter[i]).toBeCloseTo(both[i] ?? 0, 4);

      const probabilities = await llama.probabilities(prompt);
      const last = probabilities.subarray(-512);
      expect(last.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
      expect(probabilities).toEqual(softmaxRows(both, 512));
    } finally {
      await llama.dispose();
    }
  });
});
