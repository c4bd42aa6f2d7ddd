import type { Backend, BackendFactory, Tensor, TokenBatch } from "@lowbit/core";
import { testPlatform } from "../test-platform.ts";
import { type Bench, evaluateOne, expect, numbers } from "./harness.ts";
import { packedTypes, randomBlocks, type SampleType } from "./types.ts";

/** Whole blocks of all types. */
const width = 256;
const heads = { heads: 8, kvHeads: 4, keySize: 32, valueSize: 32 };
const experts = { count: 4, used: 2, width: 256 };

/** A layer of a mixture model, from token ids to probabilities, in one pass. */
async function layer(backend: Backend, sample: SampleType, n: number): Promise<Float32Array> {
  let seed = 0;
  const resources: (Tensor | ReturnType<Backend["upload"]> | ReturnType<Backend["kv"]>)[] = [];
  const keep = <Resource extends (typeof resources)[number]>(resource: Resource): Resource => {
    resources.push(resource);
    return resource;
  };
  const matrix = (out: number, columns: number, count = 1) => {
    const blocks = randomBlocks(sample, out * count, columns, ++seed);
    const segments = [{ type: sample.type, from: 0, to: columns, blocks }];
    return keep(backend.upload({ out, in: columns, experts: count, segments }));
  };
  const norm = keep(backend.vector(numbers(width, 100).map((v) => 1 + v / 4)));
  const weights = {
    embed: matrix(40, width),
    q: matrix(256, width),
    k: matrix(128, width),
    v: matrix(128, width),
    o: matrix(width, 256),
    router: matrix(experts.count, width),
    gate: matrix(experts.width, width, experts.count),
    up: matrix(experts.width, width, experts.count),
    down: matrix(width, experts.width, experts.count),
  };
  const kv = keep(backend.kv({ ...heads, layers: 1, pageTokens: 4, pages: 8, type: "f16" }));
  const ids = Int32Array.from({ length: n }, (_, i) => (i * 7) % 40);
  const batch: TokenBatch = {
    tokens: ids,
    positions: Int32Array.from(ids, (_, i) => i),
    sequences: new Int32Array(n),
    pages: [Int32Array.of(5, 2, 7, 0, 1, 3)],
  };
  const angles = Float32Array.from({ length: n * 32 }, (_, i) => {
    const angle = Math.floor(i / 32) / 1.7 ** ((i % 32) >> 1);
    return i % 2 === 0 ? Math.cos(angle) : Math.sin(angle);
  });
  const values = await evaluateOne(backend, (ops) => {
    const turns = ops.constant(angles, n, 32);
    const normed = (x: Tensor): Tensor => ops.rmsNorm(x, { weight: norm, epsilon: 1e-6 });
    // Random products are large; unit rows keep the comparison about the operations.
    const unit = (x: Tensor, group?: number): Tensor =>
      ops.rmsNorm(x, { epsilon: 1e-6, ...(group !== undefined && { group }) });
    const embedded = unit(ops.embed(weights.embed, ids));
    const middle = ops.scope(() => {
      const x = normed(embedded);
      const turn = (y: Tensor): Tensor => ops.rope(unit(y, 32), turns, { headSize: 32, pairing: "halves" });
      const attended = ops.attention(
        turn(ops.linear(x, weights.q)),
        turn(ops.linear(x, weights.k)),
        unit(ops.linear(x, weights.v)),
        { ...heads, kv, layer: 0, batch, scale: 0.17 },
      );
      return ops.add(embedded, unit(ops.linear(attended, weights.o)));
    });
    return ops.scope(() => {
      const x = normed(middle);
      const top = ops.topK(ops.softmax(unit(ops.linear(x, weights.router))), experts.used);
      const inner = ops.gate(
        unit(ops.expertLinear(x, weights.gate, top.ids)),
        unit(ops.expertLinear(x, weights.up, top.ids)),
        "silu",
      );
      const down = unit(ops.expertLinear(inner, weights.down, top.ids));
      const routed = ops.weightedSum(down, ops.normalizeRows(top.values));
      return ops.softmax(unit(ops.linear(unit(ops.add(middle, routed)), weights.embed)));
    });
  });
  for (const resource of resources) backend.free(resource);
  return values;
}

/** A whole layer on this backend and on another. */
export function blockCases({ check, backend, precision }: Bench, against: BackendFactory): void {
  for (const sample of [packedTypes[0]!, packedTypes[3]!, packedTypes[6]!]) {
    check(`a layer with experts agrees with ${against.name}: ${sample.type.name}`, async () => {
      const other = await against.create(testPlatform());
      for (const n of [1, 21]) {
        const expected = await layer(other, sample, n);
        const actual = await layer(backend(), sample, n);
        let divergence = 0;
        expected.forEach((p, i) => {
          divergence += p * Math.log(p / (actual[i] ?? Number.NaN));
        });
        // Mean KL of the rows' distributions. Inputs rounded to int8 cost 1e-5 to 1e-4; a wrong operation, tenths. A choice of
        // experts that flips on a near tie would cost as much: none does with these seeds.
        expect(divergence / n).toBeLessThan(precision.activations === "f32" ? 1e-9 : 1e-3);
        expect(divergence / n).toBeGreaterThan(-1e-6);
      }
      await other.dispose();
    });
  }
}
