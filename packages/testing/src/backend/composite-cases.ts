import { denseWeight, type LinearWeight } from "@lowbit/core";
import { type Bench, evaluate, expectNear, largest, numbers } from "./harness.ts";
import { product, sampleWeight } from "./linear-cases.ts";
import { denseTypes, packedTypes, type SampleType, shortTypes } from "./types.ts";

/** Segments as formats cut rows: [type, columns]. */
const cuts: Readonly<Record<string, readonly (readonly [SampleType | undefined, number])[]>> = {
  "several widths": [
    [packedTypes[12], 128],
    [packedTypes[13], 128],
    [packedTypes[22], 128],
    [denseTypes[1], 128],
  ],
  "groups of 48 and 80, last ones of 32 and 16": [
    [shortTypes[0], 432],
    [shortTypes[1], 16],
    [shortTypes[2], 160],
    [shortTypes[3], 32],
  ],
  "numbers of a byte and a codebook": [
    [denseTypes[4], 96],
    [denseTypes[5], 64],
    [denseTypes[6], 160],
    [packedTypes[21], 192],
  ],
  "zero points that are no integers, and roundings": [
    [packedTypes[18], 128],
    [packedTypes[19], 128],
    [packedTypes[20], 256],
  ],
};

/** Weights of several segments, with an order of inputs, row factors, biases and experts. */
export function compositeCases({ check, backend, precision }: Bench): void {
  for (const [name, cut] of Object.entries(cuts)) {
    for (const permuted of [true, false]) {
      check(`${permuted ? "in another order" : "in order"}: ${name}`, async () => {
        const [experts, out, n] = [3, 6, 4];
        const rows = experts * out;
        let columns = 0;
        let inexact = 0;
        const segments = cut.map(([sample, width], i) => {
          if (sample === undefined) throw new Error("the suite has no such type");
          const from = columns;
          columns += width;
          inexact = Math.max(inexact, sample.inexact ?? 0);
          const [segment] = sampleWeight(sample, rows, width, 40 + i).weight.segments;
          return { ...segment!, from, to: columns };
        });
        const keys = numbers(columns, 44);
        const permute = Int32Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!);
        const weight: LinearWeight = {
          out: rows,
          in: columns,
          segments,
          rowScale: numbers(rows, 45, 2),
          ...(permuted && { permute }),
        };
        const bias = numbers(rows, 48);
        const turned = { ...weight, permute: permute.toReversed() };
        // Two weights of one order share its inputs, a third has its own.
        const plain = backend().upload({ ...weight, bias });
        const same = backend().upload({ ...weight, ...(permuted && { permute: permute.slice() }) });
        const other = backend().upload(turned);
        const mixture = backend().upload({ ...weight, out, experts, bias });
        const x = numbers(n * columns, 46);
        const one = numbers(columns, 47);
        const chosen = [2, 0, 2, 1];
        const scores = new Float32Array(n * experts);
        chosen.forEach((expert, t) => {
          scores[t * experts + expert] = 1;
        });
        const results = await evaluate(backend(), (ops) => {
          const input = ops.constant(x, n, columns);
          return [
            ...[plain, same, other].map((each) => ops.scope(() => ops.linear(input, each))),
            ops.linear(ops.constant(one, 1, columns), plain),
            ops.expertLinear(input, mixture, ops.topK(ops.constant(scores, n, experts), 1).ids),
            ops.embed(plain, Int32Array.of(17, 0)),
          ];
        });
        const decoded = denseWeight(weight);
        // In another order the values of a block are others, and so is its largest: a bound for any order.
        const step = precision.activations === "f32" ? 0 : 1.01 / 254;
        const expected = (input: Float32Array, matrix: Float32Array, added?: Float32Array) => {
          const { values, bounds } = product(input, matrix, columns, false, added);
          const height = matrix.length / columns;
          const sizes = Array.from({ length: height }, (_, r) =>
            matrix.subarray(r * columns, (r + 1) * columns).reduce((sum, value) => sum + Math.abs(value), 0),
          );
          const most = largest(input);
          return {
            values,
            bounds: bounds.map((bound, i) => {
              const size = sizes[i % height] ?? 0;
              return bound + step * most * size + inexact * most * largest(matrix) * columns;
            }),
          };
        };
        const near = (values: Float32Array, { values: wanted, bounds }: ReturnType<typeof expected>) =>
          expectNear(values, wanted, bounds);
        near(results[0]!, expected(x, decoded, bias));
        near(results[1]!, expected(x, decoded));
        near(results[2]!, expected(x, denseWeight(turned)));
        near(results[3]!, expected(one, decoded, bias));
        chosen.forEach((expert, t) => {
          const part = expected(
            x.subarray(t * columns, (t + 1) * columns),
            decoded.subarray(expert * out * columns, (expert + 1) * out * columns),
            bias.subarray(expert * out, (expert + 1) * out),
          );
          near(results[4]!.subarray(t * out, (t + 1) * out), part);
        });
        expectNear(
          results[5]!,
          [...decoded.subarray(17 * columns), ...decoded.subarray(0, columns)],
          (2 ** -23 + inexact) * largest(decoded),
        );
        for (const each of [plain, same, other, mixture]) backend().free(each);
      });
    }
  }
}
