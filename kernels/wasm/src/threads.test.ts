import type { Backend, ThreadHost, ThreadListeners } from "@lowbit/core";
import { testPlatform } from "@lowbit/testing";
import { afterEach, describe, expect, it } from "vitest";
import { backendOf, moduleOf, normals, randomOf, sameBits, threadsOf } from "../test/support.ts";
import { createBackend } from "./backend.ts";
import { threadCount } from "./factory.ts";
import { wasm } from "./index.ts";

let backend: Backend | undefined;
afterEach(async () => {
  await backend?.dispose();
  backend = undefined;
});

/** A chain of operations whose results depend on all before. */
async function chain(backend: Backend, seed: number): Promise<Float32Array> {
  const { ops } = backend;
  const random = randomOf(seed);
  let x = ops.constant(normals(64 * 40, random), 40, 64);
  for (let i = 0; i < 30; i++) {
    const y = ops.rmsNorm(x, { epsilon: 1e-5 });
    const z = ops.gate(y, ops.softmax(y), "silu");
    x =
      i % 3 === 0
        ? ops.add(
            ops.gatherRows(
              z,
              Int32Array.from({ length: 40 }, (_, r) => 39 - r),
            ),
            x,
          )
        : ops.mul(z, x);
  }
  await backend.submit();
  return backend.read(x);
}

describe("threads", () => {
  it("many passes give the same bits as one thread, also with more threads than processors", async () => {
    const alone = await backendOf("simd128");
    const expected: Float32Array[] = [];
    for (const seed of [1, 2, 3]) expected.push(await chain(alone, seed));
    await alone.dispose();
    for (const threads of [2, 9]) {
      const many = await backendOf("relaxed-threads", 2 ** 28, threads);
      expect(many.description).toContain(`${threads} threads`);
      for (let i = 0; i < 60; i++) {
        expect(sameBits(await chain(many, 1 + (i % 3)), expected[i % 3]!)).toBe(true);
      }
      await many.dispose();
    }
  });

  it("an entry that fails ends its pass, and the next one runs", async () => {
    backend = await backendOf("relaxed-threads");
    const spec = { layers: 1, kvHeads: 1, keySize: 32, valueSize: 32, pageTokens: 4, pages: 2 };
    const kv = backend.kv({ ...spec, type: "f16" });
    const batch = {
      tokens: Int32Array.of(1, 2),
      positions: Int32Array.of(0, 1),
      sequences: Int32Array.of(0, 0),
      pages: [Int32Array.of(0, 1)],
    };
    const attend = (value: number): void => {
      const { ops } = backend!;
      const x = ops.constant(new Float32Array(64).fill(value), 2, 32);
      ops.attention(x, x, x, { kv, layer: 0, batch, heads: 1, scale: 1 });
    };
    attend(1e6);
    await expect(backend.submit()).rejects.toMatchObject({ code: "bad-argument", reason: "overflow" });
    attend(1);
    await backend.submit();
  });

  it("dispose ends a pass in flight", async () => {
    const gone = await backendOf("relaxed-threads");
    const { ops } = gone;
    let x = ops.constant(new Float32Array(2 ** 20).fill(1), 1024, 1024);
    for (let i = 0; i < 50; i++) x = ops.softmax(x);
    const pass = gone.submit();
    await gone.dispose();
    await expect(pass).rejects.toMatchObject({ code: "internal", reason: "thread" });
    await gone.dispose();
  });

  it("a thread that breaks fails the pass, and all after it", async () => {
    const listeners: ThreadListeners[] = [];
    const host = threadsOf(2);
    const breakable: ThreadHost = {
      processors: 2,
      start(script, given) {
        listeners.push(given);
        return host.start(script, given);
      },
    };
    const module = moduleOf("relaxed-threads");
    backend = await createBackend(
      { module, variant: "relaxed", shared: true, addressSize: 32 },
      2 ** 28,
      breakable,
      2,
    );
    const pass = chain(backend, 1);
    listeners[1]!.error(new Error("out of memory"));
    await expect(pass).rejects.toMatchObject({ code: "internal", reason: "thread" });
    await expect(chain(backend, 1)).rejects.toMatchObject({ reason: "thread" });
  });

  it("where none may start, auto runs without, and a number is refused", async () => {
    const refuses: ThreadHost = {
      processors: 2,
      start() {
        throw new Error("Refused by the Content-Security-Policy.");
      },
    };
    const platform = { ...testPlatform(), threads: refuses };
    const weightBytes = 2 ** 30;
    const made = await wasm().create(platform, { threads: "auto", weightBytes });
    expect(made.description).toContain("one thread");
    await made.dispose();
    await expect(wasm().create(platform, { threads: 2 })).rejects.toMatchObject({
      code: "backend-unavailable",
      reason: "no-threads",
    });
  });
});

describe("threadCount", () => {
  const on = (processors: number) => ({ ...testPlatform(), threads: threadsOf(processors) });
  const large = { weightBytes: 2 ** 30 };

  it("auto: none for small models, then one for each processor, of many a part", () => {
    expect(threadCount(on(2), { weightBytes: 2 ** 20 })).toBe(1);
    expect(threadCount(on(2))).toBe(1);
    expect([1, 2, 4, 6, 12, 64].map((n) => threadCount(on(n), large))).toEqual([1, 2, 4, 4, 6, 8]);
    expect(threadCount(testPlatform(), large)).toBe(1);
  });

  it("a number counts up to that of the processors; without threads it is refused", () => {
    expect([1, 2, 8].map((threads) => threadCount(on(2), { threads }))).toEqual([1, 2, 2]);
    expect(threadCount(testPlatform(), { threads: 1 })).toBe(1);
    expect(() => threadCount(testPlatform(), { threads: 2 })).toThrow(/cross-origin isolated/);
  });
});
