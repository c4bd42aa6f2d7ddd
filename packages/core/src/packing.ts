import type { JsonValue, PlainJson } from "./json.ts";
import type { SafetensorsTensor } from "./safetensors-tensor.ts";
import type { LinearWeight, SegmentOutline } from "./weight.ts";

/**
 * A way of packing quantized modules into the named tensors of a Hugging Face checkpoint: GPTQ, AWQ, EXL2 and their like.
 * The checkpoint's format knows which modules a model has; a packing knows what lies under a module's name.
 */
export interface Packing {
  /** "gptq". Its writers and the user's `--to` go by it. */
  readonly name: string;
  /**
   * How sure it is that modules are packed its way, 0 to 1: 0.9 and above by the declared method, 0.5 by tensor names alone.
   * Reads no tensor.
   */
  detect(checkpoint: PackedCheckpoint): number;
  /** Checks configuration against tensors. Throws `file-corrupt`, `format-unsupported` or `type-unsupported`; never guesses. */
  open(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules>;
  /** Absent: it only reads. Throws `bad-argument` for a choice that the packing does not have. */
  writer?(options: PackingOptions): PackingWriter;
}

/** What a packing sees of a checkpoint. */
export interface PackedCheckpoint {
  /** For messages. */
  readonly name: string;
  /** `quantization_config` of config.json, else the root of quantize_config.json, quant_config.json or hf_quant_config.json. */
  readonly quantization: JsonValue | undefined;
  /** File that `quantization` came from, for messages. */
  readonly quantizationFile: string | undefined;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
  /** A tensor's bytes, one range read; they may be unaligned. */
  read(tensor: SafetensorsTensor, signal?: AbortSignal): Promise<Uint8Array>;
}

/** The modules of one opened checkpoint that a packing packed. */
export interface PackedModules {
  /** For `inspect`: bits, group size, version, and what was read differently from what the file declares. */
  readonly metadata: ReadonlyMap<string, string | number | boolean>;
  /** What it would read for the module "model.layers.0.self_attn.q_proj"; undefined if that is not packed. */
  describe(module: string): PackedModule | undefined;
  /** Reads it, rows in the file's order. Throws as `Checkpoint.weight` does. */
  weight(module: string, signal?: AbortSignal): Promise<LinearWeight>;
}

export interface PackedModule {
  readonly out: number;
  readonly in: number;
  /** @default 1 */
  readonly experts?: number;
  /** As `weight` will have them. */
  readonly segments: readonly SegmentOutline[];
  /** In the file, all tensors of the module. */
  readonly bytes: number;
  /** Its tensors, bias included. */
  readonly tensors: readonly string[];
}

/** What a user may choose about the packing of new files; each packing documents which it takes and its defaults. */
export interface PackingOptions {
  /** Bits of a code; of an average weight for EXL2. */
  bits?: number;
  /** Input columns that share a scale; −1 for whole rows. */
  groupSize?: number;
  /** Around zero, without zero points. */
  symmetric?: boolean;
  /** What the packing has several of: "gptq_v2", "gemv", "nf4". */
  variant?: string;
}

/** Makes the tensors of packed modules. */
export interface PackingWriter {
  /**
   * The same weight in one of this packing's own types with every value unchanged, or undefined if it cannot hold it.
   * A weight that a reader of this packing made comes back as it is.
   */
  hold(weight: LinearWeight): LinearWeight | undefined;
  /**
   * Rounds a weight to the nearest that this packing can hold with its options; `values` is f32, `experts · out` rows of
   * `in`. Undefined where the packing leaves a weight of this shape alone.
   */
  quantize(values: Float32Array, shape: LinearShape): LinearWeight | undefined;
  /** The tensors that hold a weight which came from `hold` or `quantize`, under full names "module.qweight"; bias included. */
  pack(module: string, weight: LinearWeight): readonly PackedTensor[];
  /** What `configuration` has to know of such a weight besides its types; JSON. */
  describe?(weight: LinearWeight): { readonly [key: string]: PlainJson };
  /** For config.json's `quantization_config`, after everything was packed; `modules` are the packed ones. */
  configuration(
    modules: ReadonlyMap<string, PackedDescription>,
    dense: readonly string[],
  ): PackedConfiguration;
}

export interface LinearShape {
  readonly out: number;
  readonly in: number;
  /** @default 1 */
  readonly experts?: number;
  /** "layers.0.attn.q": packings leave embeddings alone, and treat the head apart. */
  readonly role: string;
}

export interface PackedTensor extends Pick<SafetensorsTensor, "name" | "dtype" | "shape"> {
  readonly data: Uint8Array;
}

/** What `configuration` may need to know of a packed module, kept between runs: JSON. */
export interface PackedDescription {
  readonly role: string;
  readonly types: readonly string[];
  readonly [key: string]: PlainJson;
}

export interface PackedConfiguration {
  readonly quantization: { readonly [key: string]: PlainJson };
  /** Further files by name, as JSON: "quantize_config.json". */
  readonly files?: Readonly<Record<string, PlainJson>>;
  /** The weights' base name where it is not "model": "output" for EXL2. */
  readonly baseName?: string;
}
