import { spawn } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { root } from "./workspace.ts";

/** A repository of one file, and an `npx` that installs by linking this Node. */
let folder: string;

beforeAll(() => {
  folder = realpathSync(mkdtempSync(join(tmpdir(), "lowbit-run-")));
  for (const name of ["tools", "bin", "packages/one"]) mkdirSync(join(folder, name), { recursive: true });
  cpSync(join(root, "tools/run.mjs"), join(folder, "tools/run.mjs"));
  writeFileSync(join(folder, "package.json"), '{ "packageManager": "pnpm@1.2.3" }');
  writeFileSync(join(folder, "packages/one/package.json"), "{}");
  script(
    "npx",
    `echo "$@" >> "${folder}/installs"; [ -e "${folder}/broken" ] && { echo no network; exit 3; }
mkdir -p node_modules/node/bin && ln -sf "${process.execPath}" node_modules/node/bin/node`,
  );
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

function script(name: string, body: string): void {
  writeFileSync(join(folder, "bin", name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(folder, "bin", name), 0o755);
}

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(
  args: readonly string[],
  onOutput?: (kill: (signal: NodeJS.Signals) => void) => void,
): Promise<Ended> {
  const env = {
    ...process.env,
    PATH: [join(folder, "bin"), process.env.PATH].join(delimiter),
    INIT_CWD: tmpdir(),
  };
  const child = spawn(process.execPath, [join(folder, "tools/run.mjs"), ...args], { env, cwd: folder });
  const text = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (chunk) => {
      text[name] += chunk;
      if (name === "stdout") onOutput?.((signal) => child.kill(signal));
    });
  }
  return new Promise((done) => child.on("close", (code) => done({ code, ...text })));
}

const installs = (): string[] =>
  existsSync(join(folder, "installs"))
    ? readFileSync(join(folder, "installs"), "utf8").trim().split("\n")
    : [];

describe("run.mjs", () => {
  it("installs once, on stderr, with the pinned pnpm and a frozen lockfile", async () => {
    const first = await run(["node", "-p", "1 + 1"]);
    expect(first).toMatchObject({ code: 0, stdout: "2\n" });
    expect(first.stderr).toContain("installing");
    expect(installs()).toEqual([expect.stringMatching(/^--yes pnpm@1\.2\.3 install --frozen-lockfile/)]);
    expect(await run(["node", "-p", "2 + 2"])).toEqual({ code: 0, stdout: "4\n", stderr: "" });
    expect(installs()).toHaveLength(1);
  });

  it("installs again when a manifest changes, and says why when that fails", async () => {
    writeFileSync(join(folder, "packages/one/package.json"), '{ "version": "2.0.0" }');
    writeFileSync(join(folder, "broken"), "");
    const failed = await run(["node", "-p", "1"]);
    expect(failed).toMatchObject({ code: 1, stdout: "" });
    expect(failed.stderr).toMatch(/no network[\s\S]*installing the dependencies failed \(exit code 3\)/);
    rmSync(join(folder, "broken"));
    expect(await run(["node", "-p", "1"])).toMatchObject({ code: 0 });
    expect(installs()).toHaveLength(3);
  });

  it("leaves the tools for development out until a verb needs them", async () => {
    mkdirSync(join(folder, "packages/cli/src"), { recursive: true });
    writeFileSync(join(folder, "packages/cli/src/main.ts"), "console.log(process.argv.slice(2).join());");
    rmSync(join(folder, "node_modules"), { recursive: true });
    rmSync(join(folder, "installs"));
    expect(await run(["start", "-p", "hi"])).toMatchObject({ code: 0, stdout: "run,-p,hi\n" });
    expect(installs()).toEqual([expect.stringMatching(/--prod$/)]);
    expect((await run(["lowbit", "inspect"])).stdout).toBe("inspect\n");
    expect(installs()).toHaveLength(1);
    expect((await run(["node", "-p", "1"])).code).toBe(0);
    expect(installs()).toHaveLength(2);
    expect(installs()[1]).not.toContain("--prod");
    expect((await run(["start"])).stdout).toBe("run\n");
    expect(installs()).toHaveLength(2);
    writeFileSync(join(folder, "packages/one/package.json"), '{ "version": "3.0.0" }');
    expect((await run(["start"])).stdout).toBe("run\n");
    expect(installs()[2]).not.toContain("--prod");
    rmSync(join(folder, "node_modules/.installed"));
    mkdirSync(join(folder, "node_modules/typescript"));
    await run(["start"]);
    expect(installs()[3]).not.toContain("--prod");
  });

  it("passes arguments, the caller's folder, the exit code and the pinned Node", async () => {
    const code = "console.log(JSON.stringify([process.argv.slice(1), process.cwd()])); process.exit(7)";
    const { code: exitCode, stdout } = await run(["node", "-e", code, "--", "a b", "--flag", "$HOME"]);
    expect(exitCode).toBe(7);
    expect(JSON.parse(stdout)).toEqual([["a b", "--flag", "$HOME"], realpathSync(tmpdir())]);
    expect((await run(["node", "-p", "process.env.PATH"])).stdout).toMatch(
      new RegExp(`^${join(folder, "node_modules/node/bin")}${delimiter}${join(folder, "node_modules/.bin")}`),
    );
  });

  it.each(["SIGTERM", "SIGINT"] as const)("passes %s on and ends as the child does", async (signal) => {
    const handled = `process.on("${signal}", () => process.exit(5)); console.log("up"); setInterval(() => {}, 1000)`;
    expect((await run(["node", "-e", handled], (kill) => kill(signal))).code).toBe(5);
    const unhandled = 'console.log("up"); setInterval(() => {}, 1000)';
    const number = signal === "SIGTERM" ? 15 : 2;
    expect((await run(["node", "-e", unhandled], (kill) => kill(signal))).code).toBe(128 + number);
  });

  it("names the verbs it knows when given another", async () => {
    for (const verb of ["deploy", "constructor"]) {
      const { code, stderr } = await run([verb]);
      expect(code).toBe(2);
      expect(stderr).toMatch(/unknown verb .* known are start, lowbit/);
    }
  });
});
