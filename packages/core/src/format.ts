import type { ModelConfig } from "./architecture.ts";
import type { FileSet } from "./bytes.ts";
import type { QuantType } from "./quant-type.ts";
import type { TokenizerSource } from "./tokenizer.ts";
import type { LinearWeight } from "./weight.ts";

/** A checkpoint format: detects and opens. */
export interface Format {
  readonly name: string;
  /** How sure it is that these files are its own, 0 to 1. Reads at most the head of a file. */
  detect(files: FileSet, signal?: AbortSignal): Promise<number>;
  open(files: FileSet, signal?: AbortSignal): Promise<Checkpoint>;
}

/** An opened checkpoint: everything but the weights has been read and checked. */
export interface Checkpoint {
  readonly format: string;
  readonly config: ModelConfig;
  /** The format's own metadata, for `inspect`. */
  readonly metadata: ReadonlyMap<string, unknown>;
  readonly tokenizer?: TokenizerSource;
  /** Every tensor, without reading it. */
  entries(): readonly WeightEntry[];
  /** Reads one matrix: one range read for its data. Throws `weight-missing`. */
  weight(role: string, signal?: AbortSignal): Promise<LinearWeight>;
  /** Reads one vector as f32. Throws `weight-missing`. */
  vector(role: string, signal?: AbortSignal): Promise<Float32Array>;
  close(): Promise<void>;
}

export interface WeightEntry {
  /** Canonical name (see WeightSpec); undefined where the format knows none. */
  readonly role: string | undefined;
  /** Name in the file. */
  readonly name: string;
  /** Slowest dimension first: [out, in]. */
  readonly shape: readonly number[];
  readonly type: QuantType;
  /** Bytes in the file. */
  readonly bytes: number;
}
