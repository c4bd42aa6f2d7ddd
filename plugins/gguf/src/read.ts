import type { ByteSource, QuantType } from "@lowbit/core";
import {
  alignUp,
  arrayType,
  defaultAlignment,
  type GgufEntry,
  type GgufHeader,
  type GgufScalar,
  type GgufTensor,
  ggufError,
  scalarBytes,
  scalarTypes,
  tensorBytes,
} from "./container.ts";
import { Cursor } from "./cursor.ts";
import { ggmlTypes, removedTypes } from "./types.ts";

const magic = "GGUF";
/** ggml keeps names in 64 bytes with a terminator. */
const maxNameBytes = 63;
const maxKeyBytes = 65535;
const maxDimensions = 4;

/**
 * Reads and checks everything in front of the tensor data: versions 1 to 3 in either byte order. Only the header is read,
 * in growing steps. Throws `file-corrupt` with the precise word as `reason`, `format-unsupported` (bad-magic,
 * unsupported-version) or `type-unsupported`. Does not close the source.
 */
export async function readGguf(source: ByteSource, signal?: AbortSignal): Promise<GgufHeader> {
  const cursor = new Cursor(source, signal);
  await cursor.need(8, "the magic and version");
  for (const letter of magic) {
    if (cursor.scalar("u8") === letter.charCodeAt(0)) continue;
    throw ggufError("format-unsupported", "bad-magic", `${source.name} does not start with "${magic}".`, {
      hint: "It is not a GGUF file.",
    });
  }
  const version = readVersion(cursor);
  await cursor.need(2 * cursor.wordBytes, "the counts");
  const tensorCount = cursor.word();
  const keyCount = cursor.word();
  const metadata = await readMetadata(cursor, keyCount, tensorCount);
  const alignment = alignmentOf(cursor, metadata);
  const rows = await readTable(cursor, tensorCount);
  const dataOffset = tensorCount > 0 ? alignUp(cursor.position, alignment) : cursor.position;
  const tensors = place(cursor, rows, dataOffset, alignment);
  return { version, bigEndian: cursor.bigEndian, alignment, metadata, tensors, dataOffset };
}

/** Nothing marks the byte order; a version whose low half is zero must be the other one. */
function readVersion(cursor: Cursor): 1 | 2 | 3 {
  const stored = cursor.scalar("u32");
  cursor.bigEndian = (stored & 0xffff) === 0 && stored !== 0;
  const version = cursor.bigEndian ? ((stored >>> 24) | ((stored >>> 8) & 0xff00)) >>> 0 : stored;
  if (version !== 1 && version !== 2 && version !== 3) {
    throw ggufError(
      "format-unsupported",
      "unsupported-version",
      `${cursor.source.name} is GGUF version ${version}.`,
      {
        hint: "Versions 1, 2 and 3 can be read; convert the model again with current tools.",
      },
    );
  }
  cursor.narrow = version === 1;
  return version;
}

async function readMetadata(
  cursor: Cursor,
  count: number,
  tensorCount: number,
): Promise<Map<string, GgufEntry>> {
  const word = cursor.wordBytes;
  // The least that a key (one letter, type, one byte) and a row of the table (no name, no dimensions) take.
  cursor.checkCount(count, word + 6, `the metadata of ${count} keys`);
  cursor.checkCount(tensorCount, word + 16, `the table of ${tensorCount} tensors`);
  const metadata = new Map<string, GgufEntry>();
  for (let i = 0; i < count; i++) {
    const key = await cursor.string(`metadata key ${i}`, maxKeyBytes);
    if (key === "") throw corrupt(cursor, "invalid-key", `metadata key ${i} is empty`);
    if (metadata.has(key)) throw corrupt(cursor, "duplicate", `metadata key ${key} occurs twice`);
    metadata.set(key, await readEntry(cursor, key));
  }
  return metadata;
}

async function readEntry(cursor: Cursor, key: string): Promise<GgufEntry> {
  await cursor.need(4, key);
  const id = cursor.scalar("u32");
  if (id !== arrayType) {
    const type = scalarType(cursor, id, key);
    if (type === "string") return { type, value: await cursor.string(key) };
    await cursor.need(scalarBytes[type], key);
    const value = cursor.scalar(type);
    if (type === "bool") return { type, value: value !== 0 };
    return { type, value: Number.isSafeInteger(Number(value)) ? Number(value) : value };
  }
  await cursor.need(4 + cursor.wordBytes, key);
  const type = scalarType(cursor, cursor.scalar("u32"), key);
  const count = cursor.word();
  cursor.checkCount(count, type === "string" ? cursor.wordBytes : scalarBytes[type], key);
  if (type === "string") return { type: "string[]", value: await cursor.strings(count, key) };
  if (type !== "bool") return { type: `${type}[]`, value: await cursor.numbers(type, count, key) };
  return { type: "bool[]", value: await cursor.booleans(count, key) };
}

/** Nested arrays are refused, as in ggml. */
function scalarType(cursor: Cursor, id: number, key: string): GgufScalar {
  const type = scalarTypes[id];
  if (type !== undefined) return type;
  const found = id === arrayType ? "an array of arrays" : `a value of type ${id}`;
  throw corrupt(
    cursor,
    "invalid-type",
    `metadata key ${key} is ${found}; types 0 to 12 exist and arrays do not nest`,
  );
}

function alignmentOf(cursor: Cursor, metadata: ReadonlyMap<string, GgufEntry>): number {
  const entry = metadata.get("general.alignment");
  if (entry === undefined) return defaultAlignment;
  const value = entry.value;
  if (entry.type !== "u32" || typeof value !== "number") {
    throw corrupt(cursor, "invalid-type", `general.alignment must be u32, not ${entry.type}`);
  }
  if (value === 0 || !Number.isInteger(Math.log2(value))) {
    throw corrupt(cursor, "invalid-alignment", `general.alignment must be a power of two, not ${value}`);
  }
  return value;
}

/** A row of the table, its offset still relative to the data section. */
type Row = Omit<GgufTensor, "offset"> & { readonly relative: bigint };

async function readTable(cursor: Cursor, count: number): Promise<Row[]> {
  const rows: Row[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const name = await cursor.string(`the name of tensor ${i}`, maxNameBytes);
    if (names.has(name)) throw corrupt(cursor, "duplicate", `tensor ${name} occurs twice`);
    names.add(name);
    await cursor.need(4, name);
    const dimensions = cursor.scalar("u32");
    if (dimensions > maxDimensions) {
      throw corrupt(
        cursor,
        "invalid-shape",
        `tensor ${name} has ${dimensions} dimensions, at most 4 are possible`,
      );
    }
    await cursor.need(dimensions * cursor.wordBytes + 12, name);
    const shape = Array.from({ length: dimensions }, () => cursor.word()).reverse();
    const type = tensorType(cursor, cursor.scalar("u32"), name);
    const bytes = tensorBytes(type, shape);
    if (bytes === undefined || bytes === 0) {
      const want = `sizes above 0 and rows of whole blocks of ${type.block}`;
      throw corrupt(
        cursor,
        "invalid-shape",
        `tensor ${name} is ${type.name} [${shape.join(", ")}]; expected ${want}`,
      );
    }
    rows.push({ name, shape, type, bytes, relative: cursor.scalar("u64") as bigint });
  }
  return rows;
}

function tensorType(cursor: Cursor, id: number, name: string): QuantType {
  const type = ggmlTypes.get(id);
  if (type !== undefined) return type;
  const removed = removedTypes.get(id);
  const found = removed === undefined ? `the unknown type ${id}` : `the removed type ${removed}`;
  throw ggufError(
    "type-unsupported",
    "unsupported-type",
    `${cursor.source.name}: tensor ${name} has ${found}.`,
    {
      hint: "Convert the model again with current tools.",
    },
  );
}

/** Checks where tensors lie. Gaps are legal (older writers left some), overlaps and unaligned starts are not. */
function place(cursor: Cursor, rows: readonly Row[], dataOffset: number, alignment: number): GgufTensor[] {
  const size = BigInt(cursor.source.size - dataOffset);
  let expected = 0n;
  const tensors = rows.map(({ relative, ...row }) => {
    const consecutive = relative === expected;
    expected += BigInt(alignUp(row.bytes, alignment));
    if (relative % BigInt(alignment) !== 0n) {
      throw corrupt(
        cursor,
        "invalid-offset",
        `tensor ${row.name} starts at ${relative}, no multiple of ${alignment}`,
      );
    }
    if (relative + BigInt(row.bytes) > size) {
      const what = `tensor ${row.name} takes bytes ${relative} to ${relative + BigInt(row.bytes)} of ${size}`;
      throw corrupt(cursor, consecutive || relative < size ? "truncated" : "invalid-offset", what);
    }
    return { ...row, offset: dataOffset + Number(relative) };
  });
  const sorted = tensors.toSorted((a, b) => a.offset - b.offset);
  for (const [i, tensor] of sorted.entries()) {
    const next = sorted[i + 1];
    if (next !== undefined && tensor.offset + tensor.bytes > next.offset) {
      throw corrupt(cursor, "overlap", `tensors ${tensor.name} and ${next.name} share bytes`);
    }
  }
  return tensors;
}

function corrupt(cursor: Cursor, reason: string, what: string): Error {
  return ggufError("file-corrupt", reason, `${cursor.source.name}: ${what}.`, {
    hint: "The file is damaged or was written wrongly; fetch or convert it again.",
  });
}
