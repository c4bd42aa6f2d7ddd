import { awq } from "@lowbit/awq";
import { type Checkpoint, LowbitError } from "@lowbit/core";
import { Q4_0 } from "@lowbit/gguf";
import { gptq } from "@lowbit/gptq";
import { fuzzCases, mutate, random, trackedFiles } from "@lowbit/testing";
import { expect, test } from "vitest";
import { convertAll } from "../test/convert.ts";
import { tinyConfig, tinyFolder } from "../test/hugging-face-tiny.ts";
import { safetensorsFormat } from "./index.ts";

const packings = [gptq(), awq()].flatMap((plugin) => plugin.packings ?? []);
const format = safetensorsFormat();

/** Folders with shards, packed modules, experts and a tokenizer of their own. */
async function folders(): Promise<Record<string, Uint8Array>[]> {
  const llama = { architecture: "llama", layers: 1, vocabulary: "bpe" } as const;
  const { gguf } = await tinyFolder(llama, tinyConfig(llama));
  const writer = packings[0]!.writer!({ groupSize: 32 });
  const written = async (options: object) =>
    (await convertAll(gguf, await format.writer!(gguf, options))).files;
  const mixture = { architecture: "llama", layers: 1, experts: { count: 2, used: 1 }, type: Q4_0 } as const;
  const experts = {
    ...tinyConfig(mixture),
    model_type: "mixtral",
    num_local_experts: 2,
    num_experts_per_tok: 1,
  };
  const { files } = await tinyFolder({ ...mixture, type: undefined } as never, experts);
  return [
    await written({ maxFileBytes: 60_000 }),
    await written({ packing: { name: "gptq", writer: await writer } }),
    files,
  ];
}

test("damaged folders open, or end in a LowbitError, quickly and with nothing left open", async () => {
  const sources = await folders();
  const next = random(20261124);
  const outcomes = new Set<string>();
  for (let run = 0; run < fuzzCases(300); run++) {
    const source = sources[run % sources.length]!;
    const names = Object.keys(source);
    const victim = names[Math.floor(next() * names.length)]!;
    const bytes = source[victim]!;
    // Of weights mostly the header, where there is something to understand.
    const cut = victim.endsWith(".safetensors") && next() < 0.8 ? Math.min(bytes.length, 3000) : bytes.length;
    const head = mutate(bytes.subarray(0, cut), next);
    const damaged = { ...source, [victim]: new Uint8Array(Buffer.concat([head, bytes.subarray(cut)])) };
    const files = trackedFiles(damaged);
    const started = performance.now();
    outcomes.add(await outcomeOf(() => format.open(files, undefined, packings)));
    expect(performance.now() - started).toBeLessThan(1000);
    expect(files.openSources()).toBe(0);
  }
  for (const reason of ["read", "invalid-json", "invalid-shape", "missing-shard", "unclaimed-tensors"]) {
    expect(outcomes).toContain(reason);
  }
});

/** Reads some of what opened. */
async function outcomeOf(open: () => Promise<Checkpoint>): Promise<string> {
  try {
    const checkpoint = await open();
    try {
      expect(checkpoint.config.layers).toBeGreaterThan(0);
      for (const { role } of checkpoint.entries()) {
        if (role && /(attn\.[qo]|experts\.up)$/.test(role)) await checkpoint.weight(role);
        if (role === "norm") await checkpoint.vector(role);
      }
    } finally {
      await checkpoint.close();
    }
    return "read";
  } catch (error) {
    if (!LowbitError.is(error)) throw error;
    return error.reason ?? "none";
  }
}
