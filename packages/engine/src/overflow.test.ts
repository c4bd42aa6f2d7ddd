import type { GenerateRequest } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import { hashScript } from "../test/scripted.ts";
import type { LoadOptions, Model } from "./index.ts";

const contextLength = 64;
const prompt = "a text that will not end before its context is full";
const request: GenerateRequest = { prompt, temperature: 0, maxTokens: 150, contextOverflow: "shift" };
const load = (options: LoadOptions = {}): Promise<Model> => scripted().load({ contextLength, ...options });

/** What a model says that forgets half behind the first `keep` tokens whenever the context is full. */
function expected(start: readonly number[], count: number, keep: number): number[] {
  const history = [...start];
  const said: number[] = [];
  while (said.length < count) {
    const logits = Array.from(hashScript(history));
    const id = logits.indexOf(Math.max(...logits));
    said.push(id);
    if (history.length === contextLength) history.splice(keep, (contextLength - keep) >> 1);
    history.push(id);
  }
  return said;
}

describe("a full context that shifts", () => {
  it("goes on with the first tokens and the later half of the rest, again and again", async () => {
    await using model = await load();
    const start = model.tokenizer.encode(prompt);
    for (const keepTokens of [undefined, 0, 1, 31, 32, 33, 52, 62]) {
      const { tokens, reason, usage } = await model.complete({
        ...request,
        ...(keepTokens !== undefined && { keepTokens }),
      });
      expect(tokens, `${keepTokens} kept`).toEqual(expected(start, 150, keepTokens ?? 4));
      expect([reason, usage.completionTokens]).toEqual(["length", 150]);
    }
    expect(model.status().running).toBe(0);
  });

  it("says the same with guesses, with a draft, and beside others", async () => {
    await using draft = await load({ contextLength: 48 });
    await using model = await load({ draft, sequences: 4 });
    const wanted = expected(model.tokenizer.encode(prompt), 150, 4);
    for (const guessTokens of [0, 1, 3, 8, 31]) {
      expect((await model.complete({ ...request, guessTokens })).tokens).toEqual(wanted);
    }
    const others = [0, 2, 5].map((guessTokens) => model.complete({ ...request, guessTokens }));
    for (const { tokens } of await Promise.all(others)) expect(tokens).toEqual(wanted);
    await using plain = await load();
    expect((await plain.complete({ ...request, guessTokens: 6 })).tokens).toEqual(wanted);
  });

  it("goes on where others take the pages away", async () => {
    await using model = await load({ sequences: 1 });
    const wanted = expected(model.tokenizer.encode(prompt), 150, 4);
    const texts = await Promise.all([
      model.complete(request),
      model.complete(request),
      model.complete(request),
    ]);
    for (const { tokens } of texts) expect(tokens).toEqual(wanted);
    expect(model.status().running).toBe(0);
  });

  it("leaves nobody a beginning that was computed from forgotten tokens", async () => {
    await using model = await load();
    const start = model.tokenizer.encode(prompt);
    const { tokens } = await model.complete({ ...request, maxTokens: 30, keepTokens: 10 });
    const held = [...start, ...tokens].slice(0, contextLength);
    held.splice(10, 27);
    const next = await model.complete({ prompt: [...held, 100], temperature: 0, maxTokens: 1 });
    expect(next.usage.cachedTokens).toBe(10);
    const { tokens: saved } = await model.restoreSession(await model.saveSession());
    expect(saved).toEqual([...held, 100]);
  });

  it("stops as ever where it was not asked to, and ends at an end token", async () => {
    await using model = await load();
    const { contextOverflow, ...plain } = request;
    const stopped = await model.complete(plain);
    expect([stopped.reason, stopped.usage.completionTokens]).toEqual(["length", 64 - 52 + 1]);
    const script = (history: readonly number[]) =>
      Float32Array.from(hashScript(history), (logit, id) =>
        id === 257 && history.at(-1) === 101 ? 99 : logit,
      );
    await using ending = await scripted({ script }).load({ contextLength });
    const ended = await ending.complete({ ...request, maxTokens: 10_000 });
    expect(ended.reason).toBe("end");
  });

  it("is refused where it makes no sense", async () => {
    await using model = await load();
    const refused = async (change: object, reason: string, on: Model = model): Promise<void> => {
      const wanted = { code: "bad-argument", reason };
      await expect(on.complete({ ...request, ...change })).rejects.toMatchObject(wanted);
    };
    await refused({ contextOverflow: "wrap" }, "contextOverflow");
    await refused({ keepTokens: -1 }, "keepTokens");
    await refused({ keepTokens: 63 }, "keepTokens");
    await refused({ keepTokens: 4, contextOverflow: "stop" }, "keepTokens");
    await using learned = await scripted({ shifts: false }).load({ contextLength });
    await refused({}, "no-shift", learned);
    await using encoder = await scripted({ format: { config: { causal: false } } }).load({ contextLength });
    await refused({}, "no-shift", encoder);
    await using tiny = await load({ contextLength: 1, selfCheck: false });
    expect((await tiny.complete({ ...request, prompt: [97], maxTokens: 5 })).tokens).toHaveLength(5);
  });
});
