import { trackedFiles } from "@lowbit/testing";
import { describe, expect, it } from "vitest";
import { F32, type GgufEntry, type GgufTensorSource, ggufBytes, openGguf, splitFileName } from "./index.ts";

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
  return new Uint8Array(Float32Array.from(values).buffer);
}

function single(extra: readonly (readonly [string, GgufEntry])[] = []): Promise<Uint8Array> {
  return ggufBytes({ metadata: new Map([...keys, ...extra]), tensors: [] });
}

function tensor(name: string, value = 0): GgufTensorSource {
  return { name, shape: [1], type: F32, data: floats(value) };
}

/** Three parts as the splitting tool writes them; `change` edits their keys. */
async function parts(
  change: (keys: Map<string, GgufEntry>, index: number) => void = () => undefined,
  count = 3,
): Promise<Record<string, Uint8Array>> {
  const files: Record<string, Uint8Array> = {};
  for (let i = 0; i < count; i++) {
    const metadata = new Map<string, GgufEntry>([
      ...(i === 0 ? keys : []),
      ["split.no", { type: "u16", value: i }],
      ["split.count", { type: "u16", value: count }],
      ["split.tensors.count", { type: "i32", value: count }],
    ]);
    change(metadata, i);
    files[splitFileName("m", i, count)] = await ggufBytes({ metadata, tensors: [tensor(`t.${i}`, i)] });
  }
  return files;
}

describe("split models", () => {
  it("open from any part", async () => {
    const files = await parts();
    for (const entry of [...Object.keys(files), undefined]) {
      const tracked = trackedFiles(files, entry);
      const model = await openGguf(tracked);
      expect(model.entries().map(({ name }) => name)).toEqual(["t.0", "t.1", "t.2"]);
      expect(await model.blocks("t.2")).toEqual(floats(2));
      await model.close();
      expect(tracked.openSources()).toBe(0);
    }
  });

  it.each<[string, string, (files: Record<string, Uint8Array>) => Promise<Record<string, Uint8Array>>]>([
    ["a part is missing", "missing-shard", async ({ "m-00002-of-00003.gguf": _, ...rest }) => rest],
    [
      "a part has the wrong number",
      "invalid-split",
      () => parts((k, i) => i === 1 && k.set("split.no", { type: "u16", value: 2 })),
    ],
    [
      "a part belongs to another split",
      "invalid-split",
      () => parts((k, i) => i === 2 && k.set("split.count", { type: "u16", value: 4 })),
    ],
    ["a part has no keys", "invalid-split", () => parts((k, i) => i === 1 && k.clear())],
    [
      "the total is wrong",
      "invalid-split",
      () => parts((k) => k.set("split.tensors.count", { type: "i32", value: 4 })),
    ],
    [
      "a tensor is in two parts",
      "duplicate",
      async (files) => ({ ...files, "m-00003-of-00003.gguf": await duplicate() }),
    ],
    [
      "a part is damaged",
      "bad-magic",
      async (files) => ({ ...files, "m-00003-of-00003.gguf": floats(1, 2, 3) }),
    ],
    [
      "a part lost its name",
      "invalid-split",
      async (files) => ({ "m-00001-of-00003.gguf": files["m-00002-of-00003.gguf"] ?? floats() }),
    ],
  ])("are refused if %s", async (_, reason, damage) => {
    const tracked = trackedFiles(await damage(await parts()), "m-00001-of-00003.gguf");
    await expect(openGguf(tracked)).rejects.toMatchObject({ reason });
    expect(tracked.openSources()).toBe(0);
  });

  async function duplicate(): Promise<Uint8Array> {
    const metadata = new Map<string, GgufEntry>([
      ["split.no", { type: "u16", value: 2 }],
      ["split.count", { type: "u16", value: 3 }],
    ]);
    return ggufBytes({ metadata, tensors: [tensor("t.0")] });
  }

  it("whose part was renamed are refused, unsplit files with such a name are not", async () => {
    const files = await parts();
    const renamed = trackedFiles({ "m.gguf": files["m-00001-of-00003.gguf"] ?? floats() }, "m.gguf");
    await expect(openGguf(renamed)).rejects.toMatchObject({ reason: "invalid-split" });
    const unsplit = trackedFiles({ "m-00001-of-00003.gguf": await single() }, "m-00001-of-00003.gguf");
    await (await openGguf(unsplit)).close();
    const merged = trackedFiles(
      { "m.gguf": await single([["split.count", { type: "u16", value: 0 }]]) },
      "m.gguf",
    );
    await (await openGguf(merged)).close();
  });
});
