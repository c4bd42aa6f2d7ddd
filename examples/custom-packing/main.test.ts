import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, it } from "vitest";

it("a packing of one's own is written, found and run", async () => {
  const folder = await mkdtemp(join(tmpdir(), "lowbit-example-"));
  try {
    const script = fileURLToPath(new URL("main.ts", import.meta.url));
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [script, join(folder, "pico")]);
    expect(stdout).toBe("12 + 7 = 19.\n");
    expect(stderr).toBe("28 tensors rounded, 10 kept\n");
  } finally {
    await rm(folder, { recursive: true });
  }
});
