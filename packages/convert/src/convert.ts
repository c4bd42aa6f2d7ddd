import {
  type Architecture,
  type Checkpoint,
  type LinearWeight,
  LowbitError,
  type OutputPlace,
  type PlainJson,
  type StagedWeight,
  type StoredWeight,
  throwIfAborted,
} from "@lowbit/core";
import { compareVectors, compareWeights, type Difference } from "./compare.ts";
import { sourceFingerprint, weightSum } from "./fingerprint.ts";
import { type Journal, type JournalLine, openJournal } from "./journal.ts";
import { type Carried, planWeights, readWeight } from "./plan.ts";
import {
  type ConversionReport,
  checkExact,
  conversionReport,
  product,
  storedSize,
  typeNames,
  typesOfEntries,
  type WeightReport,
} from "./report.ts";
import type { ConversionTarget } from "./target.ts";

export interface Conversion {
  /** Stays the caller's to close, as `output` does. */
  readonly source: Checkpoint;
  readonly architectures: readonly Architecture[];
  /** See `writerFor`. */
  readonly target: ConversionTarget;
  readonly output: OutputPlace;
  /** Ends with `type-unsupported`/`inexact` at the first weight whose values would change. @default false */
  readonly exact?: boolean | undefined;
  /** Goes on where an earlier run of the same source and target was interrupted. @default true */
  readonly resume?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((progress: ConversionProgress) => void) | undefined;
  /** Lets other tasks run, a signal be heard: `platform.yield`. */
  readonly pause?: (() => Promise<void>) | undefined;
}

export interface ConversionProgress {
  /** weights: converting and staging; files: putting them together; done: everything has its final name. */
  readonly phase: "weights" | "files" | "done";
  /** weights: of the source; files: of the result. */
  readonly doneBytes: number;
  readonly totalBytes: number;
  readonly doneWeights: number;
  readonly totalWeights: number;
  /** The weight that was just done. */
  readonly role?: string;
  /** Weights that an earlier run had done. */
  readonly resumedWeights: number;
  /** Why what an earlier run left was not used. */
  readonly discarded?: string;
}

/**
 * Converts a checkpoint: one weight in memory at a time, each staged in the output's folder, then all put together and given the final
 * name at once. What is interrupted goes on later, and leaves nothing under the final name.
 *
 * Throws `architecture-unsupported`, `weight-missing`, `file-corrupt`/`shape`, `type-unsupported` (`inexact`, `not-finite`), `aborted`,
 * and what source, writer and output throw.
 */
export async function convert(conversion: Conversion): Promise<ConversionReport> {
  const { source, target, output, signal, onProgress } = conversion;
  const { carried, notCarried } = planWeights(source, conversion.architectures);
  const journal = await openJournal(output.staging, {
    identity: identityOf(source, target, carried),
    resume: conversion.resume ?? true,
    check: (lines) => checkSource(source, carried, lines, signal),
  });
  const resumedWeights = journal.lines.size;
  const totals = { totalWeights: carried.length, resumedWeights, totalBytes: sum(carried) };
  const { discarded } = journal;
  let doneBytes = 0;
  const report = (doneWeights: number, role?: string): void =>
    onProgress?.({
      ...totals,
      phase: "weights",
      doneBytes,
      doneWeights,
      ...(role !== undefined && { role }),
      ...(discarded !== undefined && { discarded }),
    });
  report(0);
  for (const [index, weight] of carried.entries()) {
    throwIfAborted(signal);
    const { role } = weight.spec;
    const line = journal.lines.get(role);
    const result = line?.report ?? (await stage(conversion, weight, index, journal));
    if (conversion.exact) await refuseRounding(result, output);
    doneBytes += weight.bytes;
    report(index + 1, role);
    await conversion.pause?.();
  }
  throwIfAborted(signal);
  await assemble(conversion, journal, carried, totals);
  const done = carried.flatMap(({ spec }) => journal.lines.get(spec.role)?.report ?? []);
  const head = { from: source.format, to: target.name, options: target.options, notCarried, resumedWeights };
  const result = conversionReport(head, done);
  const { bytes } = result.after;
  onProgress?.({
    ...totals,
    phase: "done",
    doneBytes: bytes,
    totalBytes: bytes,
    doneWeights: carried.length,
  });
  return result;
}

function identityOf(source: Checkpoint, target: ConversionTarget, carried: readonly Carried[]): PlainJson {
  const roles = carried.map(({ spec }) => spec.role);
  return { source: sourceFingerprint(source, roles), to: target.name, options: target.options };
}

/**
 * A source of the same names and sizes may be another, fine-tuned one: of each kind of weight the last that was staged is read again and
 * compared.
 */
async function checkSource(
  source: Checkpoint,
  carried: readonly Carried[],
  lines: ReadonlyMap<string, JournalLine>,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  const kinds = new Map<string, Carried>();
  for (const weight of carried) {
    const { role } = weight.spec;
    if (lines.has(role)) kinds.set(role.replace(/\.\d+\./g, "."), weight);
  }
  for (const { spec } of kinds.values()) {
    throwIfAborted(signal);
    const sum = weightSum(await readWeight(source, spec, signal));
    if (sum !== lines.get(spec.role)?.source) return "it was of another source with the same shapes";
  }
  return undefined;
}

/** Rows that are looked at of a weight that the writer says it moved. */
const spotRows = 8;

/** Converts one weight, measures what it lost, and stages it. */
async function stage(
  { source, target, signal, pause }: Conversion,
  { spec, entries, bytes }: Carried,
  index: number,
  journal: Journal,
): Promise<WeightReport> {
  const { role, shape } = spec;
  const weight = await readWeight(source, spec, signal);
  throwIfAborted(signal);
  let stored: StoredWeight;
  let difference: Difference;
  if (weight instanceof Float32Array) {
    stored = target.writer.storeVector(role, weight);
    difference = compareVectors(role, weight, vectorOf(role, stored));
  } else {
    stored = target.writer.store(role, weight);
    const rows = stored.moved ? { rows: spotRows } : {};
    difference = await compareWeights(role, weight, matrixOf(role, stored), { ...rows, signal, pause });
  }
  if (stored.moved && !difference.equal) {
    throw new LowbitError(
      "internal",
      `${role}: ${target.name} says that it moved the bits, but values differ.`,
    );
  }
  const parameters = product(shape);
  const after = stored.tensors.reduce((total, { data }) => total + data.length, 0);
  const { relativeRms, maxAbs } = difference;
  const result: WeightReport = {
    role,
    shape,
    fidelity: stored.moved ? "exact" : difference.equal ? "lossless" : "requantized",
    before: storedSize(typesOfEntries(entries), bytes, parameters),
    after: storedSize(typeAfter(stored), after, parameters),
    ...(!difference.equal && { error: { relativeRms, maxAbs } }),
  };
  await journal.add({ role, report: result, source: weightSum(weight) }, stored, index);
  return result;
}

function vectorOf(role: string, { weight }: StoredWeight): Float32Array {
  if (weight instanceof Float32Array) return weight;
  throw new LowbitError("internal", `${role}: the writer made a matrix of a vector.`);
}

function matrixOf(role: string, { weight }: StoredWeight): LinearWeight {
  if (!(weight instanceof Float32Array)) return weight;
  throw new LowbitError("internal", `${role}: the writer made a vector of a matrix.`);
}

function typeAfter({ weight, tensors }: StoredWeight): string {
  if (!(weight instanceof Float32Array)) return typeNames(weight.segments);
  return [...new Set(tensors.map(({ dtype }) => dtype))].join(" + ");
}

/** Nothing is left behind: the user will choose otherwise. */
async function refuseRounding(result: WeightReport, output: OutputPlace): Promise<void> {
  try {
    checkExact(result);
  } catch (error) {
    await output.discard();
    throw error;
  }
}

/** Makes the final files of what was staged, and gives them their name. */
async function assemble(
  { target, output, signal, onProgress }: Conversion,
  journal: Journal,
  carried: readonly Carried[],
  counts: Pick<ConversionProgress, "totalWeights" | "resumedWeights">,
): Promise<void> {
  const { writer } = target;
  const weights = carried.map(({ spec }) => journal.staged(spec.role));
  const totalBytes = weights.flatMap(({ tensors }) => tensors).reduce((total, { bytes }) => total + bytes, 0);
  let doneBytes = 0;
  const counted = weights.map(
    (weight): StagedWeight => ({
      ...weight,
      tensors: weight.tensors.map((tensor) => ({
        ...tensor,
        async *read(readSignal) {
          for await (const piece of tensor.read(readSignal)) {
            throwIfAborted(signal);
            yield piece;
            doneBytes += piece.length;
            onProgress?.({ ...counts, phase: "files", doneBytes, totalBytes, doneWeights: carried.length });
          }
        },
      })),
    }),
  );
  await writer.finish(await output.begin(), counted, signal);
  throwIfAborted(signal);
  if (writer.output === "file" && writer.fileName === undefined) {
    throw new LowbitError("internal", `${target.name} does not say which file it made.`);
  }
  await output.publish(writer.output === "file" ? writer.fileName : undefined);
}

function sum(carried: readonly Carried[]): number {
  return carried.reduce((total, { bytes }) => total + bytes, 0);
}
