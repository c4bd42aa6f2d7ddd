import { picoGguf } from "@lowbit/pico";
import { describe, expect, it } from "vitest";
import { type GenerateRequest, load } from "./index.ts";

const repeating = "The cat sat. The dog sat. The cat sat. The dog sat. The cat sat. The dog sat. The cat";
const endless = { 0: -100, 1: -100, 2: -100 };

describe.each(["wasm", "reference"])("guessing ahead, on %s", (backend) => {
  const requests: readonly (readonly [string, GenerateRequest])[] = [
    ["greedy", { prompt: repeating, temperature: 0, logitBias: endless, maxTokens: 60 }],
    ["drawn", { prompt: repeating, temperature: 1, seed: 5, logitBias: endless, maxTokens: 60 }],
    ["with penalties", { prompt: repeating, temperature: 0, repetitionPenalty: 1.3, maxTokens: 40 }],
    ["a conversation", { messages: [{ role: "user", content: "What is 12 + 7?" }], temperature: 0 }],
    [
      "a form",
      {
        prompt: '[{"a": 1}, {"a": 1}, {"a": 1}] = ',
        temperature: 0,
        maxTokens: 60,
        responseFormat: {
          type: "json_schema",
          schema: {
            type: "array",
            minItems: 4,
            maxItems: 5,
            items: { type: "object", properties: { a: { enum: [1, 2] } } },
          },
        },
      },
    ],
    ["stop strings", { prompt: repeating, temperature: 0, stop: ["dog"], maxTokens: 60 }],
  ];

  it.each(requests)("%s: the same tokens, events and log probabilities", async (_, request) => {
    await using model = await load(picoGguf, { backend, contextLength: 256, sequences: 2 });
    const events = async (guessTokens: number): Promise<unknown[]> => {
      const seen: unknown[] = [];
      for await (const event of model.generate({ ...request, guessTokens, logprobs: true, topLogprobs: 2 })) {
        if (event.type === "prompt") continue;
        seen.push(
          event.type === "finish"
            ? { ...event, timings: 0, seed: 0, usage: event.usage.completionTokens }
            : event,
        );
      }
      return seen;
    };
    const plain = await events(0);
    for (const guessTokens of [1, 3, 8]) expect(await events(guessTokens)).toEqual(plain);
    // Others at the same time, and guessed tokens that a later text begins with.
    const together = await Promise.all([events(4), events(0), events(7), events(2)]);
    for (const one of together) expect(one).toEqual(plain);
  });

  it("takes fewer passes for a text that repeats itself", async () => {
    await using model = await load(picoGguf, { backend, contextLength: 256 });
    const passes = async (guessTokens: number): Promise<number> => {
      const before = model.status().passes;
      const request = {
        prompt: "ab ab ab ab ab ab ab ab",
        temperature: 0,
        maxTokens: 80,
        logitBias: endless,
      };
      await model.complete({ ...request, guessTokens });
      return model.status().passes - before;
    };
    const plain = await passes(0);
    expect(await passes(6)).toBeLessThan(0.75 * plain);
  });
});
