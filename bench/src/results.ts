import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { arch, cpus, platform, totalmem } from "node:os";
import { dirname } from "node:path";
import type { Bandwidth } from "./bandwidth.ts";
import { median } from "./contestant.ts";
import type { Gate } from "./idle.ts";

/** One sample for each round that the engine took part in. */
export interface Series {
  /** Of the prompt or the context: fewer than the others' where an engine would have taken too long. */
  readonly tokens: number;
  /** Tokens per second. */
  readonly samples: readonly number[];
  /** By sample: was somebody else at work, before the round or during it? */
  readonly disturbed: readonly boolean[];
}

/** Median of the samples that nobody disturbed; of all of them, where there are fewer than three of those. */
export function typical({ samples, disturbed }: Series): number {
  const calm = samples.filter((_, i) => !disturbed[i]);
  return median(calm.length >= 3 ? calm : samples);
}

export interface EngineResult {
  readonly name: string;
  readonly version: string;
  readonly description: string;
  /** Milliseconds, one for each fresh start. */
  readonly loadMs: readonly number[];
  readonly openToFirstTokenMs: readonly number[];
  readonly peakMemoryBytes?: number;
  readonly downloadBytes?: number;
  /** By tokens of the prompt. */
  readonly prefill: Readonly<Record<string, Series>>;
  /** Milliseconds from the prompt to its first token, by tokens of the prompt. */
  readonly firstTokenMs: Readonly<Record<string, readonly number[]>>;
  /** By tokens of the context. */
  readonly decode: Readonly<Record<string, Series>>;
  /** What was not measured, and why. */
  readonly omitted: Readonly<Record<string, string>>;
}

/** Engines on one file with one number of threads. */
export interface CellResult {
  readonly shape: string;
  readonly type: string;
  readonly threads: number;
  readonly date: string;
  readonly seconds: number;
  readonly fileBytes: number;
  /** Bytes of weights that one token reads. */
  readonly tokenBytes: number;
  /** Bytes of keys and values for each token of the context, in f16. */
  readonly kvBytes: number;
  /** Tokens that were decoded in each pass. */
  readonly decodeTokens: number;
  readonly bandwidth: Bandwidth;
  readonly gates: readonly Gate[];
  readonly engines: readonly EngineResult[];
  /** By name: why an engine is not there. */
  readonly absent: Readonly<Record<string, string>>;
}

export interface RunResult {
  readonly schema: 1;
  readonly machine: Machine;
  readonly command: string;
  readonly cells: readonly CellResult[];
}

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly system: string;
  readonly node: string;
}

export function thisMachine(): Machine {
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    memoryBytes: totalmem(),
    system: `${platform()} ${arch()}`,
    node: process.version,
  };
}

export function sameCell(
  a: Pick<CellResult, "shape" | "type" | "threads">,
  b: Pick<CellResult, "shape" | "type" | "threads">,
): boolean {
  return a.shape === b.shape && a.type === b.type && a.threads === b.threads;
}

export function readRun(path: string): RunResult | undefined {
  if (!existsSync(path)) return undefined;
  const run = JSON.parse(readFileSync(path, "utf8")) as RunResult;
  if (run.schema !== 1) throw new Error(`${path} was not written by this version; move it away.`);
  return run;
}

/** Whole or not at all, so that an interrupted run can go on. */
export function writeRun(path: string, run: RunResult): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(`${path}.part`, `${JSON.stringify(run, null, 1)}\n`);
  renameSync(`${path}.part`, path);
}
