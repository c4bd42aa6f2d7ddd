import { type LinearWeight, LowbitError, type QuantType, rowsOf, type WeightEntry } from "@lowbit/core";

/**
 * What became of a weight. exact: its codes and scales were moved as they are; lossless: every value is the same number, stored in
 * another way; requantized: values were rounded anew.
 */
export type Fidelity = "exact" | "lossless" | "requantized";

export interface WeightReport {
  /** "layers.0.attn.q". */
  readonly role: string;
  readonly shape: readonly number[];
  readonly fidelity: Fidelity;
  readonly before: StoredSize;
  readonly after: StoredSize;
  /** Of requantized weights. */
  readonly error?: WeightError;
}

export interface StoredSize {
  /** "F16", "int4 g128 f16 8". */
  readonly type: string;
  /** All its tensors, bias included. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
}

export interface WeightError {
  /** Root of the summed squares of the differences over that of the values. */
  readonly relativeRms: number;
  /** Largest difference of a value. */
  readonly maxAbs: number;
}

export interface ConversionReport {
  /** The formats' and packings' names. */
  readonly from: string;
  readonly to: string;
  /** Choices that the target was made with, defaults from the source included. */
  readonly options: Readonly<Record<string, string | number | boolean>>;
  readonly weights: readonly WeightReport[];
  readonly totals: { readonly [fidelity in Fidelity]: ReportTotal };
  /** Of all weights together. */
  readonly before: Omit<StoredSize, "type">;
  readonly after: Omit<StoredSize, "type">;
  /** Tensors of the source that the architecture has no use for. */
  readonly notCarried: readonly UnusedTensor[];
  /** Weights that an earlier run had done. */
  readonly resumedWeights: number;
}

export interface ReportTotal {
  readonly tensors: number;
  readonly parameters: number;
  readonly bytes: number;
}

export interface UnusedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly bytes: number;
}

export const fidelities: readonly Fidelity[] = ["exact", "lossless", "requantized"];

export function product(shape: readonly number[]): number {
  return shape.reduce((total, size) => total * size, 1);
}

export function storedSize(type: string, bytes: number, parameters: number): StoredSize {
  return { type, bytes, bitsPerWeight: (8 * bytes) / Math.max(1, parameters) };
}

/** The types of a weight, each once, in words. */
export function typeNames(parts: readonly { readonly type: QuantType }[]): string {
  return [...new Set(parts.map(({ type }) => type.name))].join(" + ");
}

export function typesOfEntries(entries: readonly WeightEntry[]): string {
  return typeNames(
    entries.flatMap((entry): readonly { readonly type: QuantType }[] => entry.segments ?? [entry]),
  );
}

/** [experts, out, in], as architectures name shapes. */
export function shapeOf(weight: LinearWeight): number[] {
  const { experts = 1, out } = weight;
  return experts > 1 ? [experts, rowsOf(weight) / experts, weight.in] : [out, weight.in];
}

export type ReportHead = Pick<ConversionReport, "from" | "to" | "options" | "notCarried" | "resumedWeights">;

export function conversionReport(head: ReportHead, weights: readonly WeightReport[]): ConversionReport {
  const parametersOf = (list: readonly WeightReport[]) =>
    list.reduce((total, { shape }) => total + product(shape), 0);
  const bytesOf = (list: readonly WeightReport[], side: "before" | "after") =>
    list.reduce((total, weight) => total + weight[side].bytes, 0);
  const sizeOf = (side: "before" | "after") => {
    const { bytes, bitsPerWeight } = storedSize("", bytesOf(weights, side), parametersOf(weights));
    return { bytes, bitsPerWeight };
  };
  const total = (fidelity: Fidelity): ReportTotal => {
    const list = weights.filter((weight) => weight.fidelity === fidelity);
    return { tensors: list.length, parameters: parametersOf(list), bytes: bytesOf(list, "after") };
  };
  return {
    ...head,
    weights,
    totals: { exact: total("exact"), lossless: total("lossless"), requantized: total("requantized") },
    before: sizeOf("before"),
    after: sizeOf("after"),
  };
}

/** Throws for a weight whose values were changed, where that is not allowed. */
export function checkExact({ role, after, error }: WeightReport): void {
  if (error === undefined) return;
  throw new LowbitError(
    "type-unsupported",
    `${role} cannot be stored as ${after.type} without rounding: its values would change by ${percent(error.relativeRms)}, the worst by ${error.maxAbs.toPrecision(3)}.`,
    { reason: "inexact", hint: "Choose a type that holds it, or convert without exact (--exact)." },
  );
}

function percent(share: number): string {
  return `${(100 * share).toPrecision(3)} %`;
}
