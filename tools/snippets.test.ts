import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { describe, expect, it } from "vitest";
import { repositorySnippets, runnableSnippets } from "./snippets.ts";
import { root } from "./workspace.ts";

/** Runs a snippet as a script at the repository's root would run, with a model.gguf beside it. */
async function run(code: string): Promise<{ exitCode: number | null; output: string }> {
  // Below the root, so that imports of the workspace's packages resolve; the name is ignored by git.
  const folder = mkdtempSync(join(root, "node_modules/.snippet-"));
  try {
    cpSync(fileURLToPath(picoGguf), join(folder, "model.gguf"));
    writeFileSync(join(folder, "package.json"), '{ "type": "module" }');
    writeFileSync(join(folder, "snippet.mjs"), stripTypeScriptTypes(code));
    const child = spawn(process.execPath, ["snippet.mjs"], {
      cwd: folder,
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    const exitCode = await new Promise<number | null>((done) => child.on("close", done));
    return { exitCode, output };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

describe("snippets in the documentation", () => {
  const snippets = repositorySnippets();

  it("exist", () => {
    expect(snippets.length).toBeGreaterThan(0);
  });

  it.each(snippets)("$where runs", async ({ code }) => {
    const { exitCode, output } = await run(code);
    expect(exitCode, output).toBe(0);
  });

  it("are found by their fence alone, and must end", () => {
    const markdown = "```ts\na\n```\n```ts runnable\nb\nc\n```\n";
    expect(runnableSnippets("x.md", markdown)).toEqual([{ where: "x.md:4", code: "b\nc" }]);
    expect(() => runnableSnippets("x.md", "```ts runnable\nb\n")).toThrow("x.md:1");
  });

  it("fail the test when they fail", async () => {
    expect((await run('import { gone } from "lowbit";\ngone();')).exitCode).not.toBe(0);
  });
});
