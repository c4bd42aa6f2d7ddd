import { LowbitError } from "@lowbit/core";

/**
 * The JSON Schema of an object that implements Standard JSON Schema (zod from 4.2, ArkType, Valibot's adapter …): what its parser
 * takes, since that is what the answer is given to. Anything else is handed back as it is.
 */
export function standardSchema(schema: unknown): unknown {
  if (
    (typeof schema !== "object" && typeof schema !== "function") ||
    schema === null ||
    !("~standard" in schema)
  )
    return schema;
  const standard = schema["~standard"];
  const converter =
    typeof standard === "object" && standard !== null && "jsonSchema" in standard
      ? standard.jsonSchema
      : undefined;
  const vendor =
    typeof standard === "object" && standard !== null && "vendor" in standard ? standard.vendor : "unknown";
  if (
    typeof converter !== "object" ||
    converter === null ||
    !("input" in converter) ||
    typeof converter.input !== "function"
  ) {
    throw new LowbitError(
      "bad-argument",
      `The schema of ${String(vendor)} has no converter to JSON Schema.`,
      {
        reason: "schema",
        plugin: "grammar",
        hint: "Convert it yourself, or take a version of the library that implements Standard JSON Schema.",
      },
    );
  }
  try {
    return converter.input({ target: "draft-2020-12" });
  } catch (cause) {
    throw new LowbitError(
      "bad-argument",
      `The schema of ${String(vendor)} cannot be written as JSON Schema.`,
      {
        reason: "schema",
        plugin: "grammar",
        hint: cause instanceof Error ? cause.message : "Use types that JSON has.",
        cause,
      },
    );
  }
}
