import { readFileSync } from "node:fs";
import {
  type BackendFactory,
  type FileSet,
  type LinearWeight,
  type PackedCheckpoint,
  type PackedTensor,
  type PlainJson,
  parseJson,
  type SafetensorsTensor,
} from "@lowbit/core";
import { openSafetensors } from "@lowbit/packing";
import { testData } from "./data.ts";
import { trackedFiles } from "./files.ts";
import { testPlatform } from "./test-platform.ts";

/** The safetensors files of a path, or of files in memory, as a packing sees them. */
export async function packedCheckpoint(
  place: string | Readonly<Record<string, Uint8Array>>,
  quantization?: PlainJson,
): Promise<PackedCheckpoint> {
  const files: FileSet = trackedFiles(place);
  const opened = await openSafetensors(files);
  return {
    name: files.name,
    ...describeQuantization(quantization),
    tensors: opened.tensors,
    read: (tensor, signal) => opened.read(tensor.name, signal),
  };
}

/** A checkpoint of tensors in memory: what a packing's writer made, or a test composed. Bytes lie unaligned, as they may in files. */
export function packedFrom(tensors: readonly PackedTensor[], quantization?: PlainJson): PackedCheckpoint {
  const data = new Map(tensors.map((tensor) => [tensor.name, tensor.data]));
  const described = tensors.map(
    ({ name, dtype, shape, data }) => [name, { name, dtype, shape, offset: 0, bytes: data.length }] as const,
  );
  return {
    name: "memory",
    ...describeQuantization(quantization),
    tensors: new Map<string, SafetensorsTensor>(described),
    async read({ name }) {
      const bytes = data.get(name);
      if (!bytes) throw new Error(`no tensor ${name}`);
      const room = new Uint8Array(bytes.length + 1);
      room.set(bytes, 1);
      return room.subarray(1);
    },
  };
}

/** All tensors of a checkpoint with their bytes. */
export async function packedTensors(checkpoint: PackedCheckpoint): Promise<PackedTensor[]> {
  const tensors = [...checkpoint.tensors.values()];
  return Promise.all(
    tensors.map(async (tensor) => {
      const { name, dtype, shape } = tensor;
      return { name, dtype, shape, data: Uint8Array.from(await checkpoint.read(tensor)) };
    }),
  );
}

function describeQuantization(
  quantization: PlainJson | undefined,
): Pick<PackedCheckpoint, "quantization" | "quantizationFile"> {
  if (quantization === undefined) return { quantization: undefined, quantizationFile: undefined };
  return {
    quantization: parseJson(JSON.stringify(quantization), "config.json"),
    quantizationFile: "config.json",
  };
}

/** One packed module of the golden vectors. */
export interface PackedCase {
  readonly id: string;
  readonly format: string;
  readonly module: string;
  readonly in_features: number;
  readonly out_features: number;
  readonly files: { readonly packed: string; readonly expect: string };
  readonly config: PlainJson;
}

export interface MalformedCase {
  readonly id: string;
  readonly format: string;
  readonly path: string;
  readonly module: string;
  readonly config: PlainJson;
  /** Acceptable reasons, joined by " or ". */
  readonly expect: { readonly error: string };
}

/** The golden modules and damaged files of these formats. */
export function goldenPacked(...formats: readonly string[]): {
  cases: PackedCase[];
  malformed: MalformedCase[];
} {
  const { cases, malformed } = JSON.parse(
    readFileSync(testData("golden/manifest.json") as string, "utf8"),
  ) as {
    cases: PackedCase[];
    malformed: MalformedCase[];
  };
  const wanted = ({ format }: { format: string }): boolean => formats.includes(format);
  return { cases: cases.filter(wanted), malformed: malformed.filter(wanted) };
}

/** The checkpoint of a golden module or of a damaged file. */
export function goldenCheckpoint(item: PackedCase | MalformedCase): Promise<PackedCheckpoint> {
  return packedCheckpoint(
    testData(`golden/${"path" in item ? item.path : item.files.packed}`) as string,
    item.config,
  );
}

/** What is expected of a golden module: w [in, out], x [n, in], y [n, out], and what else there is. */
export async function goldenExpected(item: PackedCase): Promise<ReadonlyMap<string, Float32Array>> {
  const checkpoint = await packedCheckpoint(testData(`golden/${item.files.expect}`) as string);
  const tensors = await packedTensors(checkpoint);
  return new Map(tensors.map(({ name, data }) => [name, new Float32Array(data.buffer)]));
}

/** x · Wᵀ + bias on a backend. */
export async function linearOn(
  factory: BackendFactory,
  weight: LinearWeight,
  x: Float32Array,
): Promise<Float32Array> {
  const backend = await factory.create(testPlatform());
  try {
    const uploaded = backend.upload(weight);
    const y = backend.ops.linear(backend.ops.constant(x, x.length / weight.in, weight.in), uploaded);
    await backend.submit();
    return Float32Array.from(await backend.read(y));
  } finally {
    await backend.dispose();
  }
}

/** [rows, columns] to [columns, rows]. */
export function transposed(values: Float32Array, rows: number): Float32Array {
  const columns = values.length / rows;
  return Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!);
}
