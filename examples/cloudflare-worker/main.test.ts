import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ggmlTypes } from "@lowbit/gguf";
import { picoGguf } from "@lowbit/pico";
import { describeOpenAiClients } from "@lowbit/testing/openai-clients";
import { modelShapes, writeTinyModel } from "@lowbit/testing/tiny-model";
import { load, memoryPresets, r2Files } from "lowbit";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Simulator, simulate } from "./simulator.ts";

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

describe("the Worker with pico", () => {
  let worker: Simulator;
  beforeAll(async () => {
    worker = await simulate(fileURLToPath(picoGguf), { API_KEYS: "first second" });
  });
  afterAll(() => worker[Symbol.asyncDispose]());

  it("is a bundle of less than a mebibyte", () => {
    expect(worker.bundleBytes).toBeLessThan(2 ** 20);
  });

  it("lets nobody in without a key", async () => {
    expect((await fetch(new URL("/v1/models", worker.base))).status).toBe(401);
  });

  describeOpenAiClients(() => ({
    baseURL: new URL("/v1", worker.base).href,
    apiKey: "second",
    model: "model",
  }));

  it("shares passes among requests at the same time, and gives each its own text", async () => {
    const ask = async (prompt: string): Promise<string> => {
      const response = await fetch(new URL("/v1/completions", worker.base), {
        method: "POST",
        headers: { authorization: "Bearer first", "content-type": "application/json" },
        body: JSON.stringify({
          model: "model",
          prompt,
          max_tokens: 60,
          temperature: 0,
          logit_bias: { 0: -100, 1: -100, 2: -100 },
        }),
      });
      const { choices } = (await response.json()) as { choices: { text: string }[] };
      return choices[0]?.text ?? "";
    };
    const passes = async (): Promise<number> => {
      const headers = { authorization: "Bearer first" };
      const text = await (await fetch(new URL("/metrics", worker.base), { headers })).text();
      return Number(/^lowbit_passes\S* (\d+)/m.exec(text)?.[1]);
    };
    const prompts = ["Once upon a time", "The cat", "A dog and a bird"];
    const alone = [];
    for (const prompt of prompts) alone.push(await ask(prompt));
    const before = await passes();
    expect(await Promise.all(prompts.map(ask))).toEqual(alone);
    expect((await passes()) - before).toBeLessThan(120);
  });
});

describe("128 MB", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "lowbit-135m-"));
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  /** SmolLM2-135M's shape with random weights. */
  async function model(typeName: string): Promise<string> {
    const path = join(folder, `${typeName}.gguf`);
    const type = [...ggmlTypes.values()].find(({ name }) => name === typeName);
    await writeTinyModel(path, { ...modelShapes["smollm2-135m"], ...(type && { type }) });
    return path;
  }

  /** Reads as loading does, and keeps nothing: what the simulated bucket itself takes. */
  const reader = `export default {
    async fetch(request, { MODELS }) {
      const { size } = await MODELS.head("model.gguf");
      for (let offset = 0; offset < size; offset += 2 ** 19) {
        const part = await MODELS.get("model.gguf", { range: { offset, length: Math.min(2 ** 19, size - offset) } });
        (await part.arrayBuffer()).transfer(0);
      }
      return new Response("read");
    },
  };`;

  it("hold SmolLM2-135M in 4 bits, its cache and all that JavaScript needs", async () => {
    const path = await model("Q4_0");
    const simulated = async (): Promise<number> => {
      await using worker = await simulate(path, {}, reader);
      const before = worker.residentBytes();
      expect(await (await fetch(worker.base)).text()).toBe("read");
      return worker.residentBytes() - before;
    };
    const control = await simulated();
    await using worker = await simulate(path);
    const before = worker.residentBytes();
    const mostHeap = await worker.watchHeap();
    const response = await fetch(new URL("/v1/completions", worker.base), {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        model: "model",
        prompt: "Once upon a time",
        max_tokens: 32,
        temperature: 0,
        // The tokens that end a text.
        logit_bias: { 49149: -100, 49150: -100, 49151: -100 },
      }),
    });
    expect(await response.json()).toMatchObject({ usage: { completion_tokens: 32 } });
    const heap = mostHeap();
    const resident = worker.residentBytes() - before - control;
    const metrics = await (await fetch(new URL("/metrics", worker.base))).text();
    const held = Number(/^lowbit_memory_held_bytes\S* (\d+)/m.exec(metrics)?.[1]);
    console.log(
      [
        `lowbit's books ${megabytes(held)}: WebAssembly memory, and an estimate of the tokenizer`,
        `JavaScript's heap and buffers at most ${megabytes(heap)}, the tokenizer among them`,
        `workerd grew by ${megabytes(resident)}, besides ${megabytes(control)} of the simulated bucket`,
      ].join("\n"),
    );
    expect(held).toBeGreaterThan(76e6);
    // The tokenizer is in both.
    expect(held - 200 * 49152 + heap).toBeLessThan(120e6);
    // With what isolates are not charged for: machine code, the inspector, workerd's own buffers.
    expect(resident).toBeLessThan(128 * 2 ** 20);
  });

  it("are too few for 8 bits, which is told before any weight is read", async () => {
    const path = await model("Q8_0");
    await using worker = await simulate(path);
    const response = await fetch(new URL("/v1/models", worker.base));
    expect([response.status, await response.json()]).toEqual([
      500,
      { error: { message: expect.stringMatching(/needs 1\d\d MB.*may take 105 MB/), type: "server_error" } },
    ]);
    // The same where reads can be counted.
    let read = 0;
    const file = await open(path);
    const { size } = await file.stat();
    const bucket: Parameters<typeof r2Files>[0] = {
      head: async () => ({ size, etag: "1" }),
      list: async () => ({ objects: [], truncated: false }),
      async get(_, { range: { offset, length } }) {
        read += length;
        const { buffer } = await file.read(new Uint8Array(length), 0, length, offset);
        return { size, etag: "1", arrayBuffer: async () => buffer.buffer as ArrayBuffer };
      },
    };
    const { limitBytes } = memoryPresets.workers;
    await expect(load(r2Files(bucket, "model.gguf"), { memoryLimitBytes: limitBytes })).rejects.toMatchObject(
      {
        code: "out-of-memory",
        reason: "memory-plan",
      },
    );
    await file.close();
    // The header with its vocabulary.
    expect(read).toBeLessThan(2 * 2 ** 20);
  });

  it("start within 400 ms of computing", async () => {
    const compute = async (script?: string): Promise<number> => {
      await using worker = await simulate(undefined, {}, script);
      await (await fetch(worker.base)).text();
      return worker.cpuSeconds();
    };
    const nothing = await compute("export default { fetch: () => new Response('') }");
    const whole = await compute();
    console.log(`${((whole - nothing) * 1000).toFixed(0)} ms more than a Worker that does nothing`);
    expect(whole - nothing).toBeLessThan(0.4);
  });
});
