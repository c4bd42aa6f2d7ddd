import type { BackendFactory } from "@lowbit/core";
import { test } from "vitest";
import { attentionCases } from "./backend/attention-cases.ts";
import { blockCases } from "./backend/block-cases.ts";
import { compositeCases } from "./backend/composite-cases.ts";
import {
  describe,
  evaluateOne,
  expect,
  expectRefusal,
  openBench,
  type Precision,
} from "./backend/harness.ts";
import { lifetimeCases } from "./backend/lifetime-cases.ts";
import { linearCases } from "./backend/linear-cases.ts";
import { pageCases } from "./backend/page-cases.ts";
import { plainCases } from "./backend/plain-cases.ts";
import { testPlatform } from "./test-platform.ts";

export interface TestBackendOptions extends Precision {
  /** Another backend to run a whole layer against, in addition to the formulas. */
  readonly against?: BackendFactory;
  /** Names of tests to leave out, each with the reason, which becomes part of the skipped test's name. */
  readonly skip?: Readonly<Record<string, string>>;
}

/**
 * The contract of core's `Backend`, as a suite: every operation against its formula in f64 over all shapes that matter, every
 * family of quantization types and every cache type, scopes and lifetimes, and that wrong use is refused. Call it at the top
 * level of a test file.
 */
export function testBackend(name: string, factory: BackendFactory, options: TestBackendOptions = {}): void {
  const { skip = {}, against } = options;
  const seen = new Set<string>();

  describe(`backend contract: ${name}`, () => {
    const bench = openBench(factory, options, skip, seen);
    describe("linear", () => linearCases(bench));
    describe("weights of several segments", () => compositeCases(bench));
    describe("plain operations", () => plainCases(bench));
    describe("attention", () => attentionCases(bench));
    describe("pages of the cache", () => pageCases(bench));
    describe("lifetimes", () => lifetimeCases(bench));
    if (against) describe("whole layers", () => blockCases(bench, against));
    describe("factory", () => factoryCases(factory, bench.check));

    test("every skipped test exists", () => {
      expect(Object.keys(skip).filter((id) => !seen.has(id))).toEqual([]);
    });
  });
}

function factoryCases(
  factory: BackendFactory,
  check: (id: string, body: () => void | Promise<void>) => void,
): void {
  check("says that it can run, and who it is", async () => {
    expect(await factory.probe(testPlatform())).toMatchObject({ available: true });
    const backend = await factory.create(testPlatform());
    expect(backend.name).toBe(factory.name);
    expect(backend.description).not.toBe("");
    await backend.dispose();
  });

  check("keeps to the platform's memory limit", async () => {
    const limit = 8 * 2 ** 20;
    const backend = await factory.create(testPlatform(limit));
    expect(backend.memory().limitBytes).toBeLessThanOrEqual(limit);
    const before = backend.memory().usedBytes;
    const spec = {
      layers: 4,
      kvHeads: 4,
      keySize: 64,
      valueSize: 64,
      pageTokens: 64,
      pages: 64,
      type: "f32" as const,
    };
    expect(backend.kvBytes(spec)).toBeGreaterThan(limit);
    expectRefusal(() => backend.kv(spec), "out-of-memory");
    expectRefusal(() => backend.vector(new Float32Array(limit / 2)), "out-of-memory");
    expectRefusal(() => backend.ops.constant(new Float32Array(limit / 2), 1, limit / 2), "out-of-memory");
    // What was refused takes nothing, and smaller things still fit.
    expect(backend.memory().usedBytes).toBe(before);
    const values = await evaluateOne(backend, (ops) => ops.constant(Float32Array.of(5), 1, 1));
    expect([...values]).toEqual([5]);
    await backend.dispose();
  });

  check("two backends do not mix", async () => {
    const [a, b] = [await factory.create(testPlatform()), await factory.create(testPlatform())];
    const [x, y] = [a.vector(Float32Array.of(1)), b.vector(Float32Array.of(2))];
    expectRefusal(() => a.ops.add(x, y));
    expectRefusal(() => a.free(y));
    expectRefusal(() => a.ops.scale(b.ops.constant(Float32Array.of(3), 1, 1), 2));
    await expect(a.read(y)).rejects.toMatchObject({ code: "bad-argument" });
    expect([...(await b.read(y))]).toEqual([2]);
    await a.dispose();
    expect([...(await b.read(y))]).toEqual([2]);
    await b.dispose();
  });

  check("dispose ends it, twice if need be", async () => {
    const backend = await factory.create(testPlatform());
    const x = backend.vector(Float32Array.of(1));
    await backend.dispose();
    await backend.dispose();
    expectRefusal(() => backend.vector(Float32Array.of(1)));
    expectRefusal(() => backend.ops.scale(x, 2));
    await expect(backend.submit()).rejects.toMatchObject({ code: "bad-argument" });
    await expect(backend.read(x)).rejects.toMatchObject({ code: "bad-argument" });
  });
}
