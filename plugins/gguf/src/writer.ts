import {
  type CheckpointSource,
  type CheckpointWriter,
  denseWeight,
  type LinearWeight,
  type QuantType,
  type StagedTensor,
  type StagedWeight,
  type StoredTensor,
  type StoredWeight,
  throwIfAborted,
  type WriterOptions,
} from "@lowbit/core";
import { type GgufEntry, type GgufValue, ggufError } from "./container.ts";
import { type GgmlMatrix, holdIn, holdMatrix } from "./hold.ts";
import { quantizableTypes, quantizeTo } from "./quantize.ts";
import { tensorName } from "./roles.ts";
import { BF16, F16, F32, ggmlTypes, Q8_0 } from "./types.ts";
import { writeGguf } from "./write.ts";
import { writeConfig } from "./write-config.ts";
import { writeTokenizer } from "./write-tokenizer.ts";

/** llama.cpp's numbers for what most of a file's matrices are. */
const fileTypes: Readonly<Record<string, number>> = {
  F32: 0,
  F16: 1,
  Q4_0: 2,
  Q4_1: 3,
  Q8_0: 7,
  Q5_0: 8,
  Q5_1: 9,
  BF16: 32,
};

/** Matrices that are small and sensitive: converters leave them as they are. */
const plainRoles = /(^|\.)(embed\.position|ffn\.router|ffn\.shared\.router)$/;
const ownKeys = /^(general\.(file_type|quantization_version|alignment)|split\.)/;

/**
 * Writes one GGUF file. Without `type` every weight keeps its values, in the smallest type that holds them. With one, matrices become it:
 * those whose values it holds stay exact, others are rounded as ggml rounds; rows that are no whole blocks become F16, and a head keeps
 * eight bits at least. Throws `bad-argument`, or `format-unsupported` for a configuration or tokenizer that GGUF has no keys for.
 */
export async function ggufWriter(
  source: CheckpointSource,
  options: WriterOptions,
): Promise<CheckpointWriter> {
  const { type: wanted, packing, maxFileBytes, tokenizerProbe } = options;
  if (packing) {
    throw ggufError("bad-argument", "packing", `GGUF has no ${packing.name} modules.`, {
      hint: "Choose a type of ggml's own, such as Q4_0, or convert to the packing.",
    });
  }
  if (maxFileBytes !== undefined) {
    throw ggufError("bad-argument", "maxFileBytes", "GGUF is written as one file.");
  }
  const target = wanted === undefined ? undefined : typeNamed(wanted);
  const { metadata, vectors } = describe(source);
  // Where no head is stored the embedding serves as one.
  const preferred = preferredPlain(source);
  return {
    output: "file",
    fileName: "model.gguf",
    store: (role, weight) => storeMatrix(role, weight, target, preferred),
    storeVector: (role, values) => storeVector(role, values),
    async finish(folder, staged, signal) {
      const sink = await folder.create("model.gguf");
      const made = [...vectors].map(([role, values]) => inMemory(role, storeVector(role, values).tensors));
      const all = [...made, ...staged].flatMap(({ tensors }) => tensors);
      const entries = new Map(metadata);
      entries.set("general.file_type", { type: "u32", value: fileTypeOf(all) });
      entries.set("general.quantization_version", { type: "u32", value: 2 });
      if (tokenizerProbe !== undefined) {
        entries.set("lowbit.tokenizer_probe", { type: "string", value: tokenizerProbe });
      }
      try {
        await writeGguf(sink, {
          metadata: entries,
          tensors: all.map((tensor) => ({
            name: tensor.name,
            shape: tensor.shape,
            type: typeNamed(tensor.dtype, ggmlByName),
            data: () => read(tensor, signal),
          })),
        });
      } finally {
        await sink.close();
      }
    },
  };
}

const ggmlByName: ReadonlyMap<string, QuantType> = new Map(
  [...ggmlTypes.values()].map((type) => [type.name, type]),
);

function typeNamed(name: string, known: ReadonlyMap<string, QuantType> = quantizableTypes): QuantType {
  const type = known.get(name.toUpperCase()) ?? known.get(name);
  if (type) return type;
  const list = [...known.keys()].join(", ");
  throw ggufError("bad-argument", "type", `Weights cannot be quantized to ${JSON.stringify(name)} here.`, {
    hint: `Known are ${list}.`,
  });
}

/** A GGUF's own keys are kept; others are made from the configuration and the tokenizer. */
function describe(source: CheckpointSource): {
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
  const { tokenizer, config } = source;
  const keys =
    tokenizer?.kind === "huggingface"
      ? writeTokenizer(tokenizer, config.vocabularySize)
      : new Map<string, GgufEntry>();
  return { metadata: new Map([...metadata, ...keys]), vectors };
}

/** Checkpoints of this package know the types of their keys; those of other readers of GGUF are told by their values. */
function entryOf(source: CheckpointSource, key: string, value: GgufValue): GgufEntry {
  const { headers } = source as { headers?: readonly { metadata: ReadonlyMap<string, GgufEntry> }[] };
  const own = headers?.[0]?.metadata.get(key);
  if (own) return own;
  if (typeof value === "string") return { type: "string", value };
  if (typeof value === "boolean") return { type: "bool", value };
  if (typeof value === "number") {
    return Number.isInteger(value) && value >= 0 ? { type: "u32", value } : { type: "f32", value };
  }
  throw ggufError("bad-argument", "metadata", `The key ${key} has a value of an unknown type.`);
}

/** Plain weights that fit several formats take the source's own. */
function preferredPlain({ metadata }: CheckpointSource): QuantType {
  const named = metadata.get("torch_dtype") ?? metadata.get("dtype");
  return named === "bfloat16" || metadata.get("general.file_type") === fileTypes.BF16 ? BF16 : F16;
}

function storeMatrix(
  role: string,
  weight: LinearWeight,
  target: QuantType | undefined,
  preferred: QuantType,
): StoredWeight {
  const name = nameOf(role);
  const { out, in: columns, experts = 1, bias } = weight;
  const matrix = target ? toType(role, weight, target) : holdMatrix(weight, preferred);
  const shape = experts > 1 ? [experts, out, columns] : [out, columns];
  const tensors: StoredTensor[] = [{ name, dtype: matrix.type.name, shape, data: matrix.blocks }];
  if (bias) {
    const biasName = nameOf(`${role}.bias`);
    tensors.push({
      name: biasName,
      dtype: "F32",
      shape: experts > 1 ? [experts, out] : [out],
      data: quantizeTo(F32, bias),
    });
  }
  const { type, blocks, moved } = matrix;
  return {
    tensors,
    moved,
    weight: {
      out,
      in: columns,
      ...(experts > 1 && { experts }),
      ...(bias && { bias }),
      segments: [{ type, from: 0, to: columns, blocks }],
    },
  };
}

function toType(role: string, weight: LinearWeight, target: QuantType): GgmlMatrix {
  const small = plainRoles.test(role);
  // What decides over tokens keeps more, as llama.cpp's own mixes have it.
  const head = role === "head" && target.block > 1 && target.bytes / target.block < Q8_0.bytes / Q8_0.block;
  const wanted = small ? F32 : head ? Q8_0 : target;
  const type = weight.in % wanted.block === 0 ? wanted : F16;
  return holdIn(weight, type) ?? { type, blocks: quantizeTo(type, denseWeight(weight)), moved: false };
}

function storeVector(role: string, values: Float32Array): StoredWeight {
  const tensor: StoredTensor = {
    name: nameOf(role),
    dtype: "F32",
    shape: [values.length],
    data: quantizeTo(F32, values),
  };
  return { tensors: [tensor], weight: values, moved: true };
}

function nameOf(role: string): string {
  const name = tensorName(role);
  if (name !== undefined) return name;
  throw ggufError("format-unsupported", "unknown-role", `GGUF has no name for the weight "${role}".`);
}

function inMemory(role: string, tensors: readonly StoredTensor[]): StagedWeight {
  return {
    role,
    tensors: tensors.map(({ data, ...tensor }) => ({
      ...tensor,
      bytes: data.length,
      async *read() {
        yield data;
      },
    })),
  };
}

async function* read(tensor: StagedTensor, signal: AbortSignal | undefined): AsyncIterable<Uint8Array> {
  for await (const piece of tensor.read(signal)) {
    throwIfAborted(signal);
    yield piece;
  }
}

/** By the type that most bytes of matrices have. */
function fileTypeOf(tensors: readonly StagedTensor[]): number {
  const bytes = new Map<string, number>();
  for (const tensor of tensors) {
    if (tensor.shape.length > 1) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + tensor.bytes);
  }
  const [most] = [...bytes].sort(([, a], [, b]) => b - a)[0] ?? [];
  return fileTypes[most ?? "F32"] ?? fileTypes.F16 ?? 1;
}
