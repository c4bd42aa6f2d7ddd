import { readFileSync } from "node:fs";
import { picoEvaluation, picoGguf } from "@lowbit/pico";
import { fuzzCases } from "@lowbit/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ChatMessage, load, type Model } from "./index.ts";

interface Tool {
  readonly function: {
    readonly name: string;
    readonly parameters: { readonly properties: Readonly<Record<string, { readonly type: string }>> };
  };
}

interface Item {
  readonly id: string;
  readonly messages: readonly ChatMessage[];
  readonly tools: readonly Tool[];
  readonly prompt: string;
  readonly expected: unknown;
  readonly metric: string;
}

function items(file: string): Item[] {
  const lines = readFileSync(new URL(file, picoEvaluation), "utf8").trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line) as Item);
}

describe("pico's held-out tool items", () => {
  let model: Model;
  beforeAll(async () => {
    model = await load(picoGguf, { contextLength: 1024 });
  });
  afterAll(() => model.dispose());

  const all = items("tools.jsonl");
  const calls = all.filter(({ metric }) => metric === "tool_call").slice(0, fuzzCases(60));
  const others = all.filter(({ metric }) => metric !== "tool_call").slice(0, fuzzCases(20));
  const request = { temperature: 0, maxTokens: 120 };
  /** What the model writes, as text: without messages nothing is taken apart. */
  const written = async ({ prompt }: Item): Promise<string> => {
    const tokens = model.tokenizer.encode(prompt, { addSpecial: false, parseSpecial: true });
    return (await model.complete({ prompt: tokens, ...request })).text;
  };

  it("are read as the calls that the model writes", { timeout: 300_000 }, async () => {
    let right = 0;
    for (const item of calls) {
      const {
        text,
        reason,
        toolCalls = [],
      } = await model.complete({ messages: item.messages, tools: item.tools, ...request });
      const raw = /^<tool_call>(.*)<\/tool_call>$/s.exec(await written(item));
      if (raw === null) continue;
      const [call, ...more] = toolCalls;
      const read = { name: call?.name, arguments: JSON.parse(call?.arguments ?? "null") as unknown };
      expect([text, reason, more], item.id).toEqual(["", "tool-calls", []]);
      expect(read, item.id).toEqual(JSON.parse(raw[1] ?? ""));
      if (JSON.stringify(read) === JSON.stringify(item.expected)) right++;
    }
    // 184 of all 210.
    expect(right / calls.length).toBeGreaterThan(0.8);
  });

  it("without a fitting tool are answered in text", { timeout: 300_000 }, async () => {
    for (const item of others) {
      const { text, toolCalls } = await model.complete({
        messages: item.messages,
        tools: item.tools,
        ...request,
      });
      const raw = await written(item);
      if (!raw.startsWith("<tool_call>")) expect([text, toolCalls], item.id).toEqual([raw, undefined]);
    }
  });

  it("become calls of an offered tool, with arguments of its types, where one is required", {
    timeout: 300_000,
  }, async () => {
    let right = 0;
    for (const item of [...calls, ...others]) {
      const { tools, messages } = item;
      const { text, reason, toolCalls } = await model.complete({
        messages,
        tools,
        toolChoice: "required",
        ...request,
      });
      if (reason === "length") continue;
      const [call] = toolCalls ?? [];
      expect([text, reason, call === undefined], item.id).toEqual(["", "tool-calls", false]);
      const tool = tools.find((each) => each.function.name === call?.name);
      expect(tool, `${item.id}: ${call?.name}`).toBeDefined();
      const input = JSON.parse(call?.arguments ?? "") as Record<string, unknown>;
      const { properties } = tool!.function.parameters;
      expect(Object.keys(input), item.id).toEqual(Object.keys(properties));
      for (const [name, { type }] of Object.entries(properties))
        expect(typeof input[name], `${item.id}: ${name}`).toBe(type === "integer" ? "number" : type);
      if (JSON.stringify({ name: call?.name, arguments: input }) === JSON.stringify(item.expected)) right++;
    }
    expect(right / calls.length).toBeGreaterThan(0.85);
  });

  it("go on with the tool's answer in a chat", async () => {
    const [item] = calls;
    const chat = model.chat({ tools: item?.tools ?? [], ...request });
    const { toolCalls } = await chat.send(item?.messages[0]?.content ?? "");
    expect(toolCalls).toHaveLength(1);
    const { text, usage } = await chat.send({ role: "tool", content: '{"result": "done"}' });
    expect(text).toMatch(/done/i);
    // The template writes the call back as the model wrote it: the cache holds.
    expect(usage.cachedTokens).toBeGreaterThan(usage.promptTokens - 40);
  });

  it("answer in JSON, whatever the question", { timeout: 300_000 }, async () => {
    const schema = {
      type: "object",
      properties: {
        answer: { type: "string", maxLength: 40 },
        confidence: { type: "number", minimum: 0, maximum: 1 },
        kind: { enum: ["fact", "refusal", "other"] },
      },
      required: ["answer", "confidence", "kind"],
    };
    for (const [seed, { messages }] of items("knowledge.jsonl").slice(0, fuzzCases(12)).entries()) {
      const { text, reason } = await model.complete({
        messages,
        responseFormat: { type: "json_schema", schema },
        temperature: 1,
        seed,
        maxTokens: 150,
      });
      expect(reason).toBe("end");
      const { answer, confidence, kind } = JSON.parse(text) as {
        answer: string;
        confidence: number;
        kind: string;
      };
      expect([...answer].length).toBeLessThanOrEqual(40);
      expect(confidence >= 0 && confidence <= 1).toBe(true);
      expect(["fact", "refusal", "other"]).toContain(kind);
    }
  });
});
