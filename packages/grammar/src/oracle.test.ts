import type { Tokenizer } from "@lowbit/core";
import { fuzzCases, random } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { sample } from "../test/sample.ts";
import { picoTokenizer } from "../test/vocabularies.ts";
import { loadXGrammar, oracleOf } from "../test/xgrammar.ts";
import { createGrammar } from "./index.ts";

type Schema = Record<string, unknown>;

/**
 * What both read alike: the oracle's formats know no calendar, its bounded strings no escapes, its names no accents, and its ranges of
 * integers let others in.
 */
function sharedSchema(next: () => number, depth = 0): Schema {
  const below = (limit: number): number => Math.floor(next() * limit);
  switch (below(depth > 2 ? 6 : 9)) {
    case 0:
      return { type: "string" };
    case 1:
      return { type: ["boolean", "null", "number"][below(3)] };
    case 2:
      return { type: "string", pattern: "^[A-Z][A-Z0-9 ]*$" };
    case 3:
      return { enum: ["x", "xy", 1, null, "a b"].slice(below(3)) };
    case 4:
      return { type: "string", pattern: ["^[a-z]{2,4}$", "^(foo|bar)+$", "^\\d{3}-\\d{2}$"][below(3)] };
    case 5:
      return { type: "integer" };
    case 6: {
      const minItems = below(3);
      return {
        type: "array",
        items: sharedSchema(next, depth + 1),
        minItems,
        maxItems: minItems + 1 + below(3),
      };
    }
    case 7:
      return { anyOf: [sharedSchema(next, depth + 1), { type: "boolean" }, { type: "array" }] };
    default: {
      const names = ["a", "ab", "name", "id"].slice(below(4));
      const properties = Object.fromEntries(names.map((name) => [name, sharedSchema(next, depth + 1)]));
      const required = names.filter(() => next() < 0.5);
      return { type: "object", properties, required, additionalProperties: false };
    }
  }
}

/** Both as strings of one character a byte. Why the oracle allows a token that is not allowed here: our numbers end, our characters are characters. */
function explained(before: string, token: string): boolean {
  const impossibleUtf8 = /[\xc0\xc1\xf5-\xff]/.test(token);
  const longNumber = /^\d/.test(token) && /(?:\d{15}|[eE][+-]?\d\d)$/.test(before);
  const surrogate =
    /\\u[dD]?[0-9a-fA-F]{0,3}$/.test(before) || /\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u?)?$/.test(before);
  const badSecondByte = /[\xe0\xed\xf0\xf4]$/.test(before) && /^[\x80-\xbf]/.test(token);
  return impossibleUtf8 || longNumber || surrogate || badSecondByte;
}

const shown = (tokenizer: Tokenizer, id: number): string => String.fromCharCode(...tokenizer.bytes(id));

describe("masks against xgrammar's", () => {
  it("are the same after every beginning of random texts, but for what is explained", {
    timeout: 300_000,
  }, async () => {
    const xgrammar = await loadXGrammar();
    const tokenizer = picoTokenizer();
    const grammar = createGrammar(tokenizer);
    // Each case costs the oracle about 30 ms.
    const cases = Math.min(400, fuzzCases(40));
    let compared = 0;
    for (let seed = 0; seed < cases; seed++) {
      const next = random(seed);
      const schema = sharedSchema(next);
      const make = () => grammar.constraint({ responseFormat: { type: "json_schema", schema } })!;
      const oracle = await oracleOf(xgrammar, tokenizer, schema);
      const { ids } = sample(make(), tokenizer, next, { wild: 20, most: 60 });
      const constraint = make();
      for (let length = 0; length <= ids.length; length++) {
        const before = ids
          .slice(0, length)
          .map((id) => shown(tokenizer, id))
          .join("");
        const where = `seed ${seed}: ${JSON.stringify(schema)} after ${JSON.stringify(before)}`;
        const theirs = await oracle.allowed(ids.slice(0, length));
        expect(theirs, where).toBeDefined();
        const logits = new Float32Array(tokenizer.vocabularySize);
        constraint.mask(logits);
        for (const [id, logit] of logits.entries()) {
          if (tokenizer.isSpecial(id)) continue;
          const token = shown(tokenizer, id);
          if (logit === 0) expect(theirs?.has(id), `${where}, ${JSON.stringify(token)} only here`).toBe(true);
          else if (theirs?.has(id))
            expect(explained(before, token), `${where}, ${JSON.stringify(token)} only there`).toBe(true);
        }
        expect(constraint.complete, where).toBe([...tokenizer.endTokens].some((id) => theirs?.has(id)));
        compared++;
        if (length < ids.length) constraint.accept(ids[length]!);
      }
      oracle.dispose();
    }
    expect(compared).toBeGreaterThan(cases * 5);
  });
});
