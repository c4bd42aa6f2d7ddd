import { picoGguf } from "@lowbit/pico";
import {
  createProviderRegistry,
  embed,
  embedMany,
  generateObject,
  generateText,
  isStepCount,
  jsonSchema,
  type LanguageModelUsage,
  Output,
  streamText,
  tool,
} from "ai";
import { load, type Model } from "lowbit";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { collect, finish, scriptedModel, token } from "../test/scripted-model.ts";
import { createLowbit, type LowbitProvider } from "./index.ts";

// The AI SDK's own functions judge what the provider gives them.
(globalThis as { AI_SDK_LOG_WARNINGS?: boolean }).AI_SDK_LOG_WARNINGS = false;

const greedy = { temperature: 0 };
const question = "What is 12 + 7?";
const get_weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: ({ city }) => ({ result: `sunny in ${city}` }),
});
const tools = { get_weather };

describe("ai with pico", () => {
  let model: Model;
  let lowbit: LowbitProvider;
  beforeAll(async () => {
    model = await load(picoGguf, { contextLength: 512, sequences: 2 });
    lowbit = createLowbit({ model, name: "pico" });
  });
  afterAll(() => model.dispose());

  it("writes the text that the model writes, with usage and metadata", async () => {
    const expected = await model.complete({ messages: [{ role: "user", content: question }], ...greedy });
    const { text, usage, finishReason, rawFinishReason, warnings, response, providerMetadata } =
      await generateText({ model: lowbit("pico"), prompt: question, ...greedy });
    expect(text).toBe(expected.text);
    expect(text).toContain("19");
    expect([finishReason, rawFinishReason, warnings]).toEqual(["stop", "end", []]);
    expect(response.modelId).toBe("pico");
    expect(usage).toMatchObject({
      inputTokens: expected.usage.promptTokens,
      outputTokens: expected.usage.completionTokens,
      totalTokens: expected.usage.promptTokens + expected.usage.completionTokens,
    });
    expect(providerMetadata?.lowbit?.seed).toBeTypeOf("number");
  });

  it("reports what the prefix cache gave", async () => {
    const ask = async (prompt: string): Promise<LanguageModelUsage> =>
      (await generateText({ model: lowbit(), prompt, ...greedy, maxOutputTokens: 2 })).usage;
    const beginning = "My name is Ada and I live in a small house by the sea. ".repeat(4);
    const first = await ask(`${beginning}What is the capital of France?`);
    const again = await ask(`${beginning}What is my name?`);
    const { cacheReadTokens = 0, noCacheTokens = 0 } = again.inputTokenDetails;
    expect(cacheReadTokens).toBeGreaterThan((first.inputTokens ?? 0) / 2);
    expect(cacheReadTokens + noCacheTokens).toBe(again.inputTokens);
  });

  it("streams the same text in pieces", async () => {
    const whole = await generateText({ model: lowbit(), prompt: question, ...greedy });
    const result = streamText({ model: lowbit(), prompt: question, ...greedy });
    const pieces = await collect(result.textStream);
    expect(pieces.length).toBeGreaterThan(3);
    expect(pieces.join("")).toBe(whole.text);
    expect(await result.finishReason).toBe("stop");
    expect((await result.usage).outputTokens).toBe(whole.usage.outputTokens);
  });

  it("keeps to settings: seed, length, stop sequences, instructions", async () => {
    const prompt = "Tell me a story.";
    const draw = async (seed: number) =>
      generateText({ model: lowbit(), prompt, seed, temperature: 1.5, topK: 0, maxOutputTokens: 12 });
    const [one, same, other] = [await draw(1), await draw(1), await draw(2)];
    expect(same.text).toBe(one.text);
    expect(other.text).not.toBe(one.text);
    expect([one.finishReason, one.usage.outputTokens]).toEqual(["length", 12]);
    const stopped = await generateText({
      model: lowbit(),
      prompt: question,
      stopSequences: ["="],
      ...greedy,
    });
    expect([stopped.finishReason, stopped.rawFinishReason]).toEqual(["stop", "stop"]);
    expect(stopped.text).not.toContain("=");
    const instructed = await generateText({
      model: lowbit(),
      instructions: "Be brief.",
      prompt: question,
      ...greedy,
    });
    expect(instructed.usage.inputTokens).toBeGreaterThan(stopped.usage.inputTokens ?? 0);
  });

  it("lets a wrong value fail with the engine's words", async () => {
    const wrong = generateText({ model: lowbit(), prompt: question, topP: 2 });
    await expect(wrong).rejects.toMatchObject({ code: "bad-argument", reason: "topP" });
    const long = generateText({ model: lowbit(), prompt: "on and on ".repeat(600) });
    await expect(long).rejects.toMatchObject({ code: "context-full" });
  });

  it("calls tools and goes on with their results", async () => {
    const { steps, text } = await generateText({
      model: lowbit(),
      prompt: "What is the weather in Rome?",
      tools,
      stopWhen: isStepCount(3),
      ...greedy,
    });
    expect(steps.map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "stop"]);
    expect(steps[0]?.toolCalls).toMatchObject([{ toolName: "get_weather", input: { city: "Rome" } }]);
    expect(steps[0]?.toolResults).toMatchObject([{ output: { result: "sunny in Rome" } }]);
    expect(text).not.toBe("");
    // The second step finds the first in the cache: the template writes the call as the model wrote it.
    const [first, second] = steps.map(({ usage }) => usage);
    expect(second?.inputTokenDetails.cacheReadTokens).toBeGreaterThanOrEqual(first?.inputTokens ?? Infinity);
  });

  it("streams calls with their input", async () => {
    const { fullStream } = streamText({
      model: lowbit(),
      prompt: "What is the weather in Rome?",
      tools,
      stopWhen: isStepCount(2),
      ...greedy,
    });
    const parts = await collect(fullStream);
    const input = parts.flatMap((part) => (part.type === "tool-input-delta" ? [part.delta] : []));
    expect(input.length).toBeGreaterThan(2);
    expect(JSON.parse(input.join(""))).toEqual({ city: "Rome" });
    const order = ["tool-input-start", "tool-input-end", "tool-call", "tool-result", "text-start", "finish"];
    const types = parts.map(({ type }) => type);
    expect(types.filter((type) => order.includes(type))).toEqual(order);
    expect(types).not.toContain("error");
  });

  it("keeps to the tool choice", async () => {
    const set_timer = tool({ inputSchema: z.object({ minutes: z.int().min(1).max(60) }) });
    const ask = { model: lowbit(), prompt: question, tools: { get_weather, set_timer }, ...greedy };
    const forced = await generateText({ ...ask, toolChoice: { type: "tool", toolName: "set_timer" } });
    expect(forced.finishReason).toBe("tool-calls");
    const [call] = forced.toolCalls;
    expect(call?.toolName).toBe("set_timer");
    expect(call?.invalid).toBeUndefined();
    expect((await generateText({ ...ask, toolChoice: "required" })).toolCalls).toHaveLength(1);
    const none = await generateText({ ...ask, toolChoice: "none" });
    expect([none.toolCalls, none.text]).toEqual([[], expect.stringContaining("19")]);
  });

  it("writes objects of a schema, whole and streamed", async () => {
    const schema = z.object({
      sum: z.number().int(),
      parity: z.enum(["even", "odd"]),
      digits: z.array(z.int().min(0).max(9)).max(3),
    });
    const output = Output.object({ schema });
    for (let seed = 0; seed < 5; seed++) {
      const options = { model: lowbit(), prompt: question, temperature: 1.5, seed };
      const { output: object } = await generateText({ ...options, output });
      expect(schema.parse(object)).toEqual(object);
      const streamed = streamText({ ...options, output });
      const partial = await collect(streamed.partialOutputStream);
      expect(partial.at(-1)).toEqual(object);
      expect(partial.length).toBeGreaterThan(1);
    }
  });

  it("writes objects with generateObject, choices, and JSON without a schema", async () => {
    const schema = jsonSchema<{ sum: number }>({
      type: "object",
      properties: { sum: { type: "integer" } },
      required: ["sum"],
    });
    const { object } = await generateObject({ model: lowbit(), prompt: question, schema, ...greedy });
    expect(Object.keys(object)).toEqual(["sum"]);
    const output = Output.choice({ options: ["red", "green", "blue"] });
    const choice = await generateText({
      model: lowbit(),
      prompt: "What colour is grass?",
      output,
      ...greedy,
    });
    expect(["red", "green", "blue"]).toContain(choice.output);
    // Any object: the model alone decides when it ends.
    const free = await generateText({
      model: lowbit(),
      prompt: question,
      output: Output.json(),
      seed: 3,
    }).catch((error: unknown) => error);
    const { text = "" } = free as { text?: string };
    expect(text[0]).toBe("{");
  });

  it("stops within a token when it is aborted", async () => {
    const controller = new AbortController();
    const result = streamText({
      model: lowbit(),
      prompt: "Tell me a long story.",
      seed: 1,
      temperature: 1,
      providerOptions: { lowbit: { minP: 0 } },
      abortSignal: controller.signal,
    });
    const seen: string[] = [];
    for await (const part of result.fullStream) {
      seen.push(part.type);
      if (part.type === "text-delta" && seen.length > 5) controller.abort();
    }
    expect(seen.at(-1)).toBe("abort");
    expect(seen).not.toContain("error");
    for (let i = 0; i < 100 && model.status().running > 0; i++)
      await new Promise((done) => setTimeout(done, 5));
    expect(model.status().running).toBe(0);
    const late = generateText({ model: lowbit(), prompt: question, abortSignal: AbortSignal.timeout(1) });
    await expect(late).rejects.toMatchObject({ name: "TimeoutError" });
  });

  it("embeds one text and many", async () => {
    const embeddingModel = lowbit.embeddingModel("pico");
    const { embedding, usage } = await embed({ model: embeddingModel, value: "a cat" });
    expect(embedding).toEqual([...(await model.embed("a cat"))]);
    expect(usage.tokens).toBe(model.tokenizer.encode("a cat").length);
    // More than go into one call.
    const values = Array.from({ length: 260 }, (_, i) => `number ${i}`);
    const many = await embedMany({ model: embeddingModel, values });
    expect(many.embeddings).toHaveLength(260);
    expect(many.embeddings[259]).toEqual([...(await model.embed("number 259"))]);
    expect(many.usage.tokens).toBe(
      values.reduce((sum, value) => sum + model.tokenizer.encode(value).length, 0),
    );
  });

  it("is found through a registry", async () => {
    const registry = createProviderRegistry({ lowbit });
    const { text } = await generateText({
      model: registry.languageModel("lowbit:pico"),
      prompt: question,
      ...greedy,
    });
    expect(text).toContain("19");
    expect(registry.embeddingModel("lowbit:pico").modelId).toBe("pico");
  });

  it("loads a location by itself", async () => {
    await using own = createLowbit({ model: picoGguf });
    const { text } = await generateText({ model: own(), prompt: question, ...greedy });
    expect(text).toContain("19");
  });
});

describe("ai with a model that thinks", () => {
  const { model, requests } = scriptedModel([
    token(""),
    { type: "reasoning", text: "Let me " },
    token(""),
    { type: "reasoning", text: "see." },
    token("Yes."),
    finish("end", 3),
  ]);
  const lowbit = createLowbit({ model });

  it("keeps reasoning apart, whole and streamed, and gives it back", async () => {
    const messages = [{ role: "user" as const, content: "Sure?" }];
    const { text, reasoningText, usage, finalStep } = await generateText({ model: lowbit(), messages });
    expect([text, reasoningText]).toEqual(["Yes.", "Let me see."]);
    expect(usage.outputTokenDetails).toEqual({ textTokens: 1, reasoningTokens: 2 });
    const streamed = streamText({
      model: lowbit(),
      messages: [...messages, ...finalStep.response.messages, { role: "user", content: "Really?" }],
    });
    expect(await streamed.reasoningText).toBe("Let me see.");
    expect(await streamed.text).toBe("Yes.");
    expect(requests[1]?.messages?.[1]).toEqual({
      role: "assistant",
      content: "Yes.",
      reasoning_content: "Let me see.",
    });
  });

  it("warns through the AI SDK, and refuses images", async () => {
    const { warnings } = await generateText({ model: lowbit(), prompt: "Sure?", reasoning: "high" });
    expect(warnings).toMatchObject([{ type: "unsupported", feature: "reasoning" }]);
    const image = {
      type: "file" as const,
      data: Uint8Array.of(0x89, 0x50, 0x4e, 0x47),
      mediaType: "image/png",
    };
    const asked = generateText({ model: lowbit(), messages: [{ role: "user", content: [image] }] });
    await expect(asked).rejects.toThrow("image/png");
  });
});
