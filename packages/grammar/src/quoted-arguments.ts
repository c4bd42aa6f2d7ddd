/**
 * Arguments in Gemma's writing as JSON: `{city:<escape>Paris<escape>,days:3}`. Keys are bare, strings stand between two marks, lists
 * and objects nest. Undefined if it is something else.
 */
export function quotedArguments(text: string, mark: string): string | undefined {
  const parts = text.split(mark);
  // Odd parts are strings; in the others only structure, keys and numbers are left.
  if (parts.length % 2 === 0) return undefined;
  const json = parts
    .map((part, i) =>
      i % 2 === 1 ? JSON.stringify(part) : part.replace(/[^\s{}[\]:,]+/g, (word) => bare(word)),
    )
    .join("");
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? JSON.stringify(value)
      : undefined;
  } catch {
    return undefined;
  }
}

const literal = /^(?:true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)$/;

function bare(word: string): string {
  return literal.test(word) || /^".*"$/s.test(word) ? word : JSON.stringify(word);
}
