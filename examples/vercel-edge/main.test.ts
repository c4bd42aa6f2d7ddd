import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { ggmlTypes } from "@lowbit/gguf";
import { picoGguf } from "@lowbit/pico";
import { bundleEdge, type EdgeBundle, type EdgeServer, serveEdge } from "@lowbit/testing/edge";
import { type ClientTarget, describeOpenAiClients, passesForLeaving } from "@lowbit/testing/openai-clients";
import { type Served, serveFolder } from "@lowbit/testing/serve-folder";
import { modelShapes, writeTinyModel } from "@lowbit/testing/tiny-model";
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

  const target = (): ClientTarget => ({
    baseURL: `${server.base}/api/v1`,
    apiKey: "second",
    model: "model",
  });
  describeOpenAiClients(target);

  it.each([
    ["streamed", true],
    ["whole", false],
  ])("ends an answer when its reader leaves: %s", async (_, stream) => {
    expect(await passesForLeaving(target(), stream)).toBeLessThan(400);
  });
});

const ask = async (server: EdgeServer): Promise<[number, unknown]> => {
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
const refusal = (message: RegExp): [number, unknown] => [
  500,
  { error: { message: expect.stringMatching(message), type: "server_error" } },
];

it("says why there is no model, and tries again with the next request", async () => {
  const server = await serveEdge(bundle, { MODEL_URL: pico() });
  try {
    storage.down = true;
    expect(await ask(server)).toEqual(refusal(/^http:\/\/127\.0\.0\.1.*pico-Q8_0\.gguf/));
    storage.down = false;
    expect(await ask(server)).toMatchObject([200, { choices: [{ message: { content: "12 + 7 = 19." } }] }]);
  } finally {
    storage.down = false;
    await server.close();
  }
});

it("says that it has no URL of a model", async () => {
  const server = await serveEdge(bundle);
  try {
    expect(await ask(server)).toEqual(refusal(/MODEL_URL/));
  } finally {
    await server.close();
  }
});

it("refuses what does not fit 128 MB before it reads a weight", async () => {
  const folder = await mkdtemp(join(tmpdir(), "lowbit-edge-"));
  const large = await serveFolder(folder);
  const server = await serveEdge(bundle, { MODEL_URL: `${large.base}/model.gguf` });
  try {
    // SmolLM2-135M's shape with random weights.
    const type = [...ggmlTypes.values()].find(({ name }) => name === "Q8_0");
    await writeTinyModel(join(folder, "model.gguf"), {
      ...modelShapes["smollm2-135m"],
      ...(type && { type }),
    });
    expect(await ask(server)).toEqual(refusal(/needs 1\d\d MB.*may take 105 MB/));
    // The header with its vocabulary.
    expect(large.sentBytes()).toBeLessThan(2 * 2 ** 20);
  } finally {
    await server.close();
    large.close();
    await rm(folder, { recursive: true, force: true });
  }
});
