import {
  type Checkpoint,
  dequantize,
  type JsonValue,
  type LinearWeight,
  type ModelConfig,
  type PackedModules,
  type QuantType,
  type SafetensorsTensor,
  safetensorsBits,
  type TokenizerSource,
  throwIfAborted,
  type WeightEntry,
} from "@lowbit/core";
import type { SafetensorsFiles } from "@lowbit/packing";
import { biasKey, type Contents, type Held, sortContents } from "./contents.ts";
import { safetensorsError } from "./errors.ts";
import type { HuggingFaceModel } from "./hugging-face-config.ts";
import { innerRole, isNorm } from "./names.ts";
import {
  denseTypes,
  pairingOrder,
  reorderRows,
  shapeError,
  stackExperts,
  transpose,
} from "./weight-parts.ts";

/** Everything that was read when a checkpoint was opened. */
export interface Opened {
  readonly file: string;
  readonly files: SafetensorsFiles;
  /** Throws what kept config.json from being understood. */
  readonly model: () => HuggingFaceModel;
  readonly packed: PackedModules | undefined;
  readonly metadata: ReadonlyMap<string, unknown>;
  readonly tokenizer: TokenizerSource | undefined;
  readonly companions: (signal?: AbortSignal) => Promise<ReadonlyMap<string, Uint8Array>>;
}

/** Makes the checkpoint; where config.json describes no model that is known, for inspection only. */
export function checkpoint(opened: Opened): Checkpoint {
  const { file, files, packed, metadata, tokenizer, companions } = opened;
  let model: HuggingFaceModel | undefined;
  try {
    model = opened.model();
  } catch {
    // Said again when `config` is read.
  }
  const contents: Contents = model
    ? sortContents(files.tensors, packed, model, file)
    : {
        weights: new Map(),
        biases: new Map(),
        others: [...files.tensors.values()],
        unclaimed: new Map(),
      };
  const [unclaimed] = contents.unclaimed.values();
  const reader = model && new WeightReader(opened, model, contents);
  const need = (): WeightReader => {
    if (reader) return reader;
    opened.model();
    throw new Error("unreachable");
  };
  return {
    format: "safetensors",
    get config(): ModelConfig {
      const { config } = opened.model();
      // The engine would only miss the weight; this says why.
      if (unclaimed) throw unclaimedError(file, unclaimed);
      return config;
    },
    metadata,
    ...(tokenizer && { tokenizer }),
    companions,
    entries: () => [...(reader?.entries() ?? []), ...contents.others.map(otherEntry)],
    weight: async (role, signal) => need().weight(role, signal),
    vector: async (role, signal) => need().vector(role, signal),
    close: () => files.close(),
  };
}

const F32 = denseTypes.F32 as QuantType;

/** A tensor that stands for no weight: its type is only shown. */
function otherEntry({ name, shape, dtype, bytes }: SafetensorsTensor): WeightEntry {
  return { role: undefined, name, shape, type: denseTypes[dtype] ?? shownType(dtype), bytes };
}

/** Whole bytes in which elements of a dtype come. */
function shownType(dtype: SafetensorsTensor["dtype"]): QuantType {
  const bits = safetensorsBits[dtype];
  const block = bits < 8 ? 4 : 1;
  return { ...F32, name: dtype, block, bytes: (block * bits) / 8 };
}

class WeightReader {
  readonly #opened: Opened;
  readonly #model: HuggingFaceModel;
  readonly #contents: Contents;

  constructor(opened: Opened, model: HuggingFaceModel, contents: Contents) {
    this.#opened = opened;
    this.#model = model;
    this.#contents = contents;
  }

  *entries(): IterableIterator<WeightEntry> {
    for (const [role, list] of this.#contents.weights) {
      yield this.#entry(role, list);
      const biases = list.flatMap((_, expert) => this.#bias(role, list, expert) ?? []);
      const [bias] = biases;
      if (bias && list.length === 1) yield { ...otherEntry(bias), role: `${role}.bias` };
      else if (bias) {
        const bytes = biases.reduce((sum, { bytes }) => sum + bytes, 0);
        yield {
          ...otherEntry(bias),
          role: `${role}.bias`,
          name: starred(bias.name),
          shape: [list.length, ...bias.shape],
          bytes,
        };
      }
    }
    for (const [role, values] of this.#model.vectors) {
      yield {
        role,
        name: `config.json: ${role}`,
        shape: [values.length],
        type: F32,
        bytes: values.byteLength,
      };
    }
  }

  async weight(role: string, signal?: AbortSignal): Promise<LinearWeight> {
    const list = this.#contents.weights.get(role);
    if (list === undefined) throw this.#missing(role);
    const parts: LinearWeight[] = [];
    for (const [expert, held] of list.entries()) {
      throwIfAborted(signal);
      parts.push(await this.#read(role, held, this.#bias(role, list, expert), signal));
    }
    const [first] = parts;
    const stacked = isStack(role) && first?.experts === undefined;
    const weight = stacked ? stackExperts(role, parts) : (first as LinearWeight);
    return this.#rotated(role, weight);
  }

  async vector(role: string, signal?: AbortSignal): Promise<Float32Array> {
    const own = this.#model.vectors.get(role);
    if (own) return own.slice();
    const biasOf = role.endsWith(".bias") ? role.slice(0, -".bias".length) : undefined;
    const held = this.#contents.weights.get(role)?.[0];
    const tensor =
      biasOf === undefined
        ? held?.kind === "plain"
          ? held.tensor
          : undefined
        : this.#contents.biases.get(biasOf);
    if (tensor === undefined) throw this.#missing(role);
    const values = await this.#numbers(tensor, signal);
    const order = biasOf && this.#rowOrder(biasOf, values.length);
    if (order) return Float32Array.from(order, (row) => values[row] ?? 0);
    const { normOffset } = this.#model.family.names;
    return normOffset && isNorm(role) ? values.map((value) => value + normOffset) : values;
  }

  #bias(role: string, list: readonly Held[], expert: number): SafetensorsTensor | undefined {
    const isOne = list.length === 1 && this.#contents.biases.has(role);
    return this.#contents.biases.get(isOne || !isStack(role) ? role : biasKey({ role, expert }));
  }

  /** One for all experts, which the architecture sees as one weight. */
  #entry(role: string, list: readonly Held[]): WeightEntry {
    const [held] = list as readonly [Held, ...Held[]];
    const bytes = list.reduce(
      (sum, held) => sum + (held.kind === "plain" ? held.tensor : held.packed).bytes,
      0,
    );
    const stack = isStack(role) && !(held.kind === "packed" && held.packed.experts !== undefined);
    const title = (name: string): string => (stack ? starred(name) : name);
    const stacked = (shape: readonly number[]): readonly number[] =>
      stack ? [list.length, ...shape] : shape;
    if (held.kind === "plain") {
      const { name, dtype, shape } = held.tensor;
      const type = denseTypes[dtype] as QuantType;
      const single = shape.length === 1 && role.endsWith(".shared.router");
      const turned = this.#isTransposed(role) ? shape.toReversed() : shape;
      return { role, name: title(name), shape: stacked(single ? [1, ...shape] : turned), type, bytes };
    }
    const { packed, module } = held;
    const largest = packed.segments.reduce((a, b) => (b.to - b.from > a.to - a.from ? b : a));
    return {
      role,
      name: title(module),
      shape: [...(packed.experts === undefined ? [] : [packed.experts]), ...stacked([packed.out, packed.in])],
      type: largest.type,
      segments: packed.segments,
      bytes,
    };
  }

  async #read(
    role: string,
    held: Held,
    bias: SafetensorsTensor | undefined,
    signal: AbortSignal | undefined,
  ): Promise<LinearWeight> {
    if (held.kind === "packed") {
      const { packed } = this.#opened;
      if (packed === undefined) throw this.#missing(role);
      return packed.weight(held.module, signal);
    }
    const { tensor } = held;
    const type = denseTypes[tensor.dtype] as QuantType;
    const [rows = 0, columns = 0] = this.#matrixShape(role, tensor);
    const bytes = await this.#opened.files.read(tensor.name, signal);
    const turned = this.#isTransposed(role);
    const values = bias && (await this.#numbers(bias, signal));
    const out = turned ? columns : rows;
    if (values && values.length !== out) {
      throw shapeError(
        `${this.#opened.file}: ${tensor.name} has ${out} outputs, its bias ${values.length} values`,
      );
    }
    return {
      out,
      in: turned ? rows : columns,
      ...(values && { bias: values }),
      segments: [
        {
          type,
          from: 0,
          to: turned ? rows : columns,
          blocks: turned ? transpose(bytes, rows, columns, type.bytes) : bytes,
        },
      ],
    };
  }

  #matrixShape(role: string, { name, shape }: SafetensorsTensor): readonly number[] {
    if (shape.length === 1 && role.endsWith(".shared.router")) return [1, ...shape];
    if (shape.length === 2 && shape.every((size) => size > 0)) return shape;
    throw shapeError(
      `${this.#opened.file}: ${name} has shape [${shape.join(", ")}]; ${role} must be a matrix`,
    );
  }

  #isTransposed(role: string): boolean {
    return this.#model.family.names.transposed?.includes(innerRole(role)) ?? false;
  }

  /** Rows of queries and keys as the canonical order has them. */
  #rotated(role: string, weight: LinearWeight): LinearWeight {
    const order = this.#rowOrder(role, weight.out);
    return order ? reorderRows(weight, order) : weight;
  }

  #rowOrder(role: string, rows: number): Int32Array | undefined {
    const { names } = this.#model.family;
    const inner = innerRole(role);
    if (!names.halvesToAdjacent || (inner !== "attn.q" && inner !== "attn.k")) return undefined;
    const { keySize } = this.#model.config;
    if (rows % keySize === 0 && keySize % 2 === 0) return pairingOrder(rows, keySize, "to-adjacent");
    throw shapeError(`${this.#opened.file}: ${role} has ${rows} rows, heads have ${keySize}`);
  }

  async #numbers(tensor: SafetensorsTensor, signal: AbortSignal | undefined): Promise<Float32Array> {
    const type = denseTypes[tensor.dtype];
    if (type === undefined || tensor.shape.length !== 1) {
      const shape = `${tensor.dtype} [${tensor.shape.join(", ")}]`;
      throw shapeError(`${this.#opened.file}: ${tensor.name} is ${shape}, not a vector of numbers`);
    }
    const bytes = await this.#opened.files.read(tensor.name, signal);
    throwIfAborted(signal);
    return dequantize(type, bytes, new Float32Array(bytes.length / type.bytes));
  }

  #missing(role: string): Error {
    const unclaimed = this.#contents.unclaimed.get(role);
    if (unclaimed) return unclaimedError(this.#opened.file, unclaimed);
    return safetensorsError(
      "weight-missing",
      "missing-tensor",
      `${this.#opened.file} has nothing for "${role}".`,
    );
  }
}

/** Are experts stacked under this role? */
function isStack(role: string): boolean {
  return role.includes(".experts.");
}

/** A name for all experts: "…mlp.experts.*.up_proj.weight". */
function starred(name: string): string {
  return name.replace(/\.experts\.\d+\./, ".experts.*.");
}

function unclaimedError(file: string, tensors: readonly SafetensorsTensor[]): Error {
  const names = tensors.slice(0, 3).map(({ name, dtype }) => `${name} (${dtype})`);
  const rest = tensors.length > names.length ? ` and ${tensors.length - names.length} more` : "";
  const what = `${file}: no packing knows what to do with ${names.join(", ")}${rest}.`;
  return safetensorsError("format-unsupported", "unclaimed-tensors", what, {
    hint: "Say how it is quantized in config.json's quantization_config, and add the plugin that reads it.",
  });
}

/** JSON as plain values for people to look at: nested objects become "a.b" keys. */
export function flatten(
  value: JsonValue,
  prefix = "",
  into: Map<string, unknown> = new Map(),
): Map<string, unknown> {
  if (value instanceof Map) {
    for (const [key, inner] of value as ReadonlyMap<string, JsonValue>) {
      flatten(inner, prefix === "" ? key : `${prefix}.${key}`, into);
    }
  } else if (value !== null) into.set(prefix, value);
  return into;
}
