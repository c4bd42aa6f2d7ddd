import { type Activation, type Ops, portableMath, type Tensor } from "@lowbit/core";
import type { Pass } from "./pass.ts";
import { invalid, shape } from "./tensor.ts";

const { exp, tanh, normalCdf } = portableMath;

const activations: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x / (1 + exp(-x)),
  gelu: (x) => x * normalCdf(x),
  "gelu-tanh": (x) => (x / 2) * (1 + tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  relu: (x) => Math.max(0, x),
  "relu-squared": (x) => Math.max(0, x) ** 2,
  sigmoid: (x) => 1 / (1 + exp(-x)),
};

/** Everything but products with weights and attention. Each value is computed in f64 and rounds to f32 once. */
export function plainOps(pass: Pass): Omit<Ops, "embed" | "linear" | "expertLinear" | "attention"> {
  const map = (x: Tensor, f: (value: number) => number): Tensor =>
    pass.result(pass.reals(x).map(f), x.rows, x.columns);

  /** A result row by row: `f` fills the row from x's. */
  const eachRow = (
    x: Tensor,
    columns: number,
    f: (row: Float32Array, out: Float32Array, r: number) => void,
  ): Tensor => {
    const input = pass.reals(x);
    const out = new Float32Array(x.rows * columns);
    for (let r = 0; r < x.rows; r++) {
      f(input.subarray(r * x.columns, (r + 1) * x.columns), out.subarray(r * columns, (r + 1) * columns), r);
    }
    return pass.result(out, x.rows, columns);
  };

  const combine = (name: string, x: Tensor, y: Tensor, f: (a: number, b: number) => number): Tensor => {
    const repeated = y.rows === 1;
    if (y.columns !== x.columns || (!repeated && y.rows !== x.rows)) {
      throw invalid(`${name}: shapes do not fit: x ${shape(x)}, y ${shape(y)}.`);
    }
    const b = pass.reals(y);
    return pass.result(
      pass.reals(x).map((value, i) => f(value, b[repeated ? i % x.columns : i]!)),
      x.rows,
      x.columns,
    );
  };

  return {
    rmsNorm(x, { weight, epsilon, group = x.columns }) {
      if (!(Number.isInteger(group) && group >= 1 && x.columns % group === 0)) {
        throw invalid(`rmsNorm: x ${shape(x)} does not divide into groups of ${group}.`);
      }
      const factors = weight && vector(pass, "rmsNorm", weight, group);
      return eachRow(x, x.columns, (row, out) => {
        for (let at = 0; at < row.length; at += group) {
          const squares = sum(row.subarray(at, at + group), (value) => value * value);
          const inverse = 1 / Math.sqrt(squares / group + epsilon);
          for (let i = 0; i < group; i++) out[at + i] = row[at + i]! * inverse * (factors?.[i] ?? 1);
        }
      });
    },

    layerNorm(x, { weight, bias, epsilon }) {
      const factors = vector(pass, "layerNorm", weight, x.columns);
      const shift = bias && vector(pass, "layerNorm", bias, x.columns);
      return eachRow(x, x.columns, (row, out) => {
        const mean = sum(row) / row.length;
        const variance = sum(row, (value) => (value - mean) ** 2) / row.length;
        const inverse = 1 / Math.sqrt(variance + epsilon);
        row.forEach((value, i) => {
          out[i] = (value - mean) * inverse * factors[i]! + (shift?.[i] ?? 0);
        });
      });
    },

    rope(x, angles, { headSize, pairing }) {
      const dimensions = angles.columns;
      const fits = Number.isInteger(headSize) && headSize >= 1 && x.columns % headSize === 0;
      if (!fits || angles.rows !== x.rows || dimensions % 2 !== 0 || dimensions > headSize) {
        throw invalid(
          `rope: shapes do not fit: x ${shape(x)}, angles ${shape(angles)}, head size ${headSize}.`,
        );
      }
      const turns = pass.reals(angles);
      return eachRow(x, x.columns, (row, out, r) => {
        out.set(row);
        for (let head = 0; head < row.length; head += headSize) {
          rotateHead(row, out, head, turns.subarray(r * dimensions, (r + 1) * dimensions), pairing);
        }
      });
    },

    add: (x, y) => combine("add", x, y, (a, b) => a + b),
    mul: (x, y) => combine("mul", x, y, (a, b) => a * b),
    activate: (x, kind) => map(x, activationOf(kind)),
    scale: (x, factor) => map(x, (value) => value * factor),

    gate(gate, up, kind) {
      const f = activationOf(kind);
      if (gate.rows !== up.rows) throw invalid(`gate: shapes do not fit: ${shape(gate)}, ${shape(up)}.`);
      return combine("gate", gate, up, (a, b) => f(a) * b);
    },

    softcap(x, cap) {
      if (!(cap > 0)) throw invalid(`softcap: the cap is ${cap}, expected a positive number.`);
      return map(x, (value) => cap * tanh(value / cap));
    },

    softmax: (x) =>
      eachRow(x, x.columns, (row, out) => {
        const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
        const powers = Array.from(row, (value) => exp(value - most));
        const total = sum(powers);
        powers.forEach((power, i) => {
          out[i] = power / total;
        });
      }),

    normalizeRows: (x) =>
      eachRow(x, x.columns, (row, out) => {
        const total = sum(row);
        row.forEach((value, i) => {
          out[i] = value / total;
        });
      }),

    topK(x, k) {
      if (!(Number.isInteger(k) && k >= 1 && k <= x.columns)) {
        throw invalid(`topK: k is ${k}, expected 1 to ${x.columns}.`);
      }
      const ids = new Int32Array(x.rows * k);
      const values = eachRow(x, k, (row, out, r) => {
        // The sort is stable, so ties stay in rising order of the index. NaN comes last.
        const order = Array.from(row, (value, i) => ({ value, i }));
        order.sort((a, b) => rank(b.value) - rank(a.value) || a.i - b.i);
        for (let j = 0; j < k; j++) {
          ids[r * k + j] = order[j]!.i;
          out[j] = order[j]!.value;
        }
      });
      return { ids: pass.result(ids, x.rows, k), values };
    },

    columns(x, from, to) {
      const inside =
        Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= x.columns;
      if (!inside) throw invalid(`columns: x ${shape(x)} has no columns ${from} to ${to}.`);
      return eachRow(x, to - from, (row, out) => out.set(row.subarray(from, to)));
    },

    gatherRows(x, rows) {
      const input = pass.reals(x);
      const out = new Float32Array(rows.length * x.columns);
      rows.forEach((row, i) => {
        if (row < 0 || row >= x.rows) {
          throw invalid(`gatherRows: row ${row} is outside 0 to ${x.rows - 1}.`, "row-range");
        }
        out.set(input.subarray(row * x.columns, (row + 1) * x.columns), i * x.columns);
      });
      return pass.result(out, rows.length, x.columns);
    },

    weightedSum(y, weights) {
      const k = weights.columns;
      if (y.rows !== weights.rows * k) {
        throw invalid(`weightedSum: shapes do not fit: y ${shape(y)}, weights ${shape(weights)}.`);
      }
      const parts = pass.reals(y);
      return eachRow(weights, y.columns, (row, out, r) => {
        for (let c = 0; c < y.columns; c++) {
          let total = 0;
          for (let j = 0; j < k; j++) total += row[j]! * parts[(r * k + j) * y.columns + c]!;
          out[c] = total;
        }
      });
    },

    constant: (data, rows, columns) => pass.result(data.slice(), rows, columns),
    scope: (body) => pass.scope(body),
  };
}

/** Turns the leading dimensions of the head that begins at `head`; angles hold cos, sin pairs. */
export function rotateHead(
  row: Float32Array,
  out: Float32Array,
  head: number,
  angles: Float32Array,
  pairing: "adjacent" | "halves",
): void {
  const pairs = angles.length / 2;
  for (let i = 0; i < pairs; i++) {
    const [cos, sin] = [angles[2 * i]!, angles[2 * i + 1]!];
    const a = head + (pairing === "adjacent" ? 2 * i : i);
    const b = pairing === "adjacent" ? a + 1 : a + pairs;
    out[a] = row[a]! * cos - row[b]! * sin;
    out[b] = row[a]! * sin + row[b]! * cos;
  }
}

/** NaN below everything, and equal to itself. */
function rank(value: number): number {
  if (!Number.isNaN(value)) return Math.max(-Number.MAX_VALUE, Math.min(Number.MAX_VALUE, value));
  return Number.NEGATIVE_INFINITY;
}

function activationOf(kind: Activation): (x: number) => number {
  const found = activations[kind];
  if (found === undefined) throw invalid(`The activation ${JSON.stringify(kind)} is unknown.`, "activation");
  return found;
}

function sum(values: ArrayLike<number>, f: (value: number) => number = (value) => value): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += f(values[i]!);
  return total;
}

function vector(pass: Pass, name: string, tensor: Tensor, columns: number): Float32Array {
  if (tensor.rows !== 1 || tensor.columns !== columns) {
    throw invalid(`${name}: the weight or bias is ${shape(tensor)}, expected [1, ${columns}].`);
  }
  return pass.reals(tensor);
}
