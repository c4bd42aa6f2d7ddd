import {
  type Checkpoint,
  dequantize,
  type LinearWeight,
  LowbitError,
  type ModelConfig,
  type TokenizerSource,
  throwIfAborted,
  type WeightEntry,
} from "@lowbit/core";
import { type GgufFamily, modelConfig } from "./config.ts";
import { type GgufHeader, type GgufTensor, type GgufValue, ggufError, plainMetadata } from "./container.ts";
import { swapBlocks } from "./endian.ts";
import { isSplitExpert, roleOf } from "./roles.ts";
import { closeShards, type Shard } from "./split.ts";

/** An opened GGUF model: core's checkpoint, and what only this format has. */
export interface GgufCheckpoint extends Checkpoint {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** One for each file; the first has the metadata and its types. */
  readonly headers: readonly GgufHeader[];
  /** A tensor's little-endian blocks by its name in the file. Throws `weight-missing`. */
  blocks(name: string, signal?: AbortSignal): Promise<Uint8Array>;
}

interface Stored extends GgufTensor {
  readonly shard: Shard;
}

/**
 * Makes the checkpoint of opened files and takes them over. Throws for metadata that describes no model, except that an
 * unknown architecture is reported only when `config` is read, so that such files can still be inspected.
 */
export function checkpoint(
  shards: readonly Shard[],
  fileName: string,
  families: Readonly<Record<string, GgufFamily>> = {},
): GgufCheckpoint {
  const headers = shards.map(({ header }) => header);
  const metadata = plainMetadata(headers[0]?.metadata ?? new Map());
  const tensors = shards.flatMap((shard) =>
    shard.header.tensors.map((tensor): Stored => ({ ...tensor, shard })),
  );
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const byRole = rolesOf(tensors, fileName);
  const config = deferUnsupported(() =>
    modelConfig(metadata, (role) => byRole.get(role)?.shape, fileName, families),
  );
  const find = (role: string): Stored => {
    const tensor = byRole.get(role);
    if (tensor !== undefined) return tensor;
    const split = tensors.some(({ name }) => isSplitExpert(name)) && role.includes(".experts.");
    throw ggufError("weight-missing", "missing-tensor", `${fileName} has no tensor for "${role}".`, {
      ...(split && { hint: "Its experts are stored one by one, an old layout; convert the model again." }),
    });
  };
  const readVector = async (role: string, signal?: AbortSignal): Promise<Float32Array> => {
    const tensor = find(role);
    return dequantize(
      tensor.type,
      await readBlocks(tensor, signal),
      new Float32Array(elements(tensor.shape)),
    );
  };
  const tokenizer: TokenizerSource = { kind: "ggml", metadata };
  return {
    format: "gguf",
    get config(): ModelConfig {
      return config();
    },
    metadata,
    headers,
    ...(!["none", "no_vocab", undefined].includes(metadata.get("tokenizer.ggml.model") as string) && {
      tokenizer,
    }),
    entries: () => tensors.map((tensor) => entryOf(tensor, byRole)),
    async blocks(name, signal) {
      const tensor = byName.get(name);
      if (tensor !== undefined) return readBlocks(tensor, signal);
      throw ggufError("weight-missing", "missing-tensor", `${fileName} has no tensor named "${name}".`);
    },
    async weight(role, signal) {
      const tensor = find(role);
      const { out, in: width, experts } = matrixOf(tensor, role);
      const bias = byRole.has(`${role}.bias`) ? await readVector(`${role}.bias`, signal) : undefined;
      if (bias !== undefined && bias.length !== experts * out) {
        throw shapeError(`${tensor.name} has ${experts * out} outputs, its bias ${bias.length} values`);
      }
      const scale = byRole.has(`${role}.scale`) ? await readVector(`${role}.scale`, signal) : undefined;
      const blocks = await readBlocks(tensor, signal);
      return {
        out,
        in: width,
        ...(experts > 1 && { experts }),
        ...(bias && { bias }),
        ...(scale && { rowScale: rowScales(tensor, scale, out, experts) }),
        segments: [{ type: tensor.type, from: 0, to: width, blocks }],
        ...(tensor.shard.source.disposable && { disposable: true }),
      } satisfies LinearWeight;
    },
    vector: readVector,
    close: () => closeShards(shards),
  };
}

/** The value, later; but errors other than `architecture-unsupported` at once. */
function deferUnsupported(read: () => ModelConfig): () => ModelConfig {
  try {
    const config = read();
    return () => config;
  } catch (error) {
    if (!LowbitError.is(error) || error.code !== "architecture-unsupported") throw error;
    return () => {
      throw error;
    };
  }
}

function rolesOf(tensors: readonly Stored[], fileName: string): Map<string, Stored> {
  const byRole = new Map<string, Stored>();
  for (const tensor of tensors) {
    const role = roleOf(tensor.name);
    if (role === undefined) continue;
    const other = byRole.get(role);
    if (other !== undefined) {
      throw ggufError(
        "file-corrupt",
        "duplicate",
        `${fileName}: ${other.name} and ${tensor.name} are the same weight.`,
      );
    }
    byRole.set(role, tensor);
  }
  return byRole;
}

function entryOf(tensor: Stored, byRole: ReadonlyMap<string, Stored>): WeightEntry {
  const role = roleOf(tensor.name);
  const { name, shape, type, bytes } = tensor;
  return {
    role,
    name,
    shape: role?.endsWith(".shared.router") && shape.length === 1 ? [1, ...shape] : shape,
    type,
    // Row scales stand beside its blocks.
    ...(byRole.has(`${role}.scale`) && { segments: [{ type, from: 0, to: shape.at(-1) ?? 1 }] }),
    bytes,
  };
}

/** One range read, in little-endian order whatever the file's. */
async function readBlocks(tensor: Stored, signal: AbortSignal | undefined): Promise<Uint8Array> {
  throwIfAborted(signal);
  const { source, header } = tensor.shard;
  const bytes = await source.read(tensor.offset, tensor.bytes, signal);
  if (bytes.length !== tensor.bytes) {
    const what = `${source.name}: tensor ${tensor.name} takes ${tensor.bytes} bytes, but ${bytes.length} came.`;
    throw ggufError("file-corrupt", "truncated", what, {
      hint: "The source does not deliver what it promises.",
    });
  }
  return header.bigEndian ? swapBlocks(tensor.type, bytes) : bytes;
}

function matrixOf(tensor: GgufTensor, role: string): { out: number; in: number; experts: number } {
  const { shape } = tensor;
  const width = shape.at(-1);
  if (width === undefined || shape.length > 3) {
    throw shapeError(`${tensor.name} has shape [${shape.join(", ")}]; "${role}" must be a matrix`);
  }
  return { out: shape.at(-2) ?? 1, in: width, experts: shape.at(-3) ?? 1 };
}

/** Some types (NVFP4, old ternary files) keep a factor for the whole matrix, or one for each expert, in a tensor of its own. */
function rowScales(tensor: GgufTensor, scale: Float32Array, out: number, experts: number): Float32Array {
  if (scale.length !== 1 && scale.length !== experts) {
    throw shapeError(`${tensor.name} has ${experts} matrices, but ${scale.length} scales`);
  }
  return Float32Array.from(
    { length: experts * out },
    (_, row) => scale[scale.length === 1 ? 0 : Math.floor(row / out)]!,
  );
}

function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

function shapeError(what: string): Error {
  return ggufError("file-corrupt", "shape-mismatch", `${what}.`, { hint: "Convert the model again." });
}
