import { type ByteSource, throwIfAborted } from "@lowbit/core";
import { type GgufScalar, ggufError, type NumericArray, scalarBytes } from "./container.ts";

/** Bytes that the first read asks for; later reads double up to the largest, so that little is read past the header. */
const firstRead = 128 * 1024;
const largestRead = 512 * 1024;

/** A header that is longer than this is not one. The largest vocabularies take about 20 MiB. */
const maxHeaderBytes = 128 * 1024 * 1024;

/** Strings and arrays have at most this many bytes or elements (ggml's own limit). */
const maxCount = 2 ** 30;

/**
 * Reads a header front to back through a window on the source. `need(n)` makes the next n bytes readable, the other
 * methods then take them without waiting.
 */
export class Cursor {
  readonly source: ByteSource;
  bigEndian = false;
  /** Version 1 has 32-bit counts and lengths. */
  narrow = false;
  #bytes: Uint8Array = new Uint8Array(0);
  #view: DataView = new DataView(new ArrayBuffer(0));
  /** Of the window's start in the file. */
  #base = 0;
  #at = 0;
  #nextRead = firstRead;
  readonly #signal: AbortSignal | undefined;
  readonly #strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  readonly #lenient = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(source: ByteSource, signal: AbortSignal | undefined) {
    this.source = source;
    this.#signal = signal;
  }

  /** From the start of the file. */
  get position(): number {
    return this.#base + this.#at;
  }

  /** Bytes up to the end of the file. */
  get remaining(): number {
    return this.source.size - this.position;
  }

  /** Makes `count` bytes readable, or throws `truncated`. Resolved promises are not awaited by callers in hot loops. */
  need(count: number, what: string): Promise<void> | undefined {
    return this.#at + count <= this.#bytes.length ? undefined : this.#fill(count, what);
  }

  async #fill(count: number, what: string): Promise<void> {
    throwIfAborted(this.#signal);
    if (count > this.remaining) throw this.truncated(count, what);
    if (this.position + count > maxHeaderBytes)
      throw this.tooMany(`${what} ends past ${maxHeaderBytes} bytes`);
    const kept = this.#bytes.subarray(this.#at);
    const from = this.position + kept.length;
    const length = Math.min(Math.max(count - kept.length, this.#nextRead), this.source.size - from);
    const read = await this.source.read(from, length, this.#signal);
    this.#nextRead = Math.min(2 * this.#nextRead, largestRead);
    const window = new Uint8Array(kept.length + read.length);
    window.set(kept);
    window.set(read, kept.length);
    this.#base = this.position;
    this.#bytes = window;
    this.#view = new DataView(window.buffer);
    this.#at = 0;
  }

  /** The next number. Needs its bytes. 64-bit integers come as bigints. */
  scalar(type: Exclude<GgufScalar, "string" | "u64" | "i64">): number;
  scalar(type: Exclude<GgufScalar, "string">): number | bigint;
  scalar(type: Exclude<GgufScalar, "string">): number | bigint {
    const at = this.#at;
    const little = !this.bigEndian;
    this.#at += scalarBytes[type];
    switch (type) {
      case "u8":
      case "bool":
        return this.#view.getUint8(at);
      case "i8":
        return this.#view.getInt8(at);
      case "u16":
        return this.#view.getUint16(at, little);
      case "i16":
        return this.#view.getInt16(at, little);
      case "u32":
        return this.#view.getUint32(at, little);
      case "i32":
        return this.#view.getInt32(at, little);
      case "f32":
        return this.#view.getFloat32(at, little);
      case "f64":
        return this.#view.getFloat64(at, little);
      case "u64":
        return this.#view.getBigUint64(at, little);
      case "i64":
        return this.#view.getBigInt64(at, little);
    }
  }

  /** Bytes of a count or length in this version. */
  get wordBytes(): number {
    return this.narrow ? 4 : 8;
  }

  /** A count, length or dimension, rounded where it exceeds 53 bits: only comparisons with limits follow. */
  word(): number {
    if (this.narrow) return this.scalar("u32");
    // Two halves: a bigint for each string of a vocabulary would cost more than the string.
    const [first, second] = [this.scalar("u32"), this.scalar("u32")];
    return this.bigEndian ? first * 2 ** 32 + second : second * 2 ** 32 + first;
  }

  /** Checks a count against what can follow: `bytesEach` is the least that one item takes. */
  checkCount(count: number, bytesEach: number, what: string): void {
    if (count > maxCount)
      throw this.tooMany(`${what} claims ${count} items; at most ${maxCount} are possible`);
    if (count * bytesEach > this.remaining) throw this.truncated(count * bytesEach, what);
  }

  /**
   * A string. Names must be UTF-8 and at most `maxBytes` long; in values, which have no such limit, U+FFFD replaces what is
   * not UTF-8.
   */
  async string(what: string, maxBytes?: number): Promise<string> {
    await this.need(this.wordBytes, what);
    const length = this.word();
    this.checkCount(length, 1, what);
    if (maxBytes !== undefined && length > maxBytes) {
      throw this.tooMany(`${what} has ${length} bytes; at most ${maxBytes} are possible`);
    }
    await this.need(length, what);
    return this.#text(length, what, maxBytes === undefined ? "value" : "name");
  }

  /** An array of strings. Waits only where the window ends. */
  async strings(count: number, what: string): Promise<string[]> {
    const values: string[] = [];
    for (let i = 0; i < count; i++) {
      const header = this.need(this.wordBytes, what);
      if (header !== undefined) await header;
      const length = this.word();
      this.checkCount(length, 1, what);
      const body = this.need(length, what);
      if (body !== undefined) await body;
      values.push(this.#text(length, what, "value"));
    }
    return values;
  }

  /** An array of numbers as the typed array of its type. */
  async numbers(
    type: Exclude<GgufScalar, "string" | "bool">,
    count: number,
    what: string,
  ): Promise<NumericArray> {
    const size = scalarBytes[type];
    await this.need(count * size, what);
    const bytes = this.#bytes.slice(this.#at, this.#at + count * size);
    this.#at += bytes.length;
    if (this.bigEndian && size > 1) {
      for (let i = 0; i < bytes.length; i += size) bytes.subarray(i, i + size).reverse();
    }
    return new typedArrays[type](bytes.buffer);
  }

  /** One byte each; ggml takes any but 0 as true. */
  async booleans(count: number, what: string): Promise<boolean[]> {
    await this.need(count, what);
    const bytes = this.#bytes.subarray(this.#at, this.#at + count);
    this.#at += count;
    return Array.from(bytes, (byte) => byte !== 0);
  }

  #text(length: number, what: string, kind: "name" | "value"): string {
    const part = this.#bytes.subarray(this.#at, this.#at + length);
    this.#at += length;
    if (kind === "value") return this.#lenient.decode(part);
    try {
      return this.#strict.decode(part);
    } catch (cause) {
      throw ggufError("file-corrupt", "invalid-utf8", `${this.source.name}: ${what} is not UTF-8.`, {
        cause,
      });
    }
  }

  truncated(wanted: number, what: string): Error {
    return ggufError(
      "file-corrupt",
      "truncated",
      `${this.source.name}: ${what} at byte ${this.position} takes ${wanted} bytes, but the file ends ${this.remaining} bytes later.`,
      { hint: "The file is cut short or damaged; fetch it again." },
    );
  }

  tooMany(what: string): Error {
    return ggufError("file-corrupt", "limit-exceeded", `${this.source.name}: ${what}.`, {
      hint: "The file is damaged; fetch it again.",
    });
  }
}

const typedArrays: Record<
  Exclude<GgufScalar, "string" | "bool">,
  new (
    buffer: ArrayBuffer,
  ) => NumericArray
> = {
  u8: Uint8Array,
  i8: Int8Array,
  u16: Uint16Array,
  i16: Int16Array,
  u32: Uint32Array,
  i32: Int32Array,
  f32: Float32Array,
  u64: BigUint64Array,
  i64: BigInt64Array,
  f64: Float64Array,
};
