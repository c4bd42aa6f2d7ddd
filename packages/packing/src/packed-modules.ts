import type {
  LinearWeight,
  PackedCheckpoint,
  PackedModule,
  PackedModules,
  PackedTensor,
  SafetensorsDtype,
  SafetensorsTensor,
} from "@lowbit/core";
import {
  decodeDense,
  floatToHalf,
  halfToFloat,
  LowbitError,
  type LowbitErrorCode,
  throwIfAborted,
} from "@lowbit/core";
import { wordsFrom } from "./bit-stream.ts";

/** What the readers of packings share: checked access to the tensors of a module, and the map of all modules. */

/** A module whose tensors and shapes were checked. */
export interface OpenModule extends PackedModule {
  read(signal?: AbortSignal): Promise<LinearWeight>;
}

/** A shape; undefined stands for any size of at least 1. */
export type ShapePattern = readonly (number | undefined)[];

/** Formats of numbers by safetensors dtype. */
export const floatFormats = { F32: "f32", F16: "f16", BF16: "bf16" } as const;
export const floatDtypes: readonly ["F32", "F16", "BF16"] = ["F32", "F16", "BF16"];

/** At most so many modules are looked into at a time while a checkpoint is opened. */
const concurrency = 16;

/** The tensors under one module's name. Those that were asked for count as the module's own. */
export class ModuleTensors {
  readonly checkpoint: PackedCheckpoint;
  readonly module: string;
  /** For messages. */
  readonly where: string;
  readonly #packing: string;
  readonly #used: SafetensorsTensor[] = [];

  constructor(checkpoint: PackedCheckpoint, module: string, packing: string) {
    this.checkpoint = checkpoint;
    this.module = module;
    this.where = `${checkpoint.name}: module ${module}`;
    this.#packing = packing;
  }

  has(part: string): boolean {
    return this.checkpoint.tensors.has(`${this.module}.${part}`);
  }

  /** Checks a tensor's dtype and, where one is given, its shape. Throws missing-tensor, unsupported-type, shape-mismatch. */
  need(part: string, dtypes: readonly SafetensorsDtype[], shape?: ShapePattern): SafetensorsTensor {
    const tensor = this.maybe(part, dtypes, shape);
    if (tensor) return tensor;
    throw this.fail("missing-tensor", `${this.where} has no tensor ${part}`);
  }

  maybe(
    part: string,
    dtypes: readonly SafetensorsDtype[],
    shape?: ShapePattern,
  ): SafetensorsTensor | undefined {
    return this.named(`${this.module}.${part}`, dtypes, shape);
  }

  /** The same for a full name. */
  named(
    name: string,
    dtypes: readonly SafetensorsDtype[],
    shape?: ShapePattern,
  ): SafetensorsTensor | undefined {
    const tensor = this.checkpoint.tensors.get(name);
    if (!tensor) return undefined;
    const what = `${this.checkpoint.name}: ${name} is ${tensor.dtype} [${tensor.shape.join(", ")}]`;
    if (!dtypes.includes(tensor.dtype)) {
      throw this.fail("unsupported-type", `${what}, expected ${dtypes.join(" or ")}`, "type-unsupported");
    }
    const fits =
      !shape ||
      (shape.length === tensor.shape.length &&
        tensor.shape.every((size, i) => size >= 1 && size === (shape[i] ?? size)));
    if (!fits) {
      const text = shape.map((size) => size ?? "?").join(", ");
      throw this.fail("shape-mismatch", `${what}, expected [${text}]`);
    }
    this.#used.push(tensor);
    return tensor;
  }

  async words(tensor: SafetensorsTensor, signal?: AbortSignal): Promise<Uint32Array> {
    return wordsFrom(await this.checkpoint.read(tensor, signal));
  }

  /** Numbers of a tensor as f32. */
  async floats(tensor: SafetensorsTensor, signal?: AbortSignal): Promise<Float32Array> {
    return floatsOf(tensor, await this.checkpoint.read(tensor, signal));
  }

  /** Numbers of a tensor as the bits of its dtype. Throws non-finite-scale for infinities and NaN. */
  async scaleBits(tensor: SafetensorsTensor, signal?: AbortSignal): Promise<Uint16Array | Uint32Array> {
    const bytes = await this.checkpoint.read(tensor, signal);
    const exponent = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 }[tensor.dtype as "F32"];
    const bits = tensor.dtype === "F32" ? wordsFrom(bytes) : halvesFrom(bytes);
    const bad = bits.findIndex((value) => (value & exponent) === exponent);
    if (bad < 0) return bits;
    throw this.fail("non-finite-scale", `${this.where}: number ${bad} of ${tensor.name} is not finite`);
  }

  /** The module, with its bias, and with tensors beside it that are not needed to read it. */
  open(
    module: Pick<PackedModule, "out" | "in" | "experts" | "segments">,
    read: (signal?: AbortSignal) => Promise<Omit<LinearWeight, "out" | "in" | "experts">>,
    options: { bias?: string; unread?: readonly string[] } = {},
  ): OpenModule {
    const { out, in: columns, experts } = module;
    const biasName = options.bias ?? `${this.module}.bias`;
    const bias = this.named(biasName, floatDtypes, experts === undefined ? [out] : [experts, out]);
    const beside = (options.unread ?? []).map((part) =>
      this.checkpoint.tensors.get(`${this.module}.${part}`),
    );
    const tensors = [...this.#used, ...beside.filter((tensor) => tensor !== undefined)];
    return {
      ...module,
      bytes: tensors.reduce((sum, tensor) => sum + tensor.bytes, 0),
      tensors: tensors.map((tensor) => tensor.name),
      read: async (signal) => {
        const [weight, biases] = await Promise.all([read(signal), bias && this.floats(bias, signal)]);
        throwIfAborted(signal);
        return {
          out,
          in: columns,
          ...(experts !== undefined && { experts }),
          ...weight,
          ...(biases && { bias: biases }),
        };
      },
    };
  }

  fail(
    reason: string,
    what: string,
    code: LowbitErrorCode = "file-corrupt",
    options: { hint?: string; cause?: unknown } = {},
  ): LowbitError {
    return packingError(this.#packing, reason, what, code, options);
  }
}

/** An error of a packing's reader or writer. */
export function packingError(
  packing: string,
  reason: string,
  what: string,
  code: LowbitErrorCode = "file-corrupt",
  options: { hint?: string; cause?: unknown } = {},
): LowbitError {
  return new LowbitError(code, `${what}.`, { reason, plugin: packing, ...options });
}

/** The modules that `open` finds under these names. */
export async function openModules(
  checkpoint: PackedCheckpoint,
  packing: string,
  names: Iterable<string>,
  metadata: Map<string, string | number | boolean>,
  open: (
    tensors: ModuleTensors,
    signal?: AbortSignal,
  ) => OpenModule | undefined | Promise<OpenModule | undefined>,
  signal?: AbortSignal,
): Promise<PackedModules> {
  const modules = new Map<string, OpenModule>();
  const all = [...new Set(names)];
  for (let i = 0; i < all.length; i += concurrency) {
    throwIfAborted(signal);
    const some = all.slice(i, i + concurrency);
    const opened = await Promise.all(
      some.map((name) => open(new ModuleTensors(checkpoint, name, packing), signal)),
    );
    for (const [k, module] of opened.entries()) if (module) modules.set(some[k]!, module);
  }
  metadata.set("modules", modules.size);
  return {
    metadata,
    describe: (name) => modules.get(name),
    async weight(name, signal) {
      const module = modules.get(name);
      if (module) return module.read(signal);
      const what = `${checkpoint.name} has no packed module ${JSON.stringify(name)}`;
      throw packingError(packing, "missing-tensor", what, "weight-missing");
    },
  };
}

/** Modules that have a tensor with one of these suffixes: names before the suffix. */
export function* modulesWith(
  { tensors }: Pick<PackedCheckpoint, "tensors">,
  ...suffixes: readonly string[]
): Generator<string> {
  for (const name of tensors.keys()) {
    for (const suffix of suffixes) if (name.endsWith(suffix)) yield name.slice(0, -suffix.length);
  }
}

/** `quant_method`, in lower case. */
export function declaredMethod({ quantization }: Pick<PackedCheckpoint, "quantization">): string | undefined {
  const method = quantization instanceof Map ? quantization.get("quant_method") : undefined;
  return typeof method === "string" ? method.toLowerCase() : undefined;
}

/** Numbers of a tensor of f32, f16 or bf16. */
export function floatsOf({ dtype }: Pick<SafetensorsTensor, "dtype">, bytes: Uint8Array): Float32Array {
  const format = floatFormats[dtype as keyof typeof floatFormats];
  const out = new Float32Array(bytes.length / (format === "f32" ? 4 : 2));
  decodeDense(format, bytes, out);
  return out;
}

/** Little-endian 16-bit words of bytes that may lie anywhere; a view where they are aligned. */
export function halvesFrom(bytes: Uint8Array): Uint16Array {
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(aligned.buffer, aligned.byteOffset, aligned.byteLength >> 1);
}

/** A tensor of halves, as the reference tools write biases, or of f32 where that would change a value. */
export function floatTensor(name: string, values: Float32Array): PackedTensor {
  const halves = Uint16Array.from(values, floatToHalf);
  const exact = values.every((value, i) => Object.is(halfToFloat(halves[i]!), value));
  const data = new Uint8Array(exact ? halves.buffer : values.slice().buffer);
  return { name, dtype: exact ? "F16" : "F32", shape: [values.length], data };
}
