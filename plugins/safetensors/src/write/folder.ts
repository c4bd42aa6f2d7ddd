import {
  type CheckpointSource,
  dequantize,
  type PackedConfiguration,
  type PackingWriter,
  type PlainJson,
  type QuantType,
  type SafetensorsDtype,
  type StagedTensor,
  type StagedWeight,
  type StoredTensor,
  safetensorsBits,
  throwIfAborted,
  type WritableFolder,
} from "@lowbit/core";
import { writeSafetensors } from "@lowbit/packing";
import { safetensorsError } from "../errors.ts";
import type { NameRoot } from "../names.ts";
import { denseTypes } from "../weight-parts.ts";
import { configJson, type FamilyConfig } from "./config-json.ts";
import { type DenseDtype, encodeDense, holds } from "./dense.ts";
import type { JsonFields } from "./json-fields.ts";
import { joinNotes, type Note } from "./note.ts";
import { ownConfig } from "./own-config.ts";
import { packParts } from "./packed.ts";
import type { TokenizerFiles } from "./tokenizer-files.ts";

/** What is decided before the first weight. */
export interface FolderPlan {
  readonly source: CheckpointSource;
  readonly family: FamilyConfig;
  readonly files: TokenizerFiles;
  readonly maxFileBytes: number;
  readonly packing: PackingWriter | undefined;
  readonly tokenizerProbe: string | undefined;
}

type Target = Pick<WritableFolder, "create">;

/** Puts everything into the folder: weights in pieces, one file after another, and config.json at the end. */
export async function finishFolder(
  plan: FolderPlan,
  folder: Target,
  staged: readonly StagedWeight[],
  signal?: AbortSignal,
): Promise<void> {
  const { source, family, files, packing } = plan;
  const root = family.names.roots[0] as NameRoot;
  const notes = joinNotes(staged.map(({ note }) => note));
  const tied = !staged.some(({ role }) => role === "head");
  const dtype = dominantDtype(staged);
  const tensors: StagedTensor[] = [];
  for (const weight of staged) {
    for (const tensor of weight.tensors) {
      tensors.push(isPacked(weight) ? tensor : await harmonized(tensor, dtype, signal));
    }
  }
  const packed = new Map(Object.entries(notes.packed));
  if (tied && packing) {
    const head = await tiedHead(packing, staged, root.head, signal);
    tensors.push(...(head?.tensors ?? []));
    for (const [module, description] of Object.entries(head?.packed ?? {})) packed.set(module, description);
  }
  // A tied head is a module of its own to those who pick modules by their kind.
  const dense = tied && !packed.has(root.head) ? [...notes.dense, root.head] : notes.dense;
  const configuration = packing && configurationOf(packing, packed, dense);
  await writeShards(folder, tensors, configuration?.baseName ?? "model", plan, signal);
  for (const [name, bytes] of files.files) await writeFile(folder, name, bytes);
  for (const [name, json] of Object.entries(configuration?.files ?? {})) await writeJson(folder, name, json);
  const base = (await ownConfig(source, family, signal)) ?? {
    ...configJson(source.config, family, {
      tied,
      attentionBias: tensors.some(({ name }) => name.endsWith(".self_attn.q_proj.bias")),
      rope: notes.rope,
    }),
    ...files.ids,
  };
  // A packed head may stand beside a tied embedding.
  const stillTied = tied || (packed.has(root.head) && base.tie_word_embeddings === true);
  await writeJson(folder, "config.json", updated(base, dtype, stillTied, configuration));
}

function configurationOf(
  packing: PackingWriter,
  packed: Parameters<PackingWriter["configuration"]>[0],
  dense: readonly string[],
): PackedConfiguration {
  if (packed.size > 0) return packing.configuration(packed, dense);
  throw safetensorsError(
    "bad-argument",
    "nothing-packed",
    "The packing takes none of the model's weights: their shapes do not suit it.",
    { hint: "Choose another group size, or convert to safetensors." },
  );
}

/** The head of a tied model, for packings that always have one: the embedding once more, packed. */
async function tiedHead(
  packing: PackingWriter,
  staged: readonly StagedWeight[],
  module: string,
  signal: AbortSignal | undefined,
): Promise<{ tensors: readonly StagedTensor[]; packed: Required<Note>["packed"] } | undefined> {
  const embed = staged.find(({ role }) => role === "embed")?.tensors[0];
  const [rows = 0, columns = 0] = embed?.shape ?? [];
  const type = denseTypes[embed?.dtype as SafetensorsDtype];
  const probe = { out: probeRows, in: columns, role: "head" };
  if (!embed || !type || !packing.quantize(new Float32Array(probeRows * columns), probe)) return undefined;
  const blocks = await readAll(embed, signal);
  const weight = { out: rows, in: columns, segments: [{ type, from: 0, to: columns, blocks }] };
  const head = packParts(packing, [weight], { role: "head", modules: [module], stacked: false });
  return head && { packed: head.modules, tensors: head.tensors.map(inMemory) };
}

/** A small matrix tells whether a packing takes heads, without reading a large one. */
const probeRows = 64;

const torchNames: Readonly<Record<DenseDtype, string>> = {
  F16: "float16",
  BF16: "bfloat16",
  F32: "float32",
};

function isPacked({ note }: StagedWeight): boolean {
  return (note as Note | undefined)?.packed !== undefined;
}

/** What most numbers of plain matrices are. */
function dominantDtype(staged: readonly StagedWeight[]): DenseDtype | undefined {
  const bytes = new Map<DenseDtype, number>();
  for (const { shape, dtype, bytes: size } of staged.flatMap((weight) =>
    isPacked(weight) ? [] : weight.tensors,
  )) {
    if (shape.length > 1 && isDense(dtype)) bytes.set(dtype, (bytes.get(dtype) ?? 0) + size);
  }
  return [...bytes].sort(([, a], [, b]) => b - a)[0]?.[0];
}

function isDense(dtype: string): dtype is DenseDtype {
  return Object.hasOwn(torchNames, dtype);
}

/** A vector in what most matrices are, where that holds its values: its own dtype was chosen without knowing them. */
async function harmonized(
  tensor: StagedTensor,
  wanted: DenseDtype | undefined,
  signal: AbortSignal | undefined,
): Promise<StagedTensor> {
  const { dtype, shape, name } = tensor;
  if (shape.length !== 1 || wanted === undefined || wanted === dtype || !isDense(dtype)) return tensor;
  const values = new Float32Array(shape[0] ?? 0);
  dequantize(denseTypes[dtype] as QuantType, await readAll(tensor, signal), values);
  if (!holds(wanted, values)) return tensor;
  return inMemory({ name, dtype: wanted, shape, data: encodeDense(wanted, values, name) });
}

async function readAll(tensor: StagedTensor, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const bytes = new Uint8Array(tensor.bytes);
  let at = 0;
  for await (const piece of tensor.read(signal)) {
    bytes.set(piece, at);
    at += piece.length;
  }
  throwIfAborted(signal);
  return bytes;
}

function inMemory({ data, ...tensor }: StoredTensor): StagedTensor {
  return {
    ...tensor,
    bytes: data.length,
    async *read() {
      yield data;
    },
  };
}

function updated(
  { quantization_config: _, compression_config: __, ...base }: JsonFields,
  dtype: DenseDtype | undefined,
  tied: boolean,
  configuration: PackedConfiguration | undefined,
): JsonFields {
  return {
    ...base,
    tie_word_embeddings: tied,
    ...(dtype !== undefined && { ["dtype" in base ? "dtype" : "torch_dtype"]: torchNames[dtype] }),
    ...(configuration && { quantization_config: configuration.quantization }),
  };
}

/** Bytes of a header beside its tensors' names, for each and in all. */
const entryBytes = 128;
const headerBytes = 256;

/** One file, or as many as are needed and an index. */
async function writeShards(
  folder: Target,
  tensors: readonly StagedTensor[],
  baseName: string,
  plan: FolderPlan,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { tokenizerProbe: probe } = plan;
  const metadata = new Map([["format", "pt"]]);
  if (probe !== undefined) metadata.set("lowbit.tokenizer_probe", probe);
  const shards: StagedTensor[][] = [];
  let room = 0;
  for (const tensor of tensors) {
    const size = tensor.bytes + entryBytes + 3 * tensor.name.length;
    if (shards.length === 0 || size > room) {
      shards.push([]);
      room = plan.maxFileBytes - headerBytes;
    }
    shards.at(-1)?.push(tensor);
    room -= size;
  }
  const number = (n: number): string => String(n).padStart(5, "0");
  const fileOf = (i: number): string =>
    shards.length === 1
      ? `${baseName}.safetensors`
      : `${baseName}-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
  for (const [i, shard] of shards.entries()) await writeShard(folder, fileOf(i), shard, metadata, signal);
  if (shards.length <= 1) return;
  const files = shards.flatMap((shard, i) => shard.map(({ name }) => [name, fileOf(i)] as const));
  await writeJson(folder, `${baseName}.safetensors.index.json`, {
    metadata: { total_size: tensors.reduce((sum, { bytes }) => sum + bytes, 0) },
    weight_map: Object.fromEntries(files.sort(([a], [b]) => (a < b ? -1 : 1))),
  });
}

async function writeShard(
  folder: Target,
  file: string,
  tensors: readonly StagedTensor[],
  metadata: ReadonlyMap<string, string>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const sources = tensors.map((tensor) => {
    const { name, dtype, shape } = tensor;
    if (!Object.hasOwn(safetensorsBits, dtype)) {
      throw safetensorsError("bad-argument", "unsupported-type", `${name} has the dtype ${dtype}.`);
    }
    return {
      name,
      dtype: dtype as SafetensorsDtype,
      shape,
      data: () => checked(tensor.read(signal), signal),
    };
  });
  const sink = await folder.create(file);
  try {
    await writeSafetensors(sink, sources, metadata);
  } finally {
    await sink.close();
  }
}

async function* checked(
  pieces: AsyncIterable<Uint8Array>,
  signal: AbortSignal | undefined,
): AsyncIterable<Uint8Array> {
  for await (const piece of pieces) {
    throwIfAborted(signal);
    yield piece;
  }
}

function writeJson(folder: Target, name: string, json: PlainJson): Promise<void> {
  return writeFile(folder, name, new TextEncoder().encode(`${JSON.stringify(json, null, 2)}\n`));
}

async function writeFile(folder: Target, name: string, bytes: Uint8Array): Promise<void> {
  const sink = await folder.create(name);
  try {
    await sink.write(bytes);
  } finally {
    await sink.close();
  }
}
