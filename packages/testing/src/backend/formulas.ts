import { type Activation, portableMath } from "@lowbit/core";

// Every operation as the textbook has it, in f64, over plain arrays of rows.

export type Matrix = readonly (readonly number[])[];

export function toRows(values: ArrayLike<number>, columns: number): number[][] {
  return Array.from({ length: values.length / columns }, (_, r) =>
    Array.from({ length: columns }, (_, c) => values[r * columns + c] ?? 0),
  );
}

export function flat(rows: Matrix): number[] {
  return rows.flat();
}

export const activationFormulas: Readonly<Record<Activation, (x: number) => number>> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu: (x) => x * portableMath.normalCdf(x),
  "gelu-tanh": (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  relu: (x) => Math.max(x, 0),
  "relu-squared": (x) => Math.max(x, 0) ** 2,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

export function rmsNorm(
  x: Matrix,
  weight: readonly number[] | undefined,
  epsilon: number,
  group: number,
): number[][] {
  return x.map((row) =>
    row.map((value, c) => {
      const start = c - (c % group);
      const part = row.slice(start, start + group);
      const mean = part.reduce((sum, v) => sum + v * v, 0) / group;
      return (value / Math.sqrt(mean + epsilon)) * (weight?.[c % group] ?? 1);
    }),
  );
}

export function layerNorm(
  x: Matrix,
  weight: readonly number[],
  bias: readonly number[],
  epsilon: number,
): number[][] {
  return x.map((row) => {
    const mean = row.reduce((sum, v) => sum + v, 0) / row.length;
    const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / row.length;
    return row.map(
      (v, c) => ((v - mean) / Math.sqrt(variance + epsilon)) * (weight[c] ?? 0) + (bias[c] ?? 0),
    );
  });
}

export function softmax(row: readonly number[]): number[] {
  const most = Math.max(...row);
  const powers = row.map((v) => Math.exp(v - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

/** `angles[r]` holds cos, sin pairs. */
export function rope(
  x: Matrix,
  angles: Matrix,
  headSize: number,
  pairing: "adjacent" | "halves",
): number[][] {
  return x.map((row, r) => {
    const turns = angles[r] ?? [];
    const out = [...row];
    for (let head = 0; head < row.length; head += headSize) {
      for (let i = 0; i < turns.length / 2; i++) {
        const [a, b] = pairing === "adjacent" ? [2 * i, 2 * i + 1] : [i, i + turns.length / 2];
        const [cos, sin] = [turns[2 * i] ?? 0, turns[2 * i + 1] ?? 0];
        const [xa, xb] = [row[head + a] ?? 0, row[head + b] ?? 0];
        out[head + a] = xa * cos - xb * sin;
        out[head + b] = xa * sin + xb * cos;
      }
    }
    return out;
  });
}

export interface AttentionCase {
  readonly heads: number;
  readonly kvHeads: number;
  readonly keySize: number;
  readonly valueSize: number;
  readonly scale: number;
  readonly window?: number;
  readonly softcap?: number;
  readonly causal?: boolean;
}

/**
 * One sequence: `keys` and `values` of all positions, queries of the last ones. Rows are heads side by side.
 */
export function attention(q: Matrix, keys: Matrix, values: Matrix, options: AttentionCase): number[][] {
  const { heads, kvHeads, keySize, valueSize, scale, window, softcap, causal = true } = options;
  const before = keys.length - q.length;
  return q.map((row, t) => {
    const position = before + t;
    const last = causal ? position : keys.length - 1;
    const first = window === undefined ? 0 : Math.max(0, position - window + 1);
    const out: number[] = [];
    for (let h = 0; h < heads; h++) {
      const shared = Math.floor(h / (heads / kvHeads));
      const query = row.slice(h * keySize, (h + 1) * keySize);
      const scores: number[] = [];
      for (let p = first; p <= last; p++) {
        const key = (keys[p] ?? []).slice(shared * keySize, (shared + 1) * keySize);
        const score = scale * query.reduce((sum, v, i) => sum + v * (key[i] ?? 0), 0);
        scores.push(softcap === undefined ? score : softcap * Math.tanh(score / softcap));
      }
      const weights = softmax(scores);
      for (let i = 0; i < valueSize; i++) {
        out.push(
          weights.reduce((sum, w, j) => sum + w * (values[first + j]?.[shared * valueSize + i] ?? 0), 0),
        );
      }
    }
    return out;
  });
}
