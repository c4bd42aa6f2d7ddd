import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, expect, it } from "vitest";

const root: string = fileURLToPath(new URL("../../..", import.meta.url));
let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-convert-"));
});
afterEach(() => rm(folder, { recursive: true }));

/** Converts a model that is drawn while it is read, in a process of its own. */
const common = `
  import { convert } from "@lowbit/convert";
  import { outputPlace } from "@lowbit/platform";
  import { fakeArchitecture, fakeCheckpoint, fakeWriter } from "@lowbit/testing";
  const run = async (path, layers, width, onProgress) => {
    const source = fakeCheckpoint({ layers, width });
    const target = { name: "fake", options: {}, writer: fakeWriter({ type: "f16" }) };
    const output = await outputPlace(path);
    const report = await convert({ source, architectures: [fakeArchitecture], target, output, onProgress });
    await output.close();
    return report.before.bytes;
  };
`;
const evaluate = (code: string): string[] => ["--input-type=module", "--eval", common + code];

it("a model of three times the memory converts: only one weight is held", async () => {
  // Matrices of 4 MiB; the first run compiles and warms up.
  const code = `
    await run(process.argv[1] + "-warm", 1, 1024);
    const before = process.resourceUsage().maxRSS;
    const bytes = await run(process.argv[1], 32, 1024);
    console.log(JSON.stringify({ bytes, grown: (process.resourceUsage().maxRSS - before) * 1024 }));
  `;
  const path = join(folder, "model");
  const { stdout } = await promisify(execFile)(process.execPath, [...evaluate(code), path], { cwd: root });
  const { bytes, grown } = JSON.parse(stdout);
  expect(bytes).toBeGreaterThan(135e6);
  expect(statSync(join(path, "weights.bin")).size).toBeGreaterThan(bytes / 2);
  expect(grown).toBeLessThan(bytes / 3);
});

it("a process that is killed again and again gets there, and never shows a half model", async () => {
  const code = `
    let left = Number(process.argv[2]);
    const die = () => --left === 0 && process.kill(process.pid, "SIGKILL");
    await run(process.argv[1], 6, 256, (event) => {
      if (event.phase === "done") console.log(event.resumedWeights);
      die();
    });
  `;
  /** Dies at so many events; what it printed at its end, if it got there. */
  const attempt = async (path: string, killAt: number): Promise<string> => {
    const child = spawn(process.execPath, [...evaluate(code), path, String(killAt)], { cwd: root });
    let text = "";
    child.stdout.setEncoding("utf8").on("data", (piece) => {
      text += piece;
    });
    await once(child, "close");
    expect(child.signalCode).toBe(text === "" ? "SIGKILL" : null);
    return text.trim();
  };
  const whole = join(folder, "whole");
  expect(await attempt(whole, 0)).toBe("0");
  const killed = join(folder, "killed");
  // An event at the start, one for each of 13 weights, and then some while the files are put together.
  for (const killAt of [4, 7, 2, 14, 18]) {
    await attempt(killed, killAt);
    expect(readdirSync(folder).sort()).toEqual(["killed.partial", "whole"]);
  }
  expect(await attempt(killed, 0)).toBe("13");
  expect(readdirSync(folder).sort()).toEqual(["killed", "whole"]);
  for (const file of ["weights.bin", "index.json"]) {
    expect(readFileSync(join(killed, file)).equals(readFileSync(join(whole, file)))).toBe(true);
  }
});
