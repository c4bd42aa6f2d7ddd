import { describe, expect, it } from "vitest";
import { formatBytes, formatCount, formatPairs, formatTable, printable, terminalText } from "./format.ts";
import { progressLine } from "./progress.ts";

describe("format", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.00 kB"],
    [3_661_184, "3.66 MB"],
    [99_949, "99.9 kB"],
    [99_950, "100 kB"],
    [999_499, "999 kB"],
    [999_500, "1.00 MB"],
    [2 ** 32, "4.29 GB"],
    [5e15, "5000 TB"],
  ])("writes %d bytes as %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [12, "12"],
    [3_410_176, "3.41 M"],
    [1_240_000_000, "1.24 B"],
  ])("writes %d parameters as %s", (count, text) => expect(formatCount(count)).toBe(text));

  it("pads columns and pairs", () => {
    const columns = [{ title: "name" }, { title: "bytes", align: "right" as const }];
    expect(
      formatTable(columns, [
        ["a", "1"],
        ["long name", "12345678"],
      ]),
    ).toBe("name          bytes\na                 1\nlong name  12345678");
    expect(
      formatPairs([
        ["a", "1"],
        ["long", "2"],
      ]),
    ).toBe("a     1\nlong  2");
  });

  it("shows control and direction characters of a file as escapes", () => {
    expect(printable('a\u001b[2J"\n\u202e\u009b')).toBe('a\\u001b[2J"\\n\\u202e\\u009b');
  });

  it("takes from a model's text what would drive the terminal, and nothing else", () => {
    expect(terminalText("a\tb\nc\u001b[31m\u0007\u009b é 日本 🎈")).toBe("a\tb\nc[31m é 日本 🎈");
  });

  it("draws progress, also beyond its bounds", () => {
    expect(progressLine("pico", 1_830_592, 3_661_184)).toBe(
      "pico ████████████░░░░░░░░░░░░  50 % 1.83 MB of 3.66 MB",
    );
    expect(progressLine("reading", 9, 3, "tokens")).toMatch(/█{24} 100 % 9 of 3 tokens$/);
    expect(progressLine("empty", 0, 0)).toMatch(/ {3}0 % 0 B of 0 B$/);
  });
});
