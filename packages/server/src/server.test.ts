import { LowbitError } from "@lowbit/core";
import type { Model } from "@lowbit/engine";
import { describe, expect, it } from "vitest";
import { ask, fakeModel, post, served } from "../test/fake-model.ts";
import { createServer } from "./index.ts";

const chat = { model: "default", messages: [{ role: "user", content: "hi" }] };
const path = "/v1/chat/completions";

describe("requests", () => {
  it("are answered whole", async () => {
    const { server, requests } = served();
    const { status, body } = await ask(server, {
      ...chat,
      temperature: 0,
      max_completion_tokens: 5,
      stop: "x",
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      object: "chat.completion",
      model: "default",
      choices: [{ index: 0, message: { role: "assistant", content: "well met" }, finish_reason: "stop" }],
      usage: {
        prompt_tokens: 7,
        completion_tokens: 2,
        total_tokens: 9,
        prompt_tokens_details: { cached_tokens: 3 },
      },
    });
    expect(requests[0]).toMatchObject({ temperature: 0, maxTokens: 5, stop: ["x"] });
  });

  it("bring messages in the form of templates", async () => {
    const { server, requests } = served();
    const call = { id: "c1", type: "function", function: { name: "f", arguments: '{"a":1}' } };
    await ask(server, {
      model: "default",
      messages: [
        { role: "developer", content: "be kind" },
        {
          role: "user",
          content: [
            { type: "text", text: "a" },
            { type: "text", text: "b" },
          ],
        },
        { role: "assistant", content: null, tool_calls: [call] },
        { role: "tool", tool_call_id: "c1", content: "2" },
      ],
    });
    expect(requests[0]?.messages).toEqual([
      { role: "system", content: "be kind" },
      { role: "user", content: "ab" },
      {
        role: "assistant",
        content: "",
        tool_calls: [{ ...call, function: { name: "f", arguments: { a: 1 } } }],
      },
      { role: "tool", tool_call_id: "c1", content: "2" },
    ]);
  });

  const wrong: [unknown, string | null, string][] = [
    ["{", null, "invalid_json"],
    ["[]", "body", "invalid_type"],
    [{ messages: chat.messages }, "model", "missing_required_parameter"],
    [{ model: "default" }, "messages", "missing_required_parameter"],
    [{ ...chat, messages: [] }, "messages", "invalid_type"],
    [{ ...chat, messages: [{ role: "king", content: "" }] }, "messages[0].role", "invalid_value"],
    [
      { ...chat, messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      "messages[0].content[0]",
      "unsupported_content",
    ],
    [{ ...chat, temperature: 3 }, "temperature", "invalid_value"],
    [{ ...chat, n: 2 }, "n", "invalid_value"],
    [{ ...chat, temprature: 1 }, "temprature", "unsupported_parameter"],
    [{ ...chat, reasoning_effort: "low" }, "reasoning_effort", "unsupported_parameter"],
    [{ ...chat, constructor: 1 }, "constructor", "unsupported_parameter"],
    [{ ...chat, top_logprobs: 2 }, "top_logprobs", "invalid_value"],
    [{ ...chat, stream_options: { include_usage: true } }, "stream_options", "invalid_value"],
    [{ ...chat, tools: [{ type: "web_search" }] }, "tools[0].type", "unsupported_tool"],
    [
      { ...chat, tools: [{ type: "function", function: { name: "a b" } }] },
      "tools[0].function.name",
      "invalid_value",
    ],
    [{ ...chat, tool_choice: "required" }, "tool_choice", "invalid_value"],
    [{ ...chat, response_format: { type: "yaml" } }, "response_format.type", "invalid_value"],
    [
      { ...chat, response_format: { type: "json_schema", json_schema: { name: "a" } } },
      "schema",
      "missing_required_parameter",
    ],
  ];
  it.each(wrong)("that are wrong are refused by name: %j", async (request, param, code) => {
    const { server, requests } = served();
    const { status, body } = await ask(server, request);
    expect([status, body.error.type, body.error.param, body.error.code]).toEqual([
      400,
      "invalid_request_error",
      param,
      code,
    ]);
    expect(requests).toEqual([]);
  });

  it("with unknown addresses, models, methods and media types get their statuses", async () => {
    const { server } = served();
    const statusOf = async (request: Request) => (await server.fetch(request)).status;
    expect(await statusOf(post("/v1/images", {}))).toBe(404);
    expect(await statusOf(new Request(`http://server${path}`))).toBe(404);
    expect(await statusOf(post(path, "a=1", { headers: { "content-type": "text/plain" } }))).toBe(415);
    expect((await ask(server, { ...chat, model: "gpt-9" })).body.error).toMatchObject({
      code: "model_not_found",
      param: "model",
    });
  });

  it("larger than the limits are refused", async () => {
    const limits = { bodyBytes: 1000, promptTokens: 5, completionTokens: 10 };
    const { server, running } = served({ limits });
    const { status, body } = await ask(server, { ...chat, user: "x".repeat(2000) });
    expect([status, body.error.code]).toEqual([413, "body_too_large"]);
    const tokens = await ask(server, { ...chat, max_tokens: 11 });
    expect([tokens.status, tokens.body.error.param]).toEqual([400, "max_tokens"]);
    const prompt = await ask(server, chat);
    expect([prompt.status, prompt.body.error.code]).toEqual([400, "context_length_exceeded"]);
    expect(running()).toBe(0);
  });
});

describe("keys", () => {
  it("let in who has one", async () => {
    const { server } = served({ apiKeys: ["one", "two"] });
    const withKey = async (authorization?: string) =>
      ask(server, chat, { headers: authorization ? { authorization } : {} });
    expect((await withKey("Bearer two")).status).toBe(200);
    expect((await withKey("bearer one")).status).toBe(200);
    for (const given of [undefined, "Bearer three", "Bearer on", "Basic one", "Bearer"]) {
      const { status, body, headers } = await withKey(given);
      expect([status, body.error.type, headers.get("www-authenticate")]).toEqual([
        401,
        "authentication_error",
        "Bearer",
      ]);
    }
    expect((await server.fetch(new Request("http://server/metrics"))).status).toBe(401);
    expect((await server.fetch(new Request("http://server/health"))).status).toBe(200);
  });

  it("must be some", () => {
    expect(() => served({ apiKeys: [] })).toThrow(/apiKeys/);
    expect(() => served({ apiKeys: ["a b"] })).toThrow(/apiKeys/);
  });
});

describe("failures", () => {
  it("of the server say nothing of its inside, and reach onError", async () => {
    const seen: unknown[] = [];
    const secret = new Error("password is hunter2");
    const { server } = served({ onError: (error) => void seen.push(error) }, () => {
      throw secret;
    });
    const { status, body } = await ask(server, chat);
    expect([status, body.error.type]).toEqual([500, "server_error"]);
    expect(JSON.stringify(body)).not.toContain("hunter2");
    expect(seen).toEqual([secret]);
  });

  it("in the midst of a stream become its last event", async () => {
    let i = 0;
    const failing = {
      ...fakeModel([]).model,
      async *generate() {
        yield { type: "token", id: 1, text: "a" } as const;
        if (i++ === 0) throw new LowbitError("internal", "NaN", { reason: "non-finite-logits" });
      },
    } as unknown as Model;
    const server = createServer({ model: failing, onError: () => undefined });
    const text = await (await server.fetch(post(path, { ...chat, stream: true }))).text();
    expect(text).toMatch(
      /"content":"a"[\s\S]*data: \{"error":\{"message":"NaN","type":"server_error"[^\n]*\n\n$/,
    );
  });

  it("of the engine keep their reason", async () => {
    const { server } = served({}, () => {
      throw new LowbitError("context-full", "9 tokens do not fit a context of 8.", {
        reason: "context-length",
      });
    });
    expect((await ask(server, chat)).body.error).toMatchObject({
      code: "context_length_exceeded",
      type: "invalid_request_error",
    });
  });
});

describe("pages", () => {
  it("of the allowed origins may call", async () => {
    const { server } = served({ cors: ["https://a.example"], apiKeys: ["k"] });
    const preflight = await server.fetch(
      new Request(`http://server${path}`, {
        method: "OPTIONS",
        headers: {
          origin: "https://a.example",
          "access-control-request-method": "POST",
          "access-control-request-headers": "authorization",
        },
      }),
    );
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe("https://a.example");
    const headers = { origin: "https://b.example", authorization: "Bearer k" };
    expect(
      (await server.fetch(post(path, chat, { headers }))).headers.get("access-control-allow-origin"),
    ).toBe(null);
    // Errors carry the header too, or a page could not read them.
    const refused = await server.fetch(post(path, chat, { headers: { origin: "https://a.example" } }));
    expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([
      401,
      "https://a.example",
    ]);
  });
});

describe("metrics", () => {
  it("count requests, tokens and what is in use", async () => {
    const { server } = served();
    await ask(server, chat);
    await ask(server, { ...chat, n: 3 });
    const response = await server.fetch(new Request("http://server/metrics"));
    const text = await response.text();
    for (const line of [
      'lowbit_requests_total{route="/v1/chat/completions",status="200"} 1',
      'lowbit_requests_total{route="/v1/chat/completions",status="400"} 1',
      "lowbit_prompt_tokens_total 7",
      "lowbit_cached_tokens_total 3",
      "lowbit_completion_tokens_total 2",
      "lowbit_requests_running 0",
      "lowbit_first_token_seconds_count 1",
      'lowbit_request_seconds_bucket{le="+Inf"} 2',
      'lowbit_memory_used_bytes{model="default"} 1000',
    ]) {
      expect(text.split("\n")).toContain(line);
    }
    expect(text).toMatch(/^# TYPE lowbit_request_seconds histogram$/m);
  });
});

describe("models", () => {
  it("are listed and described", async () => {
    const { server } = served({ name: "org/tiny" });
    const get = async (at: string) => (await server.fetch(new Request(`http://server${at}`))).json();
    expect(await get("/v1/models")).toMatchObject({
      object: "list",
      data: [{ id: "org/tiny", object: "model", state: "ready" }],
    });
    expect(await get("/v1/models/org/tiny")).toMatchObject({ id: "org/tiny", context_length: 64 });
    expect((await get("/v1/models/gone")).error.code).toBe("model_not_found");
  });

  it("are given one way, with limits that make sense", () => {
    const { model } = fakeModel([]);
    expect(() => createServer({})).toThrow(/either model or models/);
    expect(() => createServer({ model, models: { a: model } })).toThrow(/either model or models/);
    expect(() => createServer({ models: {} })).toThrow(/empty/);
    expect(() => createServer({ model, limits: { parallel: 0 } })).toThrow(/limits.parallel is 0/);
    expect(() => createServer({ model, limits: { paralel: 2 } as never })).toThrow(/limits.paralel/);
  });
});
