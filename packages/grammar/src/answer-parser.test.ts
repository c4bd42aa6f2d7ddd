import type { AnswerPiece, AnswerRequest } from "@lowbit/core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { madeTokenizer } from "../test/vocabularies.ts";
import { createGrammar } from "./index.ts";

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
  { type: "function", function: { name: "add" } },
];

interface Read {
  readonly text: string;
  readonly reasoning: string;
  readonly calls: readonly (readonly [string, unknown])[];
}

/** What an answer says, fed in pieces; checks that the deltas of each call are its arguments. */
function read(chatTemplate: string, pieces: readonly string[], request: Partial<AnswerRequest> = {}): Read {
  const parser = createGrammar(madeTokenizer({ chatTemplate })).parser({ tools, rendered: "", ...request })!;
  const all: AnswerPiece[] = [...pieces.flatMap((piece) => parser.push(piece)), ...parser.flush()];
  const deltas = new Map<string, string>();
  let [text, reasoning] = ["", ""];
  const calls: [string, unknown][] = [];
  for (const piece of all) {
    if (piece.type === "text") text += piece.text;
    if (piece.type === "reasoning") reasoning += piece.text;
    if (piece.type === "tool-call-delta") deltas.set(piece.id, (deltas.get(piece.id) ?? "") + piece.text);
    if (piece.type === "tool-call") {
      expect(deltas.get(piece.id)).toBe(piece.arguments);
      expect(piece.id).toMatch(/^[A-Za-z0-9]{9}$/);
      calls.push([piece.name, JSON.parse(piece.arguments)]);
    }
  }
  expect(new Set(deltas.keys()).size).toBe(deltas.size);
  return { text, reasoning, calls };
}

/** The same answer whole, letter by letter, and cut at random: it must read the same. */
function readAll(chatTemplate: string, answer: string, request?: Partial<AnswerRequest>): Read {
  const whole = read(chatTemplate, [answer], request);
  expect(read(chatTemplate, [...answer], request)).toEqual(whole);
  fc.assert(
    fc.property(fc.array(fc.nat(answer.length), { maxLength: 6 }), (cuts) => {
      const at = [0, ...cuts.sort((a, b) => a - b), answer.length];
      const pieces = at.slice(1).map((end, i) => answer.slice(at[i], end));
      expect(read(chatTemplate, pieces, request)).toEqual(whole);
    }),
    { numRuns: 30, seed: 8 },
  );
  return whole;
}

const paris = ["get_weather", { city: "Paris" }] as const;
const sum = ["add", { a: 1, b: [2, { c: "}" }] }] as const;

const hermes = "… <tool_call> …";
const llama = "… <|python_tag|> …";
const mistral = "… [TOOL_CALLS] …";
const mistralNamed = "… [TOOL_CALLS] [ARGS] …";
const deepseek = "… <｜tool▁calls▁begin｜> …";
const deepseekFenced = "… <｜tool▁calls▁begin｜> ```json …";
const phi = "… <|tool|> …";
const gemma = "… <start_function_call> …";
const gemma4 = "… <|tool_call> …";

describe("tool calls in the writing of", () => {
  it.each([
    [
      "Hermes and Qwen",
      hermes,
      '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}\n</tool_call>',
    ],
    [
      "Hermes without line breaks",
      hermes,
      '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}</tool_call><tool_call>{"arguments":{"a":1,"b":[2,{"c":"}"}]} , "name":"add"}</tool_call>',
    ],
    [
      "Llama 3",
      llama,
      '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "add", "parameters": {"a": 1, "b": [2, {"c": "}"}]}}',
    ],
    [
      "Mistral",
      mistral,
      '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "abcdefghi"}, {"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}]',
    ],
    [
      "Mistral with names",
      mistralNamed,
      '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]add[CALL_ID]abc123456[ARGS]{"a": 1, "b": [2, {"c": "}"}]}',
    ],
    [
      "Mistral with names alone",
      mistral,
      '[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]add{"a": 1, "b": [2, {"c": "}"}]}',
    ],
    [
      "DeepSeek",
      deepseekFenced,
      '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 1, "b": [2, {"c": "}"}]}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ],
    [
      "DeepSeek V3.1",
      deepseek,
      '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1, "b": [2, {"c": "}"}]}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ],
    [
      "Phi",
      phi,
      '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}]<|/tool_call|>',
    ],
    [
      "Phi 4 mini",
      phi,
      'functools[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "add", "arguments": {"a": 1, "b": [2, {"c": "}"}]}}]',
    ],
    [
      "FunctionGemma",
      gemma,
      "<start_function_call>call:get_weather{city:<escape>Paris<escape>}<end_function_call><start_function_call>call:add{a:1,b:[2,{c:<escape>}<escape>}]}<end_function_call>",
    ],
    [
      "Gemma 4",
      gemma4,
      '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|><|tool_call>call:add{a:1,b:[2,{c:<|"|>}<|"|>}]}<tool_call|>',
    ],
  ])("%s", (_, template, answer) => {
    expect(readAll(template, answer)).toEqual({ text: "", reasoning: "", calls: [paris, sum] });
    expect(readAll(template, `I look it up.\n${answer}`)).toEqual({
      text: "I look it up.",
      reasoning: "",
      calls: [paris, sum],
    });
  });

  it.each([
    ["Llama 3 without a mark", llama, '{"name": "get_weather", "parameters": {"city": "Paris"}}'],
    ["anything else", "", '{"name": "get_weather", "arguments": {"city": "Paris"}}'],
    ["anything else, fenced", "", '```json\n{"name": "get_weather", "parameters": {"city": "Paris"}}\n```'],
  ])("%s", (_, template, answer) => {
    expect(readAll(template, answer).calls).toEqual([paris]);
  });

  it("quotes and line breaks in Gemma's strings are kept", () => {
    const answer =
      '<start_function_call>call:get_weather{city:<escape>a "b"\n{c}:,<escape>,n:-1.5e3,ok:true,w:bare}<end_function_call>';
    expect(readAll(gemma, answer).calls).toEqual([
      ["get_weather", { city: 'a "b"\n{c}:,', n: -1500, ok: true, w: "bare" }],
    ]);
  });

  it("calls without arguments, and with arguments as a string, are calls", () => {
    expect(readAll(hermes, '<tool_call>{"name": "add"}</tool_call>').calls).toEqual([["add", {}]]);
    const quoted = JSON.stringify({ name: "add", arguments: JSON.stringify({ a: 1 }) });
    expect(readAll(hermes, `<tool_call>${quoted}</tool_call>`).calls).toEqual([["add", { a: 1 }]]);
  });

  it("a mark inside an argument belongs to the argument", () => {
    const city = "</tool_call><tool_call>{";
    expect(
      readAll(
        hermes,
        `<tool_call>${JSON.stringify({ name: "get_weather", arguments: { city } })}</tool_call> done`,
      ),
    ).toEqual({
      text: "done",
      reasoning: "",
      calls: [["get_weather", { city }]],
    });
  });
});

describe("what is no call", () => {
  it("stays text", () => {
    for (const [template, answer] of [
      [hermes, "Use <tool_call to call."],
      [hermes, "<tool_call>none of that</tool_call>"],
      [hermes, "<tool_call>"],
      [hermes, '<tool_call>{"nam": "add"}</tool_call>'],
      [hermes, '<tool_call>{"name": 5, "arguments": {}}</tool_call>'],
      [llama, '{"answer": 42}'],
      [llama, '{"name": "unknown_tool", "parameters": {}}'],
      ["", '{"name": "Ada", "arguments": {"x": 1}}'],
      ["", "```json\n[1]\n```"],
      ["", "`code`"],
      [mistral, "[TOOL_CALLS] nothing"],
      [gemma, "<start_function_call>call:add{a:<escape>x}<end_function_call>"],
    ] as const) {
      const { text, calls } = readAll(template, answer);
      expect([text.replace(/<.?(tool_call|end_function_call)>$/, ""), calls], answer).toEqual([
        answer.replace(/<.?(tool_call|end_function_call)>$/, ""),
        [],
      ]);
    }
  });

  it("comes back as text where it is cut off, unless a delta is out", () => {
    expect(readAll(hermes, 'Well <tool_call>{"name": "get_wea')).toEqual({
      text: 'Well <tool_call>{"name": "get_wea',
      reasoning: "",
      calls: [],
    });
    expect(readAll(hermes, '<tool_call>{"name": "get_weather", "arguments": {"city": "Par')).toEqual({
      text: "",
      reasoning: "",
      calls: [],
    });
  });

  it("is all of the answer where no tools are offered", () => {
    const grammar = createGrammar(madeTokenizer({ chatTemplate: hermes }));
    expect(grammar.parser({ rendered: "" })).toBeUndefined();
    expect(grammar.parser({ rendered: "", tools, toolChoice: "none" })).toBeUndefined();
    expect(grammar.parser({ tools })).toBeUndefined();
  });
});

describe("reasoning", () => {
  const template = `${hermes} <think> </think>`;

  it("is taken out, with the white space around it", () => {
    const answer =
      '<think>\nTwo < three.\nSo </thin… yes.\n</think>\n\nThe answer.<tool_call>{"name":"add"}</tool_call>';
    expect(readAll(template, answer)).toEqual({
      text: "The answer.",
      reasoning: "Two < three.\nSo </thin… yes.",
      calls: [["add", {}]],
    });
  });

  it("may have been opened by the prompt", () => {
    expect(readAll(template, "hm\n</think>\nyes", { rendered: "assistant\n<think>\n" })).toEqual({
      text: "yes",
      reasoning: "hm",
      calls: [],
    });
    expect(readAll(template, "hm", { rendered: "<think>" }).reasoning).toBe("hm");
    expect(readAll(template, "yes", { rendered: "<think>\n\n</think>\n\n" })).toEqual({
      text: "yes",
      reasoning: "",
      calls: [],
    });
  });

  it("hides calls, and needs no tools", () => {
    const thought = 'I could <tool_call>{"name":"add"}</tool_call>';
    expect(readAll(template, `<think>${thought}</think>no`, { tools: undefined })).toEqual({
      text: "no",
      reasoning: thought,
      calls: [],
    });
  });

  it("begins an answer, or follows a call; anywhere else its mark is text", () => {
    expect(readAll(template, "Write <think>x</think>.")).toEqual({
      text: "Write <think>x</think>.",
      reasoning: "",
      calls: [],
    });
    const answer = '<think>a</think><tool_call>{"name":"add"}</tool_call>\n<think>b</think>c';
    expect(readAll(template, answer)).toEqual({ text: "c", reasoning: "ab", calls: [["add", {}]] });
  });

  it("and calls are no part of an answer in a form, but for its start", () => {
    const answer = JSON.stringify({ a: '<think>x</think><tool_call>{"name":"add"}</tool_call>' });
    const request = { responseFormat: { type: "json_object" } } as const;
    expect(readAll(template, answer, request)).toEqual({ text: answer, reasoning: "", calls: [] });
    expect(readAll(template, '<tool_call>{"name":"add"}</tool_call>', request).calls).toEqual([["add", {}]]);
  });

  it("is Mistral's, too", () => {
    expect(readAll("[THINK] [/THINK]", "[THINK]a[/THINK]b", { tools: [] })).toEqual({
      text: "b",
      reasoning: "a",
      calls: [],
    });
  });
});

describe("any text", () => {
  it("is never lost and never breaks the parser", () => {
    const bits = fc.constantFrom(
      "<tool_call>",
      "</tool_call>",
      "<think>",
      "</think>",
      "{",
      "}",
      '"',
      "name",
      ":",
      "arguments",
      "add",
      " ",
      "\n",
      "\\",
      ",",
      "[",
      "x",
      '{"name":"add","arguments":{}}',
    );
    fc.assert(
      fc.property(
        fc.array(bits, { maxLength: 14 }),
        fc.constantFrom(hermes, llama, mistral, `${hermes}<think></think>`, ""),
        (pieces, template) => {
          const whole = read(template, [pieces.join("")]);
          expect(read(template, pieces)).toEqual(whole);
        },
      ),
      { numRuns: 3000, seed: 9 },
    );
  });
});
