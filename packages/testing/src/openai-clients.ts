import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import OpenAI from "openai";
import { describe, expect, it } from "vitest";

/** A server of OpenAI's interface that has pico, under whatever name. */
export interface ClientTarget {
  /** With `/v1`. */
  readonly baseURL: string;
  readonly apiKey: string;
  readonly model: string;
}

const question = "What is 12 + 7?";
const answer = "12 + 7 = 19.";
const texts = (...names: string[]) => ({
  type: "object" as const,
  properties: Object.fromEntries(names.map((name) => [name, { type: "string" as const }])),
  required: names,
  additionalProperties: false,
});
const sum = {
  type: "object" as const,
  properties: {
    sum: { type: "integer" as const },
    parity: { type: "string" as const, enum: ["even", "odd"] },
  },
  required: ["sum", "parity"],
  additionalProperties: false,
};
const isSum = { sum: expect.any(Number), parity: expect.stringMatching(/^(even|odd)$/) };

/** Without its end tokens pico writes until its context is full, which takes 1,000 passes. */
const withoutEnd = { "0": -100, "1": -100, "2": -100 };

async function metric({ baseURL, apiKey }: ClientTarget, name: string): Promise<number> {
  const headers = { authorization: `Bearer ${apiKey}` };
  const text = await (await fetch(baseURL.replace(/v1$/, "metrics"), { headers })).text();
  return Number(new RegExp(`^lowbit_${name}\\S* (\\d+)`, "m").exec(text)?.[1]);
}

/** Asks for a long answer, leaves amid it, and tells how many passes were computed for it before the server had ended it. */
export async function passesForLeaving(target: ClientTarget, stream: boolean): Promise<number> {
  const before = await metric(target, "passes");
  const controller = new AbortController();
  const asked = fetch(`${target.baseURL}/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${target.apiKey}`, "content-type": "application/json" },
    body: JSON.stringify({
      model: target.model,
      messages: [{ role: "user", content: "Tell me a story." }],
      stream,
      logit_bias: withoutEnd,
    }),
    signal: controller.signal,
  });
  if (stream) {
    await (await asked).body?.getReader().read();
    controller.abort();
  } else {
    await expect.poll(() => metric(target, "passes"), { interval: 5 }).toBeGreaterThan(before);
    controller.abort();
    await expect(asked).rejects.toThrow(/abort/i);
  }
  await expect.poll(() => metric(target, "requests_running"), { timeout: 10_000 }).toBe(0);
  return (await metric(target, "passes")) - before;
}

/** What people do with the official `openai` client and with the AI SDK's client, against a server that is there when the tests run. */
export function describeOpenAiClients(target: () => ClientTarget): void {
  /** Ends when the server has no answer in work any more. */
  const idle = (): Promise<void> =>
    expect.poll(() => metric(target(), "requests_running"), { timeout: 10_000 }).toBe(0);

  describe("the openai client", () => {
    const client = (): OpenAI => new OpenAI({ ...target(), maxRetries: 0 });
    const chat = (content: string) => ({
      model: target().model,
      messages: [{ role: "user" as const, content }],
      temperature: 0,
    });

    it("chats, whole and streamed", async () => {
      const whole = await client().chat.completions.create(chat(question));
      expect(whole.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: answer } });
      const stream = client().chat.completions.stream({
        ...chat(question),
        logprobs: true,
        stream_options: { include_usage: true },
      });
      const { choices, usage } = await stream.finalChatCompletion();
      expect(choices[0]?.message.content).toBe(answer);
      expect(choices[0]?.logprobs?.content?.length).toBe(usage?.completion_tokens);
    });

    it("calls tools, streamed, and goes on with their results", async () => {
      const tools = [
        { type: "function" as const, function: { name: "get_weather", parameters: texts("city") } },
      ];
      const request = { ...chat("What is the weather in Rome?"), tools };
      const { choices } = await client().chat.completions.stream(request).finalChatCompletion();
      const { message, finish_reason } = choices[0] ?? {};
      expect(finish_reason).toBe("tool_calls");
      const [call] = message?.tool_calls ?? [];
      expect(call).toMatchObject({ type: "function", function: { name: "get_weather" } });
      if (call?.type !== "function" || message === undefined) return;
      expect(JSON.parse(call.function.arguments)).toEqual({ city: "Rome" });
      const result = { role: "tool" as const, tool_call_id: call.id, content: '{"result": "sunny"}' };
      const next = await client().chat.completions.create({
        ...request,
        messages: [...request.messages, message, result],
      });
      // Pico reads no results, but they are in its prompt.
      expect(next.choices[0]?.message.content).toMatch(/^The result is/);
      expect(next.usage?.prompt_tokens).toBeGreaterThan(20);
    });

    it("gets JSON of a schema", async () => {
      const format = {
        type: "json_schema" as const,
        json_schema: { name: "sum", schema: sum, strict: true },
      };
      const { choices } = await client().chat.completions.parse({
        ...chat(question),
        response_format: format,
      });
      expect(choices[0]?.message.parsed).toEqual(isSum);
    });

    it("gets responses, embeddings and the list of models", async () => {
      const { model } = target();
      const { output_text } = await client().responses.create({ model, input: question, temperature: 0 });
      expect(output_text).toBe(answer);
      const { data } = await client().embeddings.create({ model, input: ["a cat", "a dog"] });
      expect(data.map(({ embedding }) => Math.round(Math.hypot(...embedding) * 1e4))).toEqual([1e4, 1e4]);
      expect((await client().models.list()).data.map(({ id }) => id)).toEqual([model]);
    });

    it("leaves amid an answer", async () => {
      const endless = { ...chat("Tell me a story."), logit_bias: withoutEnd };
      const stream = await client().chat.completions.create({ ...endless, stream: true });
      let seen = 0;
      for await (const _ of stream) if (++seen === 4) break;
      await idle();
      const controller = new AbortController();
      const whole = client().chat.completions.create(endless, { signal: controller.signal });
      setTimeout(() => controller.abort(), 50);
      await expect(whole).rejects.toThrow(/abort/i);
      await idle();
      expect((await client().chat.completions.create(chat(question))).choices[0]?.message.content).toBe(
        answer,
      );
    });
  });

  describe("the AI SDK", () => {
    const provider = () => {
      const { baseURL, apiKey } = target();
      return createOpenAICompatible({
        name: "lowbit",
        baseURL,
        apiKey,
        includeUsage: true,
        supportsStructuredOutputs: true,
      });
    };
    const greedy = (prompt: string) => ({
      model: provider().chatModel(target().model),
      prompt,
      temperature: 0,
      maxRetries: 0,
    });

    it("generates and streams text", async () => {
      expect((await generateText(greedy(question))).text).toBe(answer);
      const result = streamText(greedy(question));
      let text = "";
      for await (const piece of result.textStream) text += piece;
      expect(text).toBe(answer);
      expect((await result.usage).outputTokens).toBeGreaterThan(5);
    });

    it("runs tools, streamed, step by step", async () => {
      const get_weather = tool({
        inputSchema: jsonSchema<{ city: string }>(texts("city")),
        execute: ({ city }) => ({ result: `sunny in ${city}` }),
      });
      const options = { ...greedy("What is the weather in Rome?"), tools: { get_weather } };
      const { steps, text } = await generateText({ ...options, stopWhen: isStepCount(2) });
      expect(steps.map(({ finishReason }) => finishReason)).toEqual(["tool-calls", "stop"]);
      expect(steps[0]?.toolResults).toMatchObject([{ output: { result: "sunny in Rome" } }]);
      expect(text).toMatch(/^The result is/);
      const streamed = streamText(options);
      expect(await streamed.toolCalls).toMatchObject([{ toolName: "get_weather", input: { city: "Rome" } }]);
    });

    it("gets objects of a schema", async () => {
      const { output } = await generateText({
        ...greedy(question),
        output: Output.object({ schema: jsonSchema<{ sum: number; parity: string }>(sum) }),
      });
      expect(output).toEqual(isSum);
    });

    it("embeds", async () => {
      const { embedding } = await embed({
        model: provider().embeddingModel(target().model),
        value: "a cat",
      });
      expect(Math.hypot(...embedding)).toBeCloseTo(1, 4);
    });

    it("aborts", async () => {
      const controller = new AbortController();
      const { textStream } = streamText({
        ...greedy("Tell me a long story about a cat."),
        abortSignal: controller.signal,
        onError: () => undefined,
      });
      let seen = 0;
      for await (const _ of textStream) if (++seen === 2) controller.abort();
      expect(seen).toBeGreaterThanOrEqual(2);
      await idle();
    });
  });
}
