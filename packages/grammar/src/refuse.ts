import { LowbitError } from "@lowbit/core";

/** `where` is a JSON pointer into the schema, "#" for all of it. */
export function refuse(where: string, problem: string, hint?: string): LowbitError {
  return new LowbitError("bad-argument", `The schema cannot be kept to: at ${short(where)}, ${problem}.`, {
    reason: "schema",
    plugin: "grammar",
    ...(hint !== undefined && { hint }),
  });
}

export function tooLarge(where: string, what: string): LowbitError {
  return refuse(where, what, "Simplify the schema, or split it.");
}

/** Text from outside in a message: quoted and cut. */
export function quote(text: string): string {
  return short(JSON.stringify(text));
}

function short(text: string): string {
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}
