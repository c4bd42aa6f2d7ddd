import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { picoGguf } from "@lowbit/pico";
import { bundleEdge, type EdgeBundle, type EdgeServer, serveEdge } from "@lowbit/testing/edge";
import { describeOpenAiClients } from "@lowbit/testing/openai-clients";
import { type Served, serveFolder } from "@lowbit/testing/serve-folder";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

let storage: Served;
let bundle: EdgeBundle;
beforeAll(async () => {
  storage = await serveFolder(fileURLToPath(new URL(".", picoGguf)));
  bundle = await bundleEdge(fileURLToPath(new URL("api/v1/chat/completions.ts", import.meta.url)));
});
afterAll(() => storage.close());

const pico = (): string => `${storage.base}/pico-Q8_0.gguf`;

describe("the function with pico", () => {
  let server: EdgeServer;
  beforeAll(async () => {
    server = await serveEdge(bundle, { MODEL_URL: pico(), API_KEYS: "first second" });
  });
  afterAll(() => server.close());

  it("is less than the mebibyte that Vercel takes", () => {
    const bytes = bundle.files.reduce((sum, file) => sum + gzipSync(file).length, 0);
    expect(bytes).toBeLessThan(2 ** 20);
  });

  it("lets nobody in without a key", async () => {
    const response = await fetch(`${server.base}/api/v1/chat/completions`, { method: "POST" });
    expect(response.status).toBe(401);
  });

  describeOpenAiClients(() => ({ baseURL: `${server.base}/api/v1`, apiKey: "second", model: "model" }));
});

it("says why there is no model, and tries again with the next request", async () => {
  const server = await serveEdge(bundle, { MODEL_URL: pico() });
  const ask = async (): Promise<[number, unknown]> => {
    const response = await fetch(`${server.base}/api/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: "model",
        messages: [{ role: "user", content: "What is 12 + 7?" }],
        temperature: 0,
      }),
    });
    return [response.status, await response.json()];
  };
  try {
    storage.down = true;
    expect(await ask()).toEqual([500, { error: { message: expect.any(String), type: "server_error" } }]);
    storage.down = false;
    expect(await ask()).toMatchObject([200, { choices: [{ message: { content: "12 + 7 = 19." } }] }]);
  } finally {
    storage.down = false;
    await server.close();
  }
});
