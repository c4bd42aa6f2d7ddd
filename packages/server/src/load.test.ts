import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { picoGguf } from "@lowbit/pico";
import { load, type Model } from "lowbit";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { post } from "../test/fake-model.ts";
import { createServer, type Server } from "./index.ts";

// A real model under real concurrency.

let model: Model;
let server: Server;
beforeAll(async () => {
  // Less cache than so many texts want at once: some have to wait, and some to be computed anew.
  model = await load(picoGguf, { contextLength: 256, sequences: 3 });
  server = createServer({ model, name: "pico", limits: { parallel: 32, queue: 64 } });
});
afterAll(async () => {
  await server.close();
  await model.dispose();
});

const path = "/v1/chat/completions";
const nouns = ["cat", "dog", "king", "boat", "star", "cake", "frog", "bear"];
const question = (i: number): string =>
  i % 2 === 0
    ? `What is ${i} + ${(i * 7) % 40}?`
    : `Write a short story about a ${nouns[(i >> 1) % 8]} and ${i} apples.`;
const body = (i: number, stream: boolean) => ({
  model: "pico",
  messages: [{ role: "user", content: question(i) }],
  temperature: 0,
  max_tokens: 40,
  stream,
});

async function streamed(i: number, leaveAfter = Number.POSITIVE_INFINITY): Promise<string> {
  const response = await server.fetch(post(path, body(i, true)));
  expect(response.status).toBe(200);
  let text = "";
  let rest = "";
  let seen = 0;
  const decoder = new TextDecoder();
  for await (const chunk of response.body ?? []) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split("\n\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "data: [DONE]") return text;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      text += event.choices[0].delta.content ?? "";
    }
    if (++seen >= leaveAfter) break;
  }
  return text;
}

setFlagsFromString("--expose-gc");
const collect: () => void = runInNewContext("gc");

describe("many at once", () => {
  it("64 streams get the answers that each would get alone", async () => {
    const alone: string[] = [];
    for (let i = 0; i < 64; i++) {
      const messages = [{ role: "user", content: question(i) }];
      alone.push((await model.complete({ messages, temperature: 0, maxTokens: 40 })).text);
    }
    expect(new Set(alone).size).toBeGreaterThan(40);
    const together = await Promise.all(alone.map((_, i) => streamed(i)));
    expect(together).toEqual(alone);
  });

  it("streams that are left early free what they held, and disturb nobody", async () => {
    const { tokens } = await model.complete({
      messages: [{ role: "user", content: question(1) }],
      temperature: 0,
      maxTokens: 40,
    });
    const [full, ...left] = await Promise.all([
      streamed(1),
      ...Array.from({ length: 31 }, (_, i) => streamed(i + 2, 1 + (i % 9))),
    ]);
    expect(full).toBe(model.tokenizer.decode(tokens));
    expect(left).toHaveLength(31);
    await expect.poll(() => model.status()).toMatchObject({ running: 0, waiting: 0 });
  });

  it("hundreds of requests leave memory as it was", async () => {
    const rounds = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++)
        await Promise.all([0, 1, 2, 3, 4, 5].map((n) => streamed(i + n, n === 0 ? 3 : undefined)));
    };
    const used = async (): Promise<number> => {
      // What hangs on streams and signals goes with the second collection, after their finalizers.
      collect();
      await new Promise((done) => setTimeout(done, 20));
      collect();
      return process.memoryUsage().heapUsed + process.memoryUsage().external;
    };
    await rounds(15);
    const backend = model.status().usedBytes;
    const before = await used();
    await rounds(50);
    // The last pass's activations count as used, and passes differ in size.
    expect(Math.abs(model.status().usedBytes - backend)).toBeLessThan(2 ** 18);
    // 300 requests: less than 5 kB each could stay unnoticed.
    expect((await used()) - before).toBeLessThan(1.5 * 2 ** 20);
  });

  it("embeddings share passes with each other", async () => {
    const input = nouns.map((noun) => `a ${noun}`);
    const response = await server.fetch(post("/v1/embeddings", { model: "pico", input }));
    const { data } = await response.json();
    for (const [i, text] of input.entries()) {
      expect(data[i].embedding).toEqual([...(await model.embed(text))]);
    }
  });
});
