import type { CheckpointSource, StagedTensor, StagedWeight } from "@lowbit/core";
import { type GgufEntry, type GgufType, type GgufValue, ggufError } from "./container.ts";
import { writeConfig } from "./write-config.ts";
import { writeTokenizer } from "./write-tokenizer.ts";

/** Keys that say what `finalKeys` says anew, or how the source's files were laid out. */
const ownKeys = /^(general\.(file_type|quantization_version|alignment)|split\.)/;

/** llama.cpp's numbers for what most of a file's matrices are; of mixes the usual one. */
const fileTypes: Readonly<Record<string, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  Q2_K: 10,
  Q3_K: 12,
  Q4_K: 15,
  Q5_K: 17,
  Q6_K: 18,
  IQ2_XXS: 19,
  IQ2_XS: 20,
  IQ3_XXS: 23,
  IQ1_S: 24,
  IQ4_NL: 25,
  IQ3_S: 26,
  IQ2_S: 28,
  IQ4_XS: 30,
  IQ1_M: 31,
  BF16: 32,
  TQ1_0: 36,
  TQ2_0: 37,
  MXFP4: 38,
  NVFP4: 39,
  Q1_0: 40,
  Q2_0: 41,
};

/** A GGUF's own keys are kept; others are made from the configuration and the tokenizer. */
export function describeModel(source: CheckpointSource): {
  metadata: Map<string, GgufEntry>;
  vectors: ReadonlyMap<string, Float32Array>;
} {
  if (source.format === "gguf") {
    const metadata = new Map<string, GgufEntry>();
    for (const [key, value] of source.metadata) {
      if (!ownKeys.test(key)) metadata.set(key, entryOf(source, key, value as GgufValue));
    }
    return { metadata, vectors: new Map() };
  }
  const { metadata, vectors } = writeConfig(source.config);
  for (const [key, entry] of tokenizerKeys(source)) metadata.set(key, entry);
  return { metadata, vectors };
}

function tokenizerKeys(source: CheckpointSource): Map<string, GgufEntry> {
  const { tokenizer, config } = source;
  switch (tokenizer?.kind) {
    case "huggingface":
      return writeTokenizer(tokenizer, config);
    case "ggml": {
      const keys = [...tokenizer.metadata].filter(([key]) => key.startsWith("tokenizer."));
      return new Map(keys.map(([key, value]) => [key, entryOf(source, key, value as GgufValue)]));
    }
    default:
      return new Map([["tokenizer.ggml.model", { type: "string", value: "none" }]]);
  }
}

/** Keys whose numbers are floats, whole ones too. */
const floatKeys = /epsilon|freq_base|softcapping|factor|yarn_|scale(_linear)?$/;

/** Checkpoints of this package know the types of their keys; those of other readers of GGUF are told by their values. */
function entryOf(source: CheckpointSource, key: string, value: GgufValue): GgufEntry {
  const { headers } = source as { headers?: readonly { metadata: ReadonlyMap<string, GgufEntry> }[] };
  const own = headers?.[0]?.metadata.get(key);
  if (own) return own;
  const type = typeof value === "object" ? arrayType(value) : scalarType(key, value);
  if (type) return { type, value };
  throw ggufError("bad-argument", "metadata", `The key ${key} has a value of an unknown type.`);
}

function scalarType(key: string, value: GgufValue): GgufType | undefined {
  switch (typeof value) {
    case "string":
      return "string";
    case "boolean":
      return "bool";
    case "number":
      if (!Number.isInteger(value) || floatKeys.test(key)) return "f32";
      return value < 0 ? "i32" : "u32";
    default:
      return undefined;
  }
}

function arrayType(value: unknown): GgufType | undefined {
  if (Array.isArray(value)) return typeof value[0] === "boolean" ? "bool[]" : "string[]";
  if (value instanceof Float32Array) return "f32[]";
  if (value instanceof Int32Array) return "i32[]";
  if (value instanceof Uint32Array) return "u32[]";
  return value instanceof Uint8Array ? "u8[]" : undefined;
}

/** Keys that tell of the tensors: they are known when all are made. */
export function finalKeys(
  source: CheckpointSource,
  weights: readonly StagedWeight[],
  tensors: readonly StagedTensor[],
): (readonly [key: string, entry: GgufEntry])[] {
  return [
    ...(source.format === "gguf" ? [] : [["general.size_label", sizeLabel(tensors)] as const]),
    ["general.file_type", { type: "u32", value: fileTypeOf(source, weights, tensors) }],
    ["general.quantization_version", { type: "u32", value: 2 }],
  ];
}

/** A GGUF whose weights are all as they were keeps its own; others go by the type that most bytes of matrices have. */
function fileTypeOf(
  { format, metadata }: CheckpointSource,
  weights: readonly StagedWeight[],
  tensors: readonly StagedTensor[],
): number {
  const own = metadata.get("general.file_type");
  const wasMoved = ({ note, tensors }: StagedWeight): boolean =>
    tensors.every(({ shape }) => shape.length === 1) ||
    (note as { moved?: boolean } | undefined)?.moved === true;
  if (format === "gguf" && typeof own === "number" && weights.every(wasMoved)) return own;
  const bytes = new Map<string, number>();
  for (const tensor of tensors) {
    if (tensor.shape.length > 1) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + tensor.bytes);
  }
  const [most] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? [];
  return fileTypes[most ?? "F32"] ?? 0;
}

/** The number of weights as converters put it: "3.4M", "8x7.2B" for experts. */
function sizeLabel(tensors: readonly StagedTensor[]): GgufEntry {
  let shared = 0;
  let expert = 0;
  let experts = 0;
  for (const { shape } of tensors) {
    const count = shape.reduce((product, size) => product * size, 1);
    const [stacked = 1] = shape;
    if (shape.length < 3) shared += count;
    else {
      expert += count / stacked;
      experts = stacked;
    }
  }
  const count = shared + expert;
  const [unit, suffix] =
    count >= 1e12 ? [1e12, "T"] : count >= 1e9 ? [1e9, "B"] : count >= 1e6 ? [1e6, "M"] : [1e3, "K"];
  const size = count / unit;
  const label = `${size.toFixed(size < 9.5 ? 1 : 0)}${suffix}`;
  return { type: "string", value: experts > 0 ? `${experts}x${label}` : label };
}
