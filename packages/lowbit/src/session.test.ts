import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { describe, expect, it } from "vitest";
import { type GenerateRequest, type KvType, load, type Model } from "./index.ts";

const story =
  "Once upon a time there was a little cat who lived in a house near the sea. Every morning the cat went out to see the boats, and one day";
const endless = { 0: -100, 1: -100, 2: -100 };

/** Tokens with their log probabilities, and how many of the prompt's came from the cache. */
async function said(model: Model, request: GenerateRequest): Promise<{ events: unknown[]; cached: number }> {
  const events: unknown[] = [];
  let cached = -1;
  for await (const event of model.generate({ ...request, logprobs: true, topLogprobs: 3 })) {
    if (event.type === "token") events.push(event);
    if (event.type === "finish") cached = event.usage.cachedTokens;
  }
  return { events, cached };
}

describe.each(["wasm", "reference"])("sessions on %s", (backend) => {
  it.each<KvType>(["f32", "f16", "q8_0"])("%s: what is restored goes on to the last bit", async (kvCache) => {
    const options = { backend, kvCache, contextLength: 160 };
    await using model = await load(picoGguf, options);
    const first = await model.complete({ prompt: story, temperature: 0, maxTokens: 30, logitBias: endless });
    const bytes = await model.saveSession({ note: first.text });
    await using other = await load(picoGguf, options);
    const { tokens, note } = await other.restoreSession(bytes);
    const all = [...model.tokenizer.encode(story), ...first.tokens];
    expect([tokens, note]).toEqual([all.slice(0, -1), first.text]);
    const next = { prompt: all, temperature: 0.8, seed: 4, maxTokens: 20, logitBias: endless };
    const [unbroken, restored] = [await said(model, next), await said(other, next)];
    expect(restored).toEqual(unbroken);
    expect(restored.cached).toBe(all.length - 1);
    // What was restored is what would be computed: saving it again gives the same bytes.
    expect(await other.saveSession({ prompt: tokens, note })).toEqual(bytes);
  });
});

describe("sessions", () => {
  it.each<KvType>(["f32", "f16", "q8_0"])("%s: of one backend are read by the other", async (kvCache) => {
    const load1 = (backend: string) => load(picoGguf, { backend, kvCache, contextLength: 128 });
    await using fast = await load1("wasm");
    await using plain = await load1("reference");
    // What the bytes mean is the contract suite's; logits would not show it, as the backends' own part by more than a wrong cache might.
    for (const [from, to] of [
      [fast, plain],
      [plain, fast],
    ] as const) {
      const bytes = await from.saveSession({ prompt: story });
      await using fresh = await load1(to.info.backend);
      const { tokens } = await fresh.restoreSession(bytes);
      const request = { prompt: story, temperature: 0, maxTokens: 1 };
      expect((await fresh.complete(request)).usage.cachedTokens).toBe(tokens.length - 1);
      // Saved again they are the same bytes, all but the last page, whose last token is computed anew: nothing was
      // rounded on the way.
      const again = await fresh.saveSession({ prompt: tokens });
      expect(tokens.length).toBeGreaterThan(32);
      const [lastPage, pages] = [tokens.length % 32, Math.ceil(tokens.length / 32)];
      const position = (bytes.length - 120 - 4 * tokens.length - 32 * pages) / tokens.length;
      const same = bytes.length - 32 - lastPage * position;
      expect(again.subarray(0, same)).toEqual(bytes.subarray(0, same));
    }
  });

  it("a conversation goes on in another model, and other weights are told apart", async () => {
    const options = { contextLength: 256 };
    await using model = await load(picoGguf, options);
    const chat = model.chat({ temperature: 0 });
    await chat.send("What is 12 + 7?");
    const bytes = await model.saveSession({ note: JSON.stringify(chat.messages) });
    const question = "What is the capital of France?";
    const unbroken = await chat.send(question);
    await using other = await load(picoGguf, options);
    const { note } = await other.restoreSession(bytes);
    const restored = await other.chat({ temperature: 0, messages: JSON.parse(note) }).send(question);
    expect([restored.text, restored.usage]).toEqual([unbroken.text, unbroken.usage]);
    expect(restored.usage.cachedTokens).toBeGreaterThan(20);
    const folder = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
    await using foreign = await load(folder, options);
    await expect(foreign.restoreSession(bytes)).rejects.toMatchObject({
      code: "bad-argument",
      reason: "session-model",
    });
  });
});
