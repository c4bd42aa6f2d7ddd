import type { ByteSink, LowbitError, QuantType } from "@lowbit/core";
import {
  alignUp,
  arrayType,
  defaultAlignment,
  type GgufEntry,
  type GgufScalar,
  ggufError,
  scalarBytes,
  scalarTypes,
  tensorBytes,
} from "./container.ts";
import { ggmlTypeIds } from "./types.ts";

/** A tensor to write. */
export interface GgufTensorSource {
  readonly name: string;
  /** Slowest dimension first: [out, in]. */
  readonly shape: readonly number[];
  readonly type: QuantType;
  /** Little-endian blocks: at hand, made when their turn comes, or in pieces. */
  readonly data:
    | Uint8Array
    | (() => Uint8Array | Promise<Uint8Array> | Iterable<Uint8Array> | AsyncIterable<Uint8Array>);
}

export interface GgufContents {
  /** Written in this order. `general.alignment` (u32), if present, sets the alignment of tensors. */
  readonly metadata: ReadonlyMap<string, GgufEntry>;
  readonly tensors: readonly GgufTensorSource[];
}

/**
 * Writes a GGUF file: version 3, little-endian. Sizes follow from shapes and types, so tensors are asked for their data
 * one at a time and nothing else is held. Resolves to the file's length.
 * Throws `bad-argument` for contents that a reader would refuse.
 */
export async function writeGguf(sink: ByteSink, contents: GgufContents): Promise<number> {
  const alignment = alignmentOf(contents.metadata);
  const header = new Writer();
  header.raw(Uint8Array.of(0x47, 0x47, 0x55, 0x46));
  header.scalar("u32", 3, "version");
  header.scalar("u64", contents.tensors.length, "tensor count");
  header.scalar("u64", contents.metadata.size, "key count");
  for (const [key, entry] of contents.metadata) writeEntry(header, key, entry);
  const sizes = writeTable(header, contents.tensors, alignment);
  if (contents.tensors.length > 0) header.raw(new Uint8Array(padding(header.length, alignment)));
  const bytes = header.finish();
  await sink.write(bytes);
  let position = bytes.length;
  for (const [i, tensor] of contents.tensors.entries()) {
    const size = sizes[i] ?? 0;
    let written = 0;
    for await (const piece of pieces(tensor)) {
      written += piece.length;
      if (written > size) break;
      await sink.write(piece);
    }
    if (written !== size) {
      const shape = `${tensor.type.name} [${tensor.shape.join(", ")}]`;
      throw bad(
        `tensor ${tensor.name} has ${written} bytes or more, but ${shape} takes ${size}`,
        "shape-mismatch",
      );
    }
    const rest = padding(size, alignment);
    if (rest > 0) await sink.write(new Uint8Array(rest));
    position += size + rest;
  }
  return position;
}

/** The same, into memory. */
export async function ggufBytes(contents: GgufContents): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const length = await writeGguf({ write: (bytes) => void parts.push(bytes.slice()) }, contents);
  const out = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

async function* pieces(tensor: GgufTensorSource): AsyncIterable<Uint8Array> {
  const data = typeof tensor.data === "function" ? await tensor.data() : tensor.data;
  if (data instanceof Uint8Array) yield data;
  else yield* data;
}

function writeTable(header: Writer, tensors: readonly GgufTensorSource[], alignment: number): number[] {
  const names = new Set<string>();
  let offset = 0;
  return tensors.map(({ name, shape, type }) => {
    const id = ggmlTypeIds.get(type);
    const size = tensorBytes(type, shape);
    if (names.has(name)) throw bad(`two tensors are named ${JSON.stringify(name)}`, "duplicate");
    if (id === undefined)
      throw bad(`tensor ${name} is ${type.name}, which GGUF does not have`, "unsupported-type");
    const valid = shape.length <= 4 && shape.every((n) => Number.isSafeInteger(n) && n > 0);
    if (!valid || size === undefined) {
      throw bad(`tensor ${name} cannot have shape [${shape.join(", ")}] in ${type.name}`, "invalid-shape");
    }
    if (header.text(name) >= 64) throw bad(`tensor name ${name} has 64 bytes or more`, "limit-exceeded");
    names.add(name);
    header.scalar("u32", shape.length, name);
    for (const dimension of shape.toReversed()) header.scalar("u64", dimension, name);
    header.scalar("u32", id, name);
    header.scalar("u64", offset, name);
    offset += alignUp(size, alignment);
    return size;
  });
}

function writeEntry(header: Writer, key: string, { type, value }: GgufEntry): void {
  if (key === "") throw bad("a metadata key is empty", "invalid-key");
  header.text(key);
  if (!type.endsWith("[]")) {
    header.scalar("u32", scalarTypes.indexOf(type as GgufScalar), key);
    header.value(type as GgufScalar, value, key);
    return;
  }
  const element = type.slice(0, -2) as GgufScalar;
  if (typeof value !== "object") throw bad(`${key} is declared as ${type} but is no array`, "invalid-type");
  header.scalar("u32", arrayType, key);
  header.scalar("u32", scalarTypes.indexOf(element), key);
  header.scalar("u64", value.length, key);
  for (const item of value) header.value(element, item, key);
}

function alignmentOf(metadata: GgufContents["metadata"]): number {
  const entry = metadata.get("general.alignment");
  if (entry === undefined) return defaultAlignment;
  const value = entry.value;
  if (entry.type !== "u32" || typeof value !== "number")
    throw bad("general.alignment must be u32", "invalid-type");
  if (value <= 0 || !Number.isInteger(Math.log2(value))) {
    throw bad(`general.alignment must be a power of two, not ${value}`, "invalid-alignment");
  }
  return value;
}

function padding(length: number, alignment: number): number {
  return alignUp(length, alignment) - length;
}

function bad(what: string, reason: string): LowbitError {
  return ggufError("bad-argument", reason, `Cannot write the file: ${what}.`);
}

const integerRanges: Partial<Record<GgufScalar, readonly [bigint, bigint]>> = {
  u8: [0n, 255n],
  i8: [-128n, 127n],
  u16: [0n, 65535n],
  i16: [-32768n, 32767n],
  u32: [0n, 2n ** 32n - 1n],
  i32: [-(2n ** 31n), 2n ** 31n - 1n],
  u64: [0n, 2n ** 64n - 1n],
  i64: [-(2n ** 63n), 2n ** 63n - 1n],
};

const setters: Partial<Record<GgufScalar, (view: DataView, at: number, value: number | bigint) => void>> = {
  u8: (view, at, value) => view.setUint8(at, Number(value)),
  i8: (view, at, value) => view.setInt8(at, Number(value)),
  u16: (view, at, value) => view.setUint16(at, Number(value), true),
  i16: (view, at, value) => view.setInt16(at, Number(value), true),
  u32: (view, at, value) => view.setUint32(at, Number(value), true),
  i32: (view, at, value) => view.setInt32(at, Number(value), true),
  f32: (view, at, value) => view.setFloat32(at, Number(value), true),
  f64: (view, at, value) => view.setFloat64(at, Number(value), true),
  u64: (view, at, value) => view.setBigUint64(at, BigInt(value), true),
  i64: (view, at, value) => view.setBigInt64(at, BigInt(value), true),
};

/** A growing little-endian buffer. */
class Writer {
  length = 0;
  #bytes = new Uint8Array(4096);
  #view = new DataView(this.#bytes.buffer);
  readonly #encoder = new TextEncoder();

  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.length);
  }

  raw(bytes: Uint8Array): void {
    const at = this.#take(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** A length-prefixed string; returns its length in bytes. */
  text(text: string): number {
    const bytes = this.#encoder.encode(text);
    // Taking room may replace the view, so it comes first.
    const at = this.#take(8);
    this.#view.setBigUint64(at, BigInt(bytes.length), true);
    this.raw(bytes);
    return bytes.length;
  }

  value(type: GgufScalar, value: unknown, key: string): void {
    if (type === "string" && typeof value === "string") this.text(value);
    else if (type === "bool" && typeof value === "boolean") this.raw(Uint8Array.of(value ? 1 : 0));
    else if (typeof value === "number" || typeof value === "bigint") this.scalar(type, value, key);
    else throw bad(`${key} is declared as ${type}, but a value is ${typeof value}`, "invalid-type");
  }

  scalar(type: GgufScalar, value: number | bigint, key: string): void {
    const range = integerRanges[type];
    const integer = typeof value === "bigint" || Number.isInteger(value);
    if (range !== undefined && (!integer || value < range[0] || value > range[1])) {
      throw bad(`${key} is declared as ${type}, which cannot hold ${value}`, "invalid-value");
    }
    const set = setters[type];
    if (set === undefined)
      throw bad(`${key} is declared as ${type}, but a value is a number`, "invalid-type");
    const at = this.#take(scalarBytes[type]);
    set(this.#view, at, value);
  }

  #take(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(this.length, 2 * this.#bytes.length));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    return at;
  }
}
