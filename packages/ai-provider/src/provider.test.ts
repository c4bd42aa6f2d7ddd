import {
  type LanguageModelV4CallOptions,
  type LanguageModelV4StreamPart,
  NoSuchModelError,
  UnsupportedFunctionalityError,
} from "@ai-sdk/provider";
import { LowbitError } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { collect, finish, scriptedModel, token } from "../test/scripted-model.ts";
import { createLowbit, type LowbitOptions } from "./index.ts";

const options: LanguageModelV4CallOptions = {
  prompt: [{ role: "user", content: [{ type: "text", text: "hi" }] }],
};

const answer = [token("Hello "), token("you."), finish()];

const partsOf = (stream: ReadableStream<LanguageModelV4StreamPart>): Promise<LanguageModelV4StreamPart[]> =>
  collect(stream);

/** Waits until it is so, for at most a second. */
async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 200 && !condition(); i++) await new Promise((done) => setTimeout(done, 5));
  expect(condition()).toBe(true);
}

describe("createLowbit", () => {
  it("gives models by their ids, the first without one", async () => {
    const one = scriptedModel(answer);
    const two = scriptedModel([token("two"), finish()]);
    const lowbit = createLowbit({ models: { one: one.model, two: Promise.resolve(two.model) } });
    expect(lowbit.specificationVersion).toBe("v4");
    for (const model of [lowbit(), lowbit("one"), lowbit.languageModel("one")]) {
      expect(model).toMatchObject({ specificationVersion: "v4", provider: "lowbit", modelId: "one" });
      expect(model.supportedUrls).toEqual({});
    }
    const { content, response, warnings } = await lowbit("two").doGenerate(options);
    expect(content).toEqual([{ type: "text", text: "two" }]);
    expect(response).toEqual({ modelId: "two", timestamp: expect.any(Date) });
    expect(warnings).toEqual([]);
    expect(createLowbit({ model: one.model })().modelId).toBe("default");
    expect(createLowbit({ model: one.model, name: "pico" }).embeddingModel().modelId).toBe("pico");
  });

  it("says which models there are when asked for another", () => {
    const lowbit = createLowbit({ models: { one: scriptedModel(answer).model } });
    expect(() => lowbit("three")).toThrow(NoSuchModelError);
    expect(() => lowbit.embeddingModel("three")).toThrow('no model "three" here; there is one');
    expect(() => lowbit.languageModel("toString")).toThrow(NoSuchModelError);
    expect(() => lowbit.imageModel("one")).toThrow(NoSuchModelError);
  });

  it("needs a model, in one way", () => {
    const { model } = scriptedModel(answer);
    const both = { model, models: { model } };
    for (const wrong of [{}, { models: {} }, both] satisfies LowbitOptions[])
      expect(() => createLowbit(wrong)).toThrow(expect.objectContaining({ code: "bad-argument" }));
  });

  it("loads on demand and once, and frees what it loaded", async () => {
    const scripted = scriptedModel(answer);
    let loads = 0;
    const lowbit = createLowbit({
      model: async () => {
        loads++;
        return scripted.model;
      },
    });
    expect(loads).toBe(0);
    const model = lowbit();
    await Promise.all([model.doGenerate(options), model.doGenerate(options), lowbit().doStream(options)]);
    expect(loads).toBe(1);
    await lowbit.dispose();
    expect(scripted.disposed()).toBe(true);
    await expect(async () => model.doGenerate(options)).rejects.toMatchObject({ reason: "disposed" });
  });

  it("leaves models that it was given to their owner, and never loads to free", async () => {
    const given = scriptedModel(answer);
    const promised = scriptedModel(answer);
    let loads = 0;
    const lazy = async (): Promise<never> => {
      loads++;
      throw new Error("not wanted");
    };
    const models = { given: given.model, promised: Promise.resolve(promised.model), lazy };
    await createLowbit({ models })[Symbol.asyncDispose]();
    expect([given.disposed(), promised.disposed(), loads]).toEqual([false, false, 0]);
  });

  it("tells of a failure to load, and tries again where it can", async () => {
    let attempts = 0;
    const lowbit = createLowbit({
      models: {
        lazy: async () => {
          if (++attempts === 1) throw new LowbitError("not-found", "no such file");
          return scriptedModel(answer).model;
        },
        promised: Promise.reject(new LowbitError("not-found", "gone")),
        nowhere: "./there/is/no/model.gguf",
        wrong: 7 as unknown as string,
      },
    });
    await expect(async () => lowbit("lazy").doGenerate(options)).rejects.toThrow("no such file");
    expect((await lowbit("lazy").doGenerate(options)).content).toHaveLength(1);
    for (let i = 0; i < 2; i++)
      await expect(async () => lowbit("promised").doStream(options)).rejects.toThrow("gone");
    await expect(async () => lowbit("nowhere").doGenerate(options)).rejects.toMatchObject({
      code: "not-found",
    });
    await expect(async () => lowbit("wrong").doGenerate(options)).rejects.toMatchObject({
      code: "bad-argument",
    });
  });

  it("stops waiting for a model when the call is aborted", async () => {
    const lowbit = createLowbit({ model: new Promise<never>(() => undefined) });
    const call = async () => lowbit().doGenerate({ ...options, abortSignal: AbortSignal.timeout(5) });
    await expect(call).rejects.toMatchObject({ name: "TimeoutError" });
    const aborted = async () => lowbit().doStream({ ...options, abortSignal: AbortSignal.abort("enough") });
    await expect(aborted).rejects.toMatchObject({
      name: "AbortError",
      message: "The call was aborted: enough",
    });
  });
});

describe("doStream", () => {
  it("begins with warnings and metadata", async () => {
    const lowbit = createLowbit({ model: scriptedModel(answer).model });
    const { stream } = await lowbit().doStream({ ...options, reasoning: "low" });
    expect(await partsOf(stream)).toMatchObject([
      { type: "stream-start", warnings: [{ type: "unsupported", feature: "reasoning" }] },
      { type: "response-metadata", modelId: "default", timestamp: expect.any(Date) },
      { type: "text-start" },
      { type: "text-delta", delta: "Hello " },
      { type: "text-delta", delta: "you." },
      { type: "text-end" },
      { type: "finish" },
    ]);
  });

  it("shows the engine's events as raw chunks where they are asked for", async () => {
    const lowbit = createLowbit({ model: scriptedModel(answer).model });
    const { stream } = await lowbit().doStream({ ...options, includeRawChunks: true });
    const raw = (await partsOf(stream)).flatMap((part) => (part.type === "raw" ? [part.rawValue] : []));
    expect(raw).toEqual(answer);
  });

  it("rejects what fails before the first token, and tells of later failures in the stream", async () => {
    const full = new LowbitError("context-full", "too long");
    const early = createLowbit({ model: scriptedModel([full]).model });
    await expect(async () => early().doStream(options)).rejects.toBe(full);
    const late = createLowbit({ model: scriptedModel([token("a"), full]).model });
    const { stream } = await late().doStream(options);
    expect((await partsOf(stream)).slice(-3)).toMatchObject([
      { type: "text-end" },
      { type: "error", error: full },
      { type: "finish", finishReason: { unified: "error", raw: "context-full" } },
    ]);
  });

  it("generates no further than it is read", async () => {
    const { model, yielded, running } = scriptedModel("endless");
    const { stream } = await createLowbit({ model })().doStream(options);
    const reader = stream.getReader();
    for (let i = 0; i < 6; i++) await reader.read();
    await new Promise((done) => setTimeout(done, 50));
    expect(yielded()).toBeLessThanOrEqual(6);
    await reader.cancel();
    expect(running()).toBe(0);
  });

  it("ends the generation when its reader leaves, also amid a step", async () => {
    const { model, running, yielded, requests } = scriptedModel("endless");
    const { stream } = await createLowbit({ model })().doStream(options);
    const reader = stream.getReader();
    for (let i = 0; i < 4; i++) await reader.read();
    const pending = reader.read();
    const before = yielded();
    await reader.cancel("enough");
    await pending;
    // The engine hears of it while a step is on its way.
    expect(requests[0]?.signal?.aborted).toBe(true);
    expect(running()).toBe(0);
    expect(yielded() - before).toBeLessThanOrEqual(1);
  });

  it("fails with the signal's reason when it is aborted", async () => {
    const { model, running, yielded } = scriptedModel("endless");
    const controller = new AbortController();
    let before = 0;
    const { stream } = await createLowbit({ model })().doStream({
      ...options,
      abortSignal: controller.signal,
    });
    const all = partsOf(stream);
    setTimeout(() => {
      before = yielded();
      controller.abort();
    }, 20);
    const error: unknown = await all.catch((reason: unknown) => reason);
    expect(controller.signal.aborted).toBe(true);
    expect(error).toBe(controller.signal.reason);
    await until(() => running() === 0);
    expect(before).toBeGreaterThan(0);
    expect(yielded() - before).toBeLessThanOrEqual(1);
  });
});

describe("doEmbed", () => {
  it("gives a vector for each text, with the tokens of all", async () => {
    const { model, embedded } = scriptedModel(answer);
    const embedding = createLowbit({ model }).embeddingModel();
    const providerOptions = { lowbit: { pooling: "last", normalize: false } };
    const values = ["a", "bcd"];
    expect(await embedding.doEmbed({ values, dimensions: 3, providerOptions })).toEqual({
      embeddings: [
        [1, 0.5, -1],
        [3, 0.5, -1],
      ],
      usage: { tokens: 4 },
      warnings: [],
    });
    expect(embedded.map(({ options }) => options)).toMatchObject([
      { pooling: "last", normalize: false },
      { pooling: "last", normalize: false },
    ]);
  });

  it("stops the other texts where one fails", async () => {
    const { model, embedded } = scriptedModel(answer);
    const embedding = createLowbit({ model }).embeddingModel();
    await expect(async () => embedding.doEmbed({ values: ["a", ""] })).rejects.toThrow("no text");
    expect(embedded.map(({ options }) => options?.signal?.aborted)).toEqual([true, true]);
  });

  it("refuses other sizes and unknown options, and stops", async () => {
    const embedding = createLowbit({ model: scriptedModel(answer).model }).embeddingModel();
    const embed = (more: object) => async () => embedding.doEmbed({ values: ["a"], ...more });
    await expect(embed({ dimensions: 2 })).rejects.toThrow(UnsupportedFunctionalityError);
    await expect(embed({ providerOptions: { lowbit: { minP: 1 } } })).rejects.toMatchObject({
      code: "bad-argument",
    });
    await expect(embed({ abortSignal: AbortSignal.abort() })).rejects.toMatchObject({ name: "AbortError" });
  });
});
