import { LowbitError, type ResponseFormat, type TokenConstraint } from "@lowbit/core";
import type { Expression, Expressions } from "../src/expression.ts";
import { createGrammar } from "../src/index.ts";
import { madeTokenizer } from "./vocabularies.ts";

/** Does the whole text match? */
export function matches({ next }: Expressions, expression: Expression, text: string): boolean {
  let at = expression;
  for (const byte of new TextEncoder().encode(text)) at = next(at)[byte]!;
  return at.nullable;
}

const tokenizer = madeTokenizer();
const grammar = createGrammar(tokenizer);

export function constraintOf(schema: ResponseFormat | object | boolean, strict = true): TokenConstraint {
  const format =
    typeof schema === "object" && "pattern" in schema && "type" in schema && schema.type === "regex"
      ? (schema as ResponseFormat)
      : ({ type: "json_schema", schema: schema as object, strict } as ResponseFormat);
  return grammar.constraint({ responseFormat: format })!;
}

/** Is the text, byte by byte, a whole one under the schema? */
export function allows(schema: ResponseFormat | object | boolean, text: string, strict = true): boolean {
  const constraint = constraintOf(schema, strict);
  for (const byte of new TextEncoder().encode(text)) if (!constraint.accept(byte)) return false;
  return constraint.complete;
}

/** The message with which a schema is refused; "" if it is not. */
export function refusal(schema: unknown): string {
  try {
    grammar.constraint({ responseFormat: { type: "json_schema", schema: schema as object } });
    return "";
  } catch (error) {
    if (LowbitError.is(error) && error.code === "bad-argument") return error.message;
    throw error;
  }
}
