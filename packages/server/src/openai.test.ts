import type { GenerateEvent } from "@lowbit/core";
import OpenAI, { APIError, AuthenticationError, NotFoundError, RateLimitError } from "openai";
import { describe, expect, it } from "vitest";
import { fakeModel, finish, words } from "../test/fake-model.ts";
import { createServer, type ServerOptions } from "./index.ts";

// The official client, whose own types and parsers judge the answers.

function client(
  script: Parameters<typeof fakeModel>[0],
  options: Partial<ServerOptions> = {},
  apiKey = "any",
) {
  const fake = fakeModel(script);
  const server = createServer({ model: fake.model, name: "fake", onError: () => undefined, ...options });
  const fetch = (input: string | URL | Request, init?: RequestInit) => server.fetch(new Request(input, init));
  return {
    ...fake,
    server,
    openai: new OpenAI({ baseURL: "http://server/v1", apiKey, fetch, maxRetries: 0 }),
  };
}

const messages = [{ role: "user", content: "hi" }] as const;
const chat = { model: "fake", messages: [...messages] };

const calls: GenerateEvent[] = [
  { type: "reasoning", text: "two " },
  { type: "reasoning", text: "cities" },
  ...["a", "b"].flatMap((city): GenerateEvent[] => [
    { type: "tool-call-delta", id: `call${city}`, name: "weather", text: "" },
    { type: "tool-call-delta", id: `call${city}`, name: "weather", text: '{"city":' },
    { type: "tool-call-delta", id: `call${city}`, name: "weather", text: `"${city}"}` },
    { type: "tool-call", id: `call${city}`, name: "weather", arguments: `{"city":"${city}"}` },
  ]),
  finish(9, "tool-calls"),
];
const weather = {
  name: "weather",
  description: "of a city",
  parameters: { type: "object", properties: { city: { type: "string" } } },
};
const expectedCalls = ["a", "b"].map((city) => ({
  id: `call${city}`,
  type: "function",
  function: { name: "weather", arguments: `{"city":"${city}"}` },
}));

describe("chat.completions", () => {
  it("streams text, log probabilities and usage", async () => {
    const { openai, requests } = client(words("one two three", "length"));
    const stream = openai.chat.completions.stream({
      ...chat,
      logprobs: true,
      top_logprobs: 2,
      stream_options: { include_usage: true },
      max_tokens: 3,
      seed: 5,
      logit_bias: { "7": -100 },
      presence_penalty: 1,
      user: "me",
    });
    const deltas: string[] = [];
    stream.on("content", (delta) => void deltas.push(delta));
    const final = await stream.finalChatCompletion();
    expect(deltas).toEqual(["one ", "two ", "three"]);
    expect(final.choices[0]).toMatchObject({
      finish_reason: "length",
      message: { content: "one two three" },
    });
    expect(final.choices[0]?.logprobs?.content?.[1]).toMatchObject({
      token: "<1>",
      logprob: -0.5,
      bytes: [60, 49, 62],
    });
    expect(final.usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 });
    expect(requests[0]).toMatchObject({
      logprobs: true,
      topLogprobs: 2,
      maxTokens: 3,
      seed: 5,
      logitBias: { "7": -100 },
      presencePenalty: 1,
      penaltyWindow: -1,
    });
  });

  it("calls tools, whole and streamed", async () => {
    const { openai, requests } = client(calls);
    const request = {
      ...chat,
      tools: [{ type: "function" as const, function: weather }],
      tool_choice: "required" as const,
    };
    const whole = await openai.chat.completions.create(request);
    expect(whole.choices[0]).toMatchObject({
      finish_reason: "tool_calls",
      message: { content: null, reasoning_content: "two cities", tool_calls: expectedCalls },
    });
    expect(requests[0]).toMatchObject({ toolChoice: "required", tools: request.tools });
    const streamed = await openai.chat.completions.stream(request).finalChatCompletion();
    expect(streamed.choices[0]?.message.tool_calls).toMatchObject(expectedCalls);
    const named = { type: "function", function: { name: "weather" } } as const;
    await openai.chat.completions.create({ ...request, tool_choice: named });
    expect(requests[2]?.toolChoice).toEqual({ name: "weather" });
  });

  it("asks for JSON of a schema", async () => {
    const { openai, requests } = client(words('{"a": 1}'));
    const schema = {
      type: "object",
      properties: { a: { type: "integer" } },
      required: ["a"],
      additionalProperties: false,
    };
    const format = { type: "json_schema" as const, json_schema: { name: "A", schema, strict: true } };
    const { choices } = await openai.chat.completions.parse({ ...chat, response_format: format });
    expect(choices[0]?.message.parsed).toEqual({ a: 1 });
    expect(requests[0]?.responseFormat).toEqual({ type: "json_schema", name: "A", schema, strict: true });
    await openai.chat.completions.create({ ...chat, response_format: { type: "json_object" } });
    expect(requests[1]?.responseFormat).toEqual({ type: "json_object" });
    await openai.chat.completions.create({ ...chat, response_format: { type: "text" } });
    expect(requests[2]?.responseFormat).toBe(undefined);
  });

  it("stops when the caller aborts", async () => {
    const { openai, running, tokens } = client("endless");
    const stream = await openai.chat.completions.create({ ...chat, stream: true });
    let seen = 0;
    for await (const _ of stream) if (++seen === 5) break;
    const before = tokens();
    await new Promise((done) => setTimeout(done, 20));
    expect(running()).toBe(0);
    expect(tokens() - before).toBeLessThanOrEqual(1);
    const controller = new AbortController();
    const whole = openai.chat.completions.create(chat, { signal: controller.signal });
    setTimeout(() => controller.abort(), 10);
    await expect(whole).rejects.toBeInstanceOf(APIError);
    await new Promise((done) => setTimeout(done, 20));
    expect(running()).toBe(0);
  });

  it("raises errors of the right class", async () => {
    const { openai } = client(words("a"), { apiKeys: ["secret"] });
    await expect(openai.models.list()).rejects.toBeInstanceOf(AuthenticationError);
    const open = client("endless", { limits: { parallel: 1, queue: 0 } });
    const first = await open.openai.chat.completions.create({ ...chat, stream: true });
    await expect(open.openai.chat.completions.create(chat)).rejects.toBeInstanceOf(RateLimitError);
    await expect(open.openai.models.retrieve("gone")).rejects.toBeInstanceOf(NotFoundError);
    await expect(open.openai.chat.completions.create({ ...chat, n: 2 })).rejects.toMatchObject({
      status: 400,
      param: "n",
    });
    const failed = expect(
      (async () => {
        for await (const _ of first);
      })(),
    ).rejects.toBeInstanceOf(APIError);
    await open.server.close({ graceMs: 1 });
    await failed;
  });
});

describe("responses", () => {
  it("answer whole, and take the conversation back as items", async () => {
    const { openai, requests } = client(words("well met"));
    const response = await openai.responses.create({
      model: "fake",
      instructions: "be kind",
      input: [
        { role: "user", content: [{ type: "input_text", text: "weather?" }] },
        { type: "function_call", call_id: "c1", name: "weather", arguments: '{"city":"a"}' },
        { type: "function_call", call_id: "c2", name: "weather", arguments: '{"city":"b"}' },
        { type: "function_call_output", call_id: "c1", output: "sun" },
        { type: "function_call_output", call_id: "c2", output: "rain" },
      ],
      max_output_tokens: 9,
      store: false,
    });
    expect(response.output_text).toBe("well met");
    expect(response).toMatchObject({
      status: "completed",
      usage: { input_tokens: 7, output_tokens: 2, total_tokens: 9 },
    });
    expect(requests[0]?.maxTokens).toBe(9);
    expect(requests[0]?.messages?.map(({ role, content }) => `${role}: ${content}`)).toEqual([
      "system: be kind",
      "user: weather?",
      "assistant: ",
      "tool: sun",
      "tool: rain",
    ]);
    expect(requests[0]?.messages?.[2]?.tool_calls).toHaveLength(2);
  });

  it("stream text as events that the client assembles", async () => {
    const { openai } = client(words("one two", "length"));
    const types: string[] = [];
    const numbers: number[] = [];
    const stream = await openai.responses.create({ model: "fake", input: "hi", stream: true });
    for await (const event of stream) {
      types.push(event.type);
      numbers.push(event.sequence_number);
    }
    expect(types).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.incomplete",
    ]);
    expect(numbers).toEqual(types.map((_, i) => i));
  });

  it("call tools", async () => {
    const { openai, requests } = client(calls);
    const tools = [{ type: "function" as const, strict: true, ...weather }];
    const final = await openai.responses.stream({ model: "fake", input: "hi", tools }).finalResponse();
    expect(final.output.map(({ type }) => type)).toEqual(["reasoning", "function_call", "function_call"]);
    expect(final.output.slice(1)).toMatchObject(
      expectedCalls.map(({ id, function: called }) => ({ call_id: id, ...called, status: "completed" })),
    );
    expect(requests[0]?.tools).toEqual([{ type: "function", function: { ...weather, strict: true } }]);
  });

  it("ask for JSON, and refuse what needs a memory", async () => {
    const { openai, requests } = client(words('{"a":1}'));
    const schema = { type: "object", properties: {}, additionalProperties: true };
    const format = { type: "json_schema" as const, name: "A", schema };
    await openai.responses.create({ model: "fake", input: "hi", text: { format } });
    expect(requests[0]?.responseFormat).toEqual({ type: "json_schema", name: "A", schema, strict: false });
    for (const extra of [
      { store: true },
      { previous_response_id: "r" },
      { background: true },
      { conversation: "c" },
    ]) {
      const param = Object.keys(extra)[0];
      await expect(openai.responses.create({ model: "fake", input: "hi", ...extra })).rejects.toMatchObject({
        status: 400,
        param,
      });
    }
  });
});

describe("the other routes", () => {
  it("complete texts, with log probabilities in their old form", async () => {
    const { openai, requests } = client(words("one two"));
    const { choices } = await openai.completions.create({ model: "fake", prompt: "go", logprobs: 1 });
    expect(choices[0]).toMatchObject({
      text: "one two",
      finish_reason: "stop",
      logprobs: { tokens: ["<0>", "<1>"], token_logprobs: [-0.5, -0.5], text_offset: [0, 4] },
    });
    expect(requests[0]).toMatchObject({ prompt: "go", maxTokens: 16, logprobs: true, topLogprobs: 1 });
    let text = "";
    const stream = await openai.completions.create({
      model: "fake",
      prompt: [1, 2],
      max_tokens: 4,
      stream: true,
    });
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
    expect([text, requests[1]?.prompt]).toEqual(["one two", [1, 2]]);
    await expect(openai.completions.create({ model: "fake", prompt: ["a", "b"] })).rejects.toMatchObject({
      param: "prompt",
    });
  });

  it("embed texts, as numbers and as base64, which the client asks for by itself", async () => {
    const { openai } = client([]);
    const expected = [
      [1, 0.5, -1],
      [2, 0.5, -1],
    ];
    for (const encoding_format of [undefined, "float", "base64"] as const) {
      const { data, usage } = await openai.embeddings.create({
        model: "fake",
        input: ["a", "bb"],
        ...(encoding_format && { encoding_format }),
      });
      if (encoding_format !== "base64") expect(data.map(({ embedding }) => [...embedding])).toEqual(expected);
      expect(usage).toEqual({ prompt_tokens: 3, total_tokens: 3 });
    }
    await expect(openai.embeddings.create({ model: "fake", input: "" })).rejects.toMatchObject({
      param: "input",
    });
    const other = openai.embeddings.create({ model: "fake", input: "a", dimensions: 2 });
    await expect(other).rejects.toMatchObject({ param: "dimensions" });
  });

  it("list models", async () => {
    const { openai } = client([]);
    expect((await openai.models.list()).data.map(({ id }) => id)).toEqual(["fake"]);
    expect((await openai.models.retrieve("fake")).object).toBe("model");
  });
});
