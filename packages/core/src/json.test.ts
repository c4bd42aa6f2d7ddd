import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowbitError } from "./errors.ts";
import { type JsonValue, parseJson } from "./json.ts";

/** Maps back to plain objects, without invoking setters. */
function plain(value: JsonValue): unknown {
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [key, plain(item)]));
  return Array.isArray(value) ? value.map(plain) : value;
}

function reason(text: string): string | undefined {
  try {
    parseJson(text, "text");
  } catch (error) {
    if (LowbitError.is(error)) return error.reason;
    throw error;
  }
  return undefined;
}

describe("parseJson", () => {
  it("agrees with JSON.parse on what JSON.stringify writes", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5 }), fc.constantFrom(undefined, 1, "\t"), (value, indent) => {
        const text = JSON.stringify(value, null, indent);
        expect(plain(parseJson(text, "text"))).toEqual(JSON.parse(text));
      }),
      { seed: 1, numRuns: 500 },
    );
  });

  it("refuses exactly what JSON.parse refuses, names that occur twice apart", () => {
    const piece = fc.constantFrom(
      "{",
      "}",
      "[",
      "]",
      ",",
      ":",
      '"a"',
      '"b',
      "\\u00",
      "1",
      "-",
      "0",
      ".5",
      "e3",
      "true",
      "nul",
      " ",
      "\n",
      "\u0001",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const text = pieces.join("");
        let expected: unknown;
        try {
          expected = JSON.parse(text);
        } catch {
          expect(reason(text)).toBe("invalid-json");
          return;
        }
        if (reason(text) !== "duplicate") expect(plain(parseJson(text, "text"))).toEqual(expected);
      }),
      { seed: 2, numRuns: 5000 },
    );
  });

  it("keeps names that are special in JavaScript", () => {
    const value = parseJson('{"__proto__": {"x": 1}, "constructor": 2, "": 3}', "text");
    expect([...(value as ReadonlyMap<string, JsonValue>).keys()]).toEqual(["__proto__", "constructor", ""]);
  });

  it("reads escapes", () => {
    const text = String.raw`"\u00e9\n\"\\\/\ud83d\ude42"`;
    expect(parseJson(text, "text")).toBe('é\n"\\/🙂');
  });

  it.each([
    ['{"a": 1, "a": 2}', "duplicate"],
    ['{"a": 1, "\\u0061": 2}', "duplicate"],
    ["[1,]", "invalid-json"],
    ['{"a":1,}', "invalid-json"],
    ["[,1]", "invalid-json"],
    ["01", "invalid-json"],
    ["1 2", "invalid-json"],
    ["", "invalid-json"],
    ['"\\x"', "invalid-json"],
    ['"\\', "invalid-json"],
    ["NaN", "invalid-json"],
    ["'a'", "invalid-json"],
    ["\uFEFF{}", "invalid-json"],
  ])("%s is refused: %s", (text, word) => expect(reason(text)).toBe(word));

  it("ends deep nesting before the stack does", () => {
    for (const open of ["[", '{"a":']) {
      expect(reason(open.repeat(1_000_000))).toBe("invalid-json");
    }
    expect(plain(parseJson(`${"[".repeat(100)}${"]".repeat(100)}`, "text"))).toBeDefined();
  });
});
