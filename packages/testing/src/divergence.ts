/** Mean Kullback-Leibler divergence in nats of the distributions that rows of logits stand for: [rows, columns] each. */
export function meanDivergence(expected: Float32Array, actual: Float32Array, columns: number): number {
  let total = 0;
  for (let at = 0; at < expected.length; at += columns) {
    const p = logSoftmax(expected.subarray(at, at + columns));
    const q = logSoftmax(actual.subarray(at, at + columns));
    for (const [i, value] of p.entries()) total += Math.exp(value) * (value - (q[i] ?? Number.NaN));
  }
  return total / (expected.length / columns);
}

function logSoftmax(logits: Float32Array): Float64Array {
  const top = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((total, value) => total + Math.exp(value - top), 0);
  return Float64Array.from(logits, (value) => value - top - Math.log(sum));
}
