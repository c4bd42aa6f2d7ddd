import type { LanguageModelV4CallOptions, LanguageModelV4FunctionTool } from "@ai-sdk/provider";
import { describe, expect, it } from "vitest";
import type { LowbitLanguageModelOptions } from "./options.ts";
import { type MappedCall, requestOf } from "./request.ts";

const weather: LanguageModelV4FunctionTool = {
  type: "function",
  name: "weather",
  inputSchema: { type: "object", properties: { city: { type: "string" } } },
};

function map(options: Partial<LanguageModelV4CallOptions>): MappedCall {
  return requestOf({ prompt: [{ role: "user", content: [{ type: "text", text: "hi" }] }], ...options });
}

describe("requestOf", () => {
  it("leaves to the engine what is absent", () => {
    const { request, warnings } = map({});
    const present = Object.entries(request).filter(([, value]) => value !== undefined);
    expect(Object.fromEntries(present)).toEqual({ messages: [{ role: "user", content: "hi" }] });
    expect(warnings).toEqual([]);
  });

  it("hands over every setting that the engine has, with its own beyond them", () => {
    const { signal } = new AbortController();
    const lowbit = {
      minP: 0.1,
      typicalP: 0.9,
      repetitionPenalty: 1.1,
      logitBias: { 3: -1 },
    } satisfies LowbitLanguageModelOptions;
    const { request, warnings } = map({
      maxOutputTokens: 9,
      temperature: 0.3,
      topP: 0.7,
      topK: 5,
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      stopSequences: ["\n", "END"],
      seed: 42,
      abortSignal: signal,
      reasoning: "provider-default",
      responseFormat: { type: "text" },
      providerOptions: { lowbit, other: { anything: true } },
    });
    expect(request).toMatchObject({
      maxTokens: 9,
      temperature: 0.3,
      topP: 0.7,
      topK: 5,
      presencePenalty: 0.5,
      frequencyPenalty: 0.25,
      penaltyWindow: -1,
      stop: ["\n", "END"],
      seed: 42,
      responseFormat: { type: "text" },
      ...lowbit,
    });
    expect(request.signal).toBe(signal);
    expect(warnings).toEqual([]);
  });

  it("lets the caller set the window of penalties", () => {
    const options = { presencePenalty: 1, providerOptions: { lowbit: { penaltyWindow: 16 } } };
    expect(map(options).request.penaltyWindow).toBe(16);
    expect(map({ presencePenalty: 0 }).request.penaltyWindow).toBeUndefined();
  });

  it("refuses unknown options, and the engine's that are not for users to set", () => {
    for (const name of ["min_p", "messages", "signal"]) {
      const attempt = (): unknown => map({ providerOptions: { lowbit: { [name]: 1 } } });
      expect(attempt, name).toThrow(
        expect.objectContaining({ code: "bad-argument", reason: "unknown-option" }),
      );
    }
  });

  it("offers functions, with what is absent left out", () => {
    const { request } = map({
      tools: [weather, { ...weather, name: "wind", description: "of a city", strict: true }],
    });
    const { inputSchema: parameters } = weather;
    expect(request.tools).toStrictEqual([
      { type: "function", function: { name: "weather", parameters } },
      { type: "function", function: { name: "wind", description: "of a city", parameters, strict: true } },
    ]);
  });

  it.each([
    [{ type: "auto" }, "auto"],
    [{ type: "none" }, "none"],
    [{ type: "required" }, "required"],
    [{ type: "tool", toolName: "weather" }, { name: "weather" }],
  ] as const)("maps the tool choice %j", (toolChoice, expected) => {
    expect(map({ tools: [weather], toolChoice }).request.toolChoice).toEqual(expected);
  });

  it("maps JSON, with and without a schema", () => {
    const schema = { type: "object" } as const;
    const named = { type: "json", schema, name: "answer", description: "an answer" } as const;
    expect(map({ responseFormat: { type: "json" } }).request.responseFormat).toEqual({ type: "json_object" });
    expect(map({ responseFormat: named }).request.responseFormat).toEqual({
      type: "json_schema",
      schema,
      name: "answer",
    });
  });

  it("warns of what has no effect", () => {
    const { request, warnings } = map({
      reasoning: "high",
      tools: [
        { type: "provider", id: "openai.web_search", name: "search", args: {} },
        { ...weather, inputExamples: [{ input: { city: "Rome" } }] },
      ],
    });
    expect(request.tools).toHaveLength(1);
    expect(warnings.map((warning) => warning.type === "unsupported" && warning.feature)).toEqual([
      "reasoning",
      "provider-defined tool openai.web_search",
      "inputExamples of tools",
    ]);
    expect(
      map({ tools: [{ type: "provider", id: "a.b", name: "b", args: {} }] }).request.tools,
    ).toBeUndefined();
  });
});
