import { LowbitError } from "@lowbit/core";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { scripted } from "../test/load-scripted.ts";
import type { Model } from "./index.ts";
import { chained, sha256 } from "./session-format.ts";

const prompt = "a text of more than two pages of positions, so that some are whole and one is not";
const request = { prompt, temperature: 0, maxTokens: 12 };
const load = (options = {}): Promise<Model> => scripted().load({ contextLength: 256, ...options });

/** The same session with its checksums made right again. */
async function sealed(bytes: Uint8Array): Promise<Uint8Array> {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const count = view.getUint32(44, true);
  const end = 88 + 4 * count + view.getUint32(48, true);
  if (end + 32 > copy.length) return copy;
  let digest = await sha256(copy.subarray(0, end));
  copy.set(digest, end);
  for (let at = end + 32, left = count; left > 0 && at < copy.length; left -= 32) {
    const size = 16 * Math.min(32, left);
    if (at + size + 32 > copy.length) break;
    digest = await chained(digest, copy.subarray(at, at + size));
    copy.set(digest, at + size);
    at += size + 32;
  }
  return copy;
}

describe("sessions", () => {
  it("bring a text into another model's cache, which goes on as if it had never left", async () => {
    await using model = await load();
    const whole = await model.complete(request);
    const bytes = await model.saveSession({ note: "{}" });
    await using other = await load();
    const { tokens, note } = await other.restoreSession(bytes);
    const said = [...model.tokenizer.encode(prompt), ...whole.tokens];
    // The last token was chosen, and never run.
    expect([tokens, note]).toEqual([said.slice(0, -1), "{}"]);
    const next = { prompt: [...said, 120, 121], temperature: 0, maxTokens: 12 };
    const [unbroken, restored] = [await model.complete(next), await other.complete(next)];
    expect(restored.tokens).toEqual(unbroken.tokens);
    expect(restored.usage).toEqual(unbroken.usage);
    expect(restored.usage.cachedTokens).toBe(said.length - 1);
  });

  it("of a given text hold all of it, whatever of it was computed before", async () => {
    await using model = await load();
    const fresh = await model.saveSession({ prompt });
    expect(await model.saveSession({ prompt })).toEqual(fresh);
    await model.complete(request);
    expect(await model.saveSession({ prompt: model.tokenizer.encode(prompt) })).toEqual(fresh);
    const messages = [{ role: "user", content: "hello" }];
    const { tokens } = await model.restoreSession(await model.saveSession({ messages }));
    expect(model.tokenizer.decode(tokens)).toBe("u:helloa:");
    expect((await model.complete({ messages, maxTokens: 1 })).usage.cachedTokens).toBe(tokens.length - 1);
  });

  it("come in pieces of a page, too", async () => {
    await using model = await load();
    const pieces: Uint8Array[] = [];
    for await (const piece of model.streamSession({ prompt })) pieces.push(piece);
    expect(Buffer.concat(pieces)).toEqual(Buffer.from(await model.saveSession({ prompt })));
    expect(pieces.map(({ length }) => length).slice(1)).toEqual([512, 32, 512, 32, 16 * 18, 32]);
  });

  it("are saved while others take the pages away", async () => {
    await using model = await load({ contextLength: 128 });
    const bytes = await model.saveSession({ prompt });
    const pieces: Uint8Array[] = [];
    for await (const piece of model.streamSession({ prompt })) {
      pieces.push(piece);
      // A whole context, for which the cache has no room beside this text.
      await model.complete({ prompt: "b".repeat(120), maxTokens: 2 });
    }
    expect(Buffer.concat(pieces)).toEqual(Buffer.from(bytes));
    expect(model.status().running).toBe(0);
  });

  it("need a text, and room", async () => {
    await using model = await load({ contextLength: 128, selfCheck: false });
    await expect(model.saveSession()).rejects.toMatchObject({ reason: "no-session" });
    await expect(model.saveSession({ prompt: "" as never, note: 3 as never })).rejects.toMatchObject({
      reason: "note",
    });
    await expect(model.saveSession({ prompt: "x".repeat(200) })).rejects.toMatchObject({
      code: "context-full",
    });
    const bytes = await model.saveSession({ prompt });
    const running = model.generate({ prompt: "b".repeat(120), maxTokens: 5 });
    await running.next();
    const full = { code: "context-full", reason: "cache-in-use" };
    await expect(model.restoreSession(bytes)).rejects.toMatchObject(full);
    await running.return();
    expect((await model.restoreSession(bytes)).tokens.length).toBe(82);
    const controller = new AbortController();
    controller.abort();
    const { signal } = controller;
    await expect(model.saveSession({ prompt, signal })).rejects.toMatchObject({ code: "aborted" });
    expect(model.status().running).toBe(0);
  });

  it("of another model, cache or context are refused", async () => {
    await using model = await load();
    const bytes = await model.saveSession({ prompt });
    const refusals: [Promise<Model>, string][] = [
      [load({ kvCache: "f32" }), "session-kv"],
      [load({ contextLength: 64 }), "session-context"],
      [scripted({ format: { config: { layers: 2 } } }).load(), "session-model"],
      [scripted({ format: { config: { normEpsilon: 1e-6 } } }).load(), "session-model"],
    ];
    for (const [loading, reason] of refusals) {
      await using other = await loading;
      await expect(other.restoreSession(bytes)).rejects.toMatchObject({ code: "bad-argument", reason });
      expect(other.status().freePages).toBe(other.status().pages);
    }
    const newer = bytes.slice();
    newer[16] = 2;
    await expect(model.restoreSession(newer)).rejects.toMatchObject({ reason: "session-version" });
    await expect(model.restoreSession("no" as never)).rejects.toMatchObject({ reason: "bytes" });
  });

  it("of a model with two sets of rotation factors fit the set that is in use", async () => {
    const rope = {
      dimensions: 4,
      base: 10000,
      pairing: "halves" as const,
      scaling: { kind: "factors" as const, originalContextLength: 128 },
    };
    const parts = scripted({ format: { config: { rope } } });
    await using short = await parts.load({ contextLength: 128 });
    await using long = await parts.load({ contextLength: 256 });
    await using longer = await parts.load({ contextLength: 512 });
    const bytes = await long.saveSession({ prompt });
    await expect(short.restoreSession(bytes)).rejects.toMatchObject({ reason: "session-model" });
    expect((await longer.restoreSession(bytes)).tokens.length).toBe(82);
  });
});

describe("damaged and hostile sessions", () => {
  let model: Model;
  let good: Uint8Array;
  let before: unknown;
  beforeAll(async () => {
    model = await load({ selfCheck: false });
    const other = await load();
    good = await other.saveSession({ prompt, note: "a note" });
    await other.dispose();
    before = model.status();
  });
  afterAll(() => model.dispose());

  /** The error, or undefined if the session was taken. */
  const refusal = async (bytes: Uint8Array): Promise<LowbitError | undefined> => {
    try {
      await model.restoreSession(bytes);
      return undefined;
    } catch (error) {
      expect(LowbitError.is(error), String(error)).toBe(true);
      expect(model.status()).toEqual(before);
      return error as LowbitError;
    }
  };

  it("every beginning, and anything behind the end", async () => {
    for (let length = 0; length < good.length; length += length < 500 ? 1 : 37) {
      expect((await refusal(good.subarray(0, length)))?.code).toBe("file-corrupt");
    }
    expect((await refusal(Buffer.concat([good, good.subarray(0, 1)])))?.reason).toBe("truncated");
  });

  it("every byte changed", async () => {
    const damage = fc.record({ at: fc.nat(good.length - 1), by: fc.integer({ min: 1, max: 255 }) });
    await fc.assert(
      fc.asyncProperty(damage, async ({ at, by }) => {
        const bytes = good.slice();
        bytes[at]! ^= by;
        expect(["file-corrupt", "bad-argument"]).toContain((await refusal(bytes))?.code);
      }),
      { numRuns: 300 },
    );
  });

  it("pages of the same session in another order", async () => {
    const bytes = good.slice();
    const from = good.length - 16 * 18 - 32 - 2 * 544;
    bytes.copyWithin(from, from + 544, from + 1088);
    bytes.set(good.subarray(from, from + 544), from + 544);
    expect(await refusal(bytes)).toMatchObject({
      reason: "checksum",
      message: expect.stringContaining("page 0"),
    });
  });

  it("counts that nothing bears out, whose checksums are right", async () => {
    for (const at of [24, 28, 32, 36, 40, 44, 48, 52]) {
      for (const word of [0, 1, 2 ** 24, 2 ** 31, 2 ** 32 - 1]) {
        const bytes = good.slice();
        const view = new DataView(bytes.buffer);
        if (view.getUint32(at, true) === word) continue;
        view.setUint32(at, word, true);
        expect(["file-corrupt", "bad-argument"]).toContain((await refusal(await sealed(bytes)))?.code);
      }
    }
  });

  it("tokens, notes and numbers that cannot be, whose checksums are right", async () => {
    const changed = async (at: number, ...values: number[]): Promise<string | undefined> => {
      const bytes = good.slice();
      bytes.set(values, at);
      return (await refusal(await sealed(bytes)))?.reason;
    };
    const tokensEnd = 88 + 4 * 82;
    expect(await changed(88, 4, 1)).toBe("token-id");
    expect(await changed(tokensEnd, 0xff)).toBe("note");
    const page = tokensEnd + 6 + 32;
    expect(await changed(page, 0x00, 0x7c)).toBe("kv-values");
    expect(await changed(page + 300, 0x01, 0xfe)).toBe("kv-values");
    expect(await changed(56, 1, 2, 3)).toBe("session-model");
  });

  it("any change, whose checksums are right: an error, or a text like any other", async () => {
    const damage = fc.array(fc.record({ at: fc.nat(good.length - 1), to: fc.nat(255) }), {
      minLength: 1,
      maxLength: 4,
    });
    await fc.assert(
      fc.asyncProperty(damage, async (changes) => {
        const victim = await load({ selfCheck: false });
        const bytes = good.slice();
        for (const { at, to } of changes) bytes[at] = to;
        try {
          const { tokens } = await victim.restoreSession(await sealed(bytes));
          expect((await victim.complete({ prompt: [...tokens, 1], maxTokens: 2 })).tokens).toHaveLength(2);
        } catch (error) {
          expect(LowbitError.is(error), String(error)).toBe(true);
          expect(victim.status().running).toBe(0);
        } finally {
          await victim.dispose();
        }
      }),
      { numRuns: 150 },
    );
  });
});
