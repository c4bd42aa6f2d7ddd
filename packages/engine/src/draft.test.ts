import type { GenerateRequest } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import { hashScript, type Script, vocabularySize } from "../test/scripted.ts";
import type { LoadOptions, Model } from "./index.ts";

/** Says as the model does, but never "e". */
const similar: Script = (history) =>
  Float32Array.from(hashScript(history), (logit, id) => (id === 101 ? -50 : logit));
/** Says something else. */
const other: Script = (history) => hashScript([...history, 7]);

const requests: readonly (readonly [string, GenerateRequest])[] = [
  ["greedy", { prompt: "hello", temperature: 0, maxTokens: 40 }],
  ["drawn", { prompt: "hello", temperature: 1, seed: 3, maxTokens: 40 }],
  ["with penalties", { prompt: "aaaa", temperature: 0, repetitionPenalty: 1.5, maxTokens: 40 }],
  ["to the end of the context", { prompt: "hello", temperature: 0 }],
  ["one token", { prompt: "hello", temperature: 0, maxTokens: 1 }],
  ["with a stop string", { prompt: "hello", temperature: 0, stop: ["q"], maxTokens: 60 }],
];

async function plain(request: GenerateRequest): Promise<readonly number[]> {
  await using model = await scripted().load({ contextLength: 128 });
  return (await model.complete(request)).tokens;
}

const load = (draft: Model, options: LoadOptions = {}): Promise<Model> =>
  scripted().load({ contextLength: 128, draft, ...options });

describe("a draft model", () => {
  const drafts: readonly (readonly [string, Script, LoadOptions])[] = [
    ["the same", hashScript, { contextLength: 128 }],
    ["similar", similar, { contextLength: 128 }],
    ["bad", other, { contextLength: 128 }],
    ["of a shorter context", similar, { contextLength: 32 }],
    ["of a context of one token", similar, { contextLength: 1 }],
  ];

  it.each(drafts)("%s: the text stays the same, token for token", async (_, script, options) => {
    await using draft = await scripted({ script }).load(options);
    await using model = await load(draft);
    for (const [name, request] of requests) {
      const wanted = await plain(request);
      for (const guessTokens of [0, 1, 2, 5, undefined, 31]) {
        const { tokens } = await model.complete({
          ...request,
          ...(guessTokens !== undefined && { guessTokens }),
        });
        expect(tokens, `${name}, ${guessTokens} guesses`).toEqual(wanted);
      }
    }
    expect(draft.status().running).toBe(0);
  });

  it("saves passes as far as it guesses right, and the draft computes each token once", async () => {
    const passes = async (script: Script): Promise<[model: number, draft: number]> => {
      await using draft = await scripted({ script }).load({ contextLength: 128 });
      await using model = await load(draft);
      const before = [model.status().passes, draft.status().passes] as const;
      await model.complete({ prompt: "hello", temperature: 0, maxTokens: 41, guessTokens: 4 });
      return [model.status().passes - before[0], draft.status().passes - before[1]];
    };
    // The prompt and 8 passes of 5 tokens; the draft has 4 passes for each of those.
    expect(await passes(hashScript)).toEqual([9, 32]);
    expect((await passes(similar))[0]).toBeLessThan(20);
    expect((await passes(other))[0]).toBeGreaterThan(35);
  });

  it("gives each of several texts at the same time what it gets alone", async () => {
    await using draft = await scripted({ script: similar }).load({ contextLength: 96 });
    await using model = await load(draft, { sequences: 2 });
    const all = requests.flatMap(([, request], i) =>
      [0, 3, 8].map((guessTokens) => ({
        ...request,
        prompt: `${request.prompt}${"xyz".slice(i % 4)}`,
        guessTokens,
      })),
    );
    const texts = await Promise.all(all.map((request) => model.complete(request)));
    for (const [i, request] of all.entries()) expect(texts[i]?.tokens).toEqual(await plain(request));
    expect([draft.status().running, model.status().running]).toEqual([0, 0]);
  });

  it("may be asked itself meanwhile", async () => {
    await using draft = await scripted({ script: similar }).load({ contextLength: 128, sequences: 2 });
    await using model = await load(draft);
    const request = { prompt: "hello", temperature: 0, maxTokens: 60 };
    const alone = await draft.complete(request);
    const [mine, its] = await Promise.all([model.complete(request), draft.complete(request)]);
    expect(mine.tokens).toEqual(await plain(request));
    expect(its.tokens).toEqual(alone.tokens);
    // Guesses in its cache are nobody's beginning.
    expect((await draft.complete({ ...request, prompt: "hello there" })).tokens).toEqual(
      (await draft.complete({ ...request, prompt: "hello there", guessTokens: 3 })).tokens,
    );
  });

  it("lets go of its sequence when the caller leaves or aborts", async () => {
    const controller = new AbortController();
    let submits = 0;
    await using draft = await scripted({
      script: similar,
      backend: { onSubmit: () => void (++submits === 9 && controller.abort()) },
    }).load({ contextLength: 128 });
    await using model = await load(draft);
    const request = { prompt: "hello", temperature: 0, maxTokens: 60 };
    await expect(model.complete({ ...request, signal: controller.signal })).rejects.toMatchObject({
      code: "aborted",
    });
    expect([draft.status().running, model.status().running]).toEqual([0, 0]);
    for await (const event of model.generate(request)) if (event.type === "token") break;
    expect([draft.status().running, model.status().running]).toEqual([0, 0]);
    expect((await model.complete(request)).tokens).toEqual(await plain(request));
  });

  it("that is disposed in use ends the text with an error that says so; without guesses the model goes on", async () => {
    const draft = await scripted({ script: similar }).load({ contextLength: 128 });
    await using model = await load(draft);
    const request = { prompt: "hello", temperature: 0, maxTokens: 60 };
    const run = async (): Promise<void> => {
      for await (const event of model.generate(request)) if (event.type === "token") await draft.dispose();
    };
    const wanted = {
      code: "bad-argument",
      reason: "draft-disposed",
      message: expect.stringContaining("The draft model has been disposed"),
    };
    await expect(run()).rejects.toMatchObject(wanted);
    await expect(model.complete(request)).rejects.toMatchObject(wanted);
    expect(model.status().running).toBe(0);
    expect((await model.complete({ ...request, guessTokens: 0 })).tokens).toEqual(await plain(request));
  });

  it("of another vocabulary is refused before any weight is read", async () => {
    const larger = scripted({ format: { config: { vocabularySize: vocabularySize + 1 } } });
    await using draft = await larger.load({ selfCheck: false });
    const engine = scripted();
    await expect(engine.load({ draft })).rejects.toMatchObject({
      code: "bad-argument",
      reason: "draft",
      message: expect.stringContaining("it has 261 tokens, the model 260"),
    });
    await using renamed = await scripted({
      tokenizer: { token: (id) => (id === 40 ? "forty" : String(id)) },
    }).load();
    await expect(engine.load({ draft: renamed })).rejects.toMatchObject({
      reason: "draft",
      message: expect.stringContaining('its token 40 is "forty", the model\'s "40"'),
      hint: expect.stringContaining("same family"),
    });
    const gone = await scripted().load();
    await gone.dispose();
    await expect(engine.load({ draft: gone })).rejects.toMatchObject({ reason: "draft" });
    await expect(engine.load({ draft: { ...gone } })).rejects.toMatchObject({ reason: "draft" });
    await expect(engine.load({ draft: 3 as unknown as Model })).rejects.toMatchObject({ reason: "draft" });
    expect([engine.format.read, engine.backend.created(), engine.format.openCount()]).toEqual([[], 0, 0]);
  });
});
