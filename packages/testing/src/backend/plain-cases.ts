import type { Activation, Ops, Tensor } from "@lowbit/core";
import * as formulas from "./formulas.ts";
import {
  type Bench,
  evaluate,
  evaluateOne,
  expect,
  expectExactly,
  expectNear,
  expectRefusal,
  largest,
  numbers,
} from "./harness.ts";

const shapes = [
  [1, 1],
  [1, 64],
  [7, 33],
  [3, 96],
] as const;

/** Everything but products with weights and attention. */
export function plainCases(bench: Bench): void {
  elementCases(bench);
  normCases(bench);
  rowCases(bench);
  refusals(bench);
}

function elementCases({ check, backend }: Bench): void {
  // One correctly rounded operation each: f64 rounded to f32 is the same number.
  check("add, mul and scale round once", async () => {
    for (const [rows, columns] of shapes) {
      const [a, b, row] = [numbers(rows * columns, 1), numbers(rows * columns, 2), numbers(columns, 3)];
      const [sum, product, scaled, shifted, weighted] = await evaluate(backend(), (ops) => {
        const x = ops.constant(a, rows, columns);
        const y = ops.constant(b, rows, columns);
        const repeated = ops.constant(row, 1, columns);
        return [ops.add(x, y), ops.mul(x, y), ops.scale(x, 0.3), ops.add(x, repeated), ops.mul(x, repeated)];
      });
      const factor = Math.fround(0.3);
      const each = (f: (value: number, i: number) => number) => Float32Array.from(a, f);
      expectExactly(
        sum ?? a,
        each((v, i) => v + (b[i] ?? 0)),
      );
      expectExactly(
        product ?? a,
        each((v, i) => v * (b[i] ?? 0)),
      );
      // The factor may be kept in f64 or rounded to f32 first.
      expectNear(
        scaled ?? a,
        each((v) => v * factor),
        2 ** -22,
      );
      expectExactly(
        shifted ?? a,
        each((v, i) => v + (row[i % columns] ?? 0)),
      );
      expectExactly(
        weighted ?? a,
        each((v, i) => v * (row[i % columns] ?? 0)),
      );
    }
  });

  const kinds = Object.keys(formulas.activationFormulas) as Activation[];
  for (const kind of kinds) {
    check(`activate and gate: ${kind}`, async () => {
      const special = [0, 1e-8, -1e-8, 20, -20, 90, -90, 1e4, -1e4];
      const x = Float32Array.from([...special, ...numbers(120, 4, 8)]);
      const up = numbers(x.length, 5, 2);
      const [plain, gated] = await evaluate(backend(), (ops) => {
        const tensor = ops.constant(x, 3, x.length / 3);
        return [ops.activate(tensor, kind), ops.gate(tensor, ops.constant(up, 3, x.length / 3), kind)];
      });
      const formula = formulas.activationFormulas[kind];
      const expected = Array.from(x, (value) => formula(value));
      // A few f32 operations: 1e-6 of the value, and of |x| where the result is a small rest of it.
      const bound = expected.map((value, i) => 1e-6 * (Math.abs(value) + Math.min(1, Math.abs(x[i] ?? 0))));
      expectNear(plain ?? x, expected, bound);
      expectNear(
        gated ?? x,
        expected.map((value, i) => value * (up[i] ?? 0)),
        bound.map(
          (value, i) => value * Math.abs(up[i] ?? 0) + 1e-7 * Math.abs((expected[i] ?? 0) * (up[i] ?? 0)),
        ),
      );
    });
  }

  check("softcap", async () => {
    const x = Float32Array.from([0, 1e-6, 1e6, -1e6, ...numbers(60, 6, 100)]);
    const values = await evaluateOne(backend(), (ops) => ops.softcap(ops.constant(x, 4, 16), 30));
    expectNear(
      values,
      Array.from(x, (v) => 30 * Math.tanh(v / 30)),
      30 * 5e-7,
    );
  });
}

function normCases({ check, backend }: Bench): void {
  for (const [rows, columns, group] of [
    [1, 64, undefined],
    [7, 33, undefined],
    [3, 96, 32],
    [2, 20, 5],
  ] as const) {
    check(`rmsNorm ${rows} × ${columns} by ${group ?? "rows"}`, async () => {
      const width = group ?? columns;
      const [x, weight] = [numbers(rows * columns, 7, 5), numbers(width, 8)];
      const vector = backend().vector(weight);
      const [weighted, plain] = await evaluate(backend(), (ops) => {
        const tensor = ops.constant(x, rows, columns);
        const options = { epsilon: 1e-5, ...(group !== undefined && { group }) };
        return [ops.rmsNorm(tensor, { ...options, weight: vector }), ops.rmsNorm(tensor, options)];
      });
      const matrix = formulas.toRows(x, columns);
      // A mean of squares in f32, a root and two products: some units of 2^-24 of the value.
      const near = (values: Float32Array | undefined, expected: number[][]): void =>
        expectNear(
          values ?? x,
          formulas.flat(expected),
          formulas.flat(expected).map((v) => 3e-6 * Math.abs(v)),
        );
      near(weighted, formulas.rmsNorm(matrix, [...weight], 1e-5, width));
      near(plain, formulas.rmsNorm(matrix, undefined, 1e-5, width));
      backend().free(vector);
    });
  }

  check("rmsNorm: epsilon counts where the row is small", async () => {
    const x = Float32Array.from(numbers(32, 9), (v) => v * 1e-4);
    const values = await evaluateOne(backend(), (ops) =>
      ops.rmsNorm(ops.constant(x, 1, 32), { epsilon: 1e-6 }),
    );
    const expected = formulas.flat(formulas.rmsNorm([[...x]], undefined, 1e-6, 32));
    expectNear(values, expected, 1e-6);
    const zeros = await evaluateOne(backend(), (ops) =>
      ops.rmsNorm(ops.constant(new Float32Array(32), 1, 32), { epsilon: 1e-6 }),
    );
    expectExactly(zeros, new Float32Array(32));
  });

  check("layerNorm", async () => {
    const [rows, columns] = [5, 48];
    const x = numbers(rows * columns, 10, 3).map((v) => v + 2);
    const [weight, bias] = [numbers(columns, 11), numbers(columns, 12)];
    const [w, b] = [backend().vector(weight), backend().vector(bias)];
    const [full, plain] = await evaluate(backend(), (ops) => {
      const tensor = ops.constant(x, rows, columns);
      return [
        ops.layerNorm(tensor, { weight: w, bias: b, epsilon: 1e-5 }),
        ops.layerNorm(tensor, { weight: w, epsilon: 1e-5 }),
      ];
    });
    const matrix = formulas.toRows(x, columns);
    const none = new Array<number>(columns).fill(0);
    expectNear(full ?? x, formulas.flat(formulas.layerNorm(matrix, [...weight], [...bias], 1e-5)), 5e-6);
    expectNear(plain ?? x, formulas.flat(formulas.layerNorm(matrix, [...weight], none, 1e-5)), 5e-6);
    backend().free(w);
    backend().free(b);
  });

  for (const pairing of ["adjacent", "halves"] as const) {
    for (const dimensions of [16, 8, 2]) {
      check(`rope: ${pairing}, ${dimensions} of 16 dimensions`, async () => {
        const [rows, heads] = [5, 3];
        const x = numbers(rows * heads * 16, 13);
        const angles = Float32Array.from({ length: (rows * dimensions) / 2 }, (_, i) => 0.37 * i).reduce(
          (pairs, angle, i) => {
            pairs[2 * i] = Math.cos(angle);
            pairs[2 * i + 1] = Math.sin(angle);
            return pairs;
          },
          new Float32Array(rows * dimensions),
        );
        const values = await evaluateOne(backend(), (ops) =>
          ops.rope(ops.constant(x, rows, heads * 16), ops.constant(angles, rows, dimensions), {
            headSize: 16,
            pairing,
          }),
        );
        const turns = formulas.toRows(angles, dimensions);
        const expected = formulas.flat(formulas.rope(formulas.toRows(x, heads * 16), turns, 16, pairing));
        // Two products and a sum of numbers below 1: three roundings.
        expectNear(values, expected, 2.5e-7);
      });
    }
  }
}

function rowCases({ check, backend }: Bench): void {
  check("softmax, with large and absent values", async () => {
    for (const [rows, columns] of shapes) {
      const x = numbers(rows * columns, 14, 20);
      const values = await evaluateOne(backend(), (ops) => ops.softmax(ops.constant(x, rows, columns)));
      expectNear(values, formulas.toRows(x, columns).flatMap(formulas.softmax), 2e-6);
    }
    const hard = Float32Array.of(1e4, 1e4, Number.NEGATIVE_INFINITY, -1e4);
    expectNear(
      await evaluateOne(backend(), (ops) => ops.softmax(ops.constant(hard, 1, 4))),
      [0.5, 0.5, 0, 0],
      1e-7,
    );
  });

  check("normalizeRows", async () => {
    const x = numbers(5 * 7, 15).map((v) => Math.abs(v) + 0.01);
    const values = await evaluateOne(backend(), (ops) => ops.normalizeRows(ops.constant(x, 5, 7)));
    const expected = formulas.toRows(x, 7).flatMap((row) => {
      const sum = row.reduce((a, b) => a + b, 0);
      return row.map((v) => v / sum);
    });
    expectNear(values, expected, 1e-6);
  });

  check("topK: exact, falling, ties to the lower index", async () => {
    const rows = [
      [1, 5, 5, -2, 5, 0, 3],
      [0, 0, 0, 0, 0, 0, 0],
      [-1, -2, Number.NEGATIVE_INFINITY, -4, 1e30, -1, -3],
    ];
    const [ids, values] = await evaluate(backend(), (ops) => {
      const top = ops.topK(ops.constant(Float32Array.from(rows.flat()), 3, 7), 4);
      return [top.ids, top.values];
    });
    expect([...(ids ?? [])]).toEqual([1, 2, 4, 6, 0, 1, 2, 3, 4, 0, 5, 1]);
    expectExactly(values ?? new Float32Array(0), [5, 5, 5, 3, 0, 0, 0, 0, 1e30, -1, -1, -2].map(Math.fround));
    const x = numbers(2 * 300, 16);
    const [all] = await evaluate(backend(), (ops) => [ops.topK(ops.constant(x, 2, 300), 300).values]);
    const sorted = [x.slice(0, 300), x.slice(300)].flatMap((row) => [...row.sort().reverse()]);
    expectExactly(all ?? x, sorted);
  });

  check("columns and gatherRows copy", async () => {
    const x = numbers(6 * 10, 17);
    const [part, last, rows] = await evaluate(backend(), (ops) => {
      const tensor = ops.constant(x, 6, 10);
      return [
        ops.columns(tensor, 3, 8),
        ops.columns(tensor, 9, 10),
        ops.gatherRows(tensor, Int32Array.of(5, 0, 5, 2)),
      ];
    });
    const matrix = formulas.toRows(x, 10);
    expectExactly(
      part ?? x,
      matrix.flatMap((row) => row.slice(3, 8)),
    );
    expectExactly(
      last ?? x,
      matrix.flatMap((row) => row.slice(9)),
    );
    expectExactly(
      rows ?? x,
      [5, 0, 5, 2].flatMap((r) => matrix[r] ?? []),
    );
  });

  check("weightedSum", async () => {
    const [n, k, columns] = [3, 4, 19];
    const [y, weights] = [numbers(n * k * columns, 18), numbers(n * k, 19)];
    const values = await evaluateOne(backend(), (ops) =>
      ops.weightedSum(ops.constant(y, n * k, columns), ops.constant(weights, n, k)),
    );
    const expected = Array.from({ length: n * columns }, (_, i) => {
      const [r, c] = [Math.floor(i / columns), i % columns];
      let sum = 0;
      for (let j = 0; j < k; j++) sum += (weights[r * k + j] ?? 0) * (y[(r * k + j) * columns + c] ?? 0);
      return sum;
    });
    expectNear(values, expected, 4 * k * 2 ** -24 * largest(weights));
  });
}

function refusals({ check, backend }: Bench): void {
  check("plain operations: wrong shapes are refused", async () => {
    const { ops } = backend();
    const x = (rows: number, columns: number): Tensor =>
      ops.constant(new Float32Array(rows * columns), rows, columns);
    const { ids } = ops.topK(x(2, 4), 2);
    const wrong: ((ops: Ops) => unknown)[] = [
      () => ops.constant(new Float32Array(5), 2, 3),
      () => ops.constant(new Float32Array(0), 0, 3),
      () => ops.add(x(2, 4), x(2, 3)),
      () => ops.add(x(2, 4), x(3, 4)),
      () => ops.mul(x(1, 4), x(3, 4)),
      () => ops.add(x(2, 2), ids),
      () => ops.gate(x(2, 4), x(1, 4), "silu"),
      () => ops.activate(x(2, 4), "swish" as Activation),
      () => ops.softcap(x(2, 4), 0),
      () => ops.rmsNorm(x(2, 4), { epsilon: 1e-6, group: 3 }),
      () => ops.rmsNorm(x(2, 4), { epsilon: 1e-6, weight: x(1, 3) }),
      () => ops.layerNorm(x(2, 4), { epsilon: 1e-6, weight: x(2, 4) }),
      () => ops.layerNorm(x(2, 4), { epsilon: 1e-6, weight: x(1, 4), bias: x(1, 5) }),
      () => ops.rope(x(2, 8), x(2, 4), { headSize: 3, pairing: "halves" }),
      () => ops.rope(x(2, 8), x(1, 4), { headSize: 4, pairing: "halves" }),
      () => ops.rope(x(2, 8), x(2, 6), { headSize: 4, pairing: "halves" }),
      () => ops.topK(x(2, 4), 5),
      () => ops.topK(x(2, 4), 0),
      () => ops.columns(x(2, 4), 2, 2),
      () => ops.columns(x(2, 4), 2, 5),
      () => ops.columns(x(2, 4), -1, 2),
      () => ops.gatherRows(x(2, 4), Int32Array.of(2)),
      () => ops.gatherRows(x(2, 4), Int32Array.of(-1)),
      () => ops.weightedSum(x(4, 4), x(3, 2)),
      () => ops.softmax(ids),
      () => ops.softmax({ rows: 2, columns: 2 }),
    ];
    for (const record of wrong) expectRefusal(() => record(ops));
    await backend().submit();
  });
}
