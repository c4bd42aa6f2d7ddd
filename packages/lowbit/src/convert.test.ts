import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseSafetensorsMetadata } from "@huggingface/hub";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ConversionReport, ConvertOptions, GenerateRequest } from "./index.ts";
import { convert, inspect, load } from "./index.ts";

const hf: string = fileURLToPath(new URL("../../../models/pico/hf", import.meta.url));
const ask = (content: string): GenerateRequest => ({ messages: [{ role: "user", content }], temperature: 0 });

let folder = "";
const made = new Map<string, Promise<ConversionReport>>();
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-convert-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Converts once, however often it is asked for. */
function once_(name: string, from: string, options: ConvertOptions): Promise<ConversionReport> {
  const report =
    made.get(name) ?? convert(from === "hf" ? hf : join(folder, from), join(folder, name), options);
  made.set(name, report);
  return report;
}

async function answer(name: string, backend: string): Promise<string> {
  await using model = await load(join(folder, name), { backend });
  const { text } = await model.complete({ ...ask("What is 12 + 7?"), maxTokens: 24 });
  return text;
}

/** A hub that has one folder. */
function served(place: string): typeof fetch {
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const file = join(place, decodeURIComponent(url.pathname.split("/").at(-1) ?? ""));
    if (!existsSync(file)) return new Response(null, { status: 404 });
    const bytes = await readFile(file);
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(new Headers(init?.headers).get("range") ?? "") ?? [];
    const part = from === undefined ? bytes : bytes.subarray(Number(from), Number(to) + 1);
    const start = Number(from ?? 0);
    return new Response(init?.method === "HEAD" ? null : Uint8Array.from(part), {
      status: from === undefined ? 200 : 206,
      headers: {
        etag: '"1"',
        "content-length": String(part.length),
        "content-range": `bytes ${start}-${start + part.length - 1}/${bytes.length}`,
      },
    });
  };
}

function bytesOf(values: Float32Array | undefined): Uint8Array {
  return values ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength) : new Uint8Array(0);
}

async function logits(path: string): Promise<Float32Array> {
  await using model = await load(path, { backend: "reference", contextLength: 64 });
  return await model.forward(model.tokenizer.encode("What is the capital of France?"));
}

const targets: readonly [name: string, options: ConvertOptions, mostError: number][] = [
  ["safetensors", { to: "safetensors" }, 0],
  ["gguf", { to: "gguf" }, 0],
  ["gguf-Q8_0", { to: "gguf", type: "Q8_0" }, 0.01],
  ["gptq", { to: "gptq", bits: 8 }, 0.02],
  ["gptq-4bit", { to: "gptq", groupSize: 32 }, 0.2],
  ["awq", { to: "awq", groupSize: 32 }, 0.2],
  ["exl2", { to: "exl2", bits: 6 }, 0.1],
  ["bitsandbytes", { to: "bitsandbytes" }, 0.2],
  ["compressed-tensors", { to: "compressed-tensors", bits: 8 }, 0.02],
  ["hqq", { to: "hqq", bits: 8 }, 0.02],
];

describe("pico", () => {
  it.each(targets)("becomes %s, and answers", async (name, options, mostError) => {
    const report = await once_(name, "hf", options);
    const { requantized, exact, lossless } = report.totals;
    expect(requantized.tensors + exact.tensors + lossless.tensors).toBe(38);
    for (const { role, error } of report.weights) {
      expect([role, error?.relativeRms ?? 0]).toEqual([role, expect.toSatisfy((rms) => rms <= mostError)]);
    }
    expect(existsSync(join(folder, `${name}.partial`))).toBe(false);
    for (const backend of ["reference", "wasm"]) expect(await answer(name, backend)).toBe("12 + 7 = 19.");
  });

  it("keeps every value where nothing else is asked", async () => {
    for (const [name] of targets.slice(0, 2)) {
      await once_(name, "hf", { to: name });
      expect(await logits(join(folder, name))).toEqual(await logits(hf));
    }
  });

  /** Each from the one before; what may become of its tensors. */
  const chains: readonly (readonly [name: string, options: ConvertOptions, mayDiffer: boolean])[][] = [
    [
      ["a1-gptq", { to: "gptq", groupSize: 32, symmetric: false }, true],
      ["a2-awq", { to: "awq" }, false],
      ["a3-ct", { to: "compressed-tensors" }, false],
      ["a4-gguf", { to: "gguf" }, false],
      ["a5-gptq", { to: "gptq" }, true],
    ],
    [
      ["b1-awq", { to: "awq", groupSize: 32 }, true],
      ["b2-hqq", { to: "hqq" }, false],
      ["b3-gptq", { to: "gptq", groupSize: 32, bits: 4, symmetric: false }, true],
    ],
    [
      ["c1-gptq", { to: "gptq", groupSize: 32 }, true],
      ["c2-gguf", { to: "gguf" }, false],
      ["c3-gptq", { to: "gptq" }, false],
      ["c4-awq", { to: "awq" }, false],
      ["c5-safetensors", { to: "safetensors", type: "f32" }, false],
    ],
    [
      ["d1-gguf", { to: "gguf", type: "Q8_0" }, true],
      ["d2-gptq", { to: "gptq" }, false],
      ["d3-ct", { to: "compressed-tensors" }, false],
      ["d4-gguf", { to: "gguf" }, false],
    ],
    [
      ["e1-exl2", { to: "exl2", bits: 4 }, true],
      ["e2-exl2", { to: "exl2", bits: 4 }, false],
      ["e3-gguf", { to: "gguf" }, false],
    ],
    [
      ["f1-nf4", { to: "bitsandbytes" }, true],
      ["f2-nf4", { to: "bitsandbytes" }, false],
      ["f3-safetensors", { to: "safetensors" }, false],
    ],
  ];
  it.each(chains.map((chain) => [chain.map(([name]) => name).join(" → "), chain] as const))(
    "%s: the same bits give the same logits",
    async (_, chain) => {
      let before = "hf";
      let expected: Float32Array | undefined;
      for (const [name, options, mayDiffer] of chain) {
        const { totals } = await once_(name, before, options);
        if (!mayDiffer) expect([name, totals.requantized.tensors]).toEqual([name, 0]);
        const actual = await logits(join(folder, name));
        if (!mayDiffer) expect([name, Buffer.compare(bytesOf(actual), bytesOf(expected))]).toEqual([name, 0]);
        expected = actual;
        before = name;
      }
    },
  );

  it("is read by the hub's own reader of safetensors, parameters of quantized weights included", async () => {
    for (const [name, options] of targets) {
      if (name.startsWith("gguf")) continue;
      await once_(name, "hf", options);
      const parsed = await parseSafetensorsMetadata({
        repo: "someone/pico",
        // EXL2's customary name.
        ...(name === "exl2" && { path: "output.safetensors" }),
        fetch: served(join(folder, name)),
        computeParametersCount: true,
      });
      const { tensors } = await inspect(join(folder, name));
      const header = "header" in parsed ? parsed.header : {};
      expect(Object.keys(header).length).toBeGreaterThanOrEqual(tensors.length);
      if (name === "safetensors") expect(parsed.parameterCount).toEqual({ F16: 3_410_176 });
    }
  });

  it("states what the tokenizer does, and loading compares it", async () => {
    await once_("probe.gguf", "hf", { to: "gguf" });
    await once_("probe-hf", "probe.gguf", { to: "safetensors" });
    for (const [name, key] of [
      ["probe.gguf", "lowbit.tokenizer_probe"],
      ["probe-hf", "safetensors.lowbit.tokenizer_probe"],
    ] as const) {
      const { metadata } = await inspect(join(folder, name));
      expect(metadata.get(key)).toMatch(/^[0-9a-f]{8}$/);
      expect(await answer(name, "wasm")).toBe("12 + 7 = 19.");
    }
    // Another model's tokenizer beside the weights: the same tokens with some merges gone.
    const path = join(folder, "probe-hf", "tokenizer.json");
    const json = JSON.parse(await readFile(path, "utf8"));
    json.model.merges.splice(0, 40);
    await writeFile(path, JSON.stringify(json));
    await expect(load(join(folder, "probe-hf"))).rejects.toMatchObject({ reason: "tokenizer-probe" });
  });

  it("refuses to round where that is asked, and leaves nothing", async () => {
    const output = join(folder, "refused");
    await expect(convert(hf, output, { to: "gptq", exact: true })).rejects.toMatchObject({
      code: "type-unsupported",
      reason: "inexact",
    });
    expect(existsSync(output)).toBe(false);
    const { totals } = await convert(hf, join(folder, "exact.gguf"), { to: "gguf", exact: true });
    expect(totals.exact.tensors).toBe(38);
  });
});
