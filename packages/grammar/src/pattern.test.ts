import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matches } from "../test/texts.ts";
import { jsonWriting, plainWriting } from "./characters.ts";
import { explore } from "./explore.ts";
import { createExpressions } from "./expression.ts";
import { formats } from "./formats.ts";
import { compilePattern } from "./pattern.ts";

const compile = (pattern: string, writing = plainWriting) => {
  const expressions = createExpressions();
  const expression = compilePattern(expressions, pattern, writing, "#");
  return { test: (text: string) => matches(expressions, expression, text), expressions, expression };
};

describe("patterns", () => {
  const patterns = [
    "^a|b$",
    "a",
    "^$",
    "^(?:ab)*$",
    "^(a|ab)(c|bcd)$",
    "[^a-c]{2,3}",
    "^a{2}b?c{1,}$",
    "^\\d+(?:\\.\\d+)?$",
    "^\\w\\W\\s\\S\\D.$",
    "^[\\w.-]+$",
    "^(?=.*a)(?=.*b)[abc]+$",
    "^(?!ab)[abc]+$",
    "^(?!a$)(?!.*bb)[ab]*$",
    "^(?:a|b)+?$",
    "^x?(?:(?=ab)a|b)b$",
    "^[\\u0061-\\x63]\\u{62}$",
    "^\\$\\^\\.\\*\\/[\\-]\\|$",
    "^(?<name>a)b$",
    "^[^]$",
    "^é?[α-ω]*\\u{1F600}?$",
    "^(?:(?:a|b){2}|c)*$",
    "(^a|^b)c",
    "^a.c$",
    "^[-a]$",
    "^[a-]$",
  ];

  it("match what JavaScript's match", () => {
    const text = fc.string({ unit: fc.constantFrom(..."aabbccdxé7. _-$^*/|αω\n😀"), maxLength: 7 });
    for (const pattern of patterns) {
      const { test } = compile(pattern);
      const theirs = new RegExp(pattern, "u");
      fc.assert(
        fc.property(text, (each) => test(each) === theirs.test(each)),
        { numRuns: 400, seed: 6 },
      );
    }
  });

  it("speak of the characters of a JSON string, not of how they are written there", () => {
    const { test } = compile('^[\\s\\S]"\\\\$', jsonWriting);
    for (const character of ["a", "\n", '"', "\\", "\u0001", "é", "😀"])
      expect(test(JSON.stringify(`${character}"\\`).slice(1, -1)), character).toBe(true);
    expect(test('\\u0061\\"\\\\')).toBe(false);
    expect(test('a"\\\\')).toBe(false);
  });

  it.each([
    ["(a)\\1", /\\1/],
    ["(?<=a)b", /lookbehind/],
    ["\\bword", /\\b/],
    ["\\p{L}", /\\p/],
    ["(?:(?=a)b)*", /repeats a lookahead/],
    ["(", /does not end/],
    [")", /stray \)/],
    ["a**", /repeats a repetition/],
    ["*a", /stray \*/],
    ["[b-a]", /range that is none/],
    ["[a", /does not end/],
    ["a{3,1}", /count/],
    ["a{,3}", /no count/],
    ["\\", /ends in a backslash/],
    ["\\u{110000}", /no character/],
    ["\\x4", /cut off/],
    ["(?i:a)", /not known/],
    ["(".repeat(60) + ")".repeat(60), /deeper/],
    ["a".repeat(5000), /4000/],
  ])("refuse %s", (pattern, message) => {
    expect(() => compile(pattern)).toThrow(message);
  });

  it("do not take long over patterns made to be costly", () => {
    const started = performance.now();
    for (const pattern of [
      "^(a|aa)+$",
      "^(a*)*b$",
      "^(.*a.{30})+$",
      "(x+x+)+y",
      "^(?:a?){200}a{200}$",
      "^.{0,100000}$",
      "(?:.*a){20}",
    ]) {
      const { expressions, expression } = compile(pattern);
      explore(expressions, expression);
    }
    expect(performance.now() - started).toBeLessThan(20_000);
  });
});

describe("formats", () => {
  const good: Record<string, string[]> = {
    date: ["2024-02-29", "2023-12-31", "2000-02-29", "0000-02-29"],
    time: ["23:59:59Z", "00:00:00.123+14:00"],
    "date-time": ["2024-01-31T12:00:00Z"],
    duration: ["P1D", "PT5M", "P1Y2M3DT4H5M6S", "P3W"],
    uuid: ["123e4567-e89b-12d3-a456-426614174000"],
    email: ["a.b+c@example.co.uk"],
    hostname: ["example", "a-b.example.org"],
    ipv4: ["0.0.0.0", "255.249.199.9"],
    ipv6: ["::", "::1", "2001:db8::1", "1:2:3:4:5:6:7:8", "1::", "1:2:3:4:5:6:7::"],
    uri: ["https://example.org:8080/a/b?c=d#e", "ftp://a.b"],
  };
  const bad: Record<string, string[]> = {
    date: ["2023-02-29", "1900-02-29", "2023-04-31", "2023-13-01", "23-01-01"],
    time: ["24:00:00Z", "12:60:00Z", "12:00:00"],
    "date-time": ["2024-01-31", "2024-01-31 12:00:00Z"],
    duration: ["P", "PT", "P1DT", "1D"],
    uuid: ["123e4567e89b12d3a456426614174000"],
    email: ["a@b", "@example.com", "a b@example.com"],
    hostname: ["-a", "a-", "a..b"],
    ipv4: ["256.0.0.0", "1.2.3", "01.2.3.4"],
    ipv6: ["1:2:3:4:5:6:7", "1::2::3", "1:2:3:4:5:6:7:8:9"],
    uri: ["example.org", "https://", "https://a b"],
  };

  it.each(Object.keys(formats))("%s", (name) => {
    const { test } = compile(formats[name]!);
    for (const text of good[name]!) expect(test(text), text).toBe(true);
    for (const text of bad[name]!) expect(test(text), text).toBe(false);
  });
});
