import {
  type CheckpointSource,
  type CheckpointWriter,
  type LinearWeight,
  type QuantType,
  type StagedTensor,
  type StagedWeight,
  type StoredTensor,
  type StoredWeight,
  throwIfAborted,
  type WriterOptions,
} from "@lowbit/core";
import { ggufError } from "./container.ts";
import { type GgmlMatrix, holdIn, holdMatrix, ownMatrix } from "./hold.ts";
import { quantizableTypes, quantizeTo, quantizeWeight } from "./quantize.ts";
import { tensorName } from "./roles.ts";
import { BF16, F16, F32, ggmlTypes, Q8_0, TQ1_0, TQ2_0 } from "./types.ts";
import { writeGguf } from "./write.ts";
import { describeModel, finalKeys } from "./write-metadata.ts";

/** Matrices that are small and sensitive: converters leave them as they are. */
const plainRoles = /(^|\.)(embed\.position|ffn\.router|ffn\.shared\.router)$/;

/**
 * Writes one GGUF file. Without `type` every weight keeps its values, in the smallest type that holds them. With one, matrices become it:
 * those whose values it holds stay exact, others are rounded as ggml rounds. Rows that are no whole blocks become F16. The head, or the
 * embedding that serves as one, keeps eight bits at least; beside ternary matrices both stay F16.
 * Throws `bad-argument`, or `format-unsupported` for a configuration or tokenizer that GGUF has no keys for.
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
  const { metadata, vectors } = describeModel(source);
  const preferred = preferredPlain(source);
  const tied = !(source.entries?.().some(({ role }) => role === "head") ?? false);
  const toType = (role: string, weight: LinearWeight, type: QuantType): GgmlMatrix => {
    const own = ownMatrix(weight);
    if (own?.type === type) return own;
    const wanted = typeFor(role, weight, type, tied);
    return holdIn(weight, wanted) ?? { type: wanted, blocks: quantizeWeight(wanted, weight), moved: false };
  };
  return {
    output: "file",
    fileName: "model.gguf",
    store: (role, weight) =>
      storeMatrix(role, weight, target ? toType(role, weight, target) : holdMatrix(weight, preferred)),
    storeVector: (role, values) => storeVector(role, values),
    async finish(folder, staged, signal) {
      const sink = await folder.create("model.gguf");
      const made = [...vectors].map(([role, values]) => inMemory(role, storeVector(role, values).tensors));
      const all = [...made, ...staged].flatMap(({ tensors }) => tensors);
      const entries = new Map(metadata);
      for (const [key, entry] of finalKeys(source, staged, all)) entries.set(key, entry);
      if (tokenizerProbe !== undefined) {
        entries.set("lowbit.tokenizer_probe", { type: "string", value: tokenizerProbe });
      }
      try {
        await writeGguf(sink, {
          metadata: entries,
          tensors: all.map((tensor) => ({
            name: tensor.name,
            shape: tensor.shape,
            type: typeOf(tensor),
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

function typeNamed(name: string): QuantType {
  const type = quantizableTypes.get(name.toUpperCase());
  if (type) return type;
  const known = ggmlByName.has(name.toUpperCase());
  const what = known
    ? `Weights cannot be quantized to ${name} here: it is only read, and kept where a weight has it already.`
    : `There is no type named ${JSON.stringify(name)} to quantize to.`;
  const hint = `Known are ${[...quantizableTypes.keys()].join(", ")}.`;
  throw ggufError("bad-argument", "type", what, { hint });
}

function typeOf({ name, dtype }: StagedTensor): QuantType {
  const type = ggmlByName.get(dtype);
  if (type) return type;
  throw ggufError(
    "bad-argument",
    "type",
    `${name} was stored as ${JSON.stringify(dtype)}, which is no type of ggml.`,
  );
}

/** Plain weights that fit several formats take the source's own. */
function preferredPlain({ metadata }: CheckpointSource): QuantType {
  const named = metadata.get("torch_dtype") ?? metadata.get("dtype");
  return named === "bfloat16" || metadata.get("general.file_type") === 32 ? BF16 : F16;
}

/** What a matrix becomes where `target` is asked for; see `ggufWriter`. */
function typeFor(role: string, weight: LinearWeight, target: QuantType, tied: boolean): QuantType {
  if (plainRoles.test(role)) return F32;
  const isHead = role === "head" || (role === "embed" && tied);
  const ternary = target === TQ1_0 || target === TQ2_0;
  const few = target.block > 1 && target.bytes / target.block < Q8_0.bytes / Q8_0.block;
  const wanted = ternary && (isHead || role === "embed") ? F16 : few && isHead ? Q8_0 : target;
  return weight.in % wanted.block === 0 ? wanted : F16;
}

function storeMatrix(role: string, weight: LinearWeight, matrix: GgmlMatrix): StoredWeight {
  const { out, in: columns, experts = 1, bias } = weight;
  const { type, blocks, moved, factors } = matrix;
  const shape = experts > 1 ? [experts, out, columns] : [out, columns];
  const vector = (part: string, values: Float32Array, sizes: readonly number[]): StoredTensor => ({
    name: nameOf(`${role}.${part}`),
    dtype: "F32",
    shape: sizes,
    data: quantizeTo(F32, values),
  });
  return {
    tensors: [
      { name: nameOf(role), dtype: type.name, shape, data: blocks },
      ...(factors ? [vector("scale", factors, [experts])] : []),
      ...(bias ? [vector("bias", bias, experts > 1 ? [experts, out] : [out])] : []),
    ],
    moved,
    note: { moved },
    weight: {
      out,
      in: columns,
      ...(experts > 1 && { experts }),
      ...(bias && { bias }),
      ...(factors && {
        rowScale: Float32Array.from({ length: experts * out }, (_, r) => factors[Math.floor(r / out)]!),
      }),
      segments: [{ type, from: 0, to: columns, blocks }],
    },
  };
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
