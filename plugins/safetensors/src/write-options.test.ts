import { readFileSync } from "node:fs";
import {
  type Checkpoint,
  denseType,
  denseWeight,
  floatToHalf,
  halfToFloat,
  type LinearWeight,
  memorySource,
  roundToBf16,
  singleFile,
  type WriterOptions,
} from "@lowbit/core";
import { exl2Packing } from "@lowbit/exl2";
import { openGguf } from "@lowbit/gguf";
import { gptq } from "@lowbit/gptq";
import { random, type TinyModelOptions, tinyModelBytes, trackedFiles } from "@lowbit/testing";
import { createTokenizer } from "@lowbit/tokenizers";
import { describe, expect, it } from "vitest";
import { convertAll, referenceLogits } from "../test/convert.ts";
import { safetensorsFormat, writeHuggingFace } from "./index.ts";

const format = safetensorsFormat();
const tokens = [1, 260, 300, 17, 200, 5, 299, 2];
const F32 = denseType("F32", "f32");

async function tiny(options: TinyModelOptions): Promise<Checkpoint> {
  return openGguf(singleFile(memorySource(await tinyModelBytes(options)), "model.gguf"));
}

function matrix(rows: number, values: Float32Array): LinearWeight {
  const width = values.length / rows;
  return {
    out: rows,
    in: width,
    segments: [{ type: F32, from: 0, to: width, blocks: new Uint8Array(values.buffer) }],
  };
}

/** Read without the project's own code, as the format's description has it. */
function header(
  bytes: Uint8Array,
): [string, { dtype: string; shape: number[]; data_offsets: [number, number] }][] {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = Number(view.getBigUint64(0, true));
  expect((8 + length) % 8).toBe(0);
  const json = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Record<string, never>;
  expect(json.__metadata__).toEqual({ format: "pt" });
  const entries = Object.entries(json).filter(([name]) => name !== "__metadata__");
  const sorted = (entries as unknown as ReturnType<typeof header>).sort(
    ([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0],
  );
  let end = 0;
  for (const [, { dtype, shape, data_offsets }] of sorted) {
    expect(data_offsets[0]).toBe(end);
    const size = { F32: 4, I32: 4, F16: 2, BF16: 2, I16: 2 }[dtype] ?? Number.NaN;
    end = data_offsets[1];
    expect(end - data_offsets[0]).toBe(size * shape.reduce((product, n) => product * n, 1));
  }
  expect(8 + length + end).toBe(bytes.length);
  return sorted;
}

const parse = (bytes: Uint8Array | undefined): Record<string, unknown> =>
  JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;

describe("types", () => {
  it.each(["f16", "BF16", "f32"])("%s for all matrices, and for vectors that it holds", async (type) => {
    const source = await tiny({ architecture: "qwen2" });
    const { files, stored } = await convertAll(source, await writeHuggingFace(source, { type }));
    const round = {
      f16: (value: number) => halfToFloat(floatToHalf(value)),
      bf16: roundToBf16,
      f32: (value: number) => value,
    }[type.toLowerCase()] as (value: number) => number;
    const made = await format.open(trackedFiles(files));
    for (const [role, { weight, moved }] of stored) {
      if (weight instanceof Float32Array) {
        expect(await made.vector(role)).toEqual(await source.vector(role));
        continue;
      }
      const original = await source.weight(role);
      const read = await made.weight(role);
      expect(denseWeight(read), role).toEqual(denseWeight(original).map(round));
      expect(denseWeight(weight), role).toEqual(denseWeight(read));
      expect(read.bias, role).toEqual(original.bias);
      expect(moved).toBe(type === "f32");
    }
    const { torch_dtype } = parse(files["config.json"]);
    expect(torch_dtype).toBe({ f16: "float16", bf16: "bfloat16", f32: "float32" }[type.toLowerCase()]);
    for (const [, { dtype, shape }] of header(files["model.safetensors"] as Uint8Array)) {
      if (shape.length > 1) expect(dtype).toBe(type.toUpperCase());
    }
  });

  it("without a type, is the smallest that holds every value", async () => {
    const source = await tiny({ architecture: "llama" });
    const metadata = new Map([...source.metadata, ["general.file_type", 1]]);
    const writer = await writeHuggingFace({ ...source, config: source.config, metadata });
    const dtypeOf = (values: number[]): string =>
      writer.storeVector("norm", Float32Array.from(values)).tensors[0]?.dtype ?? "";
    const half = (bits: number): number => halfToFloat(bits);
    expect(dtypeOf([1, -0, 65504, half(1), half(0x3ff), half(0x401), Number.POSITIVE_INFINITY])).toBe("F16");
    expect(dtypeOf([65536, 1])).toBe("BF16");
    expect(dtypeOf([half(1) / 2, 1])).toBe("BF16");
    expect(dtypeOf([half(3) / 2, 1])).toBe("BF16");
    expect(dtypeOf([1 + 2 ** -10])).toBe("F16");
    expect(dtypeOf([1 + 2 ** -11])).toBe("F32");
    expect(dtypeOf([1 + 2 ** -10, 65536])).toBe("F32");
    expect(dtypeOf([1e-40])).toBe("F32");
  });

  it("agrees with rounding on which values are halves", async () => {
    const source = await tiny({ architecture: "llama" });
    const metadata = new Map([...source.metadata, ["general.file_type", 1]]);
    const writer = await writeHuggingFace({ ...source, config: source.config, metadata });
    const next = random(11);
    const word = new Uint32Array(1);
    for (let run = 0; run < 20_000; run++) {
      // Any f32, and those near halves.
      word[0] = next() * 2 ** 32;
      if (run % 2) word[0] = (word[0]! & 0xffffe000) | (run % 4 === 1 ? 0 : 1 << (run % 13));
      if (run % 3 === 0) word[0] = (word[0]! & 0x807fffff) | ((100 + (run % 16)) << 23);
      const [value = 0] = new Float32Array(word.buffer);
      if (Number.isNaN(value)) continue;
      const { dtype } = writer.storeVector("norm", Float32Array.of(value)).tensors[0] ?? {};
      const expected = Object.is(halfToFloat(floatToHalf(value)), value)
        ? "F16"
        : Object.is(roundToBf16(value), value)
          ? "BF16"
          : "F32";
      if (dtype !== expected) expect(`${value} ${word[0]} ${dtype}`).toBe(expected);
    }
  });

  it("refuses what it does not have", async () => {
    const source = await tiny({ architecture: "llama" });
    const refused = async (options: WriterOptions) =>
      writeHuggingFace(source, options).then(
        () => "ok",
        (error: { code: string; reason: string }) => `${error.code}/${error.reason}`,
      );
    expect(await refused({ type: "Q4_0" })).toBe("bad-argument/type");
    expect(await refused({ type: "__proto__" })).toBe("bad-argument/type");
    expect(await refused({ maxFileBytes: 0 })).toBe("bad-argument/max-file-bytes");
    const writer = await writeHuggingFace(source, { type: "f16" });
    const large = matrix(1, Float32Array.of(1, 70_000));
    expect(() => writer.store("layers.0.ffn.up", large)).toThrow(/70000, which is too large for F16/);
    expect(() => writer.store("layers.0.ffn.unheard", large)).toThrow(/no module/);
    const other = { ...source, config: { ...source.config, architecture: "bert" } };
    await expect(writeHuggingFace(other)).rejects.toMatchObject({ code: "architecture-unsupported" });
  });
});

describe("gemma's norms", () => {
  it("are stored less one, exactly where that is possible", async () => {
    const source = await tiny({ architecture: "gemma2" });
    const writer = await writeHuggingFace(source);
    const store = (value: number) => writer.storeVector("layers.0.attn.norm", Float32Array.of(value));
    for (const value of [1, 0.5, 2, 1.0000001192092896, 37.123458862304688, 0, -3.25]) {
      expect(store(value)).toMatchObject({ moved: true, weight: Float32Array.of(value) });
    }
    // Less one it has more digits than f32; the nearest is what readers will see.
    expect(store(Math.fround(0.1))).toMatchObject({ moved: false });
    expect(store(Math.fround(0.1)).weight).toEqual(
      Float32Array.of(Math.fround(Math.fround(Math.fround(0.1) - 1) + 1)),
    );
    expect(writer.storeVector("layers.0.attn.q.bias", Float32Array.of(1)).weight).toEqual(Float32Array.of(1));
  });
});

describe("files", () => {
  it("are split, and found again by an index", async () => {
    const source = await tiny({ architecture: "llama", layers: 3 });
    const { files } = await convertAll(source, await writeHuggingFace(source, { maxFileBytes: 60_000 }));
    const shards = Object.keys(files).filter((name) => name.endsWith(".safetensors"));
    expect(shards.length).toBeGreaterThan(4);
    const embedding = 320 * 64 * 4;
    for (const name of shards) {
      const tensors = header(files[name] as Uint8Array);
      expect(name).toMatch(
        new RegExp(`^model-\\d{5}-of-${String(shards.length).padStart(5, "0")}.safetensors$`),
      );
      // A tensor larger than a file has one to itself.
      if ((files[name]?.length ?? 0) > 60_000) {
        expect(tensors.map(([, { data_offsets }]) => data_offsets)).toEqual([[0, embedding]]);
      }
    }
    const index = parse(files["model.safetensors.index.json"]) as {
      metadata: { total_size: number };
      weight_map: Record<string, string>;
    };
    const inFiles = shards.flatMap((file) => header(files[file] as Uint8Array).map(([name]) => [name, file]));
    expect(Object.entries(index.weight_map).sort()).toEqual(inFiles.sort());
    const made = await format.open(trackedFiles(files));
    expect(await referenceLogits(made, tokens)).toEqual(await referenceLogits(source, tokens));
  });

  it("of a packing that has always a head have one for tied models, too", async () => {
    const source = await tiny({
      architecture: "llama",
      tied: true,
      embeddingSize: 128,
      feedForwardSize: 256,
    });
    const pack = async (writer: ReturnType<NonNullable<typeof exl2Packing.writer>>, name: string) =>
      convertAll(source, await writeHuggingFace(source, { packing: { name, writer } }));
    const exl2Files = (await pack(exl2Packing.writer!({ groupSize: 32 }), "exl2")).files;
    expect(header(exl2Files["output.safetensors"] as Uint8Array).map(([name]) => name)).toContain(
      "lm_head.q_weight",
    );
    expect(parse(exl2Files["config.json"])).toMatchObject({ tie_word_embeddings: true });
    const made = await format.open(trackedFiles(exl2Files), undefined, [exl2Packing]);
    expect(made.entries().find(({ role }) => role === "head")?.segments?.length).toBeGreaterThan(0);
    const gptqFiles = (await pack(gptq().packings![0]!.writer!({ groupSize: 32 }), "gptq")).files;
    const names = header(gptqFiles["model.safetensors"] as Uint8Array).map(([name]) => name);
    expect(names.filter((name) => name.startsWith("lm_head"))).toEqual([]);
    expect(Object.keys(gptqFiles)).toContain("quantize_config.json");
  });

  it("are not written where the packing takes nothing", async () => {
    const source = await tiny({ architecture: "llama", embeddingSize: 60, feedForwardSize: 60, heads: 6 });
    const writer = gptq().packings![0]!.writer!({ groupSize: 32 });
    const folder = writeHuggingFace(source, { packing: { name: "gptq", writer } });
    await expect(folder.then((made) => convertAll(source, made))).rejects.toMatchObject({
      code: "bad-argument",
      reason: "nothing-packed",
    });
  });
});

describe("pico", () => {
  const pico = new URL("../../../models/pico/", import.meta.url);

  it("answers alike from the folder that its GGUF file becomes", async () => {
    const bytes = new Uint8Array(readFileSync(new URL("pico-Q8_0.gguf", pico)));
    const source = await openGguf(singleFile(memorySource(bytes), "pico-Q8_0.gguf"));
    const { files, stored } = await convertAll(source, await writeHuggingFace(source));
    const made = await format.open(trackedFiles(files));
    const [before, after] = [source.tokenizer, made.tokenizer].map((tokenizer) =>
      createTokenizer(tokenizer!),
    );
    const messages = [{ role: "user", content: "What is 12 + 7?" }];
    const prompt = before?.renderChat?.(messages) ?? "";
    expect(after?.renderChat?.(messages)).toBe(prompt);
    const ids = before?.encode(prompt, { parseSpecial: true }) ?? [];
    expect(after?.encode(prompt, { parseSpecial: true })).toEqual(ids);
    expect(after?.endTokens).toEqual(before?.endTokens);
    expect(await referenceLogits(made, ids)).toEqual(await referenceLogits(source, ids));
    // Codes of 8 bits times a half need more digits than a half has.
    expect([...stored.values()].some(({ moved }) => !moved)).toBe(true);
    const own = JSON.parse(readFileSync(new URL("hf/config.json", pico), "utf8")) as Record<string, unknown>;
    // The GGUF file names a first token, which the folder does not.
    const { torch_dtype: _, initializer_range: __, bos_token_id: ___, ...expected } = own;
    expect(parse(files["config.json"])).toMatchObject({
      ...expected,
      torch_dtype: "float32",
      // The converter to GGUF put padding there.
      bos_token_id: 0,
    });
  });
});
