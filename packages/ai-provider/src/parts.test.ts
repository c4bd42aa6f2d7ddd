import { type GenerateEvent, LowbitError } from "@lowbit/core";
import { describe, expect, it } from "vitest";
import { finish, token } from "../test/scripted-model.ts";
import { createPartWriter, wholeAnswer } from "./parts.ts";

const reasoning = (text: string): GenerateEvent => ({ type: "reasoning", text });
const delta = (id: string, text: string): GenerateEvent => ({
  type: "tool-call-delta",
  id,
  name: "weather",
  text,
});
const call = (id: string, input: string): GenerateEvent => ({
  type: "tool-call",
  id,
  name: "weather",
  arguments: input,
});

function parts(...events: GenerateEvent[]): unknown[] {
  const writer = createPartWriter();
  return events.flatMap((event) => writer.push(event));
}

async function* list(events: readonly GenerateEvent[]): AsyncGenerator<GenerateEvent, void, void> {
  yield* events;
}

const end = expect.objectContaining({ type: "finish" });

describe("createPartWriter", () => {
  it("writes text as one block, without empty pieces", () => {
    const written = parts({ type: "prompt", done: 1, total: 1 }, token("a"), token(""), token("b"), finish());
    expect(written).toEqual([
      { type: "text-start", id: "0" },
      { type: "text-delta", id: "0", delta: "a" },
      { type: "text-delta", id: "0", delta: "b" },
      { type: "text-end", id: "0" },
      {
        type: "finish",
        finishReason: { unified: "stop", raw: "end" },
        usage: {
          inputTokens: { total: 7, noCache: 4, cacheRead: 3, cacheWrite: undefined },
          outputTokens: { total: 5, text: 5, reasoning: 0 },
          raw: { promptTokens: 7, cachedTokens: 3, completionTokens: 5 },
        },
        providerMetadata: {
          lowbit: {
            seed: 1,
            timings: { promptMs: 1, generateMs: 2, promptTokensPerSecond: 3, tokensPerSecond: 4 },
          },
        },
      },
    ]);
  });

  it("writes text that was held back, and nothing for an empty answer", () => {
    expect(parts(token("a"), finish("end", 2, "b"))).toContainEqual({
      type: "text-delta",
      id: "0",
      delta: "b",
    });
    expect(parts(token(""), finish("length"))).toEqual([end]);
  });

  it("opens a block for each change between reasoning and text, and counts the tokens of each", () => {
    const written = parts(
      token(""), // of "<think>", of which nothing is seen
      token(""),
      reasoning("I "),
      token(""),
      reasoning("think"),
      token(""), // of "</think>"
      token("so"),
      finish("stop", 5),
    );
    expect(written.map((part) => Object.values(part as object).slice(0, 3))).toMatchObject([
      ["reasoning-start", "0"],
      ["reasoning-delta", "0", "I "],
      ["reasoning-delta", "0", "think"],
      ["reasoning-end", "0"],
      ["text-start", "1"],
      ["text-delta", "1", "so"],
      ["text-end", "1"],
      ["finish", { unified: "stop", raw: "stop" }, { outputTokens: { total: 5, text: 2, reasoning: 3 } }],
    ]);
  });

  it("counts no token of text or calls as reasoning", () => {
    const written = parts(
      token("a"),
      token("b"),
      token(""),
      reasoning("hm"),
      token(""),
      delta("a", ""),
      reasoning("so"),
      finish(),
    );
    expect(written.at(-1)).toMatchObject({ usage: { outputTokens: { total: 5, text: 4, reasoning: 1 } } });
  });

  it("streams the arguments of calls, then the calls", () => {
    const written = parts(
      token("Let me see. "),
      delta("a", ""),
      delta("a", '{"city":'),
      delta("a", '"Rome"}'),
      call("a", '{"city":"Rome"}'),
      call("b", '{"city":"Oslo"}'),
      call("c", ""),
      finish("tool-calls"),
    );
    expect(written).toEqual([
      { type: "text-start", id: "0" },
      { type: "text-delta", id: "0", delta: "Let me see. " },
      { type: "text-end", id: "0" },
      { type: "tool-input-start", id: "a", toolName: "weather" },
      { type: "tool-input-delta", id: "a", delta: '{"city":' },
      { type: "tool-input-delta", id: "a", delta: '"Rome"}' },
      { type: "tool-input-end", id: "a" },
      { type: "tool-call", toolCallId: "a", toolName: "weather", input: '{"city":"Rome"}' },
      { type: "tool-input-start", id: "b", toolName: "weather" },
      { type: "tool-input-delta", id: "b", delta: '{"city":"Oslo"}' },
      { type: "tool-input-end", id: "b" },
      { type: "tool-call", toolCallId: "b", toolName: "weather", input: '{"city":"Oslo"}' },
      { type: "tool-input-start", id: "c", toolName: "weather" },
      { type: "tool-input-end", id: "c" },
      { type: "tool-call", toolCallId: "c", toolName: "weather", input: "{}" },
      expect.objectContaining({ finishReason: { unified: "tool-calls", raw: "tool-calls" } }),
    ]);
  });

  it("ends the input of a call that was cut off, which is no call", () => {
    expect(parts(delta("a", ""), delta("a", '{"ci'), finish("length"))).toEqual([
      { type: "tool-input-start", id: "a", toolName: "weather" },
      { type: "tool-input-delta", id: "a", delta: '{"ci' },
      { type: "tool-input-end", id: "a" },
      expect.objectContaining({ finishReason: { unified: "length", raw: "length" } }),
    ]);
  });

  it("closes what is open when a generation fails", () => {
    const writer = createPartWriter();
    writer.push(token("a"));
    const error = new LowbitError("out-of-memory", "no room");
    expect(writer.fail(error)).toMatchObject([
      { type: "text-end", id: "0" },
      { type: "error", error },
      { type: "finish", finishReason: { unified: "error", raw: "out-of-memory" } },
    ]);
    expect(createPartWriter().fail(new TypeError("broken"))).toMatchObject([
      { type: "error" },
      { type: "finish", finishReason: { unified: "error", raw: undefined } },
    ]);
  });
});

describe("wholeAnswer", () => {
  it("gathers content in its order", async () => {
    const events = [reasoning("hm"), token("a "), token("b"), call("a", "{}"), finish("tool-calls", 6, "")];
    expect(await wholeAnswer(list(events))).toMatchObject({
      content: [
        { type: "reasoning", text: "hm" },
        { type: "text", text: "a b" },
        { type: "tool-call", toolCallId: "a", toolName: "weather", input: "{}" },
      ],
      finishReason: { unified: "tool-calls", raw: "tool-calls" },
      usage: { inputTokens: { total: 7 } },
      providerMetadata: { lowbit: { seed: 1 } },
    });
  });

  it("does not take a generation without an end for an answer", async () => {
    await expect(wholeAnswer(list([token("a")]))).rejects.toThrow("without a finish event");
  });
});
