import type { ByteSink, ByteSource } from "@lowbit/core";
import {
  type JsonValue,
  LowbitError,
  type LowbitErrorCode,
  parseJson,
  type SafetensorsDtype,
  type SafetensorsTensor,
  safetensorsBits,
} from "@lowbit/core";

export interface SafetensorsHeader {
  /** The `__metadata__` entry. */
  readonly metadata: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
}

const maxHeaderBytes = 100_000_000;

/**
 * Reads and checks the header of a safetensors file: ranges must cover the data section exactly, without holes or overlap.
 * Throws `file-corrupt` with the precise word as `reason`, or `type-unsupported`. Does not close the source.
 */
export async function readSafetensors(source: ByteSource, signal?: AbortSignal): Promise<SafetensorsHeader> {
  const { name: file, size } = source;
  if (size < 8) throw fail("truncated", `${file} has ${size} bytes; a safetensors file has at least 8`);
  const head = await source.read(0, 8, signal);
  const length = Number(new DataView(head.buffer, head.byteOffset, 8).getBigUint64(0, true));
  if (length > maxHeaderBytes) {
    throw fail(
      "limit-exceeded",
      `${file} claims a header of ${length} bytes; ${maxHeaderBytes} are possible`,
    );
  }
  if (length > size - 8) {
    throw fail("truncated", `${file} has a header of ${length} bytes, but only ${size - 8} follow`);
  }
  const text = decode(await source.read(8, length, signal), file);
  if (!text.startsWith("{")) throw fail("invalid-json", `${file}: the header does not begin with "{"`);
  const header = parseJson(text, `${file}: the header`);
  const tensors = new Map<string, SafetensorsTensor>();
  let metadata = new Map<string, string>();
  for (const [name, entry] of header as ReadonlyMap<string, JsonValue>) {
    if (name === "__metadata__") metadata = readStrings(entry, file);
    else tensors.set(name, readTensor(name, entry, file, 8 + length, size));
  }
  checkCoverage(tensors, file, 8 + length, size);
  return { metadata, tensors };
}

function decode(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw fail("invalid-utf8", `${file}: the header is not UTF-8`, cause);
  }
}

function readStrings(entry: JsonValue, file: string): Map<string, string> {
  const strings = new Map<string, string>();
  for (const [key, value] of entry instanceof Map ? entry : [["", null] as const]) {
    if (typeof value !== "string")
      throw fail("invalid-json", `${file}: __metadata__ must map names to strings`);
    strings.set(key, value);
  }
  return strings;
}

function readTensor(
  name: string,
  entry: JsonValue,
  file: string,
  dataStart: number,
  fileSize: number,
): SafetensorsTensor {
  const where = `${file}: tensor ${JSON.stringify(name)}`;
  if (!(entry instanceof Map)) throw fail("invalid-json", `${where} is not described by an object`);
  const dtype = entry.get("dtype");
  const shape = entry.get("shape");
  const range = entry.get("data_offsets");
  if (typeof dtype !== "string") throw fail("invalid-json", `${where} has no dtype`);
  if (!Object.hasOwn(safetensorsBits, dtype)) {
    throw fail("unsupported-type", `${where} has the unknown dtype ${dtype}`, undefined, "type-unsupported");
  }
  const type = dtype as SafetensorsDtype;
  if (!isSizes(shape)) throw fail("invalid-shape", `${where} has no shape of whole numbers`);
  const bytes = (shape.reduce((product, dimension) => product * dimension, 1) * safetensorsBits[type]) / 8;
  if (!Number.isSafeInteger(bytes)) {
    throw fail(
      "invalid-shape",
      `${where}: ${type} [${shape.join(", ")}] takes no whole, possible number of bytes`,
    );
  }
  const [begin, end] = isSizes(range) && range.length === 2 ? range : [];
  if (begin === undefined || end === undefined || begin > end) {
    throw fail("invalid-offset", `${where} has no data_offsets [begin, end]`);
  }
  if (end > fileSize - dataStart) {
    throw fail("truncated", `${where} ends at byte ${end} of the data, which has ${fileSize - dataStart}`);
  }
  if (end - begin !== bytes) {
    throw fail(
      "shape-mismatch",
      `${where}: ${type} [${shape.join(", ")}] takes ${bytes} bytes, not ${end - begin}`,
    );
  }
  return { name, dtype: type, shape, offset: dataStart + begin, bytes };
}

function isSizes(value: JsonValue | undefined): value is readonly number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
}

function checkCoverage(
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  file: string,
  dataStart: number,
  fileSize: number,
): void {
  let expected = dataStart;
  // Empty tensors first where offsets agree, so that they do not seem to overlap.
  const sorted = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  for (const { name, offset, bytes } of sorted) {
    if (offset !== expected) {
      const [reason, what] =
        offset < expected ? ["overlap", "overlaps another"] : ["invalid-offset", "leaves a hole"];
      throw fail(
        reason,
        `${file}: tensor ${JSON.stringify(name)} ${what} at byte ${offset - dataStart} of the data`,
      );
    }
    expected += bytes;
  }
  if (expected !== fileSize) {
    throw fail("trailing-data", `${file} has ${fileSize - expected} bytes after its last tensor`);
  }
}

/** A tensor to write; its bytes are made when their turn comes, at once or in pieces. */
export interface SafetensorsSource {
  readonly name: string;
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: Uint8Array | (() => Uint8Array | Promise<Uint8Array> | AsyncIterable<Uint8Array>);
}

/**
 * Writes a safetensors file, tensors in the customary order: wider types first, then by name, so that all are aligned.
 * Resolves to the file's length. Throws `bad-argument`.
 */
export async function writeSafetensors(
  sink: ByteSink,
  tensors: readonly SafetensorsSource[],
  metadata?: ReadonlyMap<string, string>,
): Promise<number> {
  const sorted = [...tensors].sort(
    (a, b) => safetensorsBits[b.dtype] - safetensorsBits[a.dtype] || (a.name < b.name ? -1 : 1),
  );
  const entries: string[] = [];
  if (metadata !== undefined) entries.push(`"__metadata__":${JSON.stringify(Object.fromEntries(metadata))}`);
  const names = new Set(["__metadata__"]);
  let position = 0;
  const sizes = sorted.map(({ name, dtype, shape }) => {
    const bytes = (shape.reduce((product, size) => product * size, 1) * safetensorsBits[dtype]) / 8;
    if (names.has(name))
      throw fail("duplicate", `two tensors are named ${JSON.stringify(name)}`, undefined, "bad-argument");
    if (!isSizes(shape) || !Number.isSafeInteger(bytes)) {
      throw fail(
        "invalid-shape",
        `${dtype} [${shape.join(", ")}] is not possible`,
        undefined,
        "bad-argument",
      );
    }
    names.add(name);
    const description = JSON.stringify({ dtype, shape, data_offsets: [position, position + bytes] });
    entries.push(`${JSON.stringify(name)}:${description}`);
    position += bytes;
    return bytes;
  });
  const text = new TextEncoder().encode(`{${entries.join(",")}}`);
  // Spaces fill up to a multiple of 8.
  const head = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(head.length - 8), true);
  head.set(text, 8);
  await sink.write(head);
  for (const [i, { name, data }] of sorted.entries()) {
    const made = typeof data === "function" ? await data() : data;
    let written = 0;
    for await (const piece of made instanceof Uint8Array ? [made] : made) {
      written += piece.length;
      if (written <= sizes[i]!) await sink.write(piece);
    }
    if (written !== sizes[i]) {
      const what = `tensor ${name} has ${written} bytes, but its shape takes ${sizes[i]}`;
      throw fail("shape-mismatch", what, undefined, "bad-argument");
    }
  }
  return head.length + position;
}

function fail(
  reason: string,
  what: string,
  cause?: unknown,
  code: LowbitErrorCode = "file-corrupt",
): LowbitError {
  return new LowbitError(code, `${what}.`, { reason, cause });
}
