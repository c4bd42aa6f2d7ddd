import type { AnswerRequest } from "@lowbit/core";
import { random } from "@lowbit/testing";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, it } from "vitest";
import { sample } from "../test/sample.ts";
import { madeTokenizer, picoTokenizer } from "../test/vocabularies.ts";
import { createGrammar } from "./index.ts";

const parameters = {
  get_weather: {
    type: "object",
    properties: { city: { type: "string", maxLength: 9 }, days: { type: "integer", minimum: 1, maximum: 7 } },
    required: ["city"],
    additionalProperties: false,
  },
  set_mode: {
    properties: { mode: { enum: ["on", "off"] } },
    required: ["mode"],
    additionalProperties: false,
  },
};
const tools = Object.entries(parameters).map(([name, schema]) => ({
  type: "function",
  function: { name, description: "…", parameters: schema },
}));
const ajv = new Ajv2020({ strict: false });

const deepseekMarks = [
  "<｜tool▁calls▁begin｜>",
  "<｜tool▁calls▁end｜>",
  "<｜tool▁call▁begin｜>",
  "<｜tool▁call▁end｜>",
  "<｜tool▁sep｜>",
];
const dialects: [name: string, template: string, special: string[], begins: string][] = [
  ["Hermes", "<tool_call>", [], "<tool_call>"],
  ["Hermes, special tokens", "<tool_call>", ["<tool_call>", "</tool_call>"], "<tool_call>"],
  ["Llama 3", "<|python_tag|>", ["<|python_tag|>"], '{"name":'],
  ["Mistral", "[TOOL_CALLS]", ["[TOOL_CALLS]"], "[TOOL_CALLS][{"],
  ["Mistral with names", "[TOOL_CALLS][ARGS]", ["[TOOL_CALLS]", "[ARGS]"], "[TOOL_CALLS]"],
  [
    "DeepSeek",
    "<｜tool▁calls▁begin｜>```json",
    deepseekMarks,
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function",
  ],
  ["DeepSeek V3.1", "<｜tool▁calls▁begin｜>", deepseekMarks, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"],
  ["Phi", "<|tool|>", ["<|tool_call|>", "<|/tool_call|>"], "<|tool_call|>[{"],
  ["FunctionGemma", "<start_function_call>", ["<start_function_call>"], '{"name":'],
  ["a model that knows no calls", "", [], '{"name":'],
];

describe("forced calls", () => {
  it.each(dialects)(
    "of %s are whole, are read back, and fit the tools' schemas",
    (_, chatTemplate, special, begins) => {
      const tokenizer = madeTokenizer({ chatTemplate, special, tokens: ['{"', '": "', '"}', "}}", "on"] });
      const grammar = createGrammar(tokenizer);
      const names = new Set<string>();
      let several = 0;
      for (let seed = 0; seed < 40; seed++) {
        const toolChoice = seed % 2 === 0 ? "required" : { name: "set_mode" };
        const request: AnswerRequest = { tools, toolChoice, rendered: "" };
        const { ids, ended } = sample(grammar.constraint(request)!, tokenizer, random(seed), {
          wild: 200,
          most: 4000,
        });
        expect(ended).toBe(true);
        const parser = grammar.parser(request)!;
        const decoder = tokenizer.stream();
        const shown = (id: number): string =>
          decoder.flush() + (parser.markers.has(id) ? tokenizer.token(id) : "");
        const text = ids.map((id) => (tokenizer.isSpecial(id) ? shown(id) : decoder.push(id))).join("");
        expect(text.startsWith(begins), text).toBe(true);
        const pieces = [...parser.push(text), ...parser.flush()];
        const calls = pieces.filter((piece) => piece.type === "tool-call");
        expect(
          pieces.filter((piece) => piece.type === "text"),
          text,
        ).toEqual([]);
        expect(calls.length, text).toBeGreaterThan(0);
        if (calls.length > 1) several++;
        for (const call of calls) {
          names.add(call.name);
          const valid = ajv.compile(parameters[call.name as keyof typeof parameters]);
          expect(valid(JSON.parse(call.arguments)), text).toBe(true);
          if (toolChoice !== "required") expect([call.name, calls.length]).toEqual(["set_mode", 1]);
        }
      }
      expect(names.size).toBe(2);
      expect(several > 0).toBe(!begins.startsWith('{"name"'));
    },
  );

  it("know pico's writing", () => {
    const tokenizer = picoTokenizer();
    const grammar = createGrammar(tokenizer);
    const constraint = grammar.constraint({ tools, toolChoice: "required", rendered: "" })!;
    const text = '<tool_call>{"name": "set_mode", "arguments": {"mode": "on"}}</tool_call>';
    const ids = tokenizer.encode(text, { addSpecial: false });
    expect(ids[0]).toBe(tokenizer.id("<tool_call>"));
    for (const id of ids) expect(constraint.accept(id)).toBe(true);
    expect(constraint.complete).toBe(true);
  });

  it("or an answer in the form asked for, where the model decides", () => {
    const tokenizer = madeTokenizer({ chatTemplate: "<tool_call>" });
    const grammar = createGrammar(tokenizer);
    const request: AnswerRequest = {
      tools,
      responseFormat: { type: "json_schema", schema: { type: "integer" } },
      rendered: "",
    };
    for (const text of ["42", '<tool_call>{"name":"set_mode","arguments":{"mode":"off"}}</tool_call>']) {
      const constraint = grammar.constraint(request)!;
      for (const byte of new TextEncoder().encode(text)) expect(constraint.accept(byte), text).toBe(true);
      expect(constraint.complete).toBe(true);
    }
    expect(grammar.constraint(request)!.accept(0x22)).toBe(false);
  });

  it("keep to the schema of a strict tool where the model decides, between texts that are free", () => {
    const tokenizer = madeTokenizer({ chatTemplate: "<tool_call>", tokens: ["<tool_call>"] });
    const grammar = createGrammar(tokenizer);
    const strict = tools.map((tool) => ({ ...tool, function: { ...tool.function, strict: true } }));
    const constraint = grammar.constraint({ tools: strict, rendered: "" })!;
    const accepts = (text: string): boolean =>
      [...new TextEncoder().encode(text)].every((byte) => constraint.accept(byte));
    const logits = new Float32Array(tokenizer.vocabularySize);
    constraint.mask(logits);
    expect([logits.every((logit) => logit === 0), constraint.complete, constraint.done]).toEqual([
      true,
      true,
      false,
    ]);
    for (const mode of ["on", "off"]) {
      expect(accepts("I set it: {anything} ")).toBe(true);
      expect(constraint.accept(tokenizer.id("<tool_call>")!)).toBe(true);
      expect(constraint.complete).toBe(false);
      expect(accepts("I")).toBe(false);
      expect(accepts(`{"name": "set_mode", "arguments": {"mode": "${mode}"}}\n</tool_call>`)).toBe(true);
      expect([constraint.complete, constraint.done]).toEqual([true, false]);
    }
    expect(grammar.constraint({ tools, rendered: "" })).toBeUndefined();
    // Without a token of their own calls cannot be told from text in time.
    const plain = createGrammar(madeTokenizer({ chatTemplate: "<tool_call>" }));
    expect(plain.constraint({ tools: strict, rendered: "" })).toBeUndefined();
  });

  it("are refused where they make no sense", () => {
    const grammar = createGrammar(madeTokenizer());
    const refused = (request: AnswerRequest) => expect(() => grammar.constraint(request));
    refused({ toolChoice: "required", tools: [] }).toThrow(/there are no tools/);
    refused({ toolChoice: { name: "gone" }, tools }).toThrow(
      /"gone", which is none of the tools.*"get_weather", "set_mode"/,
    );
    refused({ toolChoice: "required", tools: [{ type: "function" }] }).toThrow(/tool 0 has no name/);
    refused({ toolChoice: "required", tools: [{ name: "f", parameters: { minProperties: 1 } }] }).toThrow(
      /minProperties/,
    );
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    refused({ toolChoice: "required", tools: [{ name: "f", parameters: cyclic }] }).toThrow(/not plain JSON/);
  });
});
