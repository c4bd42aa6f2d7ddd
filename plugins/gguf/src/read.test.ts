import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LowbitError, memorySource } from "@lowbit/core";
import { describeWithData, fuzzCases, testData, trackedFiles } from "@lowbit/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { F32, type GgufEntry, ggufBytes, openGguf, Q4_0, readGguf, writeGguf } from "./index.ts";

interface Manifest {
  readonly cases: readonly ContainerCase[];
  readonly malformed: readonly {
    id: string;
    format: string;
    path: string;
    stage?: string;
    expect: { error: string };
  }[];
}

interface ContainerCase {
  readonly id: string;
  readonly format: string;
  readonly files: { gguf: string };
  readonly version: number;
  readonly big_endian: boolean;
  readonly alignment: number;
  readonly data_offset: number | null;
  readonly expect: { parse: string };
  readonly kv: readonly { key: string; type: string; value: unknown }[];
  readonly tensors: readonly {
    name: string;
    dims: number[];
    ggml_type: number;
    abs_offset: number;
    nbytes: number;
    sha256: string;
  }[];
}

const golden = (path: string): string => testData(`golden/${path}`) ?? "";
const manifest: Manifest = testData("golden/manifest.json")
  ? (JSON.parse(readFileSync(golden("manifest.json"), "utf8")) as Manifest)
  : { cases: [], malformed: [] };

/** The manifest's way to write a value: 64-bit integers as decimal strings, arrays with their type. */
function asInManifest({ type, value }: GgufEntry): { type: string; value: unknown } {
  const name = type.replace("[]", "").replace("string", "str");
  const wide = name === "u64" || name === "i64";
  if (typeof value !== "object") return { type: name, value: wide ? String(value) : value };
  const values = [...value].map((item) => (wide ? String(item) : item));
  return { type: "arr", value: { type: name, values } };
}

describeWithData("golden containers", ["golden/manifest.json"], () => {
  const cases = manifest.cases.filter(({ format }) => format === "gguf-container");
  it("are all here", () => expect(cases.length).toBe(8));

  it.each(cases.map((item) => [item.id, item] as const))("%s", async (_, item) => {
    const bytes = new Uint8Array(readFileSync(golden(item.files.gguf)));
    const reading = readGguf(memorySource(bytes));
    if (item.expect.parse.includes("invalid-type")) {
      await expect(reading).rejects.toMatchObject({ code: "file-corrupt", reason: "invalid-type" });
      return;
    }
    const header = await reading;
    expect(header).toMatchObject({
      version: item.version,
      bigEndian: item.big_endian,
      alignment: item.alignment,
    });
    if (item.data_offset !== null) expect(header.dataOffset).toBe(item.data_offset);
    const metadata = [...header.metadata].map(([key, entry]) => ({ key, ...asInManifest(entry) }));
    expect(metadata).toEqual(item.kv);
    const tensors = header.tensors.map(({ name, shape, offset, bytes: size }) => ({
      name,
      dims: shape.toReversed(),
      abs_offset: offset,
      nbytes: size,
      sha256: createHash("sha256")
        .update(bytes.subarray(offset, offset + size))
        .digest("hex"),
    }));
    expect(tensors).toEqual(
      item.tensors.map(({ ggml_type, ...rest }) =>
        expect.objectContaining({
          name: rest.name,
          dims: rest.dims,
          abs_offset: rest.abs_offset,
          nbytes: rest.nbytes,
          sha256: rest.sha256,
        }),
      ),
    );
  });
});

describeWithData("malformed files", ["golden/manifest.json"], () => {
  const files = manifest.malformed.filter(({ format }) => format === "gguf");
  it("are all here", () => expect(files.length).toBe(36));

  it.each(files.map((file) => [file.id, file] as const))("%s", async (_, file) => {
    const words = file.expect.error.split(" or ");
    const reading = readGguf(memorySource(new Uint8Array(readFileSync(golden(file.path)))));
    if (file.stage !== undefined || words.includes("accepted as true")) {
      await expect(reading).resolves.toBeDefined();
      return;
    }
    const error: unknown = await reading.catch((caught: unknown) => caught);
    if (!LowbitError.is(error)) throw error;
    expect(words).toContain(error.reason);
    expect(["file-corrupt", "type-unsupported", "format-unsupported"]).toContain(error.code);
    expect(error.plugin).toBe("gguf");
  });
});

/** A valid file that has every kind of value and two tensors. */
function sample(): Promise<Uint8Array> {
  return ggufBytes({
    metadata: new Map<string, GgufEntry>([
      ["general.architecture", { type: "string", value: "llama" }],
      ["general.alignment", { type: "u32", value: 64 }],
      ["llama.context_length", { type: "u32", value: 128 }],
      ["llama.embedding_length", { type: "u32", value: 32 }],
      ["llama.block_count", { type: "u32", value: 1 }],
      ["llama.feed_forward_length", { type: "u32", value: 64 }],
      ["llama.attention.head_count", { type: "u32", value: 4 }],
      ["llama.attention.layer_norm_rms_epsilon", { type: "f32", value: 1e-5 }],
      ["t.long", { type: "u64", value: 2n ** 60n }],
      ["t.flags", { type: "bool[]", value: [true, false] }],
      ["tokenizer.ggml.tokens", { type: "string[]", value: ["a", "é", "x".repeat(40)] }],
      ["tokenizer.ggml.scores", { type: "f32[]", value: Float32Array.of(0, -1, -2) }],
    ]),
    tensors: [
      { name: "token_embd.weight", shape: [3, 32], type: F32, data: new Uint8Array(384) },
      { name: "blk.0.attn_q.weight", shape: [32, 32], type: Q4_0, data: new Uint8Array(576) },
    ],
  });
}

/**
 * Opens as a model; anything but success or a LowbitError, slowness or a leak fails. On a busy machine one attempt may take
 * long for other reasons, so the fastest of three counts.
 */
async function survives(bytes: Uint8Array): Promise<"ok" | string> {
  let result = "ok";
  for (let attempt = 1; attempt <= 3; attempt++) {
    const files = trackedFiles({ "model.gguf": bytes }, "model.gguf");
    const start = performance.now();
    try {
      await (await openGguf(files)).close();
    } catch (error) {
      if (!LowbitError.is(error)) throw error;
      result = error.reason ?? error.code;
    }
    expect(files.openSources()).toBe(0);
    if (performance.now() - start < 100) return result;
  }
  throw new Error("opening took more than 100 ms, three times");
}

describe("damage", () => {
  it("every prefix is truncated", async () => {
    const whole = await sample();
    expect(await survives(whole)).toBe("ok");
    for (let length = 0; length < whole.length - 32; length++) {
      expect(await survives(whole.slice(0, length)), `prefix of ${length}`).toBe("truncated");
    }
  });

  it("every flipped bit of the header loads or is a LowbitError", async () => {
    const whole = await sample();
    const { dataOffset } = await readGguf(memorySource(whole));
    for (let bit = 0; bit < dataOffset * 8; bit++) {
      const damaged = whole.slice();
      damaged[bit >> 3] = (damaged[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      await survives(damaged);
    }
  });

  it("random mutations load or are a LowbitError", async () => {
    const whole = await sample();
    const edit = fc.tuple(
      fc.nat(whole.length - 1),
      fc.constantFrom(0, 1, 0x7f, 0x80, 0xff),
      fc.integer({ min: 1, max: 8 }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 4 }), async (edits) => {
        const damaged = whole.slice();
        for (const [at, value, length] of edits) damaged.fill(value, at, at + length);
        await survives(damaged);
      }),
      { seed: 20, numRuns: fuzzCases(2000) },
    );
  });

  it("random bytes behind the magic are a LowbitError", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(1, 2, 3),
        fc.uint8Array({ minLength: 16, maxLength: 300 }),
        async (version, tail) => {
          expect(await survives(Uint8Array.of(0x47, 0x47, 0x55, 0x46, version, 0, 0, 0, ...tail))).not.toBe(
            "ok",
          );
        },
      ),
      { seed: 21, numRuns: 500 },
    );
  });
});

describe("reading in steps", () => {
  it("reads under 1 MiB of a 4 GiB file", async () => {
    const folder = mkdtempSync(join(tmpdir(), "lowbit-"));
    try {
      const path = join(folder, "big.gguf");
      // Two tensors of 2 GiB in a sparse file; the header comes from a file with the same table and no data.
      const rows = 2 ** 19;
      const parts: Uint8Array[] = [];
      const stop = new Error("header done");
      const data = (): never => {
        throw stop;
      };
      const contents = {
        metadata: new Map<string, GgufEntry>([["general.architecture", { type: "string", value: "none" }]]),
        tensors: ["a", "b"].map((name) => ({ name, shape: [rows, 1024], type: F32, data })),
      };
      await expect(writeGguf({ write: (bytes) => void parts.push(bytes.slice()) }, contents)).rejects.toBe(
        stop,
      );
      const handle = openSync(path, "w");
      writeSync(handle, parts[0] ?? new Uint8Array(0));
      ftruncateSync(handle, (parts[0]?.length ?? 0) + 2 * rows * 1024 * 4);
      closeSync(handle);
      const files = trackedFiles(path);
      const source = await files.open("big.gguf");
      const header = await readGguf(source);
      await source.close?.();
      expect(source.size).toBeGreaterThan(4 * 2 ** 30);
      expect(header.tensors.map(({ bytes }) => bytes)).toEqual([2 ** 31, 2 ** 31]);
      expect(files.bytesRead()).toBeLessThan(2 ** 20);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("reads a header that spans many windows, whatever crosses a border", async () => {
    const tokens = Array.from({ length: 60_000 }, (_, i) => `${"ü".repeat(i % 40)}${i}`);
    const scores = Float32Array.from(tokens, (_, i) => -i);
    const bytes = await ggufBytes({
      metadata: new Map<string, GgufEntry>([
        ["tokens", { type: "string[]", value: tokens }],
        ["scores", { type: "f32[]", value: scores }],
        ["long", { type: "string", value: "é".repeat(700_000) }],
        ["last", { type: "i64", value: -5 }],
      ]),
      tensors: [],
    });
    const files = trackedFiles({ "x.gguf": bytes }, "x.gguf");
    const { metadata } = await readGguf(await files.open("x.gguf"));
    expect(metadata.get("tokens")?.value).toEqual(tokens);
    expect(metadata.get("scores")?.value).toEqual(scores);
    expect(metadata.get("long")?.value).toHaveLength(700_000);
    expect(metadata.get("last")).toEqual({ type: "i64", value: -5 });
    expect(files.bytesRead()).toBeLessThanOrEqual(bytes.length);
    expect(files.reads()).toBeGreaterThan(3);
  });

  it("refuses a count that cannot follow before it reads on", async () => {
    const bytes = await ggufBytes({
      metadata: new Map<string, GgufEntry>([
        ["tokens", { type: "string[]", value: Array(100_000).fill("") }],
      ]),
      tensors: [],
    });
    // Behind magic, version and counts: key length and key, type, element type, then the count.
    new DataView(bytes.buffer).setBigUint64(24 + 8 + 6 + 4 + 4, 2n ** 20n, true);
    const files = trackedFiles({ "x.gguf": bytes }, "x.gguf");
    await expect(readGguf(await files.open("x.gguf"))).rejects.toMatchObject({ reason: "truncated" });
    expect(files.reads()).toBe(1);
  });

  it("stops at an abort", async () => {
    const files = trackedFiles({ "x.gguf": await sample() }, "x.gguf");
    await expect(openGguf(files, AbortSignal.abort())).rejects.toMatchObject({ code: "aborted" });
    expect(files.openSources()).toBe(0);
  });
});
