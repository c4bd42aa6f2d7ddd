import type { GenerateEvent, GenerateRequest } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import { beginToken, endToken, hashScript, saying } from "../test/scripted.ts";

const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];

/** A model that answers a 3-token prompt ("hi" and the begin token) with this text. */
const answering = (text: string) => scripted({ script: saying([...bytes(text), endToken], 3) });

async function collect(events: AsyncIterable<GenerateEvent>): Promise<GenerateEvent[]> {
  const all: GenerateEvent[] = [];
  for await (const event of events) all.push(event);
  return all;
}

describe("generate", () => {
  it("yields the prompt, then tokens, then the finish with usage and timings", async () => {
    await using model = await answering("ok!").load();
    const events = await collect(model.generate({ prompt: "hi", temperature: 0 }));
    expect(events.map((event) => event.type)).toEqual(["prompt", "token", "token", "token", "finish"]);
    expect(events[0]).toEqual({ type: "prompt", done: 3, total: 3 });
    expect(events[1]).toEqual({ type: "token", id: 111, text: "o" });
    const finish = events[4];
    expect(finish).toMatchObject({
      reason: "end",
      text: "",
      usage: { promptTokens: 3, cachedTokens: 0, completionTokens: 3 },
    });
    expect(finish?.type === "finish" && finish.timings.promptMs).toBeGreaterThan(0);
  });

  it("never splits a character, and shows what a broken one leaves at the end", async () => {
    await using model = await answering("é").load();
    const events = await collect(model.generate({ prompt: "hi", temperature: 0 }));
    expect(events.flatMap((event) => (event.type === "token" ? event.text : []))).toEqual(["", "é"]);
    const { text, reason } = await model.complete({ prompt: "hi", temperature: 0, maxTokens: 1 });
    expect([text, reason]).toEqual(["\ufffd", "length"]);
  });

  it("stops before a stop string that crosses token borders, and gives back what only looked like one", async () => {
    await using model = await answering("one STAR two STOP three").load();
    const { text, reason, usage } = await model.complete({ prompt: "hi", temperature: 0, stop: ["STOP"] });
    expect([text, reason]).toEqual(["one STAR two ", "stop"]);
    expect(usage.completionTokens).toBe("one STAR two STOP".length);
    const held = await model.complete({ prompt: "hi", temperature: 0, stop: ["three!"] });
    expect([held.text, held.reason]).toEqual(["one STAR two STOP three", "end"]);
  });

  it("ends with length at maxTokens and at the end of the context", async () => {
    await using model = await scripted().load({ contextLength: 64 });
    expect(await model.complete({ prompt: "hi", maxTokens: 5 })).toMatchObject({
      reason: "length",
      usage: { completionTokens: 5 },
    });
    // The last token is chosen from the logits of the 64th position.
    const full = await model.complete({ prompt: "hi" });
    expect(full.reason).toBe("length");
    expect(full.usage.completionTokens).toBe(64 - 3 + 1);
  });

  it("gives the same text for the same seed, another for another, and reports the seed", async () => {
    await using model = await scripted().load();
    const run = (seed?: number) =>
      model.complete({
        prompt: "hi",
        temperature: 1,
        topK: 0,
        topP: 1,
        minP: 0,
        maxTokens: 24,
        ...(seed !== undefined && { seed }),
      });
    const first = await run(7);
    expect((await run(7)).text).toBe(first.text);
    expect((await run(8)).text).not.toBe(first.text);
    const free = await run();
    expect((await run(free.seed)).text).toBe(free.text);
  });

  it("takes token ids as they are, and says what is wrong with them", async () => {
    await using model = await scripted().load();
    const fromIds = await model.complete({ prompt: [beginToken, 104, 105], temperature: 0, maxTokens: 4 });
    const fromText = await model.complete({ prompt: "hi", temperature: 0, maxTokens: 4 });
    expect(fromIds.tokens).toEqual(fromText.tokens);
    await expect(model.complete({ prompt: [1, 260] })).rejects.toMatchObject({
      code: "bad-argument",
      reason: "token-id",
    });
    await expect(model.complete({ prompt: [] })).rejects.toMatchObject({
      code: "bad-argument",
      reason: "empty",
    });
  });

  it("refuses a prompt that does not fit, with figures", async () => {
    await using model = await scripted().load({ contextLength: 64 });
    await expect(model.complete({ prompt: "x".repeat(64) })).rejects.toMatchObject({
      code: "context-full",
      message: expect.stringContaining("65 tokens do not fit a context of 64"),
    });
    expect((await model.complete({ prompt: "x".repeat(63) })).usage.completionTokens).toBe(1);
  });

  it("reports log probabilities of the model's own distribution", async () => {
    await using model = await answering("a").load();
    const events = await collect(model.generate({ prompt: "hi", temperature: 0, logprobs: true }));
    const token = events.find((event) => event.type === "token");
    // One logit of 10 among 259 of 0.
    expect(token?.type === "token" && token.logprob).toBeCloseTo(10 - Math.log(Math.exp(10) + 259), 5);
  });

  it("throws rather than choose from logits that are not finite", async () => {
    const script = (history: readonly number[]) =>
      Float32Array.from(hashScript(history), (logit, id) =>
        history.length > 5 && id === 9 ? Number.NaN : logit,
      );
    await using model = await scripted({ script }).load();
    await expect(model.complete({ prompt: "hi" })).rejects.toMatchObject({
      code: "internal",
      reason: "non-finite-logits",
      message: expect.stringContaining("token 9"),
    });
  });

  const wrong: [GenerateRequest | Record<string, unknown>, string, string][] = [
    [{ prompt: "a", temperature: -1 }, "temperature", "temperature is -1; it must be a number from 0 to 100"],
    [{ prompt: "a", temperature: Number.NaN }, "temperature", "NaN"],
    [{ prompt: "a", temperature: "hot" }, "temperature", '"hot"'],
    [{ prompt: "a", topK: 1.5 }, "topK", "1.5"],
    [{ prompt: "a", topP: 1.1 }, "topP", "from 0 to 1"],
    [{ prompt: "a", seed: -1 }, "seed", "whole number"],
    [{ prompt: "a", maxTokens: 0 }, "maxTokens", "whole number from 1"],
    [{ prompt: "a", stop: "end" }, "stop", "array"],
    [{ prompt: "a", stop: [""] }, "stop", "1 to 1024"],
    [{ prompt: "a", logitBias: { 300: 1 } }, "logitBias", "below 260"],
    [{ prompt: "a", logitBias: { x: 1 } }, "logitBias", "token id"],
    [{ prompt: "a", logitBias: { 1: Number.POSITIVE_INFINITY } }, "logitBias", "token id"],
    [{ prompt: "a", signal: 1 }, "signal", "AbortSignal"],
    [{ prompt: "a", temprature: 1 }, "unknown-option", '"temprature"'],
    [{ prompt: "a", toString: 1 }, "unknown-option", "toString"],
    [{}, "prompt", "either"],
    [{ prompt: "a", messages: [{ role: "user", content: "b" }] }, "prompt", "either"],
    [{ messages: [] }, "messages", "non-empty"],
    [{ messages: [{ role: "user" }] }, "messages", "content"],
    [{ prompt: "a", tools: [{}] }, "tools", "messages"],
  ];
  it.each(wrong)("refuses %o", async (request, reason, words) => {
    await using model = await scripted().load();
    await expect(model.complete(request as GenerateRequest)).rejects.toMatchObject({
      code: "bad-argument",
      reason,
      message: expect.stringContaining(words),
    });
  });
});

describe("abort", () => {
  it("takes effect within one token, and before the next pass", async () => {
    let passes = 0;
    const { load } = scripted({ backend: { onSubmit: () => void passes++ } });
    await using model = await load({ selfCheck: false });
    const controller = new AbortController();
    let after = 0;
    const run = async () => {
      for await (const event of model.generate({ prompt: "hi", signal: controller.signal })) {
        if (event.type !== "token") continue;
        if (controller.signal.aborted) after++;
        else if (event.id >= 0) controller.abort();
      }
    };
    await expect(run()).rejects.toMatchObject({ code: "aborted" });
    expect([after, passes]).toEqual([0, 1]);
  });

  it("stops a prompt between passes, from a timer", async () => {
    let passes = 0;
    const { load } = scripted({
      backend: {
        onSubmit: async () => {
          passes++;
          await new Promise((resolve) => setTimeout(resolve, 20));
        },
      },
    });
    await using model = await load();
    const request = { prompt: "x".repeat(2000), signal: AbortSignal.timeout(50) };
    await expect(model.complete(request)).rejects.toMatchObject({ code: "aborted" });
    expect(passes).toBeLessThan(6);
    await expect(model.complete(request)).rejects.toMatchObject({ code: "aborted" });
  });

  it("leaves a model that works, with the finished part in the cache", async () => {
    const { load } = scripted();
    await using model = await load();
    const prompt = "y".repeat(300);
    const controller = new AbortController();
    const run = async () => {
      for await (const event of model.generate({ prompt, signal: controller.signal })) {
        if (event.type === "prompt") controller.abort();
      }
    };
    await expect(run()).rejects.toMatchObject({ code: "aborted" });
    const { usage } = await model.complete({ prompt, maxTokens: 1 });
    expect(usage.cachedTokens).toBe(128);
  });
});

describe("prefix reuse", () => {
  it("continues where an earlier text ended, with the same result as from scratch", async () => {
    await using model = await scripted().load();
    await using other = await scripted().load();
    const request = { temperature: 0, maxTokens: 20 };
    const first = await model.complete({ prompt: "Once upon a time", ...request });
    const prompt = `Once upon a time${first.text} and then`;
    const reused = await model.complete({ prompt, ...request });
    const fresh = await other.complete({ prompt, ...request });
    expect(reused.usage.cachedTokens).toBe(first.usage.promptTokens + first.usage.completionTokens - 1);
    expect(fresh.usage.cachedTokens).toBe(0);
    expect(reused.text).toBe(fresh.text);
  });

  it("shares the common beginning with a text that goes another way", async () => {
    await using model = await scripted().load();
    await using other = await scripted().load();
    const common = "s".repeat(100);
    await model.complete({ prompt: `${common}AAAA`, maxTokens: 1 });
    const request = { prompt: `${common}BBBB`, temperature: 0, maxTokens: 30 };
    const reused = await model.complete(request);
    expect(reused.usage.cachedTokens).toBe(101);
    expect(reused.text).toBe((await other.complete(request)).text);
    // The same prompt again: the last token is computed anew.
    expect((await model.complete(request)).text).toBe(reused.text);
  });
});

describe("generations at the same time", () => {
  it("do not disturb one another", async () => {
    const { load } = scripted({
      backend: { onSubmit: () => new Promise((resolve) => setImmediate(resolve)) },
    });
    await using model = await load({ contextLength: 256, sequences: 4 });
    const prompts = [
      "a",
      "shared beginning, long enough for a page: one",
      "shared beginning, long enough for a page: two",
      "z".repeat(150),
    ];
    const request = { temperature: 0.9, seed: 5, maxTokens: 40 };
    const together = await Promise.all(prompts.map((prompt) => model.complete({ prompt, ...request })));
    for (const [i, prompt] of prompts.entries()) {
      await using alone = await scripted().load();
      expect((await alone.complete({ prompt, ...request })).text).toBe(together[i]?.text);
    }
  });

  it("wait for one another where the shared cache is full, with the same text", async () => {
    await using model = await scripted().load({ contextLength: 128 });
    await using other = await scripted().load();
    const ask = (letter: string) => ({ prompt: letter.repeat(90), temperature: 0, maxTokens: 30 });
    const both = await Promise.all([model.complete(ask("x")), model.complete(ask("y"))]);
    for (const [i, { text }] of both.entries()) {
      expect(text).toBe((await other.complete(ask(i === 0 ? "x" : "y"))).text);
    }
    expect(model.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it("share passes", async () => {
    await using model = await scripted().load({ contextLength: 128, sequences: 4 });
    const before = model.status().passes;
    const prompts = ["one", "two", "three", "four"];
    await Promise.all(prompts.map((prompt) => model.complete({ prompt, maxTokens: 20, temperature: 0 })));
    expect(model.status().passes - before).toBeLessThan(26);
  });

  it("need no help from whoever holds one back: another may be awaited within it", async () => {
    await using model = await scripted().load({ contextLength: 64 });
    await using other = await scripted().load();
    const outer: number[] = [];
    for await (const event of model.generate({ prompt: "a".repeat(40), temperature: 0, maxTokens: 12 })) {
      if (event.type !== "token") continue;
      outer.push(event.id);
      await model.complete({ prompt: "b".repeat(50), temperature: 0, maxTokens: 4 });
    }
    const alone = await other.complete({ prompt: "a".repeat(40), temperature: 0, maxTokens: 12 });
    expect(outer).toEqual(alone.tokens);
  });
});
