import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { serveFolder } from "@lowbit/testing/serve-folder";
import { ask, describeServedExample, ready } from "@lowbit/testing/served-example";
import { expect, it } from "vitest";
import manifest from "./package.json" with { type: "json" };

const cwd = fileURLToPath(new URL(".", import.meta.url));
const example = describeServedExample("deno", cwd, manifest.scripts.start);

it("reads a model by ranges on Deno Deploy, and keeps nothing of it", async () => {
  const storage = await serveFolder(fileURLToPath(new URL(".", picoGguf)));
  const LOWBIT_CACHE = join(example.cache(), "deployed");
  const server = await example.start({
    MODEL: `${storage.base}/pico-Q8_0.gguf`,
    DENO_DEPLOY: "true",
    LOWBIT_CACHE,
  });
  try {
    await ready(server.base);
    const { choices } = await (await ask(server.base)).json();
    expect(choices[0].message.content).toBe("12 + 7 = 19.");
    expect(existsSync(LOWBIT_CACHE)).toBe(false);
  } finally {
    await server.stop();
    storage.close();
  }
});
