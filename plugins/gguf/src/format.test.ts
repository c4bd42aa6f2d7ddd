import { readFileSync } from "node:fs";
import { denseWeight, dequantize, LowbitError, memorySource, singleFile } from "@lowbit/core";
import { readSafetensors } from "@lowbit/packing";
import { describeWithData, testData, trackedFiles } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import {
  F16,
  F32,
  type GgufEntry,
  type GgufFamily,
  type GgufTensorSource,
  gguf,
  ggufBytes,
  ggufFormat,
  openGguf,
  Q8_0,
  readGguf,
  validateGguf,
} from "./index.ts";

const keys: readonly (readonly [string, GgufEntry])[] = [
  ["general.architecture", { type: "string", value: "llama" }],
  ["llama.context_length", { type: "u32", value: 128 }],
  ["llama.vocab_size", { type: "u32", value: 9 }],
  ["llama.embedding_length", { type: "u32", value: 32 }],
  ["llama.block_count", { type: "u32", value: 1 }],
  ["llama.feed_forward_length", { type: "u32", value: 64 }],
  ["llama.attention.head_count", { type: "u32", value: 4 }],
  ["llama.attention.layer_norm_rms_epsilon", { type: "f32", value: 1e-5 }],
];

function floats(...values: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.length * 4));
  for (const [i, value] of values.entries()) view.setFloat32(i * 4, value, true);
  return new Uint8Array(view.buffer);
}

function file(
  tensors: readonly GgufTensorSource[],
  extra: readonly (readonly [string, GgufEntry])[] = [],
): Promise<Uint8Array> {
  return ggufBytes({ metadata: new Map([...keys, ...extra]), tensors });
}

function f32(name: string, shape: readonly number[], ...values: number[]): GgufTensorSource {
  const count = shape.reduce((product, n) => product * n, 1);
  return { name, shape, type: F32, data: floats(...Array.from({ length: count }, (_, i) => values[i] ?? i)) };
}

const open = async (tensors: readonly GgufTensorSource[]): ReturnType<typeof openGguf> =>
  openGguf(trackedFiles({ "m.gguf": await file(tensors) }, "m.gguf"));

describe("weights", () => {
  it("are read by role, packed, with their bias", async () => {
    const data = Uint8Array.from({ length: 34 * 2 }, (_, i) => i);
    const model = await open([
      { name: "blk.0.attn_q.weight", shape: [2, 32], type: Q8_0, data },
      { name: "blk.0.attn_q.bias", shape: [2], type: F16, data: Uint8Array.of(0, 0x3c, 0, 0xc0) },
    ]);
    expect(await model.weight("layers.0.attn.q")).toEqual({
      out: 2,
      in: 32,
      bias: Float32Array.of(1, -2),
      segments: [{ type: Q8_0, from: 0, to: 32, blocks: data }],
    });
    expect(await model.vector("layers.0.attn.q.bias")).toEqual(Float32Array.of(1, -2));
    expect(model.entries()).toEqual([
      { role: "layers.0.attn.q", name: "blk.0.attn_q.weight", shape: [2, 32], type: Q8_0, bytes: 68 },
      { role: "layers.0.attn.q.bias", name: "blk.0.attn_q.bias", shape: [2], type: F16, bytes: 4 },
    ]);
  });

  it("of experts stand behind one another", async () => {
    const model = await open([
      f32("blk.0.ffn_up_exps.weight", [4, 2, 3]),
      f32("blk.0.ffn_gate_inp_shexp.weight", [3]),
    ]);
    expect(await model.weight("layers.0.ffn.experts.up")).toMatchObject({ experts: 4, out: 2, in: 3 });
    const router = await model.weight("layers.0.ffn.shared.router");
    expect(router).toMatchObject({ out: 1, in: 3 });
    expect(router.experts).toBeUndefined();
    expect(model.entries()[1]?.shape).toEqual([1, 3]);
  });

  it("are multiplied by a scale tensor, one for all or one for each expert", async () => {
    const model = await open([
      f32("blk.0.attn_q.weight", [1, 2], 3, 4),
      f32("blk.0.attn_q.scale", [1], 0.5),
      f32("blk.0.ffn_up_exps.weight", [2, 1, 2], 1, 2, 3, 4),
      f32("blk.0.ffn_up_exps.scale", [2], 10, 100),
      f32("blk.0.attn_k.weight", [1, 2]),
      f32("blk.0.attn_k.scale", [3]),
    ]);
    const values = async (role: string): Promise<number[]> => [...denseWeight(await model.weight(role))];
    expect(await values("layers.0.attn.q")).toEqual([1.5, 2]);
    expect(await values("layers.0.ffn.experts.up")).toEqual([10, 20, 300, 400]);
    await expect(model.weight("layers.0.attn.k")).rejects.toMatchObject({ reason: "shape-mismatch" });
  });

  it("that are missing or misshapen are named", async () => {
    const model = await open([
      f32("blk.0.ffn_gate.3.weight", [2, 2]),
      f32("blk.0.attn_q.weight", [2, 2]),
      f32("blk.0.attn_q.bias", [3]),
      f32("blk.0.attn_v.weight", [1, 1, 2, 2]),
    ]);
    await expect(model.weight("layers.0.attn.k")).rejects.toMatchObject({ code: "weight-missing" });
    await expect(model.vector("norm")).rejects.toThrow(/no tensor for "norm"/);
    await expect(model.weight("layers.0.ffn.experts.gate")).rejects.toThrow(/one by one/);
    await expect(model.weight("layers.0.attn.q")).rejects.toMatchObject({ reason: "shape-mismatch" });
    await expect(model.weight("layers.0.attn.v")).rejects.toMatchObject({ reason: "shape-mismatch" });
    await expect(model.blocks("nothing")).rejects.toMatchObject({ code: "weight-missing" });
    await expect(model.weight("layers.0.attn.q", AbortSignal.abort())).rejects.toMatchObject({
      code: "aborted",
    });
  });

  it("are read with one range read", async () => {
    const files = trackedFiles({ "m.gguf": await file([f32("output.weight", [2, 32])]) }, "m.gguf");
    const model = await openGguf(files);
    const [reads, bytes] = [files.reads(), files.bytesRead()];
    await model.weight("head");
    expect([files.reads() - reads, files.bytesRead() - bytes]).toEqual([1, 256]);
    await model.close();
    expect(files.openSources()).toBe(0);
  });
});

describe("opening", () => {
  it("detects by magic, and claims damaged files by name", async () => {
    const detect = async (files: Readonly<Record<string, Uint8Array>>, entry?: string): Promise<number> => {
      const tracked = trackedFiles(files, entry);
      const score = await ggufFormat().detect(tracked);
      expect(tracked.openSources()).toBe(0);
      return score;
    };
    const good = await file([]);
    const other = floats(1, 2);
    expect(await detect({ "any.bin": good }, "any.bin")).toBe(1);
    expect(await detect({ "m.gguf": other }, "m.gguf")).toBeGreaterThan(0);
    expect(await detect({ "m.gguf": new Uint8Array(0) }, "m.gguf")).toBeGreaterThan(0);
    expect(await detect({ "m.bin": other }, "m.bin")).toBe(0);
    expect(await detect({ "m.gguf": good, "config.json": other })).toBeGreaterThan(0);
    expect(await detect({ "config.json": other })).toBe(0);
    expect(gguf().formats?.map(({ name }) => name)).toEqual(["gguf"]);
  });

  it("takes the one model of a folder", async () => {
    const good = await file([]);
    await (await openGguf(trackedFiles({ "m.gguf": good, "README.md": good }))).close();
    await expect(openGguf(trackedFiles({ "a.gguf": good, "b.gguf": good }))).rejects.toMatchObject({
      code: "bad-argument",
      message: expect.stringContaining("a.gguf, b.gguf"),
    });
    await expect(openGguf(trackedFiles({}))).rejects.toMatchObject({ code: "bad-argument" });
  });

  it("leaves a source that the user gave to the user", async () => {
    let closed = 0;
    const source = { ...memorySource(await file([])), close: async () => void closed++ };
    const files = singleFile(source);
    await ggufFormat().detect(files);
    await (await ggufFormat().open(files)).close();
    expect(closed).toBe(0);
  });

  it("offers the tokenizer's keys where there are any", async () => {
    const model = await open([]);
    expect(model.tokenizer).toBeUndefined();
    const bytes = await file([], [["tokenizer.ggml.model", { type: "string", value: "gpt2" }]]);
    const other = await openGguf(singleFile(memorySource(bytes)));
    expect(other.tokenizer).toEqual({ kind: "ggml", metadata: other.metadata });
  });

  it("reports an unknown architecture when the configuration is asked for, other faults at once", async () => {
    const metadata = new Map<string, GgufEntry>([
      ["general.architecture", { type: "string", value: "mamba" }],
    ]);
    const model = await openGguf(
      singleFile(memorySource(await ggufBytes({ metadata, tensors: [f32("output.weight", [1, 2])] }))),
    );
    expect(model.entries()).toHaveLength(1);
    expect(() => model.config).toThrow(expect.objectContaining({ code: "architecture-unsupported" }));
    const files = trackedFiles({ "m.gguf": await ggufBytes({ metadata: new Map(), tensors: [] }) }, "m.gguf");
    await expect(openGguf(files)).rejects.toMatchObject({ reason: "missing-metadata" });
    expect(files.openSources()).toBe(0);
  });

  it("takes families that the program adds", async () => {
    const own = new Map([...keys].map(([key, entry]) => [key.replace("llama.", "mine."), entry]));
    own.set("general.architecture", { type: "string", value: "mine" });
    own.set("mine.extra", { type: "u32", value: 7 });
    const bytes = await ggufBytes({ metadata: own, tensors: [] });
    const mine: GgufFamily = { pairing: "halves", extra: (k) => ({ slidingWindow: k.integer("extra") }) };
    const [format] = gguf({ families: { mine } }).formats ?? [];
    const model = await format?.open(singleFile(memorySource(bytes)));
    expect(model?.config).toMatchObject({
      architecture: "mine",
      slidingWindow: 7,
      rope: { pairing: "halves" },
    });
  });

  it("refuses two names for one weight", async () => {
    const twice = [f32("blk.0.post_attention_norm.weight", [4]), f32("blk.0.attn_output_norm.weight", [4])];
    await expect(open(twice)).rejects.toMatchObject({ code: "file-corrupt", reason: "duplicate" });
  });
});

describe("validation", () => {
  const nan = floats(Number.NaN);
  it("names the first value or scale that is not finite", async () => {
    const q8 = new Uint8Array(68);
    await expect(
      validateGguf(await open([{ name: "q", shape: [64], type: Q8_0, data: q8 }])),
    ).resolves.toBeUndefined();
    const infinite = q8.slice();
    infinite[35] = 0x7c;
    await expect(
      validateGguf(await open([{ name: "q", shape: [64], type: Q8_0, data: infinite }])),
    ).rejects.toMatchObject({
      code: "file-corrupt",
      reason: "non-finite-scale",
      message: expect.stringContaining("q has a NaN or infinite scale (Q8_0 block 1)"),
    });
    await expect(
      validateGguf(await open([{ name: "w", shape: [1], type: F32, data: nan }])),
    ).rejects.toMatchObject({
      reason: "non-finite-value",
    });
  });
});

interface Malformed {
  readonly id: string;
  readonly format: string;
  readonly path: string;
  readonly stage?: string;
  readonly expect: { readonly error: string };
}

describeWithData("golden models", ["golden/manifest.json", "golden/models/gguf-split"], () => {
  const path = testData("golden/manifest.json");
  const malformed = path
    ? (JSON.parse(readFileSync(path, "utf8")) as { malformed: Malformed[] }).malformed
    : [];
  const late = malformed.filter(
    ({ format, stage }) => format === "gguf-split" || (format === "gguf" && stage),
  );

  it.each(late.map((item) => [item.id, item] as const))("%s", async (_, item) => {
    const words = item.expect.error.split(" or ");
    const files = trackedFiles(testData(`golden/${item.path}`) ?? "");
    const run = async (): Promise<string> => {
      if (item.stage === "validate") {
        // It holds part of a model only: enough for its tensors, not for a configuration.
        const bytes = new Uint8Array(readFileSync(testData(`golden/${item.path}`) ?? ""));
        const header = await readGguf(memorySource(bytes));
        const blocks = async (name: string): Promise<Uint8Array> => {
          const tensor = header.tensors.find((t) => t.name === name);
          return bytes.subarray(tensor?.offset, (tensor?.offset ?? 0) + (tensor?.bytes ?? 0));
        };
        await validateGguf({ headers: [header], blocks });
      } else {
        await (await openGguf(files)).close();
      }
      return "ok";
    };
    const result = await run().catch((error: unknown) => {
      if (!LowbitError.is(error)) throw error;
      return error.reason ?? error.code;
    });
    const incomplete = result === "missing-metadata" && words.includes("ok");
    expect(incomplete ? "ok" : result).toBeOneOf(words);
    expect(files.openSources()).toBe(0);
  });

  it("the split model is the whole one", async () => {
    const whole = await openGguf(trackedFiles(testData("golden/models/gguf/model-Q4_K_M.gguf") ?? ""));
    const split = await openGguf(
      trackedFiles(testData("golden/models/gguf-split/model-Q4_K_M-00002-of-00003.gguf") ?? ""),
    );
    expect(split.config).toEqual(whole.config);
    expect(
      split
        .entries()
        .map(({ name }) => name)
        .sort(),
    ).toEqual(
      whole
        .entries()
        .map(({ name }) => name)
        .sort(),
    );
    for (const { name } of whole.entries()) {
      expect(Buffer.compare(await split.blocks(name), await whole.blocks(name))).toBe(0);
    }
    await whole.close();
    await split.close();
  });

  it("the big-endian file decodes to the values of its original", async () => {
    const bytes = new Uint8Array(
      readFileSync(testData("golden/gguf/container-be-quant.expect.safetensors") ?? ""),
    );
    const expected = (await readSafetensors(memorySource(bytes))).tensors;
    const stored = readFileSync(testData("golden/gguf/container-be-quant.gguf") ?? "");
    // It is no complete model. Under a name that is not known it opens without a configuration.
    stored.write("mamba", stored.indexOf("llama"));
    const model = await openGguf(singleFile(memorySource(new Uint8Array(stored))));
    const [header] = model.headers;
    expect(header?.bigEndian).toBe(true);
    expect(header?.tensors.length).toBe(expected.size);
    for (const { name, type, shape } of header?.tensors ?? []) {
      const count = shape.reduce((a, b) => a * b, 1);
      const values = dequantize(type, await model.blocks(name), new Float32Array(count));
      const want = expected.get(name);
      expect(want?.dtype).toBe("F32");
      const raw = bytes.slice(want?.offset, (want?.offset ?? 0) + (want?.bytes ?? 0));
      expect(Buffer.compare(new Uint8Array(values.buffer), raw), name).toBe(0);
    }
  });
});

describeWithData("real models", ["models/stories260K", "models/bitllama-3M", "models/pico"], () => {
  it.each([
    "models/stories260K/stories260K-Q8_0.gguf",
    "models/bitllama-3M/bitllama-3M-TQ1_0.gguf",
    "models/pico/pico-f16.gguf",
  ])("%s: every tensor has a role, a shape that fits, and finite scales", async (path) => {
    const files = trackedFiles(testData(path) ?? "");
    const model = await openGguf(files);
    const { config } = model;
    expect(model.entries().every(({ role }) => role !== undefined)).toBe(true);
    const shape = (role: string): readonly number[] | undefined =>
      model.entries().find((e) => e.role === role)?.shape;
    expect(shape("embed")).toEqual([config.vocabularySize, config.embeddingSize]);
    const last = `layers.${config.layers - 1}.`;
    expect(shape(`${last}attn.k`)).toEqual([config.kvHeads * config.keySize, config.embeddingSize]);
    expect(shape(`${last}ffn.down`)).toEqual([config.embeddingSize, config.feedForwardSize]);
    expect((await model.vector("norm")).length).toBe(config.embeddingSize);
    await validateGguf(model);
    await model.close();
    expect(files.openSources()).toBe(0);
  });
});
