import { CommanderError } from "commander";
import { LowbitError } from "lowbit";
import { describe, expect, it } from "vitest";
import { errorMessage, exitCodeOf, UsageError } from "./errors.ts";

describe("exit codes", () => {
  it.each([
    [new CommanderError(1, "commander.unknownOption", "error: unknown option"), 2],
    [new CommanderError(0, "commander.helpDisplayed", "(outputHelp)"), 0],
    [new UsageError("wrong"), 2],
    [new LowbitError("bad-argument", "wrong", { reason: "temperature" }), 2],
    [new LowbitError("bad-argument", "its template loops", { reason: "template-budget" }), 1],
    [new LowbitError("file-corrupt", "cut short"), 1],
    [new LowbitError("aborted", "stopped"), 130],
    [new TypeError("surprise"), 1],
    ["a string", 1],
  ])("%s ends in %d", (error, code) => expect(exitCodeOf(error)).toBe(code));
});

describe("error messages", () => {
  it("are one sentence, with the hint and without a stack", () => {
    const error = new LowbitError("file-corrupt", "model.gguf is cut short.", { hint: "Fetch it again." });
    expect(errorMessage(error, false)).toBe("lowbit: model.gguf is cut short. Fetch it again.");
    expect(errorMessage(new UsageError("No prompt."), false)).toBe("lowbit: No prompt.");
  });

  it("point at the switch for errors that nobody foresaw", () => {
    expect(errorMessage(new TypeError("a\nb"), false)).toBe("lowbit: a b (LOWBIT_DEBUG=1 shows where)");
  });

  it("show stacks and causes when asked", () => {
    const text = errorMessage(new Error("outer", { cause: new Error("inner") }), true);
    expect(text).toMatch(/outer\n\s+at [\s\S]*caused by Error: inner\n\s+at /);
  });

  it("are silent where the parser or the user has spoken", () => {
    expect(errorMessage(new CommanderError(1, "x", "y"), false)).toBeUndefined();
    expect(errorMessage(new LowbitError("aborted", "stopped"), false)).toBeUndefined();
  });
});
