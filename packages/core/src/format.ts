import type { ModelConfig } from "./architecture.ts";
import type { FileSet, WritableFolder } from "./bytes.ts";
import type { PlainJson } from "./json.ts";
import type { Packing, PackingWriter } from "./packing.ts";
import type { QuantType } from "./quant-type.ts";
import type { TokenizerSource } from "./tokenizer.ts";
import type { LinearWeight, SegmentOutline } from "./weight.ts";

/** A checkpoint format: detects and opens. */
export interface Format {
  readonly name: string;
  /** How sure it is that these files are its own, 0 to 1. Reads at most the head of a file. */
  detect(files: FileSet, signal?: AbortSignal): Promise<number>;
  /** `packings`: those of all plugins, for formats whose modules may be packed. */
  open(files: FileSet, signal?: AbortSignal, packings?: readonly Packing[]): Promise<Checkpoint>;
  /** Absent: it only reads. Throws `bad-argument` for a choice that the format does not have. */
  writer?(source: CheckpointSource, options: WriterOptions): Promise<CheckpointWriter>;
}

/** What a writer needs to know of the model it writes, besides its weights. Without `entries` it knows not which weights there are. */
export type CheckpointSource = Pick<
  Checkpoint,
  "format" | "config" | "metadata" | "tokenizer" | "companions"
> &
  Partial<Pick<Checkpoint, "entries">>;

export interface WriterOptions {
  /** The type to quantize weights to, by the format's name for it ("Q4_0", "f16"). Absent: each weight keeps its values. */
  readonly type?: string;
  /** Packs modules; formats that have no packings throw `bad-argument`. */
  readonly packing?: { readonly name: string; readonly writer: PackingWriter };
  /** Most bytes in one file, where the format splits. @default 5 GB */
  readonly maxFileBytes?: number;
  /** What the tokenizer makes of a fixed text, to be stated as "lowbit.tokenizer_probe": loading compares it. */
  readonly tokenizerProbe?: string;
}

/**
 * Writes a checkpoint in two steps, so that the work can be interrupted: `store` makes the tensors of one weight, which the
 * caller keeps wherever it likes; `finish` puts all of them into the files.
 */
export interface CheckpointWriter {
  /** "file": `finish` creates one file, named `fileName`. */
  readonly output: "file" | "folder";
  readonly fileName?: string;
  /** One matrix. The order of calls does not matter. */
  store(role: string, weight: LinearWeight): StoredWeight;
  storeVector(role: string, values: Float32Array): StoredWeight;
  finish(
    folder: Pick<WritableFolder, "create">,
    staged: readonly StagedWeight[],
    signal?: AbortSignal,
  ): Promise<void>;
}

/** One weight as it will lie in the new files. */
export interface StoredWeight {
  readonly tensors: readonly StoredTensor[];
  /** As a reader of the new files will see it. */
  readonly weight: LinearWeight | Float32Array;
  /** Codes and scales are the source's own: nothing was computed. */
  readonly moved: boolean;
  /** What `finish` has to know of it; JSON. */
  readonly note?: PlainJson;
}

export interface StoredTensor {
  /** Name in the new file. */
  readonly name: string;
  /** The format's word: "F16", "Q4_0". */
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** A stored weight whose tensors lie elsewhere by now. */
export interface StagedWeight {
  readonly role: string;
  readonly tensors: readonly StagedTensor[];
  readonly note?: PlainJson;
}

export interface StagedTensor extends Omit<StoredTensor, "data"> {
  readonly bytes: number;
  /** All of it, in pieces. */
  read(signal?: AbortSignal): AsyncIterable<Uint8Array>;
}

/** An opened checkpoint: everything but the weights has been read and checked. */
export interface Checkpoint {
  readonly format: string;
  readonly config: ModelConfig;
  /** The format's own metadata, for `inspect`. */
  readonly metadata: ReadonlyMap<string, unknown>;
  readonly tokenizer?: TokenizerSource;
  /**
   * Small files beside the weights that belong to the model and are not the format's own (tokenizer.json, generation_config.json):
   * name to content, for a writer of the same kind to copy.
   */
  companions?(signal?: AbortSignal): Promise<ReadonlyMap<string, Uint8Array>>;
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
  /** Of the largest segment. */
  readonly type: QuantType;
  /** Where there are several, or a permutation or row scales beside them. */
  readonly segments?: readonly SegmentOutline[];
  /** Bytes in the file. */
  readonly bytes: number;
}
