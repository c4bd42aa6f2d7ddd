import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describeWithData, testData } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { type GenerateRequest, load, type Model } from "./index.ts";

const pico = new URL("../../../models/pico/pico-Q8_0.gguf", import.meta.url);
const picoFolder = new URL("../../../models/pico/hf/", import.meta.url);
const stories = (type: string): string => testData(`models/stories260K/stories260K-${type}.gguf`) ?? "";
const backends = ["wasm", "reference"];
const ask = (content: string): GenerateRequest => ({ messages: [{ role: "user", content }], temperature: 0 });

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");
const openFiles = (): number => readdirSync("/proc/self/fd").length;

describe.each(backends)("pico on %s", (backend) => {
  it("answers", async () => {
    await using model = await load(pico, { backend });
    const answers = [
      ["What is 12 + 7?", "12 + 7 = 19."],
      ["What is the capital of France?", "The capital of France is Paris."],
      ["Who are you?", "I am pico, a very small language model."],
    ] as const;
    for (const [question, answer] of answers) {
      const { text, reason } = await model.complete(ask(question));
      expect([text, reason]).toEqual([answer, "end"]);
    }
  });

  it("answers from a Hugging Face folder, however it is named", async () => {
    for (const file of ["", "config.json", "model.safetensors"]) {
      await using model = await load(new URL(file, picoFolder), { backend });
      expect(model.info).toMatchObject({ format: "safetensors", architecture: "llama", bitsPerWeight: 16 });
      const { text, reason } = await model.complete(ask("What is the capital of France?"));
      expect([text, reason]).toEqual(["The capital of France is Paris.", "end"]);
    }
  });

  it.each(["f32", "q8_0"] as const)("answers from a cache in %s", async (kvCache) => {
    await using model = await load(pico, { backend, kvCache });
    const { text } = await model.complete(ask("What is the capital of France?"));
    expect(text).toBe("The capital of France is Paris.");
  });

  it("says the same from every kind of location", async () => {
    const bytes = new Uint8Array(await readFile(pico));
    for (const location of [bytes, new Blob([bytes])]) {
      await using model = await load(location, { backend });
      expect((await model.complete(ask("What is 12 + 7?"))).text).toBe("12 + 7 = 19.");
    }
  });

  it("writes the same text for the same seed", async () => {
    await using model = await load(pico, { backend });
    const request = { ...ask("Tell me a story."), temperature: 1, maxTokens: 40 };
    const first = await model.complete({ ...request, seed: 11 });
    await using again = await load(pico, { backend });
    expect((await again.complete({ ...request, seed: 11 })).text).toBe(first.text);
    expect((await again.complete({ ...request, seed: 12 })).text).not.toBe(first.text);
  });

  it("says the same with the beginning taken from the cache", async () => {
    await using model = await load(pico, { backend });
    const chat = model.chat({ temperature: 0, maxTokens: 40 });
    await chat.send("What is the capital of France?");
    const second = await chat.send("Tell me a short story about a dog.");
    expect(second.usage.cachedTokens).toBeGreaterThan(second.usage.promptTokens / 2);
    await using fresh = await load(pico, { backend });
    const messages = chat.messages.slice(0, -1);
    const alone = await fresh.complete({ messages, temperature: 0, maxTokens: 40 });
    expect(alone.usage.cachedTokens).toBe(0);
    expect(alone.text).toBe(second.text);
  });

  it("runs generations side by side without mixing them", async () => {
    await using model = await load(pico, { backend, contextLength: 256, sequences: 3 });
    const questions = ["What is 12 + 7?", "Who are you?", "What is the capital of France?"];
    const together = await Promise.all(questions.map((question) => model.complete(ask(question))));
    expect(together.map(({ text }) => text)).toEqual([
      "12 + 7 = 19.",
      "I am pico, a very small language model.",
      "The capital of France is Paris.",
    ]);
  });

  it("gives the same logits in one pass and in many", async () => {
    await using model = await load(pico, { backend });
    const tokens = model.tokenizer.encode("The quick brown fox jumps over the lazy dog. ".repeat(8));
    const { vocabularySize } = model.info;
    const all = await model.forward(tokens);
    for (const i of [0, 40, tokens.length - 1]) {
      const alone = await model.forward(tokens.slice(0, i + 1), { rows: "last" });
      expect(alone).toEqual(all.subarray(i * vocabularySize, (i + 1) * vocabularySize));
    }
  });

  it("computes embeddings of length 1 that tell texts apart", async () => {
    await using model = await load(pico, { backend });
    const texts = ["What is 3 + 4?", "What is 5 + 4?", "Write a story about a cat."];
    const [a, b, c] = (await model.embed(texts)) as [Float32Array, Float32Array, Float32Array];
    const dot = (x: Float32Array, y: Float32Array) =>
      x.reduce((sum, value, i) => sum + value * (y[i] ?? 0), 0);
    expect(dot(a, a)).toBeCloseTo(1, 5);
    expect(dot(a, b)).toBeGreaterThan(dot(a, c));
  });

  it("stops within one token of an abort", async () => {
    await using model = await load(pico, { backend });
    const controller = new AbortController();
    let tokens = 0;
    let abortedAt = Number.POSITIVE_INFINITY;
    const run = async (model: Model): Promise<void> => {
      const endless = { [model.tokenizer.eos ?? 0]: Number.NEGATIVE_INFINITY };
      const request = { prompt: "Once", signal: controller.signal, logitBias: endless };
      for await (const { type } of model.generate(request)) if (type === "token") tokens++;
    };
    setTimeout(() => {
      abortedAt = tokens;
      controller.abort();
    }, 30);
    await expect(run(model)).rejects.toMatchObject({ code: "aborted" });
    expect(tokens - abortedAt).toBeLessThanOrEqual(1);
  });

  // The reference unpacks the whole model each time, which takes long.
  const cycles = backend === "wasm" ? 50 : 10;
  it(`loads and disposes ${cycles} times without growing, and leaves no file open`, async () => {
    const cycle = async (): Promise<void> => {
      await using model = await load(pico, { backend, contextLength: 64 });
      await model.complete({ prompt: "a", maxTokens: 1 });
    };
    const held = async (): Promise<number> => {
      collectGarbage();
      await new Promise((resolve) => setTimeout(resolve, 20));
      collectGarbage();
      const { external, heapUsed } = process.memoryUsage(); // external: WebAssembly memories and array buffers
      return external + heapUsed;
    };
    for (let i = 0; i < 3; i++) await cycle();
    const files = openFiles();
    const before = await held();
    for (let i = 0; i < cycles; i++) await cycle();
    // One model takes 4 MB and more: fifty that were kept would be 200.
    expect((await held()) - before).toBeLessThan(8e6);
    expect(openFiles()).toBe(files);
  });
});

const storiesText =
  ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball.";

describeWithData("stories260K", ["models/stories260K"], () => {
  for (const backend of backends) {
    for (const type of ["f32", "F16", "Q8_0"]) {
      it(`${type} on ${backend} writes its story`, async () => {
        await using model = await load(stories(type), { backend });
        const { text } = await model.complete({ prompt: "Once upon a time", temperature: 0, maxTokens: 64 });
        expect(text.slice(0, storiesText.length)).toBe(storiesText);
      });
    }
  }

  it.each(backends)("says that its heads are too small for a q8_0 cache: %s", async (backend) => {
    await expect(load(stories("f32"), { backend, kvCache: "q8_0" })).rejects.toMatchObject({
      code: "bad-argument",
      message: expect.stringMatching(/q8_0.*32/),
    });
  });
});

describe("bad input", () => {
  it("ends in one LowbitError, quickly, with no file left open", async () => {
    const bytes = new Uint8Array(await readFile(pico));
    await load(bytes.subarray(0, 1000)).catch(() => undefined); // compiled and warm
    const files = openFiles();
    const inputs = [
      new Uint8Array(0),
      new Uint8Array(4096).fill(71),
      bytes.subarray(0, 3),
      bytes.subarray(0, 20_000),
      bytes.subarray(0, bytes.length - 1),
      bytes.slice(0, 5000).reverse(),
      "./no/such/model.gguf",
      new URL("README.md", new URL("../", import.meta.url)),
      new URL(".", import.meta.url),
    ];
    for (const input of inputs) {
      const started = performance.now();
      const error = await load(input).then(
        () => undefined,
        (reason) => reason,
      );
      expect(error?.name).toBe("LowbitError");
      expect(error.code).not.toBe("internal");
      expect(performance.now() - started).toBeLessThan(500);
    }
    expect(openFiles()).toBe(files);
  });

  it("refuses a memory limit that the model does not fit, naming the model", async () => {
    await expect(load(pico, { memoryLimitBytes: 4_000_000 })).rejects.toMatchObject({
      code: "out-of-memory",
      message: expect.stringMatching(/pico.*needs .* MB \(weights .* MB, cache for .* tokens in f16/),
    });
  });
});
