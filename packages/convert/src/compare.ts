import { denseWeight, type LinearWeight, LowbitError, rowsOf, throwIfAborted } from "@lowbit/core";

/** How far the values of two weights lie apart. */
export interface Difference {
  readonly equal: boolean;
  /** Root of the summed squares of the differences over that of the values. */
  readonly relativeRms: number;
  /** Largest difference. */
  readonly maxAbs: number;
}

export interface CompareOptions {
  /** Compares so many rows, spread evenly. @default all */
  rows?: number;
  signal?: AbortSignal | undefined;
  /** Lets other tasks run; called between chunks. */
  pause?: (() => Promise<void>) | undefined;
}

/** Weights decoded at a time: 4 MiB on each side. */
const chunkWeights = 2 ** 20;

/**
 * Compares the matrices, then the biases. Throws `internal` for unequal shapes, and `type-unsupported`/`not-finite` where a value that
 * is no finite number is not the same on both sides.
 */
export async function compareWeights(
  role: string,
  before: LinearWeight,
  after: LinearWeight,
  { rows, signal, pause }: CompareOptions = {},
): Promise<Difference> {
  const total = rowsOf(before);
  if (total !== rowsOf(after) || before.in !== after.in || !before.bias !== !after.bias) {
    throw new LowbitError(
      "internal",
      `${role}: the writer turned [${shapeText(before)}] to [${shapeText(after)}].`,
    );
  }
  const sums = newSums();
  const chunk = rows === undefined ? Math.max(1, Math.floor(chunkWeights / before.in)) : 1;
  const step = rows === undefined ? chunk : Math.max(1, Math.floor(total / rows));
  for (let from = 0; from < total; from += step) {
    throwIfAborted(signal);
    const count = Math.min(chunk, total - from);
    addDifference(
      role,
      sums,
      denseWeight(rowsAt(before, from, count)),
      denseWeight(rowsAt(after, from, count)),
    );
    await pause?.();
  }
  if (before.bias && after.bias) addDifference(`${role}.bias`, sums, before.bias, after.bias);
  return difference(sums);
}

export function compareVectors(role: string, before: Float32Array, after: Float32Array): Difference {
  if (before.length !== after.length) {
    throw new LowbitError(
      "internal",
      `${role}: the writer turned ${before.length} values to ${after.length}.`,
    );
  }
  const sums = newSums();
  addDifference(role, sums, before, after);
  return difference(sums);
}

/** Some rows as a weight of their own, without bias. */
function rowsAt(weight: LinearWeight, from: number, count: number): LinearWeight {
  const { permute, rowScale } = weight;
  return {
    out: count,
    in: weight.in,
    ...(permute && { permute }),
    ...(rowScale && { rowScale: rowScale.subarray(from, from + count) }),
    segments: weight.segments.map((segment) => {
      const bytes = ((segment.to - segment.from) / segment.type.block) * segment.type.bytes;
      return { ...segment, blocks: segment.blocks.subarray(from * bytes, (from + count) * bytes) };
    }),
  };
}

interface Sums {
  values: number;
  differences: number;
  maxAbs: number;
}

function newSums(): Sums {
  return { values: 0, differences: 0, maxAbs: 0 };
}

function addDifference(role: string, sums: Sums, before: Float32Array, after: Float32Array): void {
  let { values, differences, maxAbs } = sums;
  for (let i = 0; i < before.length; i++) {
    const a = before[i]!;
    const b = after[i]!;
    if (a === b) {
      // Infinities that stay what they are say nothing of the size of an error.
      if (a - b === 0) values += a * a;
      continue;
    }
    const apart = Math.abs(a - b);
    if (!(apart < Number.POSITIVE_INFINITY)) {
      if (Number.isNaN(a) && Number.isNaN(b)) continue;
      throw new LowbitError("type-unsupported", `${role}: the value ${a} would become ${b}.`, {
        reason: "not-finite",
        hint: "Choose a type with a wider range, such as f32; if the value is no number, the source is damaged.",
      });
    }
    values += a * a;
    differences += apart * apart;
    if (apart > maxAbs) maxAbs = apart;
  }
  Object.assign(sums, { values, differences, maxAbs });
}

function difference({ values, differences, maxAbs }: Sums): Difference {
  // Where all values are 0 the error is counted against 1.
  return { equal: maxAbs === 0, relativeRms: Math.sqrt(differences / (values || 1)), maxAbs };
}

function shapeText({ out, in: width, experts, bias }: LinearWeight): string {
  return [...(experts === undefined ? [] : [experts]), out, width].join(", ") + (bias ? ", bias" : "");
}
