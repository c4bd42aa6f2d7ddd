import type { Tensor } from "@lowbit/core";
import { type Bench, evaluateOne, expect, expectExactly, expectRefusal, numbers } from "./harness.ts";
import { packedTypes, randomBlocks } from "./types.ts";

const one = Float32Array.of(1, 2, 3);

/** Scopes, passes, free, and what memory() says. */
export function lifetimeCases({ check, backend }: Bench): void {
  const constant = (): Tensor => backend().ops.constant(one, 1, 3);

  check("read: only after submit, and until the next operation", async () => {
    const x = constant();
    await expect(backend().read(x)).rejects.toMatchObject({ code: "bad-argument" });
    await backend().submit();
    expectExactly(await backend().read(x), one);
    // As often as one likes, each time a copy.
    (await backend().read(x)).fill(0);
    expectExactly(await backend().read(x), one);
    const next = constant();
    await backend().submit();
    await expect(backend().read(x)).rejects.toMatchObject({ code: "bad-argument" });
    expectExactly(await backend().read(next), one);
  });

  check("results of the pass before are no inputs", async () => {
    const x = constant();
    await backend().submit();
    expectRefusal(() => backend().ops.scale(x, 2));
    await backend().submit();
  });

  check("constant copies its data at once", async () => {
    const data = Float32Array.from(one);
    const x = backend().ops.constant(data, 1, 3);
    data.fill(9);
    await backend().submit();
    expectExactly(await backend().read(x), one);
  });

  check("upload and vector copy their data", async () => {
    const data = Float32Array.from(one);
    const vector = backend().vector(data);
    data.fill(9);
    expectExactly(await backend().read(vector), one);
    const type = packedTypes[0]!.type;
    const blocks = randomBlocks(packedTypes[0]!, 1, 32, 1);
    const bias = Float32Array.of(3);
    const weight = backend().upload({ out: 1, in: 32, bias, segments: [{ type, from: 0, to: 32, blocks }] });
    const pass = () =>
      evaluateOne(backend(), (ops) => ops.linear(ops.embed(weight, Int32Array.of(0)), weight));
    const product = await pass();
    blocks.fill(0);
    bias.fill(9);
    expectExactly(await pass(), product);
    backend().free(weight);
    backend().free(vector);
  });

  check("vectors live across passes, until free", async () => {
    const vector = backend().vector(one);
    expect([vector.rows, vector.columns]).toEqual([1, 3]);
    for (let pass = 0; pass < 3; pass++) {
      expectExactly(await evaluateOne(backend(), (ops) => ops.add(vector, vector)), [2, 4, 6]);
    }
    backend().free(vector);
    expectRefusal(() => backend().ops.scale(vector, 2));
    expectRefusal(() => backend().free(vector));
    await expect(backend().read(vector)).rejects.toMatchObject({ code: "bad-argument" });
    await backend().submit();
  });

  check("scope: releases what was made inside, except what it returns", async () => {
    const { ops } = backend();
    let inner: Tensor | undefined;
    const x = constant();
    const kept = ops.scope(() => {
      inner = ops.scale(x, 2);
      return ops.scale(inner, 2);
    });
    expectRefusal(() => ops.scale(inner as Tensor, 2));
    const sum = ops.add(kept, x);
    await backend().submit();
    expectExactly(await backend().read(sum), [5, 10, 15]);
    expectExactly(await backend().read(kept), [4, 8, 12]);
    await expect(backend().read(inner as Tensor)).rejects.toMatchObject({ code: "bad-argument" });
  });

  check("scope: nested, a result belongs to the scope around", async () => {
    const { ops } = backend();
    let middle: Tensor | undefined;
    const x = constant();
    const outer = ops.scope(() => {
      middle = ops.scope(() => ops.scope(() => ops.scale(x, 2)));
      return ops.add(middle, x);
    });
    expectRefusal(() => ops.scale(middle as Tensor, 1));
    await backend().submit();
    expectExactly(await backend().read(outer), [3, 6, 9]);
  });

  check("scope: may return what came from outside, or a vector", async () => {
    const { ops } = backend();
    const vector = backend().vector(one);
    const x = constant();
    expect(ops.scope(() => x)).toBe(x);
    expect(ops.scope(() => vector)).toBe(vector);
    const sum = ops.add(x, vector);
    await backend().submit();
    expectExactly(await backend().read(sum), [2, 4, 6]);
    backend().free(vector);
  });

  check("scope: memory is used again, and nothing gets mixed up", async () => {
    // A chain whose links are scopes, as a model's layers are: x ← x + tanh-like noise, with much thrown away.
    const size = 257;
    const start = numbers(size, 3);
    const values = await evaluateOne(backend(), (ops) => {
      let link = (): Tensor => ops.constant(start, 1, size);
      for (let layer = 0; layer < 40; layer++) {
        const before = link;
        link = () =>
          ops.scope(() => {
            const x = before();
            const noise = ops.scale(x, 3);
            ops.mul(noise, noise);
            const half = ops.scale(ops.columns(ops.add(x, noise), 0, size), 0.125);
            ops.softmax(half);
            return ops.add(half, x);
          });
      }
      return link();
    });
    let expected = start;
    for (let layer = 0; layer < 40; layer++) {
      expected = expected.map((v) =>
        Math.fround(Math.fround(Math.fround(v + Math.fround(v * 3)) * 0.125) + v),
      );
    }
    expectExactly(values, expected);
  });

  check("scope: an error leaves the pass usable", async () => {
    const { ops } = backend();
    const x = constant();
    const failure = new Error("of the caller");
    expect(() =>
      ops.scope(() => {
        ops.scale(x, 5);
        throw failure;
      }),
    ).toThrow(failure);
    const y = ops.scale(x, 2);
    await backend().submit();
    expectExactly(await backend().read(y), [2, 4, 6]);
  });

  check("free gives memory back: usage does not grow over 50 rounds", async () => {
    const sample = packedTypes[0]!;
    const blocks = randomBlocks(sample, 64, 256, 2);
    const round = async (): Promise<void> => {
      const weight = backend().upload({
        out: 64,
        in: 256,
        segments: [{ type: sample.type, from: 0, to: 256, blocks }],
      });
      expect(weight.bytes).toBe(backend().weightBytes(sample.type, 64, 256));
      const vector = backend().vector(new Float32Array(256));
      await evaluateOne(backend(), (ops) => ops.linear(ops.constant(new Float32Array(512), 2, 256), weight));
      backend().free(weight);
      backend().free(vector);
    };
    await round();
    const { usedBytes, limitBytes } = backend().memory();
    expect(limitBytes).toBeGreaterThan(usedBytes);
    for (let i = 0; i < 50; i++) await round();
    expect(backend().memory().usedBytes).toBe(usedBytes);
  });

  check("free: results may be given back before their time", async () => {
    const { ops } = backend();
    const x = constant();
    const y = ops.scale(x, 2);
    const z = ops.scale(y, 2);
    backend().free(y);
    expectRefusal(() => ops.scale(y, 2));
    await backend().submit();
    expectExactly(await backend().read(z), [4, 8, 12]);
  });

  check("the same pass twice gives the same bits", async () => {
    const sample = packedTypes[3]!;
    const blocks = randomBlocks(sample, 33, 512, 5);
    const weight = backend().upload({
      out: 33,
      in: 512,
      segments: [{ type: sample.type, from: 0, to: 512, blocks }],
    });
    const x = numbers(3 * 512, 6);
    const pass = () =>
      evaluateOne(backend(), (ops) =>
        ops.softmax(ops.activate(ops.linear(ops.constant(x, 3, 512), weight), "gelu")),
      );
    const first = await pass();
    expect(await pass()).toEqual(first);
    backend().free(weight);
  });

  check("layouts have a name and a size", () => {
    for (const { type } of packedTypes) {
      const { name, bitsPerWeight } = backend().layout(type);
      expect(name).not.toBe("");
      expect(bitsPerWeight).toBeGreaterThan(0);
      expect(bitsPerWeight).toBeLessThanOrEqual(64);
    }
  });
}
