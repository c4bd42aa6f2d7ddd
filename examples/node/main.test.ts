import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { picoGguf } from "@lowbit/pico";
import { serveFolder } from "@lowbit/testing/serve-folder";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const script = fileURLToPath(new URL("main.ts", import.meta.url));

describe("the Node.js example", () => {
  let cache = "";
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), "lowbit-node-"));
  });
  afterAll(() => rmSync(cache, { recursive: true, force: true }));

  const run = (...args: string[]) =>
    promisify(execFile)(process.execPath, [script, ...args], {
      env: { ...process.env, LOWBIT_CACHE: cache },
    });

  it("answers", async () => {
    const { stdout, stderr } = await run();
    expect(stdout).toBe("12 + 7 = 19.");
    expect(stderr).toMatch(/tokens\/s/);
  });

  it("answers from a URL, and from its cache when the server is gone", async () => {
    const storage = await serveFolder(fileURLToPath(new URL(".", picoGguf)));
    try {
      const url = `${storage.base}/pico-Q8_0.gguf`;
      expect((await run(url, "What is 12 + 7?")).stdout).toBe("12 + 7 = 19.");
      storage.down = true;
      expect((await run(url)).stdout).toBe("12 + 7 = 19.");
    } finally {
      storage.close();
    }
  });

  it("says what is wrong", async () => {
    await expect(run("./nothing.gguf")).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^\.\/nothing\.gguf: there is no such file[^\n]*\n$/),
    });
  });

  it("ends at Ctrl-C", async () => {
    // A server that lets everybody wait.
    const storage = await serveFolder(cache);
    storage.stalled = true;
    try {
      const running = run(`${storage.base}/model.gguf`);
      await expect.poll(() => storage.requests()).toBeGreaterThan(0);
      running.child.kill("SIGINT");
      await expect(running).rejects.toMatchObject({ code: 130, stdout: "", stderr: "" });
    } finally {
      storage.close();
    }
  });
});
