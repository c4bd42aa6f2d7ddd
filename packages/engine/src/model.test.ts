import { describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import { beginToken, endToken, hashScript, saying, testPlatform, vocabularySize } from "../test/scripted.ts";
import { passes } from "./forward.ts";
import { createKvCache } from "./kv-cache.ts";
import type { Runner } from "./runner.ts";

const tokens = Array.from({ length: 300 }, (_, i) => (i * 7) % 256);
const rowAt = (i: number) => Float32Array.from(hashScript(tokens.slice(0, i + 1)));

describe("forward", () => {
  it("gives the logits of all rows, the last, or a range, over pass borders", async () => {
    await using model = await scripted().load();
    const all = await model.forward(tokens);
    expect(all.length).toBe(300 * vocabularySize);
    for (const i of [0, 127, 128, 299]) {
      expect(all.subarray(i * vocabularySize, (i + 1) * vocabularySize)).toEqual(rowAt(i));
    }
    expect(await model.forward(tokens, { rows: "last" })).toEqual(rowAt(299));
    const range = await model.forward(Int32Array.from(tokens), { rows: [120, 140] });
    expect(range).toEqual(all.subarray(120 * vocabularySize, 140 * vocabularySize));
  });

  it("runs no more passes than the wanted rows need", async () => {
    let count = 0;
    const { load } = scripted({ backend: { onSubmit: () => void count++ } });
    await using model = await load({ selfCheck: false });
    await model.forward(tokens, { rows: [100, 110] });
    expect(count).toBe(1);
    await model.forward(tokens, { rows: "last" });
    expect(count).toBe(1 + 3);
  });

  it("puts the tokens before the wanted rows into the same pass", async () => {
    const sizes: number[][] = [];
    const runner = {
      config: { causal: true },
      plan: { passTokens: 128 },
      platform: testPlatform(),
      cache: createKvCache({
        pageTokens: 32,
        pages: 10,
        contextLength: 320,
        copyPage: () => undefined,
        movePositions: () => undefined,
      }),
      step: async (_: unknown, chunk: readonly number[], rows: readonly number[]) => {
        sizes.push([chunk.length, rows.length]);
        return new Float32Array(rows.length);
      },
    } as unknown as Runner;
    const wanted = { from: 150, to: 162, most: 5, signal: undefined };
    const rows: number[] = [];
    for await (const piece of passes(runner, tokens, wanted)) rows.push(piece.from, piece.rows);
    expect(sizes).toEqual([
      [128, 0],
      [27, 5],
      [5, 5],
      [2, 2],
    ]);
    expect(rows).toEqual([150, 5, 155, 5, 160, 2]);
  });

  it("streams rows in pieces and gives the pages back when left early", async () => {
    await using model = await scripted().load({ contextLength: 320 });
    const pieces: number[][] = [];
    for await (const { from, rows, logits } of model.forwardRows(tokens, { rows: [10, 300] })) {
      pieces.push([from, rows]);
      expect(logits.subarray(0, vocabularySize)).toEqual(rowAt(from));
    }
    expect(pieces.reduce((sum, [, rows]) => sum + (rows ?? 0), 0)).toBe(290);
    for (let i = 0; i < 20; i++) {
      for await (const _ of model.forwardRows(tokens)) break;
    }
    expect((await model.forward(tokens, { rows: "last" })).length).toBe(vocabularySize);
  });

  it("leaves conversations alone", async () => {
    await using model = await scripted().load({ contextLength: 640, sequences: 2 });
    const first = await model.complete({ prompt: "hello there", maxTokens: 4, temperature: 0 });
    await model.forward(tokens);
    const again = await model.complete({ prompt: `hello there${first.text}`, maxTokens: 4, temperature: 0 });
    expect(again.usage.cachedTokens).toBeGreaterThan(0);
  });

  it("refuses what it cannot run", async () => {
    await using model = await scripted().load({ contextLength: 256 });
    await expect(model.forward([])).rejects.toMatchObject({ reason: "empty" });
    await expect(model.forward([1, -1])).rejects.toMatchObject({ reason: "token-id" });
    await expect(model.forward([1.5])).rejects.toMatchObject({ reason: "token-id" });
    await expect(model.forward(5 as never)).rejects.toMatchObject({ code: "bad-argument" });
    await expect(model.forward(tokens)).rejects.toMatchObject({ code: "context-full" });
    await expect(model.forward([1, 2], { rows: [1, 3] })).rejects.toMatchObject({ reason: "rows" });
    await expect(model.forward([1], { row: "all" } as never)).rejects.toMatchObject({
      reason: "unknown-option",
    });
  });
});

describe("embed", () => {
  // The scripted hidden state of a token: its position + 1 in each of 8 columns, but 1 in the column of the token's own id.
  it("pools and normalises", async () => {
    await using model = await scripted().load();
    const raw = (text: string, pooling: "mean" | "last" | "cls") =>
      model.embed(text, { pooling, normalize: false });
    expect([...(await raw("abc", "mean"))]).toEqual(new Array(8).fill(2.5));
    expect([...(await raw("abc", "last"))]).toEqual(new Array(8).fill(4));
    expect([...(await raw("abc", "cls"))]).toEqual(new Array(8).fill(1));
    const unit = await model.embed("x".repeat(400));
    expect(Math.hypot(...unit)).toBeCloseTo(1, 6);
    const many = await model.embed(["a", "b"]);
    expect(many.length).toBe(2);
    expect(await model.embed([])).toEqual([]);
  });

  it("refuses what it does not know", async () => {
    await using model = await scripted().load();
    await expect(model.embed("a", { pooling: "max" } as never)).rejects.toMatchObject({ reason: "pooling" });
    await expect(model.embed(5 as never)).rejects.toMatchObject({ code: "bad-argument" });
  });
});

describe("chat", () => {
  it("holds the conversation and reuses the cache from turn to turn", async () => {
    const prompts: string[] = [];
    const script = (history: readonly number[]) => {
      const text = new TextDecoder().decode(Uint8Array.from(history.filter((id) => id < 256)));
      prompts.push(text);
      const answer = text.slice(text.lastIndexOf("a:") + 2);
      return saying([...new TextEncoder().encode("fine"), endToken], history.length - answer.length)(history);
    };
    await using model = await scripted({ script }).load();
    const chat = model.chat({ system: "be kind", temperature: 0 });
    expect((await chat.send("hi")).text).toBe("fine");
    const second = await chat.send("and you?");
    expect(second.text).toBe("fine");
    expect(second.usage.cachedTokens).toBeGreaterThanOrEqual("s:be kindu:hia:fine".length);
    expect(chat.messages.map(({ role, content }) => `${role} ${content}`)).toEqual([
      "system be kind",
      "user hi",
      "assistant fine",
      "user and you?",
      "assistant fine",
    ]);
    chat.clear();
    expect(chat.messages).toEqual([{ role: "system", content: "be kind" }]);
  });

  it("forgets a turn that was aborted or left, and refuses two at once", async () => {
    await using model = await scripted().load();
    const chat = model.chat();
    for await (const event of chat.stream("one")) if (event.type === "token") break;
    expect(chat.messages).toEqual([]);
    await expect(chat.send("two", { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "aborted",
    });
    expect(chat.messages).toEqual([]);
    const first = chat.send("three", { maxTokens: 3 });
    await expect(chat.send("four")).rejects.toMatchObject({ code: "bad-argument", reason: "busy" });
    await first;
    expect(chat.messages.length).toBe(2);
    const last = chat.send("five", { maxTokens: 3 });
    await new Promise((resolve) => setImmediate(resolve));
    chat.clear();
    await last;
    expect(chat.messages).toEqual([]);
  });
});

describe("without a tokenizer", () => {
  it("token ids still work", async () => {
    await using model = await scripted({ format: { tokenizer: false } }).load();
    const { tokens: ids, text } = await model.complete({
      prompt: [beginToken, 65],
      maxTokens: 4,
      temperature: 0,
    });
    expect([ids.length, text]).toEqual([4, ""]);
    await expect(model.complete({ prompt: "text" })).rejects.toMatchObject({ reason: "no-tokenizer" });
    expect(() => model.tokenizer).toThrow(/no tokenizer/);
  });
});

describe("dispose", () => {
  it("frees everything once, and later calls say so", async () => {
    const { load, backend } = scripted();
    const model = await load();
    await Promise.all([model.dispose(), model.dispose()]);
    expect([backend.alive.size, backend.disposed()]).toEqual([0, 1]);
    const calls = [
      () => model.complete({ prompt: "a" }),
      () => model.forward([1]),
      () => model.embed("a"),
      () => model.chat().send("a"),
    ];
    for (const call of calls) await expect(call()).rejects.toMatchObject({ reason: "disposed" });
  });

  it("waits for the pass in flight and ends generations with an error", async () => {
    let inside = false;
    const { load, backend } = scripted({
      backend: {
        onSubmit: async () => {
          inside = true;
          await new Promise((resolve) => setTimeout(resolve, 10));
          inside = false;
        },
      },
    });
    const model = await load();
    const running = model.complete({ prompt: "a" });
    const failed = expect(running).rejects.toMatchObject({ reason: "disposed" });
    await new Promise((resolve) => setTimeout(resolve, 25));
    await model.dispose();
    expect([inside, backend.disposed()]).toEqual([false, 1]);
    await failed;
  });

  it("recovers from a pass that fails", async () => {
    const { load } = scripted({
      backend: {
        onSubmit: (count) => {
          if (count === 3) throw new Error("device lost");
        },
      },
    });
    await using model = await load();
    await expect(model.complete({ prompt: "hello", temperature: 0 })).rejects.toThrow("device lost");
    await using other = await scripted().load();
    const request = { prompt: "hello", temperature: 0, maxTokens: 8 };
    expect((await model.complete(request)).text).toBe((await other.complete(request)).text);
  });
});
