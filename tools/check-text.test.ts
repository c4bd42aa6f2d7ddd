import { describe, expect, it } from "vitest";
import { checkText } from "./check-text.ts";

const problems = (text: string): string[] => checkText([{ path: "a.ts", text }]);

describe("checkText", () => {
  it.each([
    ["// TODO: later", "unfinished"],
    ['throw new Error("not implemented");', "missing part"],
    ['const path = "/home/someone/model.gguf";', "machine"],
    ['it.skip("slow", () => {});', "tests off"],
    ["<<<<<<< ours", "conflict"],
  ])("refuses %j", (line, word) => {
    expect(problems(`const a = 1;\n${line}\n`)).toEqual([
      expect.stringMatching(new RegExp(`^a\\.ts:2: .*${word}`)),
    ]);
  });

  it("leaves ordinary text alone", () => {
    const text = "a homework, https://example.org/home/x, ./work/x, Hacker, hack away\n";
    expect(problems(text)).toEqual([]);
  });
});
