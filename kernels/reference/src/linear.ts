import type { Ops, Tensor, Weight } from "@lowbit/core";
import type { Pass } from "./pass.ts";
import { invalid, shape } from "./tensor.ts";
import type { ReferenceWeight } from "./weights.ts";

/** Row `row` times four rows of x, `stride` apart, each sum in the order of the columns. */
function dot4(x: Float64Array, at: number, stride: number, row: Float64Array, sums: Float64Array): void {
  const [b, c, d] = [at + stride, at + 2 * stride, at + 3 * stride];
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  for (let i = 0; i < row.length; i++) {
    const value = row[i]!;
    s0 += x[at + i]! * value;
    s1 += x[b + i]! * value;
    s2 += x[c + i]! * value;
    s3 += x[d + i]! * value;
  }
  sums[0] = s0;
  sums[1] = s1;
  sums[2] = s2;
  sums[3] = s3;
}

/** The same for one row of x, to the same bits. */
function dot(x: Float64Array, at: number, row: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += x[at + i]! * row[i]!;
  return sum;
}

/**
 * Products with packed weights. Sums are in f64, where products of two f32 are exact, and round to f32 once, bias included.
 */
export function linearOps(
  pass: Pass,
  weightOf: (weight: Weight) => ReferenceWeight,
): Pick<Ops, "embed" | "linear" | "expertLinear"> {
  return {
    embed(handle, ids) {
      const table = weightOf(handle);
      const rows = table.out * table.experts;
      const width = table.in;
      const out = new Float32Array(ids.length * width);
      const room = new Float32Array(width);
      ids.forEach((id, i) => {
        if (id < 0 || id >= rows) throw invalid(`embed: row ${id} is outside 0 to ${rows - 1}.`, "row-range");
        out.set(table.row(id, room), i * width);
      });
      return pass.result(out, ids.length, width);
    },

    linear(x, handle) {
      const weight = weightOf(handle);
      if (x.columns !== weight.in) throw mismatch("linear", x, weight);
      if (weight.experts !== 1) {
        throw invalid(`linear: the weight has ${weight.experts} experts; use expertLinear.`);
      }
      const input = Float64Array.from(pass.reals(x));
      const out = new Float32Array(x.rows * weight.out);
      const room = new Float32Array(weight.in);
      const row = new Float64Array(weight.in);
      const sums = new Float64Array(4);
      for (let r = 0; r < weight.out; r++) {
        row.set(weight.row(r, room));
        const bias = weight.bias?.[r] ?? 0;
        let t = 0;
        for (; t + 4 <= x.rows; t += 4) {
          dot4(input, t * weight.in, weight.in, row, sums);
          for (let j = 0; j < 4; j++) out[(t + j) * weight.out + r] = sums[j]! + bias;
        }
        for (; t < x.rows; t++) out[t * weight.out + r] = dot(input, t * weight.in, row) + bias;
      }
      return pass.result(out, x.rows, weight.out);
    },

    expertLinear(x, handle, ids) {
      const weight = weightOf(handle);
      const chosen = pass.indices(ids);
      const shared = x.rows === ids.rows;
      if (x.columns !== weight.in || (!shared && x.rows !== chosen.length)) {
        throw mismatch(`expertLinear with ids ${shape(ids)}`, x, weight);
      }
      const input = Float64Array.from(pass.reals(x));
      const out = new Float32Array(chosen.length * weight.out);
      const room = new Float32Array(weight.in);
      const row = new Float64Array(weight.in);
      chosen.forEach((expert, e) => {
        if (expert < 0 || expert >= weight.experts) {
          throw invalid(`expertLinear: expert ${expert} is outside 0 to ${weight.experts - 1}.`, "row-range");
        }
        const from = (shared ? Math.floor(e / ids.columns) : e) * weight.in;
        for (let r = 0; r < weight.out; r++) {
          const at = expert * weight.out + r;
          row.set(weight.row(at, room));
          out[e * weight.out + r] = dot(input, from, row) + (weight.bias?.[at] ?? 0);
        }
      });
      return pass.result(out, chosen.length, weight.out);
    },
  };
}

function mismatch(name: string, x: Tensor, weight: Weight): Error {
  const experts = weight.experts === 1 ? "" : `${weight.experts} × `;
  return invalid(
    `${name}: shapes do not fit: x ${shape(x)}, weight ${experts}[${weight.out}, ${weight.in}].`,
  );
}
