import type { Grammar, TokenConstraint, Tokenizer } from "@lowbit/core";
import { random } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { randomSchema } from "../test/random-schema.ts";
import { sample } from "../test/sample.ts";
import { allows } from "../test/texts.ts";
import { madeTokenizer, picoTokenizer } from "../test/vocabularies.ts";
import { createGrammar } from "./index.ts";

const under = (grammar: Grammar, schema: unknown): TokenConstraint =>
  grammar.constraint({ responseFormat: { type: "json_schema", schema: schema as object } })!;

function allowed(constraint: TokenConstraint, size: number): number[] {
  const logits = new Float32Array(size);
  constraint.mask(logits);
  return [...logits.keys()].filter((id) => logits[id] === 0);
}

/** Feeds tokens by name, longest first; fails where one is not in the mask. */
function write(constraint: TokenConstraint, tokenizer: Tokenizer, names: readonly string[]): void {
  for (const name of names) {
    const id = tokenizer.id(name) ?? name.charCodeAt(0);
    expect(allowed(constraint, tokenizer.vocabularySize), name).toContain(id);
    expect(constraint.accept(id), name).toBe(true);
  }
}

describe("masks", () => {
  it("hold exactly the tokens whose bytes can follow", () => {
    const tokenizer = picoTokenizer();
    const grammar = createGrammar(tokenizer);
    for (let seed = 900; seed < 912; seed++) {
      const next = random(seed);
      const schema = randomSchema(next);
      const { ids } = sample(under(grammar, schema), tokenizer, next, { wild: 12, most: 24 });
      const constraint = under(grammar, schema);
      for (const [at, id] of ids.entries()) {
        if (at % 5 === 0) {
          const found = new Set(allowed(constraint, tokenizer.vocabularySize));
          for (let token = 0; token < tokenizer.vocabularySize; token++) {
            if (tokenizer.isSpecial(token)) continue;
            const again = under(grammar, schema);
            for (const before of ids.slice(0, at)) again.accept(before);
            expect(found.has(token), `seed ${seed}, token ${token} after ${at}`).toBe(again.accept(token));
          }
        }
        constraint.accept(id);
      }
    }
  });

  it("let tokens reach over the borders of the structure", () => {
    const tokenizer = madeTokenizer({ tokens: ['{"a":', '"},{"', '":"', '{"', '"}]', "[{", '[{"a":"', "x"] });
    const grammar = createGrammar(tokenizer);
    const schema = {
      type: "array",
      items: { type: "object", properties: { a: { type: "string" } }, required: ["a"] },
    };
    const constraint = under(grammar, schema);
    write(constraint, tokenizer, ['[{"a":"', "x", '"},{"', "a", '":"', "x", '"}]']);
    expect([constraint.complete, constraint.done]).toEqual([true, true]);
    expect(allowed(constraint, tokenizer.vocabularySize)).toEqual([...tokenizer.endTokens]);
    // The same token where the second object could have no such name.
    expect(under(grammar, { ...schema, maxItems: 1 }).accept(tokenizer.id('"},{"')!)).toBe(false);
  });

  it("let characters come in parts, and finish them", () => {
    const tokenizer = madeTokenizer();
    const constraint = under(createGrammar(tokenizer), { type: "string", pattern: "^[é😀]$" });
    const bytes = [...new TextEncoder().encode('"😀"')];
    for (const [at, byte] of bytes.entries()) {
      if (at > 1 && at < 5) expect(allowed(constraint, 257)).toEqual([byte]);
      expect(constraint.accept(byte)).toBe(true);
    }
    expect(constraint.done).toBe(true);
  });

  it("keep the length of strings over tokens of any length", () => {
    const tokenizer = madeTokenizer({ tokens: ["aa", "aaa", "aaaa", 'aa"', "\\n", "\\n\\n", "éé"] });
    const grammar = createGrammar(tokenizer);
    const id = (name: string): number => tokenizer.id(name)!;
    for (const maxLength of [3, 40]) {
      const constraint = under(grammar, { type: "string", maxLength });
      constraint.accept(0x22);
      for (let left = maxLength; left > 3; left--) constraint.accept(0x61);
      const found = allowed(constraint, tokenizer.vocabularySize);
      for (const name of ["aa", "aaa", 'aa"', "\\n", "\\n\\n", "éé"]) expect(found, name).toContain(id(name));
      expect(found).not.toContain(id("aaaa"));
      constraint.accept(id("aa"));
      const last = allowed(constraint, tokenizer.vocabularySize);
      expect(last).toContain(id("\\n"));
      for (const name of ["aa", 'aa"', "\\n\\n", "éé"]) expect(last, name).not.toContain(id(name));
    }
  });

  it("forbid special tokens, tokens beyond the vocabulary, and ends before the end", () => {
    const tokenizer = madeTokenizer({ special: ["<tool>", "<pad>"] });
    const constraint = under(createGrammar(tokenizer), { type: "integer" });
    const size = tokenizer.vocabularySize + 50;
    expect(allowed(constraint, size)).toEqual([..."-0123456789"].map((digit) => digit.charCodeAt(0)));
    constraint.accept(0x30);
    expect(allowed(constraint, size)).toEqual([...tokenizer.endTokens]);
    expect(constraint.accept(tokenizer.id("<tool>")!)).toBe(false);
    expect([constraint.accept(0x31), constraint.complete]).toEqual([false, true]);
  });

  it("keep the values of what is allowed", () => {
    const tokenizer = madeTokenizer();
    const constraint = under(createGrammar(tokenizer), { type: "string" });
    constraint.accept(0x22);
    const logits = Float32Array.from({ length: 257 }, (_, id) => id / 7);
    constraint.mask(logits);
    expect(logits[0x61]).toBe(Math.fround(0x61 / 7));
    expect(logits[0x0a]).toBe(Number.NEGATIVE_INFINITY);
  });

  it("treat tokens with the same bytes alike", () => {
    const tokenizer = madeTokenizer({ tokens: ["1", "1"] });
    const found = allowed(under(createGrammar(tokenizer), { const: 1 }), tokenizer.vocabularySize);
    expect(found).toEqual([0x31, 256, 257]);
  });

  it("say so where the vocabulary cannot go on", () => {
    const tokenizer = { ...madeTokenizer(), bytes: (id: number) => Uint8Array.of(id < 128 ? id : 0) };
    const constraint = under(createGrammar(tokenizer), { const: "é" });
    constraint.accept(0x22);
    expect(() => constraint.mask(new Float32Array(257))).toThrow(/No token of the vocabulary/);
  });
});

describe("the other forms", () => {
  it("any object", () => {
    const tokenizer = madeTokenizer();
    const constraint = createGrammar(tokenizer).constraint({ responseFormat: { type: "json_object" } })!;
    expect(allowed(constraint, 257)).toEqual([0x7b]);
    for (const byte of new TextEncoder().encode('{"a":[1,{"b":null}], "é":"x"}'))
      expect(constraint.accept(byte)).toBe(true);
    expect(constraint.done).toBe(true);
  });

  it("a pattern for the whole text", () => {
    const regex = (pattern: string) => ({ type: "regex", pattern }) as const;
    expect(allows(regex("\\d{3}|x"), "123")).toBe(true);
    expect(allows(regex("\\d{3}|x"), "x")).toBe(true);
    expect(allows(regex("\\d{3}|x"), "1234")).toBe(false);
    expect(allows(regex('say "\\w+"\\n'), 'say "hi"\n')).toBe(true);
    expect(() => allows(regex("(a)\\1"), "")).toThrow(/\\1/);
  });

  it("none for text, or for tools that nobody must call", () => {
    const grammar = createGrammar(madeTokenizer());
    expect(grammar.constraint({})).toBeUndefined();
    expect(grammar.constraint({ responseFormat: { type: "text" } })).toBeUndefined();
    expect(grammar.constraint({ tools: [{ name: "f" }], toolChoice: "auto" })).toBeUndefined();
  });
});

describe("reasoning", () => {
  it("is free where the prompt has opened it, and the form begins after it", () => {
    const tokenizer = madeTokenizer({ tokens: ["<think>", "</think>", "\n\n"] });
    const constraint = createGrammar(tokenizer).constraint({
      responseFormat: { type: "json_schema", schema: { const: 7 } },
      rendered: "user: hi\nassistant: <think>\n",
    })!;
    const size = tokenizer.vocabularySize;
    expect(allowed(constraint, size)).toHaveLength(size - 1);
    for (const byte of new TextEncoder().encode("I say 8.")) expect(constraint.accept(byte)).toBe(true);
    expect([constraint.complete, constraint.done]).toEqual([false, false]);
    write(constraint, tokenizer, ["</think>", "\n\n", "7"]);
    expect(constraint.done).toBe(true);
  });

  it("is closed at once where its mark is no token", () => {
    const tokenizer = madeTokenizer({ chatTemplate: "<think>…</think>" });
    const constraint = createGrammar(tokenizer).constraint({
      responseFormat: { type: "json_object" },
      rendered: "<think>",
    })!;
    for (const byte of new TextEncoder().encode("</think>\n\n{}")) expect(constraint.accept(byte)).toBe(true);
    expect(constraint.done).toBe(true);
  });
});
