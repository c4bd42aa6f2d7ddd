import type { Backend, LinearWeight, Platform, QuantType, Tensor } from "@lowbit/core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { backendOf, evaluate, moduleOf, normals, randomOf, sameBits } from "../test/support.ts";
import { wasm } from "./index.ts";

const platform: Platform = {
  name: "test",
  files: () => Promise.reject(new Error("no files here")),
  wasm: (url) => Promise.resolve(moduleOf(url.pathname.includes("relaxed") ? "relaxed" : "simd128")),
  now: () => 0,
  yield: () => Promise.resolve(),
  memoryLimitBytes: 2 ** 28,
};

describe("wasm()", () => {
  it("is available and says what it chose", async () => {
    const factory = wasm();
    expect(factory.name).toBe("wasm");
    expect(await factory.probe(platform)).toEqual({ available: true });
    const backend = await factory.create(platform);
    expect(backend.description).toMatch(/SIMD, one thread/);
    expect(backend.memory().limitBytes).toBe(2 ** 28);
    await backend.dispose();
  });

  it("takes modules and a limit from its user", async () => {
    const lost = { ...platform, wasm: () => Promise.reject(new Error("not found")) };
    expect(await wasm().probe(lost)).toMatchObject({ available: false, reason: "not found" });
    const factory = wasm({ modules: { simd128: moduleOf("simd128") }, memoryLimitBytes: 2 ** 20 });
    expect(await factory.probe(lost)).toEqual({ available: true });
    const backend = await factory.create(lost);
    expect(backend.description).toContain("128-bit SIMD");
    expect(() => backend.vector(new Float32Array(2 ** 18))).toThrow(/memoryLimitBytes/);
  });

  it("refuses options that are none", () => {
    expect(() => wasm({ variant: "avx" as "auto" })).toThrow(/"auto", "simd128" or "relaxed"/);
    expect(() => wasm({ memoryLimitBytes: 0 })).toThrow(/expected > 0/);
  });
});

/** The identity as an 8-bit weight. */
function identity(size: number): LinearWeight {
  const blocks = new Uint8Array(size * size);
  for (let i = 0; i < size; i++) blocks[i * size + i] = 1;
  const type: QuantType = {
    name: "test-bytes",
    block: 32,
    bytes: 32,
    code: { per: 1, pieces: [{ at: 0, bits: 8, dims: [[32, 8]] }], signed: true },
    values: { kind: "affine", zero: 0 },
  };
  return { out: size, in: size, segments: [{ type, from: 0, to: size, blocks }] };
}

describe("backend", () => {
  let backend: Backend;
  let constant: (value: number, columns?: number) => Tensor;
  beforeEach(async () => {
    backend = await backendOf("simd128", 2 ** 24);
    constant = (value, columns = 4) =>
      backend.ops.constant(new Float32Array(columns).fill(value), 1, columns);
  });
  afterEach(() => backend.dispose());

  it("computes nothing before submit, and results go when the next pass begins", async () => {
    const { ops } = backend;
    const x = ops.scale(constant(3), 2);
    await expect(backend.read(x)).rejects.toThrow(/before submit/);
    await backend.submit();
    expect([...(await backend.read(x))]).toEqual([6, 6, 6, 6]);
    expect([...(await backend.read(x))], "reading does not consume").toEqual([6, 6, 6, 6]);
    const next = constant(1);
    await expect(backend.read(x)).rejects.toThrow(/after its release/);
    expect(() => ops.add(next, x)).toThrow(/after its release/);
    await backend.submit();
    expect([...(await backend.read(next))]).toEqual([1, 1, 1, 1]);
  });

  it("does not let the first operation of a pass use a result of the last one", async () => {
    const x = constant(1);
    await backend.submit();
    expect(() => backend.ops.scale(x, 2)).toThrow(/after its release/);
  });

  it("keeps vectors over passes until they are freed", async () => {
    const vector = backend.vector(Float32Array.of(1, 2, 3));
    for (let pass = 0; pass < 3; pass++) {
      const y = await evaluate(backend, () => backend.ops.scale(vector, pass));
      expect([...y]).toEqual([pass, 2 * pass, 3 * pass]);
    }
    backend.free(vector);
    expect(() => backend.ops.scale(vector, 1)).toThrow(/after its release/);
    expect(() => backend.free(vector)).toThrow(/was freed/);
  });

  it("releases what a scope made, except its result", async () => {
    const { ops } = backend;
    let inner: Tensor | undefined;
    const before = backend.memory().usedBytes;
    const result = ops.scope(() => {
      inner = constant(5, 1000);
      return ops.scope(() => ops.add(inner!, ops.scale(inner!, 2)));
    });
    expect(backend.memory().usedBytes - before).toBeLessThan(4100);
    expect(() => ops.scale(inner!, 1)).toThrow(/after its release/);
    const y = ops.scale(result, 2);
    await backend.submit();
    expect((await backend.read(y))[999]).toBe(30);
    expect((await backend.read(result))[0]).toBe(15);
  });

  it("reuses scope memory within a pass without mixing values, constants included", async () => {
    const { ops } = backend;
    const random = randomOf(3);
    const inputs = Array.from({ length: 40 }, () => normals(257, random));
    let total: Tensor = constant(0, 257);
    for (const input of inputs) {
      const last = total;
      total = ops.scope(() => {
        const x = ops.constant(input, 1, 257);
        const half = ops.scope(() => ops.scale(ops.add(x, x), 0.25));
        return ops.add(last, ops.add(half, half));
      });
    }
    await backend.submit();
    const expected = inputs.reduce((sums, x) => sums.map((v, i) => v + x[i]!), new Float32Array(257));
    expect(await backend.read(total)).toEqual(expected);
  });

  it("copies constants when they are recorded", async () => {
    const data = Float32Array.of(1, 2);
    const x = backend.ops.constant(data, 1, 2);
    data[0] = 9;
    await backend.submit();
    expect([...(await backend.read(x))]).toEqual([1, 2]);
  });

  it("forgets what a scope recorded if it throws, and keeps the rest", async () => {
    const { ops } = backend;
    const weight = backend.upload(identity(32));
    const x = constant(2, 32);
    const kept = backend.memory().usedBytes;
    expect(() =>
      ops.scope(() => {
        ops.linear(x, weight);
        return ops.scope(() => {
          constant(2, 10_000);
          throw new Error("no");
        });
      }),
    ).toThrow("no");
    expect(backend.memory().usedBytes).toBe(kept);
    // The quantized form of x was forgotten too, and is made anew.
    const y = ops.linear(x, weight);
    await backend.submit();
    expect([...(await backend.read(y))]).toEqual(Array(32).fill(2));
  });

  it("host writes between recording and submit do not meet the pass's memory", async () => {
    const { ops } = backend;
    const x = constant(1, 1000);
    const result = ops.scope(() => ops.add(ops.scale(x, 2), ops.scale(x, 3)));
    const vector = backend.vector(new Float32Array(1000).fill(9));
    const weight = backend.upload(identity(32));
    const y = ops.add(result, vector);
    const z = ops.linear(ops.columns(y, 0, 32), weight);
    await backend.submit();
    expect((await backend.read(y)).every((value) => value === 14)).toBe(true);
    expect((await backend.read(z)).every((value) => value === 14)).toBe(true);
    expect((await backend.read(vector)).every((value) => value === 9)).toBe(true);
  });

  it("goes on after a shape error", async () => {
    const x = constant(1);
    expect(() => backend.ops.add(x, constant(1, 5))).toThrow(/\[1, 4\].*\[1, 5\]/);
    const y = backend.ops.scale(x, 2);
    await backend.submit();
    expect([...(await backend.read(y))]).toEqual([2, 2, 2, 2]);
  });

  it("runs out of memory with an error and recovers", async () => {
    const huge = (): Tensor => {
      let x = constant(1, 500_000);
      for (let i = 0; i < 100; i++) x = backend.ops.scale(x, 2);
      return x;
    };
    expect(huge).toThrow(expect.objectContaining({ code: "out-of-memory", reason: "wasm-memory" }));
    const y = await evaluate(backend, () => constant(7, 500_000));
    expect(y[499_999]).toBe(7);
  });

  it("runs a list longer than its first buffer, and constants longer than one entry", async () => {
    let x = constant(0);
    for (let i = 0; i < 5000; i++) x = backend.ops.scope(() => backend.ops.add(x, constant(1)));
    await backend.submit();
    expect([...(await backend.read(x))]).toEqual([5000, 5000, 5000, 5000]);
    const large = await backendOf("simd128", 2 ** 28);
    const data = Float32Array.from({ length: 2 ** 22 + 5 }, (_, i) => i);
    const y = await evaluate(large, () => large.ops.constant(data, 1, data.length));
    expect([y[0], y[2 ** 22 - 1], y[2 ** 22], y.at(-1)]).toEqual([0, 2 ** 22 - 1, 2 ** 22, 2 ** 22 + 4]);
    await large.dispose();
  });

  it("gives indices as numbers, and refuses to submit inside a scope", async () => {
    const { ids } = backend.ops.topK(backend.ops.constant(Float32Array.of(1, 5, 3), 1, 3), 2);
    await backend.submit();
    expect([...(await backend.read(ids))]).toEqual([1, 2]);
    let attempt: Promise<void> | undefined;
    backend.ops.scope(() => {
      attempt = backend.submit();
      return constant(1);
    });
    await expect(attempt).rejects.toThrow(/inside a scope/);
  });

  it("refuses what belongs to another backend", async () => {
    const other = await backendOf("simd128");
    const kv = other.kv({
      layers: 1,
      kvHeads: 1,
      keySize: 4,
      valueSize: 4,
      pageTokens: 4,
      pages: 1,
      type: "f32",
    });
    const x = constant(1);
    const foreign = other.vector(Float32Array.of(1, 2, 3, 4));
    const batch = {
      tokens: Int32Array.of(0),
      positions: Int32Array.of(0),
      sequences: Int32Array.of(0),
      pages: [Int32Array.of(0)],
    };
    expect(() => backend.ops.attention(x, x, x, { kv, layer: 0, batch, heads: 1, scale: 1 })).toThrow(
      /another backend/,
    );
    expect(() => backend.ops.add(x, foreign)).toThrow(/another backend/);
    expect(() => backend.free(kv)).toThrow(/another backend/);
    await expect(backend.read(foreign)).rejects.toThrow(/another backend/);
    await other.dispose();
  });

  it("is closed after dispose", async () => {
    const vector = backend.vector(Float32Array.of(1));
    await backend.dispose();
    await backend.dispose();
    expect(() => backend.ops.scale(vector, 1)).toThrow(/disposed/);
    expect(() => backend.vector(Float32Array.of(1))).toThrow(/disposed/);
    expect(() => constant(1)).toThrow(/disposed/);
    expect(() => backend.ops.scope(() => vector)).toThrow(/disposed/);
    await expect(backend.submit()).rejects.toThrow(/disposed/);
    expect(() => backend.free(vector)).not.toThrow();
    expect(backend.memory().usedBytes).toBe(0);
  });

  it("works above 2 GiB, where addresses have their top bit set", async () => {
    const large = await backendOf("relaxed", 2 ** 32);
    const small = await backendOf("simd128", 2 ** 28);
    const spec = { layers: 1, kvHeads: 2, keySize: 64, valueSize: 64, pageTokens: 64, type: "f16" } as const;
    const pass = async (own: Backend, pages: number): Promise<Float32Array> => {
      const kv = own.kv({ ...spec, pages });
      const weight = own.upload(identity(128));
      const vector = own.vector(normals(128, randomOf(1)));
      const batch = {
        tokens: new Int32Array(3),
        positions: Int32Array.of(0, 1, 2),
        sequences: new Int32Array(3),
        pages: [Int32Array.of(pages - 1)],
      };
      return evaluate(own, () => {
        const { ops } = own;
        const x = ops.rmsNorm(ops.constant(normals(3 * 128, randomOf(2)), 3, 128), {
          weight: vector,
          epsilon: 1e-5,
        });
        const y = ops.linear(ops.attention(x, x, x, { kv, layer: 0, batch, heads: 2, scale: 0.1 }), weight);
        return ops.add(ops.softmax(y), ops.topK(y, 128).values);
      });
    };
    // 2.5 GiB of addresses, of which next to nothing is touched.
    const high = await pass(large, (2.5 * 2 ** 30) / (2 * 128 * 2 * 64));
    expect(large.memory().usedBytes).toBeGreaterThan(2.5 * 2 ** 30);
    expect(sameBits(high, await pass(small, 1))).toBe(true);
    await Promise.all([large.dispose(), small.dispose()]);
  });

  it("50 cycles of create, load and dispose do not grow the process", async () => {
    const cycle = async (): Promise<void> => {
      const own = await backendOf("simd128");
      const vector = own.vector(new Float32Array(2 ** 22).fill(1));
      await evaluate(own, () => own.ops.scale(vector, 2));
      await own.dispose();
    };
    for (let i = 0; i < 10; i++) await cycle();
    const before = process.memoryUsage.rss();
    for (let i = 0; i < 50; i++) await cycle();
    // Each cycle touches 48 MiB; collection may lag a few of them behind.
    expect(process.memoryUsage.rss() - before).toBeLessThan(300 * 2 ** 20);
  });

  it("gives all memory back through free", () => {
    const before = backend.memory().usedBytes;
    for (let i = 0; i < 50; i++) {
      const vector = backend.vector(new Float32Array(50_000));
      const kv = backend.kv({
        layers: 2,
        kvHeads: 2,
        keySize: 32,
        valueSize: 32,
        pageTokens: 16,
        pages: 8,
        type: "q8_0",
      });
      backend.free(vector);
      backend.free(kv);
    }
    expect(backend.memory().usedBytes).toBe(before);
  });
});
