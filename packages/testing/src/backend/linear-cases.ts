import { dequantize, type LinearWeight, type QuantType } from "@lowbit/core";
import {
  type Bench,
  evaluate,
  evaluateOne,
  expect,
  expectNear,
  expectRefusal,
  largest,
  numbers,
} from "./harness.ts";
import { denseTypes, packedTypes, randomBlocks, type SampleType } from "./types.ts";

interface Sample {
  readonly weight: LinearWeight;
  /** Decoded: experts · out rows of `in`. */
  readonly decoded: Float32Array;
}

export function sampleWeight(sample: SampleType, rows: number, columns: number, seed = 1): Sample {
  const blocks = randomBlocks(sample, rows, columns, seed);
  const decoded = dequantize(sample.type, blocks, new Float32Array(rows * columns));
  return {
    weight: { out: rows, in: columns, segments: [{ type: sample.type, from: 0, to: columns, blocks }] },
    decoded,
  };
}

/** Products with a decoded matrix in f64, and how far each may be off. */
export function product(
  x: Float32Array,
  decoded: Float32Array,
  columns: number,
  quantized: boolean,
  bias?: Float32Array,
): { values: Float64Array; bounds: Float64Array } {
  const rows = decoded.length / columns;
  const n = x.length / columns;
  const values = new Float64Array(n * rows);
  const bounds = new Float64Array(n * rows);
  for (let t = 0; t < n; t++) {
    const row = x.subarray(t * columns, (t + 1) * columns);
    for (let r = 0; r < rows; r++) {
      let sum = bias?.[r] ?? 0;
      let sizes = Math.abs(sum);
      let steps = 0;
      for (let from = 0; from < columns; from += 32) {
        let blockSizes = 0;
        for (let c = from; c < Math.min(from + 32, columns); c++) {
          const weight = decoded[r * columns + c] ?? 0;
          sum += weight * (row[c] ?? 0);
          sizes += Math.abs(weight * (row[c] ?? 0));
          blockSizes += Math.abs(weight);
        }
        // Half a step of max|x| / 127 for each value of the block.
        steps += (blockSizes * largest(row.subarray(from, from + 32))) / 254;
      }
      values[t * rows + r] = sum;
      bounds[t * rows + r] = floatRounding * sizes + (quantized ? 1.01 * steps : 0) + 1e-30;
    }
  }
  return { values, bounds };
}

/**
 * Sums of up to a few hundred f32 products in any order: a few units of 2^-24 of Σ|w·x|. Types with mins take the difference of
 * two such sums, each a few times larger.
 */
const floatRounding = 4e-6;

/** Signed bytes count as packed: they are integers that dot products of integers suit. */
function isPacked({ values }: QuantType): boolean {
  return values.kind !== "dense" || values.format === "i8";
}

/** embed, linear and expertLinear over every family of types. */
export function linearCases({ check, backend, precision }: Bench): void {
  const rounds = (sample: SampleType): boolean =>
    isPacked(sample.type) && precision.activations === "int8 per 32";

  for (const sample of [...packedTypes, ...denseTypes]) {
    const { name } = sample.type;

    check(`embed: ${name}`, async () => {
      const { weight, decoded } = sampleWeight(sample, 5, 256);
      const uploaded = backend().upload(weight);
      const ids = Int32Array.of(3, 0, 3, 4);
      const values = await evaluateOne(backend(), (ops) => ops.embed(uploaded, ids));
      // Decoding is defined to the bit: products round to f32 in a given order.
      expectNear(
        values,
        [...ids].flatMap((id) => [...decoded.subarray(id * 256, (id + 1) * 256)]),
        (sample.inexact ?? 0) * largest(decoded),
      );
      backend().free(uploaded);
    });

    check(`linear decodes: ${name}`, async () => {
      const { weight, decoded } = sampleWeight(sample, 6, 256, 2);
      const uploaded = backend().upload(weight);
      // One column at a time: 1 and 0 survive any rounding of the input, so each product is a weight.
      const unit = new Float32Array(256 * 256);
      for (let i = 0; i < 256; i++) unit[i * 257] = 1;
      const values = await evaluateOne(backend(), (ops) =>
        ops.linear(ops.constant(unit, 256, 256), uploaded),
      );
      const expected = Float32Array.from(
        { length: 256 * 6 },
        (_, i) => decoded[(i % 6) * 256 + Math.floor(i / 6)] ?? 0,
      );
      expectNear(values, expected, (1e-5 + (sample.inexact ?? 0)) * largest(decoded));
      backend().free(uploaded);
    });

    for (const [rows, n] of [
      [1, 1],
      [7, 7],
      [34, 2],
      [16, 33],
    ] as const) {
      check(`linear ${n} × 512 by ${rows}: ${name}`, async () => {
        const { weight, decoded } = sampleWeight(sample, rows, 512, 3);
        const bias = numbers(rows, 4);
        const x = numbers(n * 512, 5, 3);
        const uploaded = backend().upload({ ...weight, bias });
        expect([uploaded.out, uploaded.in, uploaded.experts]).toEqual([rows, 512, 1]);
        const values = await evaluateOne(backend(), (ops) => ops.linear(ops.constant(x, n, 512), uploaded));
        const expected = product(x, decoded, 512, rounds(sample), bias);
        const inexact = (sample.inexact ?? 0) * largest(decoded) * 512 * largest(x);
        expectNear(
          values,
          expected.values,
          expected.bounds.map((bound) => bound + inexact),
        );
        backend().free(uploaded);
      });
    }
  }

  check("linear: odd numbers of columns", async () => {
    const sample = denseTypes[1]!;
    for (const columns of [1, 3, 31, 172]) {
      const { weight, decoded } = sampleWeight(sample, 5, columns, columns);
      const x = numbers(3 * columns, 6);
      const uploaded = backend().upload(weight);
      const values = await evaluateOne(backend(), (ops) => ops.linear(ops.constant(x, 3, columns), uploaded));
      const expected = product(x, decoded, columns, false);
      expectNear(values, expected.values, expected.bounds);
      backend().free(uploaded);
    }
  });

  check("linear and embed: segments side by side, one over another, and columns without any", async () => {
    const [ints, book] = [packedTypes[0]!, packedTypes[6]!];
    const f16 = denseTypes[1]!;
    const parts = [
      { sample: ints, from: 0, to: 64 },
      { sample: book, from: 64, to: 128 },
      { sample: f16, from: 32, to: 80 },
      { sample: f16, from: 140, to: 145 },
    ];
    const rows = 9;
    const decoded = new Float32Array(rows * 160);
    const segments = parts.map(({ sample, from, to }, i) => {
      const part = sampleWeight(sample, rows, to - from, 20 + i);
      part.decoded.forEach((value, e) => {
        const at = Math.floor(e / (to - from)) * 160 + from + (e % (to - from));
        decoded[at] = (decoded[at] ?? 0) + value;
      });
      return { type: sample.type, from, to, blocks: part.weight.segments[0]?.blocks ?? new Uint8Array(0) };
    });
    const uploaded = backend().upload({ out: rows, in: 160, segments });
    const x = numbers(2 * 160, 7);
    const [products, rowsRead] = await evaluate(backend(), (ops) => [
      ops.linear(ops.constant(x, 2, 160), uploaded),
      ops.embed(uploaded, Int32Array.of(8, 0)),
    ]);
    // Where segments overlap, the bound of the sum's weights is no bound for the parts': double it.
    const expected = product(x, decoded, 160, rounds(ints));
    expectNear(
      products ?? new Float32Array(0),
      expected.values,
      expected.bounds.map((bound) => 2 * bound),
    );
    const wanted = [...decoded.subarray(8 * 160), ...decoded.subarray(0, 160)];
    expectNear(rowsRead ?? new Float32Array(0), wanted, 2 ** -23 * largest(decoded));
    backend().free(uploaded);
  });

  for (const sample of [
    packedTypes[0]!,
    packedTypes[3]!,
    packedTypes[12]!,
    packedTypes[21]!,
    denseTypes[1]!,
  ]) {
    check(`expertLinear: ${sample.type.name}`, async () => {
      const [experts, out, columns, n, k] = [5, 6, 256, 4, 2];
      const { weight, decoded } = sampleWeight(sample, experts * out, columns, 8);
      const bias = numbers(experts * out, 9);
      const uploaded = backend().upload({ ...weight, out, experts, bias });
      expect(uploaded.experts).toBe(experts);
      const x = numbers(n * columns, 10);
      const wide = numbers(n * k * columns, 11);
      // Expert 3 gets several tokens, expert 1 none.
      const chosen = [
        [3, 0],
        [4, 3],
        [3, 2],
        [0, 4],
      ];
      const scores = new Float32Array(n * experts);
      chosen.forEach(([a, b], r) => {
        scores[r * experts + (a ?? 0)] = 2;
        scores[r * experts + (b ?? 0)] = 1;
      });
      const [shared, own, ids] = await evaluate(backend(), (ops) => {
        const top = ops.topK(ops.constant(scores, n, experts), k);
        return [
          ops.expertLinear(ops.constant(x, n, columns), uploaded, top.ids),
          ops.expertLinear(ops.constant(wide, n * k, columns), uploaded, top.ids),
          top.ids,
        ];
      });
      expect([...(ids ?? [])]).toEqual(chosen.flat());
      chosen.flat().forEach((expert, e) => {
        const matrix = decoded.subarray(expert * out * columns, (expert + 1) * out * columns);
        const part = bias.subarray(expert * out, (expert + 1) * out);
        for (const [values, input, row] of [
          [shared, x, Math.floor(e / k)],
          [own, wide, e],
        ] as const) {
          const expected = product(
            input.subarray(row * columns, (row + 1) * columns),
            matrix,
            columns,
            rounds(sample),
            part,
          );
          expectNear((values ?? x).subarray(e * out, (e + 1) * out), expected.values, expected.bounds);
        }
      });
      backend().free(uploaded);
    });
  }

  check("linear: wrong shapes, foreign weights and bad rows are refused", async () => {
    const { weight } = sampleWeight(packedTypes[0]!, 4, 64);
    const uploaded = backend().upload(weight);
    const mixture = backend().upload({ ...weight, out: 2, experts: 2 });
    const { ops } = backend();
    const x = (columns: number, rows = 1) => ops.constant(new Float32Array(rows * columns), rows, columns);
    expectRefusal(() => ops.linear(x(32), uploaded));
    expectRefusal(() => ops.linear(x(64), mixture));
    expectRefusal(() => ops.linear(x(64), { ...uploaded, in: 64 }));
    expectRefusal(() => ops.embed(uploaded, Int32Array.of(4)));
    expectRefusal(() => ops.embed(uploaded, Int32Array.of(-1)));
    const { ids, values } = ops.topK(x(2, 3), 1);
    expectRefusal(() => ops.expertLinear(x(64, 2), mixture, ids));
    expectRefusal(() => ops.expertLinear(x(32, 3), mixture, ids));
    expectRefusal(() => ops.expertLinear(x(64, 3), mixture, values));
    expectRefusal(() => ops.linear(ids, uploaded));
    await backend().submit();
    backend().free(uploaded);
    backend().free(mixture);
  });

  check("upload: what contradicts itself is refused", () => {
    const { weight } = sampleWeight(packedTypes[0]!, 4, 64);
    const [segment] = weight.segments;
    if (segment === undefined) return;
    const upload = (part: Partial<LinearWeight>): void =>
      expectRefusal(() => backend().upload({ ...weight, ...part }));
    upload({ out: 5 });
    upload({ out: 0 });
    upload({ bias: new Float32Array(3) });
    upload({ experts: 3 });
    upload({ rowScale: new Float32Array(3) });
    upload({ permute: Int32Array.from({ length: 63 }, (_, j) => j) });
    upload({ permute: new Int32Array(64) });
    upload({ permute: Int32Array.from({ length: 64 }, (_, j) => j + 1) });
    upload({ segments: [{ ...segment, to: 96 }] });
    upload({ segments: [{ ...segment, from: 16 }] });
    upload({ segments: [{ ...segment, blocks: segment.blocks.subarray(1) }] });
  });
}
