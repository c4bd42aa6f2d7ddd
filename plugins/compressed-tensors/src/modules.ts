import {
  decodeDense,
  type JsonValue,
  type LinearWeight,
  LowbitError,
  type LowbitErrorCode,
  type PackedCheckpoint,
  type PackedModule,
  type PackedModules,
  type SafetensorsDtype,
  type SafetensorsTensor,
  throwIfAborted,
  wordsFrom,
} from "@lowbit/core";

/** A module whose tensors and shapes were checked. */
export interface OpenModule extends PackedModule {
  read(signal?: AbortSignal): Promise<LinearWeight>;
}

export type Metadata = Map<string, string | number | boolean>;

/** A shape; undefined stands for any size of at least 1. */
export type Shape = readonly (number | undefined)[];

export const denseFormats = { F32: "f32", F16: "f16", BF16: "bf16" } as const;
export const floatDtypes = ["F32", "F16", "BF16"] as const;

/** Ignored beside a weight: scales of activations, which stay floats here. */
const unread = ["input_scale", "input_global_scale", "output_scale", "input_zero_point", "output_zero_point"];

/** The tensors under one module's name. */
export class Site {
  readonly checkpoint: PackedCheckpoint;
  readonly module: string;
  /** For messages. */
  readonly where: string;
  readonly #used: SafetensorsTensor[] = [];

  constructor(checkpoint: PackedCheckpoint, module: string) {
    this.checkpoint = checkpoint;
    this.module = module;
    this.where = `${checkpoint.name}: module ${module}`;
  }

  has(part: string): boolean {
    return this.checkpoint.tensors.has(`${this.module}.${part}`);
  }

  /** Checks a tensor's dtype and, where one is given, its shape. Throws missing-tensor, unsupported-type, shape-mismatch. */
  need(part: string, dtypes: readonly SafetensorsDtype[], shape?: Shape): SafetensorsTensor {
    const tensor = this.maybe(part, dtypes, shape);
    if (tensor) return tensor;
    throw fail("missing-tensor", `${this.where} has no tensor ${part}`);
  }

  maybe(part: string, dtypes: readonly SafetensorsDtype[], shape?: Shape): SafetensorsTensor | undefined {
    return this.named(`${this.module}.${part}`, dtypes, shape);
  }

  named(name: string, dtypes: readonly SafetensorsDtype[], shape?: Shape): SafetensorsTensor | undefined {
    const tensor = this.checkpoint.tensors.get(name);
    if (!tensor) return undefined;
    const what = `${this.checkpoint.name}: ${name} is ${tensor.dtype} [${tensor.shape.join(", ")}]`;
    if (!dtypes.includes(tensor.dtype)) {
      throw fail("unsupported-type", `${what}, expected ${dtypes.join(" or ")}`, "type-unsupported");
    }
    const fits =
      !shape ||
      (shape.length === tensor.shape.length &&
        tensor.shape.every((size, i) => size >= 1 && size === (shape[i] ?? size)));
    if (!fits) {
      const text = shape.map((size) => size ?? "?").join(", ");
      throw fail("shape-mismatch", `${what}, expected [${text}]`);
    }
    this.#used.push(tensor);
    return tensor;
  }

  async words(tensor: SafetensorsTensor, signal?: AbortSignal): Promise<Uint32Array> {
    return wordsFrom(await this.checkpoint.read(tensor, signal));
  }

  /** Adds the bias and what lies beside the weight and is not needed. */
  open(
    module: Pick<PackedModule, "out" | "in" | "experts" | "segments">,
    read: (signal?: AbortSignal) => Promise<Omit<LinearWeight, "out" | "in" | "experts">>,
    biasName = `${this.module}.bias`,
  ): OpenModule {
    const { out, in: columns, experts } = module;
    const bias = this.named(biasName, floatDtypes, experts === undefined ? [out] : [experts, out]);
    const beside = unread.map((part) => this.checkpoint.tensors.get(`${this.module}.${part}`));
    const tensors = [...this.#used, ...beside.filter((tensor) => tensor !== undefined)];
    return {
      ...module,
      bytes: tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
      tensors: tensors.map((tensor) => tensor.name),
      read: async (signal) => {
        const [weight, biases] = await Promise.all([
          read(signal),
          bias && this.checkpoint.read(bias, signal),
        ]);
        throwIfAborted(signal);
        return {
          out,
          in: columns,
          ...(experts !== undefined && { experts }),
          ...weight,
          ...(bias && biases && { bias: floats(bias, biases) }),
        };
      },
    };
  }
}

/** Numbers of a tensor as f32. */
export function floats({ dtype }: SafetensorsTensor, bytes: Uint8Array): Float32Array {
  const format = denseFormats[dtype as keyof typeof denseFormats];
  const out = new Float32Array(bytes.length / (format === "f32" ? 4 : 2));
  decodeDense(format, bytes, out);
  return out;
}

/** Scales as f32. Throws non-finite-scale. */
export function finiteFloats(where: string, tensor: SafetensorsTensor, bytes: Uint8Array): Float32Array {
  const values = floats(tensor, bytes);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return values;
  throw fail("non-finite-scale", `${where}: scale ${bad} of ${tensor.name} is ${values[bad]}`);
}

/** Scales as their bits. Throws non-finite-scale. */
export function finiteBits(
  where: string,
  tensor: SafetensorsTensor,
  bytes: Uint8Array,
): Uint16Array | Uint32Array {
  finiteFloats(where, tensor, bytes);
  const { buffer } = bytes.slice();
  return tensor.dtype === "F32" ? new Uint32Array(buffer) : new Uint16Array(buffer);
}

/** The modules that `open` finds; at most 16 read at a time while they are opened. */
export async function openModules(
  checkpoint: PackedCheckpoint,
  names: Iterable<string>,
  metadata: Metadata,
  open: (site: Site, signal?: AbortSignal) => OpenModule | undefined | Promise<OpenModule | undefined>,
  signal?: AbortSignal,
): Promise<PackedModules> {
  const modules = new Map<string, OpenModule>();
  const all = [...new Set(names)];
  for (let i = 0; i < all.length; i += 16) {
    throwIfAborted(signal);
    const some = all.slice(i, i + 16);
    const opened = await Promise.all(some.map((name) => open(new Site(checkpoint, name), signal)));
    for (const [k, module] of opened.entries()) if (module) modules.set(some[k]!, module);
  }
  metadata.set("modules", modules.size);
  return {
    metadata,
    describe: (name) => modules.get(name),
    async weight(name, signal) {
      const module = modules.get(name);
      if (module) return module.read(signal);
      throw fail(
        "missing-tensor",
        `${checkpoint.name} has no packed module ${JSON.stringify(name)}`,
        "weight-missing",
      );
    },
  };
}

/** Modules that have a tensor of this name: those before the suffix. */
export function* modulesWith(
  { tensors }: PackedCheckpoint,
  ...suffixes: readonly string[]
): Generator<string> {
  for (const name of tensors.keys()) {
    for (const suffix of suffixes) if (name.endsWith(suffix)) yield name.slice(0, -suffix.length);
  }
}

export function member(value: JsonValue | undefined, ...path: readonly string[]): JsonValue | undefined {
  for (const key of path) value = value instanceof Map ? value.get(key) : undefined;
  return value ?? undefined;
}

export function declaredMethod({ quantization }: PackedCheckpoint): string | undefined {
  const method = member(quantization, "quant_method");
  return typeof method === "string" ? method.toLowerCase() : undefined;
}

export function fail(
  reason: string,
  what: string,
  code: LowbitErrorCode = "file-corrupt",
  hint?: string,
): LowbitError {
  return new LowbitError(code, `${what}.`, { reason, plugin: "compressed-tensors", ...(hint && { hint }) });
}

/** A setting of the configuration is not what it may be. */
export function invalid(what: string): LowbitError {
  return fail("invalid-config", what);
}
