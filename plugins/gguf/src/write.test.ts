import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf as readWithOracle } from "@huggingface/gguf";
import { memorySource, type QuantType } from "@lowbit/core";
import { describeWithData, testData } from "@lowbit/testing";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import {
  BF16,
  F16,
  F32,
  type GgufContents,
  type GgufEntry,
  type GgufTensorSource,
  type GgufValue,
  ggmlTypeIds,
  ggufBytes,
  Q4_K,
  Q8_0,
  readGguf,
  writeGguf,
} from "./index.ts";

const folder = mkdtempSync(join(tmpdir(), "lowbit-gguf-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** What @huggingface/gguf makes of the bytes. */
async function oracle(bytes: Uint8Array): Promise<{ metadata: Map<string, unknown>; tensors: unknown[] }> {
  const path = join(folder, "oracle.gguf");
  writeFileSync(path, bytes);
  const { metadata, tensorInfos } = await readWithOracle(path, { allowLocalFile: true });
  const own = ["version", "tensor_count", "kv_count"];
  return {
    metadata: new Map(Object.entries(metadata).filter(([key]) => !own.includes(key))),
    tensors: tensorInfos.map(({ name, shape, dtype, offset }) => ({
      name,
      shape: shape.map(Number),
      dtype,
      offset: Number(offset),
    })),
  };
}

/** Our values as the oracle has them: plain arrays, 64-bit integers as bigints, strings without a leading U+FEFF. */
function asOracle({ type, value }: GgufEntry): unknown {
  const wide = type.startsWith("u64") || type.startsWith("i64");
  const one = (item: unknown): unknown => {
    if (typeof item === "string") return item.replace(/^\uFEFF/, "");
    return wide ? BigInt(item as number) : item;
  };
  return typeof value === "object" ? Array.from(value as ArrayLike<unknown>, one) : one(value);
}

const f32 = fc.float({ noNaN: true });
const entry: fc.Arbitrary<GgufEntry> = fc.oneof(
  fc.record({ type: fc.constant("u8" as const), value: fc.integer({ min: 0, max: 255 }) }),
  fc.record({ type: fc.constant("i16" as const), value: fc.integer({ min: -32768, max: 32767 }) }),
  fc.record({ type: fc.constant("u32" as const), value: fc.integer({ min: 0, max: 2 ** 32 - 1 }) }),
  fc.record({ type: fc.constant("i32" as const), value: fc.integer() }),
  fc.record({ type: fc.constant("f32" as const), value: f32 }),
  fc.record({ type: fc.constant("f64" as const), value: fc.double({ noNaN: true }) }),
  fc.record({ type: fc.constant("bool" as const), value: fc.boolean() }),
  fc.record({ type: fc.constant("string" as const), value: fc.string({ unit: "grapheme" }) }),
  fc.record({ type: fc.constant("u64" as const), value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }) }),
  fc.record({
    type: fc.constant("i64" as const),
    value: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  }),
  fc.record({ type: fc.constant("string[]" as const), value: fc.array(fc.string({ unit: "grapheme" })) }),
  fc.record({ type: fc.constant("bool[]" as const), value: fc.array(fc.boolean()) }),
  fc.record({ type: fc.constant("u8[]" as const), value: fc.uint8Array() }),
  fc.record({ type: fc.constant("i16[]" as const), value: fc.int16Array() }),
  fc.record({ type: fc.constant("f32[]" as const), value: fc.float32Array({ noNaN: true }) }),
  fc.record({ type: fc.constant("f64[]" as const), value: fc.float64Array({ noNaN: true }) }),
  fc.record({
    type: fc.constant("u64[]" as const),
    value: fc.array(fc.bigInt({ min: 0n, max: 2n ** 64n - 1n })).map((items) => BigUint64Array.from(items)),
  }),
);

const tensor = (name: string): fc.Arbitrary<GgufTensorSource> =>
  fc
    .record({
      type: fc.constantFrom<QuantType[]>(F32, F16, BF16, Q8_0, Q4_K),
      rows: fc.array(fc.integer({ min: 1, max: 3 }), { maxLength: 3 }),
      blocks: fc.integer({ min: 1, max: 3 }),
      fill: fc.nat(255),
    })
    .map(({ type, rows, blocks, fill }) => {
      const count = rows.reduce((product, n) => product * n, blocks);
      return {
        name,
        shape: [...rows, blocks * type.block],
        type,
        data: new Uint8Array(count * type.bytes).fill(fill),
      };
    });

const contents: fc.Arbitrary<GgufContents> = fc
  .record({
    metadata: fc.dictionary(fc.stringMatching(/^[a-z][a-z._]{0,20}$/), entry, { maxKeys: 12 }),
    alignment: fc.constantFrom(undefined, 8, 32, 256),
    tensors: fc.nat(4).chain((n) => fc.tuple(...Array.from({ length: n }, (_, i) => tensor(`t.${i}`)))),
  })
  .map(({ metadata, alignment, tensors }) => {
    const map = new Map<string, GgufEntry>(
      Object.entries(metadata).map(([key, value]) => [`k.${key}`, value]),
    );
    if (alignment !== undefined) map.set("general.alignment", { type: "u32", value: alignment });
    return { metadata: map, tensors };
  });

/** 64-bit integers that fit a number come back as one. */
function normal({ type, value }: GgufEntry): GgufEntry {
  const narrow = typeof value === "bigint" && Number.isSafeInteger(Number(value));
  return { type, value: narrow ? Number(value) : (value as GgufValue) };
}

describe("writing", () => {
  it("reads back equal, and as the oracle reads it", async () => {
    await fc.assert(
      fc.asyncProperty(contents, async (written) => {
        const bytes = await ggufBytes(written);
        const header = await readGguf(memorySource(bytes));
        expect(header).toMatchObject({ version: 3, bigEndian: false });
        expect([...header.metadata]).toEqual(
          [...written.metadata].map(([key, value]) => [key, normal(value)]),
        );
        expect(header.tensors.length).toBe(written.tensors.length);
        for (const [i, { offset, bytes: size, ...rest }] of header.tensors.entries()) {
          const source = written.tensors[i];
          expect(rest).toEqual({ name: source?.name, shape: source?.shape, type: source?.type });
          expect(bytes.subarray(offset, offset + size)).toEqual(source?.data);
          expect(offset % header.alignment).toBe(0);
        }
        const other = await oracle(bytes);
        expect(other.metadata).toEqual(
          new Map([...written.metadata].map(([key, value]) => [key, asOracle(value)])),
        );
        expect(other.tensors).toEqual(
          header.tensors.map(({ name, shape, type, offset }) => ({
            name,
            shape: shape.toReversed(),
            dtype: ggmlTypeIds.get(type),
            offset: offset - header.dataOffset,
          })),
        );
      }),
      { seed: 5, numRuns: 150 },
    );
  });

  it("writing what was read gives the same bytes", async () => {
    const first = await ggufBytes((await fc.sample(contents, { seed: 9, numRuns: 1 }))[0] as GgufContents);
    const { metadata, tensors } = await readGguf(memorySource(first));
    const again = await ggufBytes({
      metadata,
      tensors: tensors.map((t) => ({ ...t, data: first.subarray(t.offset, t.offset + t.bytes) })),
    });
    expect(again).toEqual(first);
  });

  it("asks for data one tensor at a time, in pieces if so given", async () => {
    const log: string[] = [];
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let i = 0; i < 4; i++) {
        log.push(`piece ${i}`);
        yield new Uint8Array(8).fill(i);
      }
    }
    const length = await writeGguf(
      { write: async (bytes) => void log.push(`write ${bytes.length}`) },
      {
        metadata: new Map(),
        tensors: [
          { name: "a", shape: [8], type: F32, data: parts },
          { name: "b", shape: [1], type: F32, data: () => Promise.resolve(new Uint8Array(4)) },
        ],
      },
    );
    expect(log.slice(1)).toEqual([
      ...[0, 1, 2, 3].flatMap((i) => [`piece ${i}`, "write 8"]),
      "write 4",
      "write 28",
    ]);
    expect(length % 32).toBe(0);
  });

  const one = (value: Partial<GgufTensorSource>): GgufContents => ({
    metadata: new Map(),
    tensors: [{ name: "a", shape: [32], type: Q8_0, data: new Uint8Array(34), ...value }],
  });
  const key = (type: GgufEntry["type"], value: GgufValue, name = "k"): GgufContents => ({
    metadata: new Map([[name, { type, value }]]),
    tensors: [],
  });
  it.each<[string, string, GgufContents]>([
    ["too little data", "shape-mismatch", one({ data: new Uint8Array(33) })],
    ["too much data", "shape-mismatch", one({ data: () => [new Uint8Array(34), new Uint8Array(1)] })],
    ["rows of broken blocks", "invalid-shape", one({ shape: [31] })],
    ["a dimension of 0", "invalid-shape", one({ shape: [0, 32] })],
    ["five dimensions", "invalid-shape", one({ shape: [1, 1, 1, 1, 32] })],
    ["a long name", "limit-exceeded", one({ name: "n".repeat(64) })],
    ["a type that is not ggml's", "unsupported-type", one({ type: { ...Q8_0 } })],
    ["a name twice", "duplicate", { metadata: new Map(), tensors: [...one({}).tensors, ...one({}).tensors] }],
    ["a number out of range", "invalid-value", key("u8", 256)],
    ["a fraction as an integer", "invalid-value", key("i32", 1.5)],
    ["a string as a number", "invalid-type", key("i32", "1")],
    ["a number as a string", "invalid-type", key("string", 1)],
    ["no array", "invalid-type", key("i32[]", 1)],
    ["an empty key", "invalid-key", key("u8", 1, "")],
    ["an alignment of 3", "invalid-alignment", key("u32", 3, "general.alignment")],
    ["an alignment that is no u32", "invalid-type", key("u64", 32, "general.alignment")],
  ])("refuses %s", async (_, reason, wrong) => {
    await expect(ggufBytes(wrong)).rejects.toMatchObject({ code: "bad-argument", reason });
  });
});

describeWithData("real models", ["models/stories260K", "models/pico", "models/tokenizers"], () => {
  it.each([
    "models/stories260K/stories260K-Q4_0.gguf",
    "models/bitllama-3M/bitllama-3M-IQ2_XXS.gguf",
    "models/pico/quant/pico-Q4_K_M.gguf",
    "models/tokenizers/ggml-vocab-falcon.gguf",
    "models/tokenizers/ggml-vocab-phi-3.gguf",
    "golden/gguf/container-v2.gguf",
  ])("%s is as the oracle reads it, and survives a round trip", async (path) => {
    const bytes = new Uint8Array(readFileSync(testData(path) ?? ""));
    const header = await readGguf(memorySource(bytes));
    const other = await oracle(bytes);
    expect(other.metadata).toEqual(
      new Map([...header.metadata].map(([name, value]) => [name, asOracle(value)])),
    );
    expect(other.tensors).toEqual(
      header.tensors.map(({ name, shape, type, offset }) => ({
        name,
        shape: shape.toReversed(),
        dtype: ggmlTypeIds.get(type),
        offset: offset - header.dataOffset,
      })),
    );
    const again = await ggufBytes({
      metadata: header.metadata,
      tensors: header.tensors.map((t) => ({ ...t, data: bytes.subarray(t.offset, t.offset + t.bytes) })),
    });
    if (header.version === 3) expect(Buffer.compare(again, bytes)).toBe(0);
    else expect((await readGguf(memorySource(again))).metadata).toEqual(header.metadata);
  });
});
