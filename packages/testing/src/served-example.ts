import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { picoGguf } from "@lowbit/pico";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { type ClientTarget, describeOpenAiClients, passesForLeaving } from "./openai-clients.ts";
import { serveFolder } from "./serve-folder.ts";
import { developmentProgram, type ServingProcess, serveProcess } from "./serve-process.ts";

/** A server that an example starts, with what tests need besides. */
export interface ServedExample {
  start(env?: Record<string, string>): Promise<ServingProcess>;
  /** Folder of what was downloaded; there from the first test on. */
  cache(): string;
}

/** Ends when the model is there. */
export const ready = (base: string): Promise<void> =>
  vi.waitFor(async () => expect((await fetch(`${base}/health`)).status).toBe(200), { timeout: 20_000 });

/** Asks pico what 12 + 7 is. */
export const ask = (base: string, options: object = {}): Promise<Response> =>
  fetch(`${base}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model: "pico-Q8_0",
      messages: [{ role: "user", content: "What is 12 + 7?" }],
      temperature: 0,
      ...options,
    }),
  });

/**
 * Tests of an example that serves OpenAI's interface with a model in the variable MODEL, pico by default: keys, clients, cache, its end. `startCommand` is
 * that of its package.json.
 */
export function describeServedExample(
  runtime: "bun" | "deno",
  cwd: string,
  startCommand: string,
): ServedExample {
  const command = [developmentProgram(runtime), ...startCommand.split(" ").slice(1)];
  let cache = "";
  beforeAll(() => {
    cache = mkdtempSync(join(tmpdir(), `lowbit-${runtime}-`));
  });
  afterAll(() => rmSync(cache, { recursive: true, force: true }));

  const start = (env: Record<string, string> = {}): Promise<ServingProcess> =>
    serveProcess(command, {
      cwd,
      env: { PORT: "0", LOWBIT_CACHE: cache, DENO_NO_UPDATE_CHECK: "1", ...env },
    });

  describe("the server", () => {
    let server: ServingProcess;
    beforeAll(async () => {
      server = await start({ API_KEYS: "first second" });
      await ready(server.base);
    });
    afterAll(() => server.stop());

    it("lets nobody in without a key", async () => {
      expect((await ask(server.base)).status).toBe(401);
    });

    const target = (): ClientTarget => ({
      baseURL: `${server.base}/v1`,
      apiKey: "second",
      model: "pico-Q8_0",
    });
    describeOpenAiClients(target);

    it.each([
      ["streamed", true],
      ["whole", false],
    ])("ends an answer when its reader leaves: %s", async (_, stream) => {
      expect(await passesForLeaving(target(), stream)).toBeLessThan(400);
    });
  });

  it("downloads a model once, and finishes an answer that is being written when it is told to end", async () => {
    const storage = await serveFolder(fileURLToPath(new URL(".", picoGguf)));
    try {
      const MODEL = `${storage.base}/pico-Q8_0.gguf`;
      const first = await start({ MODEL });
      await ready(first.base);
      expect((await first.stop()).code).toBe(0);
      storage.down = true;
      const second = await start({ MODEL });
      await ready(second.base);
      // Without its end tokens pico writes until max_tokens.
      const logit_bias = { "0": -100, "1": -100, "2": -100 };
      const stream = await ask(second.base, { stream: true, logit_bias, max_tokens: 200 });
      const stopped = second.stop();
      const text = await stream.text();
      expect(text).toMatch(/"finish_reason":"length"/);
      expect(text).toMatch(/data: \[DONE\]\s*$/);
      expect((await stopped).code).toBe(0);
      expect(await await ask(second.base).catch(() => "gone")).toBe("gone");
    } finally {
      storage.close();
    }
  });

  it("ends while its model is still being loaded", async () => {
    const storage = await serveFolder(cache);
    storage.stalled = true;
    try {
      const server = await start({ MODEL: `${storage.base}/model.gguf` });
      await expect.poll(() => storage.requests()).toBeGreaterThan(0);
      expect((await fetch(`${server.base}/health`)).status).toBe(503);
      expect((await server.stop()).code).toBe(0);
      expect(server.output().trim().split("\n")).toHaveLength(1);
    } finally {
      storage.close();
    }
  });

  it("ends with what is wrong about a model", async () => {
    const server = await start({ MODEL: "./nothing.gguf" });
    const { code } = await server.ended;
    expect(code).toBe(1);
    expect(server.output()).toMatch(/nothing\.gguf/);
  });

  return { start, cache: () => cache };
}
