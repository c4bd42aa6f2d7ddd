/** Access to parsed JSON whose objects are plain ones or maps. What is not there, or is something else, reads as empty. */
export type Json = Readonly<Record<string, unknown>>;

export function object(value: unknown): Json {
  if (value instanceof Map) return Object.fromEntries(value as ReadonlyMap<string, unknown>);
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}

export function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A string, or a token as an object with its content. */
export function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const { content } = object(value);
  return typeof content === "string" ? content : undefined;
}

/** A part of tokenizer.json, or the parts of its sequence. */
export function partsOf(value: unknown): readonly Json[] {
  const part = object(value);
  if (part.type !== "Sequence") return part.type === undefined ? [] : [part];
  const inner = part.normalizers ?? part.pretokenizers ?? part.processors ?? part.decoders;
  return list(inner).flatMap(partsOf);
}
