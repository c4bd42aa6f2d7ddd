import { picoGguf } from "@lowbit/pico";
import { type TinyModelOptions, tinyModelBytes } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { type GenerateRequest, load, type Model } from "./index.ts";

const contextLength = 64;
const vocabularySize = 320;

/** Log probabilities of what comes next. */
async function next(model: Model, tokens: readonly number[]): Promise<number[]> {
  const logits = await model.forward(tokens, { rows: "last" });
  const most = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, logit) => total + Math.exp(logit - most), 0);
  return Array.from(logits, (logit) => logit - most - Math.log(sum));
}

/**
 * A model of one layer, whose keys depend on nothing but their own token: the largest difference between the log probabilities of a text that
 * shifts, and those of its remaining tokens computed afresh.
 */
async function apart(model: Model, keepTokens: number, count: number): Promise<number> {
  const prompt = Array.from({ length: 50 }, (_, i) => 3 + ((i * 37) % 300));
  const history = [...prompt];
  let worst = 0;
  const request: GenerateRequest = {
    ...{ prompt, temperature: 1, seed: 5, topK: 0, topP: 1, minP: 0, maxTokens: count },
    ...{ contextOverflow: "shift", keepTokens, logprobs: true, topLogprobs: 20, logitBias: { 2: -100 } },
  };
  for await (const event of model.generate(request)) {
    if (event.type !== "token") continue;
    const fresh = await next(model, history);
    for (const { id, logprob } of event.top ?? []) worst = Math.max(worst, Math.abs(logprob - fresh[id]!));
    if (history.length === contextLength) history.splice(keepTokens, (contextLength - keepTokens) >> 1);
    history.push(event.id);
  }
  return worst;
}

const oneLayer: readonly (readonly [string, TinyModelOptions])[] = [
  ["llama, adjacent pairs", { architecture: "llama" }],
  ["qwen2, halves and biases", { architecture: "qwen2" }],
  ["qwen3, norms of heads", { architecture: "qwen3" }],
  ["gemma3, a window with its own base", { architecture: "gemma3", slidingWindow: 40 }],
  ["yarn", { architecture: "llama", ropeScaling: { kind: "yarn", factor: 4, originalContextLength: 32 } }],
];

describe.each(["wasm", "reference"])("a full context that shifts, on %s", (backend) => {
  it.each(oneLayer)("one layer of %s: as the remaining tokens computed afresh", async (_, options) => {
    const bytes = await tinyModelBytes({ ...options, layers: 1, vocabularySize });
    await using model = await load(bytes, { backend, contextLength, sequences: 2, kvCache: "f32" });
    for (const keepTokens of [0, 5, 32]) {
      expect(await apart(model, keepTokens, 70)).toBeLessThan(2e-5);
    }
  });

  // About twice what rounding keys to the type does once. Keys turned by one position too few are 2.6 apart, those not turned 7.8.
  it.each([
    ["f16", 0.02],
    ["q8_0", 0.5],
  ] as const)("a cache of %s: within what its rounding does", async (kvCache, bound) => {
    const bytes = await tinyModelBytes({ architecture: "llama", layers: 1, vocabularySize, keySize: 32 });
    await using model = await load(bytes, { backend, contextLength, sequences: 2, kvCache });
    expect(await apart(model, 5, 70)).toBeLessThan(bound);
  });
});

describe("a full context that shifts", () => {
  it("pico goes on far beyond its context, with guesses the same", async () => {
    await using model = await load(picoGguf, { contextLength });
    const request: GenerateRequest = {
      ...{ prompt: "Once upon a time", temperature: 0, maxTokens: 200, contextOverflow: "shift" },
      logitBias: { 0: -100, 1: -100, 2: -100 },
    };
    const plain = await model.complete(request);
    expect(plain.tokens).toHaveLength(200);
    expect((await model.complete({ ...request, guessTokens: 5 })).tokens).toEqual(plain.tokens);
    // A model that lost its thread repeats one token.
    expect(new Set(plain.tokens).size).toBeGreaterThan(25);
  });

  it("says the same on two threads, with a draft and from a session that was saved on one", async () => {
    const request: GenerateRequest = {
      ...{ prompt: "Once upon a time", temperature: 0, maxTokens: 120, contextOverflow: "shift" },
      logitBias: { 0: -100, 1: -100, 2: -100 },
    };
    await using plain = await load(picoGguf, { contextLength, threads: 1 });
    const { tokens } = await plain.complete(request);
    const bytes = await plain.saveSession({ prompt: "Once upon a time" });
    await using draft = await load(picoGguf, { contextLength, threads: 2 });
    await using model = await load(picoGguf, { contextLength, threads: 2, sequences: 3, draft });
    expect(model.info.backendDescription).toContain("2 threads");
    const restored = await model.restoreSession(bytes);
    const texts = await Promise.all(
      [0, 3, 5].map((guessTokens) => model.complete({ ...request, guessTokens })),
    );
    for (const text of texts) expect(text.tokens).toEqual(tokens);
    expect(texts[0]?.usage.cachedTokens).toBe(restored.tokens.length - 1);
  });

  it("is refused by a model with learned positions", async () => {
    await using model = await load(await tinyModelBytes({ architecture: "gpt2" }), { contextLength });
    await expect(
      model.complete({ prompt: [5, 6], maxTokens: 3, contextOverflow: "shift" }),
    ).rejects.toMatchObject({
      code: "bad-argument",
      reason: "no-shift",
      message: expect.stringContaining("gpt2"),
    });
  });
});
