import {
  type Checkpoint,
  LowbitError,
  memorySource,
  type PackedModules,
  type Packing,
  type SafetensorsDtype,
  singleFile,
} from "@lowbit/core";
import { writeSafetensors } from "@lowbit/packing";
import { type TinyModelOptions, trackedFiles } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { tinyConfig, tinyFolder } from "../test/hugging-face-tiny.ts";
import { safetensors, safetensorsFormat } from "./index.ts";

type Files = Record<string, Uint8Array>;

const format = safetensorsFormat();
const json = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const options: TinyModelOptions = { architecture: "llama", layers: 1 };
const config = { ...tinyConfig(options), model_type: "llama" };
const folder = async (more: Record<string, unknown> = {}): Promise<Files> =>
  (await tinyFolder(options, { ...config, ...more })).files;
const open = (files: Files, packings: readonly Packing[] = [], entry?: string): Promise<Checkpoint> =>
  format.open(trackedFiles(files, entry), undefined, packings);
const reasonOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => "ok",
    (error: unknown) => (LowbitError.is(error) ? error.reason : error),
  );

async function weights(tensors: Readonly<Record<string, readonly [SafetensorsDtype, ...number[]]>>) {
  const parts: Uint8Array[] = [];
  await writeSafetensors(
    { write: (bytes) => void parts.push(bytes.slice()) },
    Object.entries(tensors).map(([name, [dtype, ...shape]]) => ({
      name,
      dtype,
      shape,
      data: new Uint8Array(
        shape.reduce((a, b) => a * b, { F32: 4, F16: 2, I32: 4, F4: 0.5, I64: 8 }[dtype as string] ?? 1),
      ),
    })),
  );
  return new Uint8Array(Buffer.concat(parts));
}

const head = { "model.embed_tokens.weight": ["F32", 320, 64], "lm_head.weight": ["F32", 320, 64] } as const;

describe("detection", () => {
  it.each<[number, string[], string | undefined]>([
    [0.95, ["config.json", "model.safetensors"], undefined],
    [0.95, ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"], undefined],
    [0.4, ["weights.safetensors"], undefined],
    [0, ["config.json", "model.gguf"], undefined],
    [0.9, ["config.json"], "config.json"],
    [0.9, ["model.safetensors"], "model.safetensors"],
    [0.9, ["model.safetensors.index.json"], "model.safetensors.index.json"],
  ])("is %d for %j, %s", async (score, names, entry) => {
    const files = Object.fromEntries(names.map((name) => [name, new Uint8Array(3)]));
    const tracked = trackedFiles(files, entry);
    expect(await format.detect(tracked)).toBe(score);
    expect(tracked.openSources()).toBe(0);
  });

  it("knows a file without a name by its head, and no other", async () => {
    const { "model.safetensors": bytes } = await folder();
    const detect = (bytes: Uint8Array): Promise<number> => format.detect(singleFile(memorySource(bytes)));
    expect(await detect(bytes as Uint8Array)).toBe(0.8);
    expect(await detect(new Uint8Array(8))).toBe(0);
    expect(await detect(new TextEncoder().encode("GGUF 123456{"))).toBe(0);
    expect(await detect(new Uint8Array(64).fill(0x7b))).toBe(0);
  });
});

describe("what the user points at", () => {
  it.each([undefined, "config.json", "model.safetensors"])("%s is the whole model", async (entry) => {
    const checkpoint = await open(await folder(), [], entry);
    expect(checkpoint.config.architecture).toBe("llama");
    expect((await checkpoint.weight("head")).out).toBe(320);
  });

  it("a part of a sharded model is all of it", async () => {
    const { "config.json": own = json({}) } = await folder();
    const first = { "model.embed_tokens.weight": head["model.embed_tokens.weight"] };
    const second = { "lm_head.weight": head["lm_head.weight"] };
    const names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
    const files: Files = {
      "config.json": own,
      [names[0]]: await weights(first),
      [names[1]]: await weights(second),
    };
    const index = {
      weight_map: { "model.embed_tokens.weight": names[0], "lm_head.weight": names[1] },
    };
    for (const more of [{}, { "model.safetensors.index.json": json(index) }] as Files[]) {
      for (const entry of [names[1], "config.json", undefined]) {
        const checkpoint = await open({ ...files, ...more }, [], entry);
        expect(checkpoint.entries().map(({ role }) => role)).toEqual(["embed", "head"]);
      }
    }
  });

  it("weights alone can be looked at", async () => {
    const { "model.safetensors": bytes = json({}) } = await folder();
    const checkpoint = await open({ "model.safetensors": bytes });
    expect(checkpoint.entries().length).toBe(12);
    expect(checkpoint.entries().every(({ role }) => role === undefined)).toBe(true);
    expect(() => checkpoint.config).toThrow(
      expect.objectContaining({ code: "architecture-unsupported", reason: "missing-config" }),
    );
    expect(await reasonOf(checkpoint.weight("embed"))).toBe("missing-config");
    expect(await reasonOf(checkpoint.vector("norm"))).toBe("missing-config");
  });

  it("models of unknown families can be looked at, too, whatever their tensors", async () => {
    const bytes = await weights({ a: ["U8", 4], b: ["F4", 8], c: ["I64", 0], d: ["BOOL", 1] });
    const checkpoint = await open({
      "config.json": json({ model_type: "mamba" }),
      "model.safetensors": bytes,
    });
    const bits = checkpoint
      .entries()
      .map(({ name, type }) => [name, type.name, (8 * type.bytes) / type.block]);
    expect(bits).toContainEqual(["b", "F4", 4]);
    expect(bits).toContainEqual(["a", "U8", 8]);
    expect(() => checkpoint.config).toThrow(expect.objectContaining({ reason: "unknown-architecture" }));
  });
});

describe("heads", () => {
  it("that are tied are not read twice", async () => {
    const own = { ...config, tie_word_embeddings: true };
    const checkpoint = await open({ "config.json": json(own), "model.safetensors": await weights(head) });
    expect(checkpoint.entries().map(({ role }) => role)).toEqual(["embed", undefined]);
  });

  it("that should be there and are not are missed", async () => {
    const { "lm_head.weight": _, ...body } = head;
    const files = { "config.json": json(config), "model.safetensors": await weights(body) };
    expect(await reasonOf(open(files))).toBe("missing-tensor");
  });
});

/** Reads modules that have a tensor `codes`. */
function fakePacking(name: string, score: number, onOpen: () => void = () => undefined): Packing {
  return {
    name,
    detect: () => score,
    async open({ tensors }): Promise<PackedModules> {
      onOpen();
      const type = { ...(await plainType()), name: "codes" };
      return {
        metadata: new Map([["bits", 4]]),
        describe: (module) =>
          tensors.has(`${module}.codes`)
            ? {
                out: 320,
                in: 64,
                segments: [{ type, from: 0, to: 64 }],
                bytes: 7,
                tensors: [`${module}.codes`],
              }
            : undefined,
        weight: async () => ({
          out: 320,
          in: 64,
          segments: [{ type, from: 0, to: 64, blocks: new Uint8Array(4 * 320 * 64) }],
        }),
      };
    },
  };
}

async function plainType() {
  const checkpoint = await open({ "model.safetensors": await weights({ x: ["F32", 1] }) });
  return (checkpoint.entries()[0] as { type: ReturnType<Checkpoint["entries"]>[number]["type"] }).type;
}

describe("packings", () => {
  const packed = { ...head, "lm_head.codes": ["I32", 4] } as const;
  const { "lm_head.weight": _, ...withCodes } = packed;
  const files = async (quantization?: unknown, more: Files = {}): Promise<Files> => ({
    "config.json": json({
      ...config,
      ...(quantization !== undefined && { quantization_config: quantization }),
    }),
    "model.safetensors": await weights(withCodes),
    ...more,
  });

  it("read the modules that they know", async () => {
    const checkpoint = await open(await files(), [fakePacking("other", 0.2), fakePacking("fake", 0.5)]);
    expect(checkpoint.metadata.get("packing")).toBe("fake");
    expect(checkpoint.metadata.get("packing.bits")).toBe(4);
    expect(checkpoint.entries().find(({ role }) => role === "head")).toMatchObject({
      name: "lm_head",
      shape: [320, 64],
      bytes: 7,
    });
    expect((await checkpoint.weight("head")).segments[0]?.type.name).toBe("codes");
    expect(checkpoint.config.vocabularySize).toBe(320);
  });

  it("are shown what the tools declare, wherever they put it", async () => {
    const seen: unknown[] = [];
    const watching: Packing = {
      ...fakePacking("fake", 0.9),
      detect: ({ quantization, quantizationFile }) => {
        seen.push([quantizationFile, quantization instanceof Map && quantization.get("bits")]);
        return 0.9;
      },
    };
    await open(await files({ bits: 1 }, { "quantize_config.json": json({ bits: 2 }) }), [watching]);
    await open(await files(undefined, { "quantize_config.json": json({ bits: 2 }) }), [watching]);
    await open(await files(undefined, { "quant_config.json": json({ bits: 3 }) }), [watching]);
    await open(await files(), [watching]);
    expect(seen).toEqual([
      ["config.json", 1],
      ["quantize_config.json", 2],
      ["quant_config.json", 3],
      [undefined, false],
    ]);
  });

  it("that are equally sure are an error", async () => {
    const two = [fakePacking("one", 0.5), fakePacking("two", 0.5)];
    await expect(open(await files(), two)).rejects.toMatchObject({
      code: "format-unsupported",
      reason: "ambiguous-quantization",
      message: expect.stringMatching(/one as much as like two/),
    });
  });

  it("must know a declared method", async () => {
    for (const packings of [[], [fakePacking("awq", 0)], [fakePacking("awq", 0.6)]]) {
      await expect(open(await files({ quant_method: "GPTQ" }), packings)).rejects.toMatchObject({
        code: "format-unsupported",
        reason: "unknown-quantization",
        message: expect.stringMatching(/"gptq".*Known are: (none|awq)\. Add the plugin @lowbit\/gptq/),
      });
    }
    await expect(open(await files({ quant_method: "exl9" }))).rejects.toThrow(/"exl9"/);
  });

  it("are not asked where all weights are plain, and the metadata says so", async () => {
    const opened: string[] = [];
    const packing = fakePacking("gptq", 1, () => opened.push("gptq"));
    const own = { ...config, quantization_config: { quant_method: "gptq" } };
    const plain = { "config.json": json(own), "model.safetensors": await weights(head) };
    const checkpoint = await open(plain, [packing]);
    expect(checkpoint.metadata.get("packing")).toMatch(/^none: quantization is declared/);
    expect((await checkpoint.weight("head")).segments[0]?.type.name).toBe("F32");
    expect(opened).toEqual([]);
    // These are rounded as the model runs: as they are they would be another model.
    const online = {
      ...plain,
      "config.json": json({ ...own, quantization_config: { quant_method: "bitnet" } }),
    };
    expect(await reasonOf(open(online))).toBe("unknown-quantization");
  });

  it("that nobody brings leave an error that names the tensors", async () => {
    const checkpoint = await open(await files());
    expect(checkpoint.entries().map(({ role }) => role)).toEqual(["embed", undefined]);
    for (const read of [() => checkpoint.config, () => checkpoint.weight("head")]) {
      await expect((async () => read())()).rejects.toMatchObject({
        code: "format-unsupported",
        reason: "unclaimed-tensors",
        message: expect.stringMatching(/lm_head\.codes \(I32\)/),
      });
    }
  });

  it.each([
    ["scales beside fp8", { "lm_head.weight": ["F8_E4M3", 320, 64], "lm_head.weight_scale": ["F32", 1] }],
    ["an adapter", { "lm_head.weight": ["F32", 320, 64], "lm_head.lora_A.weight": ["F32", 8, 64] }],
    ["bytes", { "lm_head.weight": ["U8", 320, 64] }],
  ] as const)("%s is no plain weight", async (_, tensors) => {
    const checkpoint = await open({
      "config.json": json(config),
      "model.safetensors": await weights({ ...head, ...tensors }),
    });
    expect(await reasonOf(checkpoint.weight("head"))).toBe("unclaimed-tensors");
    expect((await checkpoint.weight("embed")).in).toBe(64);
  });

  it("fp8 without scales is plain", async () => {
    const tensors = { ...head, "lm_head.weight": ["F8_E4M3", 320, 64] } as const;
    const files = { "config.json": json(config), "model.safetensors": await weights(tensors) };
    expect((await (await open(files)).weight("head")).segments[0]?.type.name).toBe("F8_E4M3");
  });
});

describe("weights that do not fit", () => {
  const plain = async (tensors: Parameters<typeof weights>[0]): Promise<Checkpoint> =>
    open({ "config.json": json(config), "model.safetensors": await weights({ ...head, ...tensors }) });

  it.each([
    ["rows of no whole head", "layers.0.attn.q", { "self_attn.q_proj.weight": ["F32", 60, 64] }],
    ["no matrix", "layers.0.attn.o", { "self_attn.o_proj.weight": ["F32", 64] }],
    [
      "a bias of another length",
      "layers.0.attn.o",
      { "self_attn.o_proj.weight": ["F32", 64, 64], "self_attn.o_proj.bias": ["F32", 63] },
    ],
  ] as const)("%s", async (_, role, tensors) => {
    const named = Object.entries(tensors).map(([name, shape]) => [`model.layers.0.${name}`, shape]);
    const checkpoint = await plain(Object.fromEntries(named));
    expect(await reasonOf(checkpoint.weight(role))).toBe("shape-mismatch");
  });

  it("or are not there", async () => {
    const checkpoint = await plain({});
    await expect(checkpoint.weight("layers.0.ffn.up")).rejects.toMatchObject({ code: "weight-missing" });
    await expect(checkpoint.vector("norm")).rejects.toMatchObject({ code: "weight-missing" });
  });

  it("are not begun after an abort", async () => {
    const signal = AbortSignal.abort();
    await expect((await plain({})).weight("head", signal)).rejects.toMatchObject({ code: "aborted" });
  });
});

describe("files beside the weights", () => {
  it("make the tokenizer, and are handed on byte for byte", async () => {
    const beside: Files = {
      "tokenizer.json": json({ model: {} }),
      "tokenizer_config.json": json({ bos_token: "<s>", chat_template: "old" }),
      "special_tokens_map.json": json({ eos_token: "</s>", bos_token: "<b>" }),
      "chat_template.jinja": new TextEncoder().encode("new"),
      "generation_config.json": json({ eos_token_id: [7, 9] }),
    };
    const checkpoint = await open({ ...(await folder({ eos_token_id: 2 })), ...beside });
    expect(checkpoint.tokenizer).toEqual({
      kind: "huggingface",
      tokenizer: { model: {} },
      config: { bos_token: "<s>", eos_token: "</s>", chat_template: "new" },
      endTokens: [7, 9, 2],
    });
    const companions = await checkpoint.companions?.();
    for (const [name, bytes] of Object.entries(beside)) expect(companions?.get(name)).toEqual(bytes);
    expect(checkpoint.metadata.get("eos_token_id")).toBe(2);
  });

  it("may be absent, but not broken", async () => {
    expect((await open(await folder())).tokenizer).toBeUndefined();
    const bad = new TextEncoder().encode('{"a": 1');
    const twice = new TextEncoder().encode('{"a": 1, "a": 2}');
    const notText = Uint8Array.of(0x7b, 0xff, 0x7d);
    for (const [name, bytes, reason] of [
      ["tokenizer.json", bad, "invalid-json"],
      ["config.json", bad, "invalid-json"],
      ["config.json", twice, "duplicate"],
      ["config.json", json([]), "invalid-json"],
      ["config.json", notText, "invalid-utf8"],
      ["quantize_config.json", bad, "invalid-json"],
    ] as const) {
      const files = trackedFiles({ ...(await folder()), [name]: bytes });
      expect(await reasonOf(format.open(files))).toBe(reason);
      expect(files.openSources()).toBe(0);
    }
  });
});

it("is a plugin", () => {
  expect(safetensors()).toMatchObject({ name: "safetensors", formats: [{ name: "safetensors" }] });
});
