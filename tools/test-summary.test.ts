import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { empty, skipLines, tally, type VitestReport } from "./test-summary.ts";
import { root } from "./workspace.ts";

function report(statuses: [status: string, ...titles: string[]][], fileStatus = "passed"): VitestReport {
  const assertionResults = statuses.map(([status, ...titles]) => ({
    status,
    title: titles.at(-1) ?? "",
    ancestorTitles: titles.slice(0, -1),
  }));
  return { testResults: [{ name: join(root, "a.test.ts"), status: fileStatus, assertionResults }] };
}

describe("tally", () => {
  it("counts tests and gathers skipped suites under their reason", () => {
    const totals = tally(
      report([
        ["passed", "a", "one"],
        ["skipped", "b (skipped: no data)", "two"],
        ["skipped", "b (skipped: no data)", "deep", "three"],
        ["pending", "c", "four"],
      ]),
      0,
    );
    expect(totals).toMatchObject({ passed: 1, failed: 0, skipped: 3 });
    expect(skipLines(totals)).toEqual([
      "  a.test.ts: b (skipped: no data): 2 tests",
      "  a.test.ts: c > four (no reason given): 1 test",
    ]);
  });

  it("counts failures, files that do not load and crashes", () => {
    expect(tally(report([["failed", "a"]], "failed"), 1).failed).toBe(1);
    expect(tally(report([], "failed"), 1).failed).toBe(1);
    expect(tally(report([["passed", "a"]]), 1)).toMatchObject({ passed: 1, failed: 1 });
    expect(tally(undefined, 137)).toEqual({ ...empty, failed: 1 });
  });
});
