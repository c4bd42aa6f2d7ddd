/**
 * `npm test`: type check, linter, the repository's own checks, then every test; at the end what was skipped and why, and
 * the totals. With arguments, only vitest runs, on those. `--checks` leaves vitest out.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkRepositoryLayers } from "./check-layers.ts";
import { ceilings, checkSizes } from "./check-size.ts";
import { checkRepositoryText } from "./check-text.ts";
import { add, empty, skipLines, type Totals, tally, type VitestReport } from "./test-summary.ts";
import { root } from "./workspace.ts";

interface Check {
  readonly name: string;
  /** Problems found; none is a pass. */
  run(): Promise<string[]>;
}

const checks: readonly Check[] = [
  {
    name: "types (tsc)",
    run: () => tool("typescript/bin/tsc", ["-p", "tsconfig.json", "--pretty", "false"]),
  },
  {
    name: "lint and format (biome)",
    run: () =>
      tool("@biomejs/biome/bin/biome", ["check", "--error-on-warnings", "--max-diagnostics=20", "."]),
  },
  { name: "layers", run: async () => checkRepositoryLayers() },
  { name: "sizes", run: async () => (await checkSizes(ceilings)).problems },
  { name: "texts", run: async () => checkRepositoryText() },
];

/** Runs an installed tool on this Node; its output if it fails. */
async function tool(script: string, args: readonly string[]): Promise<string[]> {
  const child = spawn(process.execPath, [join(root, "node_modules", script), ...args], { cwd: root });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text) => (output += text));
  const code = await new Promise<number | null>((done) => child.on("close", done));
  return code === 0 ? [] : [output.trimEnd()];
}

async function runChecks(): Promise<{ totals: Totals; failed: string[] }> {
  let totals = empty;
  const failed: string[] = [];
  for (const check of checks) {
    const started = performance.now();
    const problems = await check.run();
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.log(`${problems.length === 0 ? "ok  " : "FAIL"} ${check.name} (${seconds} s)`);
    for (const problem of problems) console.log(problem.replace(/^/gm, "       "));
    if (problems.length > 0) failed.push(check.name);
    totals = add(totals, {
      ...empty,
      passed: problems.length === 0 ? 1 : 0,
      failed: problems.length === 0 ? 0 : 1,
    });
  }
  return { totals, failed };
}

async function runVitest(args: readonly string[]): Promise<Totals> {
  const folder = mkdtempSync(join(tmpdir(), "lowbit-test-"));
  try {
    const report = join(folder, "report.json");
    const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${report}`];
    const script = join(root, "node_modules/vitest/vitest.mjs");
    const child = spawn(process.execPath, [script, "run", ...reporters, ...args], {
      cwd: root,
      stdio: "inherit",
    });
    const code = await new Promise<number | null>((done) => child.on("close", done));
    return tally(readReport(report), code ?? 1);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function readReport(path: string): VitestReport | undefined {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as VitestReport;
  } catch {
    // Vitest ended before it wrote a report: its exit code and output say why.
    return undefined;
  }
}

const args = process.argv.slice(2);
const checksOnly = args.includes("--checks");
const checked = args.length > 0 && !checksOnly ? { totals: empty, failed: [] } : await runChecks();
let { totals } = checked;
if (!checksOnly) totals = add(totals, await runVitest(args));
const lines = skipLines(totals);
if (lines.length > 0) console.log(`\nSkipped:\n${lines.join("\n")}`);
if (checked.failed.length > 0) console.log(`\nFailed checks (above): ${checked.failed.join(", ")}`);
console.log(`\n${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
process.exitCode = totals.failed === 0 ? 0 : 1;
