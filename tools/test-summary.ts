import { relative } from "node:path";
import { root } from "./workspace.ts";

/** The part of vitest's JSON report that the summary reads. */
export interface VitestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly assertionResults: readonly {
      readonly status: string;
      readonly title: string;
      readonly ancestorTitles: readonly string[];
    }[];
  }[];
}

export interface Totals {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Skipped tests by suite; the suite's name says why. */
  readonly reasons: ReadonlyMap<string, number>;
}

export const empty: Totals = { passed: 0, failed: 0, skipped: 0, reasons: new Map() };

export function add(a: Totals, b: Totals): Totals {
  const reasons = new Map(a.reasons);
  for (const [suite, count] of b.reasons) reasons.set(suite, (reasons.get(suite) ?? 0) + count);
  return {
    passed: a.passed + b.passed,
    failed: a.failed + b.failed,
    skipped: a.skipped + b.skipped,
    reasons,
  };
}

/** Counts tests. A run that fails without a failed test (a file that does not load, a crash) counts as one failure. */
export function tally(report: VitestReport | undefined, exitCode: number): Totals {
  let totals = empty;
  for (const file of report?.testResults ?? []) {
    const path = relative(root, file.name);
    for (const { status, title, ancestorTitles } of file.assertionResults) {
      const titles = [...ancestorTitles, title];
      // A suite that is skipped carries its reason in its own name; the tests below it say nothing new.
      const reason = titles.find((name) => name.includes("skipped:"));
      const suite = `${path}: ${reason ?? `${titles.join(" > ")} (no reason given)`}`;
      totals = add(totals, {
        passed: status === "passed" ? 1 : 0,
        failed: status === "failed" ? 1 : 0,
        skipped: status === "passed" || status === "failed" ? 0 : 1,
        reasons: status === "passed" || status === "failed" ? new Map() : new Map([[suite, 1]]),
      });
    }
    if (file.status === "failed" && !file.assertionResults.some(({ status }) => status === "failed")) {
      totals = add(totals, { ...empty, failed: 1 });
    }
  }
  return exitCode !== 0 && totals.failed === 0 ? { ...totals, failed: 1 } : totals;
}

export function skipLines(totals: Totals): string[] {
  return [...totals.reasons]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([suite, count]) => `  ${suite}: ${count} ${count === 1 ? "test" : "tests"}`);
}
