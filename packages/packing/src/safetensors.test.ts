import { readFileSync } from "node:fs";
import { LowbitError, memorySource, type SafetensorsDtype, safetensorsBits } from "@lowbit/core";
import { describeWithData, testData, trackedFiles } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readSafetensors, type SafetensorsSource, writeSafetensors } from "./safetensors.ts";
import { openSafetensors } from "./safetensors-files.ts";

async function written(
  tensors: readonly SafetensorsSource[],
  metadata?: ReadonlyMap<string, string>,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  await writeSafetensors({ write: (bytes) => void parts.push(bytes) }, tensors, metadata);
  return new Uint8Array(Buffer.concat(parts));
}

/** A file with this header text and so many zero bytes of data. */
function raw(header: string, dataBytes = 0): Uint8Array {
  const text = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

/** "ok" or the error's reason. On a busy machine one attempt may be slow, so the fastest of three counts. */
async function outcome(bytes: Uint8Array): Promise<string> {
  for (let attempt = 1; attempt <= 3; attempt++) {
    const start = performance.now();
    const result = await readSafetensors(memorySource(bytes)).then(
      () => "ok",
      (error: unknown) => {
        if (!LowbitError.is(error)) throw error;
        return error.reason ?? error.code;
      },
    );
    if (performance.now() - start < 100) return result;
  }
  throw new Error("reading took more than 100 ms, three times");
}

const dtypes = Object.keys(safetensorsBits) as SafetensorsDtype[];
const source = fc
  .record({
    dtype: fc.constantFrom(...dtypes),
    // A multiple of 4 elements, so that the small types fill whole bytes.
    shape: fc.oneof(fc.tuple(fc.nat(3), fc.constantFrom(4, 8)), fc.constant([4])),
    fill: fc.nat(255),
  })
  .map(({ dtype, shape, fill }) => {
    const bytes = (shape.reduce((a, b) => a * b, 1) * safetensorsBits[dtype]) / 8;
    return { dtype, shape, data: new Uint8Array(bytes).fill(fill) };
  });

const sample = (): Promise<Uint8Array> =>
  written(
    [
      { name: "__proto__", dtype: "F32", shape: [2, 2], data: new Uint8Array(16).fill(1) },
      { name: "b", dtype: "F16", shape: [3], data: new Uint8Array(6).fill(2) },
      { name: "scalar", dtype: "U8", shape: [], data: Uint8Array.of(3) },
      { name: "none", dtype: "U8", shape: [0, 5], data: new Uint8Array(0) },
    ],
    new Map([["format", "pt"]]),
  );

describe("safetensors", () => {
  it("reads what it writes, aligned", async () => {
    const names = fc.uniqueArray(fc.string({ unit: "grapheme" }), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(names, fc.array(source, { minLength: 6, maxLength: 6 }), async (unique, made) => {
        const tensors = unique
          .filter((name) => name !== "__metadata__")
          .map((name, i) => ({ name, ...(made[i] as (typeof made)[number]) }));
        const bytes = await written(tensors, new Map([["k", "v"]]));
        const header = await readSafetensors(memorySource(bytes));
        expect(header.metadata).toEqual(new Map([["k", "v"]]));
        expect(new Set(header.tensors.keys())).toEqual(new Set(tensors.map(({ name }) => name)));
        for (const { name, dtype, shape, data } of tensors) {
          const tensor = header.tensors.get(name);
          expect(tensor).toMatchObject({ name, dtype, shape, bytes: data.length });
          const offset = tensor?.offset ?? 0;
          expect(bytes.subarray(offset, offset + data.length)).toEqual(data);
          expect(offset % Math.max(1, safetensorsBits[dtype] / 8)).toBe(0);
        }
      }),
      { seed: 3, numRuns: 200 },
    );
  });

  it("loads or refuses every prefix and mutation", async () => {
    const whole = await sample();
    expect(await outcome(whole)).toBe("ok");
    for (let length = 0; length < whole.length; length++) {
      expect(await outcome(whole.slice(0, length)), `prefix of ${length}`).toBe("truncated");
    }
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const damaged = whole.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await outcome(damaged);
    }
    expect(await outcome(Uint8Array.of(...whole, 0))).toBe("trailing-data");
  });

  it.each<[string, Uint8Array]>([
    ["invalid-json", raw("[]")],
    ["invalid-json", raw('{"a":1}')],
    ["invalid-json", raw('{"a":{"shape":[],"data_offsets":[0,0]}}')],
    ["invalid-json", raw('{"__metadata__":[]}')],
    ["invalid-json", raw('{"__metadata__":{"a":1}}')],
    ["unsupported-type", raw('{"a":{"dtype":"toString","shape":[],"data_offsets":[0,1]}}', 1)],
    ["invalid-shape", raw('{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1)],
    ["invalid-shape", raw('{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1)],
    ["invalid-shape", raw('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', 1)],
    ["invalid-offset", raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}}', 1)],
    ["invalid-offset", raw('{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}', 1)],
    [
      "overlap",
      raw(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        3,
      ),
    ],
  ])("%s", async (reason, bytes) => expect(await outcome(bytes)).toBe(reason));

  it("writes pieces as they come", async () => {
    const data = Uint8Array.from({ length: 10 }, (_, i) => i);
    async function* pieces(...cuts: number[]): AsyncIterable<Uint8Array> {
      for (const [i, cut] of cuts.entries()) yield data.subarray(cuts[i - 1] ?? 0, cut);
    }
    const tensor = { name: "a", dtype: "U8", shape: [10] } as const;
    const whole = await written([{ ...tensor, data }]);
    expect(await written([{ ...tensor, data: () => pieces(3, 3, 10) }])).toEqual(whole);
    const short = written([{ ...tensor, data: () => pieces(3, 9) }]);
    await expect(short).rejects.toMatchObject({ reason: "shape-mismatch" });
    const long = written([{ ...tensor, shape: [9], data: () => pieces(3, 10) }]);
    await expect(long).rejects.toMatchObject({ reason: "shape-mismatch" });
  });

  it.each<[string, readonly SafetensorsSource[]]>([
    ["shape-mismatch", [{ name: "a", dtype: "U8", shape: [2], data: new Uint8Array(1) }]],
    ["invalid-shape", [{ name: "a", dtype: "U8", shape: [1.5], data: new Uint8Array(1) }]],
    ["duplicate", [0, 1].map(() => ({ name: "a", dtype: "U8", shape: [], data: new Uint8Array(1) }))],
    ["duplicate", [{ name: "__metadata__", dtype: "U8", shape: [], data: new Uint8Array(1) }]],
  ])("does not write %s", async (reason, tensors) => {
    await expect(written(tensors)).rejects.toMatchObject({ code: "bad-argument", reason });
  });
});

describe("safetensors files", () => {
  const u8 = (name: string, value: number): SafetensorsSource => ({
    name,
    dtype: "U8",
    shape: [1],
    data: Uint8Array.of(value),
  });
  const index = (map: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify({ weight_map: map }));
  const shards = async (): Promise<Record<string, Uint8Array>> => ({
    "s1.safetensors": await written([u8("a", 1), u8("hidden", 9)], new Map([["format", "pt"]])),
    "s2.safetensors": await written([u8("b", 2), u8("hidden", 9)]),
    "model.safetensors.index.json": index({ a: "s1.safetensors", b: "s2.safetensors" }),
  });

  it("follow the index, from the index or from the folder", async () => {
    for (const entry of ["model.safetensors.index.json", undefined]) {
      const files = trackedFiles(await shards(), entry);
      const opened = await openSafetensors(files);
      expect([...opened.tensors.keys()]).toEqual(["a", "b"]);
      expect(await opened.read("b")).toEqual(Uint8Array.of(2));
      expect(opened.metadata.get("format")).toBe("pt");
      await expect(opened.read("hidden")).rejects.toMatchObject({ code: "weight-missing" });
      await opened.close();
      expect(files.openSources()).toBe(0);
    }
  });

  it("are one file, or all of a folder without an index", async () => {
    const { "model.safetensors.index.json": _, ...loose } = await shards();
    const one = await openSafetensors(trackedFiles(loose, "s2.safetensors"));
    expect([...one.tensors.keys()]).toEqual(["b", "hidden"]);
    const files = trackedFiles(loose);
    await expect(openSafetensors(files)).rejects.toMatchObject({ reason: "duplicate" });
    expect(files.openSources()).toBe(0);
    const both = await openSafetensors(
      trackedFiles({ ...loose, "s2.safetensors": await written([u8("b", 2)]) }),
    );
    expect([...both.tensors.keys()]).toEqual(["a", "hidden", "b"]);
    await expect(openSafetensors(trackedFiles({}))).rejects.toMatchObject({ code: "not-found" });
  });

  it.each<[string, Uint8Array]>([
    ["path-traversal", index({ a: "../s1.safetensors" })],
    ["path-traversal", index({ a: "..\\s1.safetensors" })],
    ["path-traversal", index({ a: "/etc/passwd" })],
    ["path-traversal", index({ a: "https://example.org/x" })],
    ["path-traversal", index({ a: ".." })],
    ["path-traversal", index({ a: "" })],
    ["missing-shard", index({ a: "s3.safetensors" })],
    ["missing-tensor", index({ a: "s1.safetensors", z: "s2.safetensors" })],
    ["missing-tensor", index({ a: "s1.safetensors", b: "s1.safetensors" })],
    ["invalid-json", index([])],
    ["invalid-json", index({ a: 1 })],
    ["invalid-json", new TextEncoder().encode("{")],
    ["duplicate", new TextEncoder().encode('{"weight_map":{"a":"s1.safetensors","a":"s2.safetensors"}}')],
  ])("with a bad index are refused: %s", async (reason, bytes) => {
    const files = trackedFiles({ ...(await shards()), "model.safetensors.index.json": bytes });
    await expect(openSafetensors(files)).rejects.toMatchObject({ code: "file-corrupt", reason });
    expect(files.openSources()).toBe(0);
  });
});

interface Malformed {
  readonly id: string;
  readonly format: string;
  readonly path: string;
  readonly expect: { readonly error: string };
}

describeWithData("golden safetensors", ["golden/manifest.json", "golden/models/hf-f16"], () => {
  const path = testData("golden/manifest.json");
  const all = path ? (JSON.parse(readFileSync(path, "utf8")) as { malformed: Malformed[] }).malformed : [];
  const malformed = all.filter(({ format }) => format === "safetensors" || format === "safetensors-index");
  it("are all here", () => expect(malformed.length).toBe(27));

  it.each(malformed.map((item) => [item.id, item] as const))("%s", async (_, item) => {
    const files = trackedFiles(testData(`golden/${item.path}`) ?? "");
    const result = await openSafetensors(files).then(
      async (opened) => {
        for (const [name, { bytes }] of opened.tensors) expect((await opened.read(name)).length).toBe(bytes);
        await opened.close();
        return "ok";
      },
      (error: unknown) => {
        if (!LowbitError.is(error)) throw error;
        return error.reason;
      },
    );
    expect(result).toBeOneOf(item.expect.error.split(" or "));
    expect(files.openSources()).toBe(0);
  });

  it("the sharded model has the tensors of the single file", async () => {
    const open = (folder: string): ReturnType<typeof openSafetensors> =>
      openSafetensors(trackedFiles(testData(`golden/models/${folder}`) ?? ""));
    const [single, sharded] = [await open("hf-f16"), await open("hf-bf16-sharded")];
    const shapes = ({ tensors }: typeof single): unknown =>
      new Map([...tensors].map(([name, { shape }]) => [name, shape]));
    expect(shapes(sharded)).toEqual(shapes(single));
    await single.close();
    await sharded.close();
  });
});
