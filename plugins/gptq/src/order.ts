import { gptqError } from "./config.ts";

/**
 * The inputs in the order of their groups, from g_idx: the group of each; undefined where they are in it already. All groups must have
 * `group` inputs, and the last the rest. Nothing but zeros stands for no order, as kernels read it. Throws invalid-index.
 */
export function permutation(where: string, index: Int32Array, group: number): Int32Array | undefined {
  const columns = index.length;
  const groups = Math.ceil(columns / group);
  if (index.every((g) => g === 0)) return undefined;
  const next = Int32Array.from({ length: groups }, (_, g) => g * group);
  const permute = new Int32Array(columns);
  for (let k = 0; k < columns; k++) {
    const g = index[k]!;
    if (g < 0 || g >= groups) {
      throw gptqError("invalid-index", `${where}: g_idx[${k}] is ${g}; there are ${groups} groups`);
    }
    const to = next[g]!;
    if (to >= Math.min((g + 1) * group, columns)) {
      throw gptqError("invalid-index", `${where}: g_idx puts more inputs into group ${g} than it has`);
    }
    next[g] = to + 1;
    permute[to] = k;
  }
  return permute.every((k, j) => k === j) ? undefined : permute;
}

/** The inverse: the group of each input. */
export function groupIndex(columns: number, group: number, permute: Int32Array | undefined): Int32Array {
  const index = new Int32Array(columns);
  for (let j = 0; j < columns; j++) index[permute ? permute[j]! : j] = Math.floor(j / group);
  return index;
}
