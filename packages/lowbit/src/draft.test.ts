import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { describeWithData, testData, tinyModelBytes } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import {
  architectures,
  createEngine,
  type GenerateRequest,
  gguf,
  load,
  type Model,
  platform,
  reference,
  wasm,
} from "./index.ts";

const folder = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
const requests: readonly GenerateRequest[] = [
  { messages: [{ role: "user", content: "What is 12 + 7?" }], temperature: 0 },
  { prompt: "Once upon a time", temperature: 0, maxTokens: 60 },
  { prompt: "Once upon a time", temperature: 0.9, seed: 11, maxTokens: 60 },
];

/** Tokens of each request, and the passes of the model that they took. */
async function answers(model: Model, guessTokens: number): Promise<{ texts: unknown[]; passes: number }> {
  const texts: unknown[] = [];
  const before = model.status().passes;
  for (const request of requests) {
    const events: unknown[] = [];
    for await (const event of model.generate({ ...request, guessTokens, logprobs: true })) {
      if (event.type === "token") events.push(event);
    }
    texts.push(events);
  }
  return { texts, passes: model.status().passes - before };
}

async function randomDraft(model: Model, backend: string): Promise<Model> {
  const { vocabularySize } = model.info;
  const bytes = await tinyModelBytes({ architecture: "llama", vocabularySize, contextLength: 64 });
  // Without a tokenizer of its own: only the sizes of the vocabularies are compared.
  const engine = createEngine({
    platform: platform(),
    backends: [backend === "wasm" ? wasm() : reference()],
    plugins: [gguf()],
    architectures,
  });
  return engine.load(bytes);
}

describe.each(["wasm", "reference"])("a draft model, on %s", (backend) => {
  it("another quantization: the same tokens and log probabilities in fewer passes", async () => {
    await using draft = await load(picoGguf, { backend, contextLength: 256 });
    await using plain = await load(folder, { backend, contextLength: 256 });
    await using model = await load(folder, { backend, contextLength: 256, draft });
    const wanted = await answers(plain, 0);
    const guessed = await answers(model, 4);
    expect(guessed.texts).toEqual(wanted.texts);
    expect(guessed.passes).toBeLessThan(0.45 * wanted.passes);
  });

  it("random weights: the same tokens, whatever it guesses", async () => {
    await using plain = await load(picoGguf, { backend, contextLength: 256 });
    await using draft = await randomDraft(plain, backend);
    await using model = await load(picoGguf, { backend, contextLength: 256, draft });
    const wanted = await answers(plain, 0);
    const guessed = await answers(model, 3);
    expect(guessed.texts).toEqual(wanted.texts);
    expect(guessed.passes).toBeLessThanOrEqual(wanted.passes);
  });
});

describeWithData("a draft of few bits", ["models/pico/quant/pico-Q2_K.gguf"], () => {
  it("guesses for the model it was made from", async () => {
    await using draft = await load(testData("models/pico/quant/pico-Q2_K.gguf") as string);
    await using plain = await load(picoGguf);
    await using model = await load(picoGguf, { draft });
    const wanted = await answers(plain, 0);
    const guessed = await answers(model, 3);
    expect(guessed.texts).toEqual(wanted.texts);
    expect(guessed.passes).toBeLessThan(0.8 * wanted.passes);
  });
});
