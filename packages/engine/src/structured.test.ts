import type { ChatMessage, GenerateEvent } from "@lowbit/core";
import { createGrammar } from "@lowbit/grammar";
import { describe, expect, it } from "vitest";
import { type ScriptedOptions, scripted } from "../test/load-scripted.ts";
import { endToken, saying, vocabularySize } from "../test/scripted.ts";

const bytes = (text: string): number[] => [...new TextEncoder().encode(text)];
const question: ChatMessage[] = [{ role: "user", content: "hi" }];
/** Tokens of that conversation: the begin token, "u:hi", the end of the turn, "a:". */
const promptLength = 8;

/** A model with a grammar that would say this if it could say what it likes. */
const wanting = (text: string, options: ScriptedOptions = {}) =>
  scripted({
    script: saying([...bytes(text), endToken], promptLength),
    createGrammar,
    tokenizer: { chatTemplate: "<tool_call> <think> </think>" },
    ...options,
  }).load();

const tools = [
  {
    type: "function",
    function: { name: "add", parameters: { properties: { a: { type: "integer" } }, required: ["a"] } },
  },
];
const call = '<tool_call>{"name": "add", "arguments": {"a": 12}}</tool_call>';

describe("responseFormat", () => {
  const schema = { type: "object", properties: { ok: { type: "boolean" } }, required: ["ok"] };
  const responseFormat = { type: "json_schema", schema } as const;

  it("bends what the model wants to say", async () => {
    await using model = await wanting("Sure! Here it is");
    const { text, reason } = await model.complete({ messages: question, temperature: 0, responseFormat });
    expect(JSON.parse(text)).toEqual({ ok: expect.any(Boolean) });
    expect(reason).toBe("end");
    expect(JSON.parse((await model.complete({ prompt: "x", responseFormat, seed: 3 })).text)).toHaveProperty(
      "ok",
    );
  });

  it("leaves what fits as it is, and spends no pass on the end", async () => {
    await using model = await wanting('{"ok": true}');
    const before = model.status().passes;
    const { text, usage } = await model.complete({ messages: question, temperature: 0, responseFormat });
    expect(text).toBe('{"ok": true}');
    expect(usage.completionTokens).toBe(12);
    // One for the prompt, and one between each two tokens.
    expect(model.status().passes - before).toBe(12);
  });

  it("reports log probabilities of the model's own distribution", async () => {
    await using model = await wanting("no");
    const events: GenerateEvent[] = [];
    for await (const event of model.generate({
      messages: question,
      temperature: 0,
      responseFormat,
      logprobs: true,
    }))
      events.push(event);
    const first = events.find((event) => event.type === "token");
    // It wanted "n", and had to take one of the 259 others.
    expect(first?.type === "token" && first.logprob).toBeCloseTo(
      -Math.log(Math.exp(10) + vocabularySize - 1),
      5,
    );
  });

  it("stops at maxTokens, in the middle if need be", async () => {
    await using model = await wanting('{"ok": true}');
    const { text, reason } = await model.complete({
      messages: question,
      temperature: 0,
      responseFormat,
      maxTokens: 4,
    });
    expect([text, reason]).toEqual(['{"ok', "length"]);
  });

  it("cannot be outvoted by a bias", async () => {
    await using model = await wanting("x");
    const request = { messages: question, temperature: 0, responseFormat };
    expect(JSON.parse((await model.complete({ ...request, logitBias: { 33: 100 } })).text)).toHaveProperty(
      "ok",
    );
    await expect(
      model.complete({ ...request, logitBias: { 123: Number.NEGATIVE_INFINITY } }),
    ).rejects.toMatchObject({
      code: "bad-argument",
      reason: "logitBias",
    });
  });

  it("is refused with a reason", async () => {
    await using model = await wanting("");
    const refused = (format: unknown) =>
      expect(model.complete({ messages: question, responseFormat: format as never })).rejects;
    await refused({ type: "xml" }).toMatchObject({ code: "bad-argument", reason: "responseFormat" });
    await refused({ type: "json_schema" }).toMatchObject({ reason: "responseFormat" });
    await refused({ type: "json_schema", schema: {}, strict: 1 }).toMatchObject({ reason: "responseFormat" });
    await refused({ type: "regex" }).toMatchObject({ reason: "responseFormat" });
    await refused({ type: "json_schema", schema: { not: {} } }).toMatchObject({ reason: "schema" });
    await using plain = await scripted().load();
    await expect(
      plain.complete({ prompt: "x", responseFormat: { type: "json_object" } }),
    ).rejects.toMatchObject({ reason: "no-grammar" });
    expect(
      (await plain.complete({ prompt: "x", responseFormat: { type: "text" }, maxTokens: 2 })).tokens,
    ).toHaveLength(2);
  });
});

describe("tools", () => {
  it("calls are events, and no text", async () => {
    await using model = await wanting(`Let me see. ${call}`);
    const events: GenerateEvent[] = [];
    for await (const event of model.generate({ messages: question, tools, temperature: 0 }))
      events.push(event);
    const text = events
      .map((event) => (event.type === "token" || event.type === "finish" ? event.text : ""))
      .join("");
    expect(text).toBe("Let me see.");
    const deltas = events.filter((event) => event.type === "tool-call-delta");
    expect(deltas[0]).toMatchObject({ name: "add", text: "" });
    expect(deltas.map((event) => event.text).join("")).toBe('{"a": 12}');
    const whole = events.find((event) => event.type === "tool-call");
    expect(whole).toEqual({ type: "tool-call", id: deltas[0]?.id, name: "add", arguments: '{"a": 12}' });
    expect(events.at(-1)).toMatchObject({ type: "finish", reason: "tool-calls" });
  });

  it("are gathered by complete", async () => {
    await using model = await wanting(`<think>hm</think>${call}`);
    const { text, reason, reasoning, toolCalls } = await model.complete({
      messages: question,
      tools,
      temperature: 0,
    });
    expect([text, reason, reasoning]).toEqual(["", "tool-calls", "hm"]);
    expect(toolCalls).toMatchObject([{ name: "add", arguments: '{"a": 12}' }]);
  });

  it("can be forced, and forbidden", async () => {
    await using model = await wanting("I would rather talk");
    const forced = await model.complete({
      messages: question,
      tools,
      toolChoice: "required",
      temperature: 0,
      maxTokens: 200,
    });
    expect([forced.text, forced.toolCalls?.[0]?.name]).toEqual(["", "add"]);
    expect(JSON.parse(forced.toolCalls?.[0]?.arguments ?? "")).toEqual({ a: expect.any(Number) });
    const named = await model.complete({
      messages: question,
      tools,
      toolChoice: { name: "add" },
      temperature: 0,
      maxTokens: 200,
    });
    expect(named.toolCalls).toHaveLength(1);
    const none = await model.complete({ messages: question, tools, toolChoice: "none", temperature: 0 });
    expect([none.text, none.toolCalls]).toEqual(["I would rather talk", undefined]);
  });

  it("are not shown to the template where they must not be called", async () => {
    const shown: unknown[] = [];
    await using model = await wanting("x", {
      tokenizer: {
        renderChat: (_, options) => {
          shown.push(options?.tools);
          return "u:hi<turn>a:";
        },
      },
    });
    for (const toolChoice of ["auto", "none"] as const)
      await model.complete({ messages: question, tools, toolChoice, maxTokens: 1 });
    expect(shown).toEqual([tools, undefined]);
  });

  it("take part in a chat", async () => {
    await using model = await wanting(call);
    const chat = model.chat({ tools, temperature: 0 });
    const { toolCalls } = await chat.send("hi");
    expect(chat.messages.at(-1)).toEqual({
      role: "assistant",
      content: "",
      tool_calls: [
        { id: toolCalls?.[0]?.id, type: "function", function: { name: "add", arguments: { a: 12 } } },
      ],
    });
  });

  it("wrong choices are refused", async () => {
    await using model = await wanting("");
    const refused = (request: object) => expect(model.complete({ messages: question, ...request })).rejects;
    await refused({ tools, toolChoice: "always" }).toMatchObject({ reason: "toolChoice" });
    await refused({ toolChoice: "required" }).toMatchObject({ reason: "tools" });
    await refused({ tools, toolChoice: { name: "gone" } }).toMatchObject({ reason: "tools" });
    await expect(model.complete({ prompt: "x", tools })).rejects.toMatchObject({ reason: "tools" });
  });
});

describe("reasoning", () => {
  it("comes as events of its own, before the text that follows it in the same token", async () => {
    await using model = await wanting("<think>\nWell…\n</think>\n\nYes.");
    const kinds: string[] = [];
    let reasoning = "";
    for await (const event of model.generate({ messages: question, temperature: 0 })) {
      if (event.type === "reasoning") reasoning += event.text;
      const says = event.type === "reasoning" || ("text" in event && event.text !== "");
      if (says && kinds.at(-1) !== event.type) kinds.push(event.type);
    }
    expect(reasoning).toBe("Well…");
    expect(kinds).toEqual(["reasoning", "token"]);
    expect((await model.complete({ messages: question, temperature: 0 })).text).toBe("Yes.");
  });

  it("is text in answer to a plain prompt", async () => {
    await using model = await scripted({
      script: saying([...bytes("<think>a</think>b"), endToken], 3),
      createGrammar,
      tokenizer: { chatTemplate: "<think></think>" },
    }).load();
    expect((await model.complete({ prompt: "hi", temperature: 0 })).text).toBe("<think>a</think>b");
  });
});
