import { fuzzCases, random } from "@lowbit/testing";
import { Ajv2020 } from "ajv/dist/2020.js";
import addFormats from "ajv-formats";
import { describe, expect, it } from "vitest";
import { randomSchema } from "../test/random-schema.ts";
import { sample } from "../test/sample.ts";
import { picoTokenizer } from "../test/vocabularies.ts";
import { createGrammar } from "./index.ts";

const ajv = new Ajv2020({ strict: false, validateFormats: true, allErrors: true });
addFormats.default(ajv);

describe("texts sampled at random under the mask", () => {
  it("parse and validate, for random schemas", { timeout: 900_000 }, () => {
    const tokenizer = picoTokenizer();
    const grammar = createGrammar(tokenizer);
    const cases = fuzzCases(300);
    let [texts, refused, cut] = [0, 0, 0];
    for (let seed = 0; texts < cases; seed++) {
      const next = random(seed);
      const schema = randomSchema(next);
      const strict = next() < 0.7;
      const where = `seed ${seed}: ${JSON.stringify(schema)}`;
      let constraint: ReturnType<typeof grammar.constraint>;
      try {
        constraint = grammar.constraint({ responseFormat: { type: "json_schema", schema, strict } });
      } catch (error) {
        // Conditions that contradict each other are refused; a schema of this generator is never unsupported.
        expect(String(error), where).toMatch(/no finite text meets/);
        refused++;
        continue;
      }
      const { text, ended } = sample(constraint!, tokenizer, next);
      texts++;
      if (!ended) {
        cut++;
        continue;
      }
      let value: unknown;
      expect(() => {
        value = JSON.parse(text);
      }, `${where}\n${text}`).not.toThrow();
      const valid = ajv.compile(schema);
      expect(valid(value), `${where}\n${text}\n${JSON.stringify(valid.errors)}`).toBe(true);
    }
    expect(cut / texts).toBeLessThan(0.02);
    expect(refused / texts).toBeLessThan(0.2);
  });
});
