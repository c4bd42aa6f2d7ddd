import {
  type LanguageModelV4FilePart,
  type LanguageModelV4Prompt,
  type LanguageModelV4ToolResultOutput,
  UnsupportedFunctionalityError,
} from "@ai-sdk/provider";
import { describe, expect, it } from "vitest";
import { messagesOf } from "./prompt.ts";

const call = { type: "tool-call", toolCallId: "c1", toolName: "weather", input: { city: "Rome" } } as const;
const mapped = {
  id: "c1",
  type: "function",
  function: { name: "weather", arguments: { city: "Rome" } },
};

const file = (data: LanguageModelV4FilePart["data"], mediaType: string): LanguageModelV4FilePart => ({
  type: "file",
  data,
  mediaType,
});

function user(...content: Extract<LanguageModelV4Prompt[number], { role: "user" }>["content"]): string {
  const [message] = messagesOf([{ role: "user", content }]);
  return message?.content ?? "";
}

function result(output: LanguageModelV4ToolResultOutput): unknown {
  const part = { type: "tool-result", toolCallId: "c1", toolName: "weather", output } as const;
  return messagesOf([{ role: "tool", content: [part] }])[0];
}

describe("messagesOf", () => {
  it("keeps the order of a conversation with reasoning, calls and results", () => {
    const prompt: LanguageModelV4Prompt = [
      { role: "system", content: "Be brief." },
      {
        role: "user",
        content: [
          { type: "text", text: "Weather " },
          { type: "text", text: "in Rome?" },
        ],
      },
      {
        role: "assistant",
        content: [
          { type: "reasoning", text: "I must " },
          { type: "reasoning", text: "look." },
          { type: "text", text: "One moment." },
          call,
          { ...call, toolCallId: "c2", input: { city: "Oslo" } },
        ],
      },
      {
        role: "tool",
        content: [
          {
            type: "tool-result",
            toolCallId: "c1",
            toolName: "weather",
            output: { type: "text", value: "sun" },
          },
          { type: "tool-result", toolCallId: "c2", toolName: "weather", output: { type: "json", value: 3 } },
        ],
      },
      { role: "assistant", content: [{ type: "text", text: "Sun." }] },
    ];
    expect(messagesOf(prompt)).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Weather in Rome?" },
      {
        role: "assistant",
        content: "One moment.",
        reasoning_content: "I must look.",
        tool_calls: [
          mapped,
          { ...mapped, id: "c2", function: { name: "weather", arguments: { city: "Oslo" } } },
        ],
      },
      { role: "tool", name: "weather", tool_call_id: "c1", content: "sun" },
      { role: "tool", name: "weather", tool_call_id: "c2", content: "3" },
      { role: "assistant", content: "Sun." },
    ]);
  });

  it("puts results that stand within an answer between its halves", () => {
    const content = [
      call,
      {
        type: "tool-result",
        toolCallId: "c1",
        toolName: "weather",
        output: { type: "text", value: "sun" },
      },
      { type: "text", text: "Sun." },
    ] as const;
    expect(messagesOf([{ role: "assistant", content: [...content] }])).toEqual([
      { role: "assistant", content: "", tool_calls: [mapped] },
      { role: "tool", name: "weather", tool_call_id: "c1", content: "sun" },
      { role: "assistant", content: "Sun." },
    ]);
    expect(messagesOf([{ role: "assistant", content: [] }])).toEqual([{ role: "assistant", content: "" }]);
  });

  it.each<[LanguageModelV4ToolResultOutput, string]>([
    [{ type: "text", value: "a" }, "a"],
    [{ type: "json", value: { a: [1, null] } }, '{"a":[1,null]}'],
    [{ type: "error-text", value: "no such city" }, "no such city"],
    [{ type: "error-json", value: { code: 4 } }, '{"code":4}'],
    [{ type: "execution-denied", reason: "not now" }, "not now"],
    [{ type: "execution-denied" }, "The user did not allow this call."],
    [
      {
        type: "content",
        value: [
          { type: "text", text: "a" },
          { type: "file", data: { type: "text", text: "b" }, mediaType: "text/plain" },
        ],
      },
      "a\nb",
    ],
  ])("writes the result %j as text", (output, content) => {
    expect(result(output)).toEqual({ role: "tool", name: "weather", tool_call_id: "c1", content });
  });

  it("takes files of text, as text, bytes or base64", () => {
    const bytes = new TextEncoder().encode("größer");
    const base64 = btoa(String.fromCharCode(...bytes));
    expect(user(file({ type: "text", text: "a" }, "text/plain"), { type: "text", text: "b" })).toBe("a\nb");
    expect(user(file({ type: "data", data: bytes }, "text"))).toBe("größer");
    expect(user(file({ type: "data", data: base64 }, "text/csv"))).toBe("größer");
    expect(user(file({ type: "data", data: base64 }, "application/json"))).toBe("größer");
  });

  it.each<[string, LanguageModelV4FilePart]>([
    ["image/png", file({ type: "data", data: Uint8Array.of(1) }, "image/png")],
    ["textual/x", file({ type: "data", data: "" }, "textual/x")],
    ["text/plain", file({ type: "url", url: new URL("https://example.com/a.txt") }, "text/plain")],
    ["text/plain", file({ type: "reference", reference: { other: "1" } }, "text/plain")],
    ["not UTF-8", file({ type: "data", data: Uint8Array.of(0xff) }, "text/plain")],
    ["not UTF-8", file({ type: "data", data: "%" }, "text/plain")],
    ["(cat.png)", { ...file({ type: "data", data: "" }, "image"), filename: "cat.png" }],
  ])("refuses files that are no text: %s", (named, part) => {
    const attempt = (): unknown => user({ type: "text", text: "what is this?" }, part);
    expect(attempt).toThrow(UnsupportedFunctionalityError);
    expect(attempt).toThrow(named);
  });

  it.each<[string, LanguageModelV4Prompt[number]]>([
    ["openai.compaction", { role: "assistant", content: [{ type: "custom", kind: "openai.compaction" }] }],
    [
      "files in reasoning",
      {
        role: "assistant",
        content: [{ type: "reasoning-file", mediaType: "image/png", data: { type: "data", data: "" } }],
      },
    ],
    [
      "approval",
      { role: "tool", content: [{ type: "tool-approval-response", approvalId: "a", approved: true }] },
    ],
    [
      "custom content of tool results",
      {
        role: "tool",
        content: [
          {
            type: "tool-result",
            toolCallId: "c",
            toolName: "t",
            output: { type: "content", value: [{ type: "custom" }] },
          },
        ],
      },
    ],
  ])("refuses %s", (named, message) => {
    const attempt = (): unknown => messagesOf([message]);
    expect(attempt).toThrow(UnsupportedFunctionalityError);
    expect(attempt).toThrow(named);
  });
});
