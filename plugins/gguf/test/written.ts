import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type {
  BackendFactory,
  Checkpoint,
  CheckpointWriter,
  StagedWeight,
  StoredWeight,
  WriterOptions,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import { runModel, testPlatform, trackedFiles } from "@lowbit/testing";
import { compareProbabilities, llamaCpp, softmaxRows } from "@lowbit/testing/llama-cpp";
import { expect } from "vitest";
import { type GgufCheckpoint, ggufWriter, openGguf } from "../src/index.ts";

const tokens = [3, 17, 40, 2, 9];

/** Everything that the architecture wants, through the writer into one file. */
export async function written(source: Checkpoint, options: WriterOptions = {}): Promise<Uint8Array> {
  const writer = await ggufWriter(source, options);
  const architecture = architectures.find(({ names }) => names.includes(source.config.architecture))!;
  const present = new Set(source.entries().map(({ role }) => role));
  const staged: StagedWeight[] = [];
  for (const { role, kind, optional } of architecture.weights(source.config)) {
    if (optional && !present.has(role)) continue;
    const stored: StoredWeight =
      kind === "vector"
        ? writer.storeVector(role, await source.vector(role))
        : writer.store(role, await source.weight(role));
    const { note = null } = stored;
    staged.push({ role, tensors: stored.tensors.map(staging), note });
  }
  return finished(writer, staged);
}

export function staging({
  data,
  ...tensor
}: StoredWeight["tensors"][number]): StagedWeight["tensors"][number] {
  return {
    ...tensor,
    bytes: data.length,
    async *read() {
      // In pieces, as files come.
      for (let at = 0; at < data.length; at += 1000) yield data.subarray(at, at + 1000);
    },
  };
}

export async function finished(
  writer: CheckpointWriter,
  staged: readonly StagedWeight[],
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let closed = false;
  const create = async (file: string) => {
    expect(file).toBe(writer.fileName);
    return {
      write: async (bytes: Uint8Array) => void parts.push(bytes.slice()),
      close: async () => {
        closed = true;
      },
    };
  };
  await writer.finish({ create }, staged);
  expect(closed).toBe(true);
  return new Uint8Array(Buffer.concat(parts));
}

export const reopened = (bytes: Uint8Array): Promise<GgufCheckpoint> =>
  openGguf(trackedFiles({ "m.gguf": bytes }, "m.gguf"));

export async function logits(
  checkpoint: Checkpoint,
  factory: BackendFactory = reference(),
): Promise<Float32Array> {
  const backend = await factory.create(testPlatform());
  try {
    return await runModel({ checkpoint, architectures, backend, tokens });
  } finally {
    await backend.dispose();
  }
}

/** The same model, as a plugin would hand it over that knows nothing of GGUF's keys. */
export function elsewhere(source: GgufCheckpoint): Checkpoint {
  const { config, entries, weight, vector, tokenizer, close } = source;
  const rest = { config, entries, weight, vector, close, ...(tokenizer && { tokenizer }) };
  return { format: "other", metadata: new Map(), ...rest };
}

/** Mean over tokens of how far llama.cpp's probabilities are from the reference backend's (KL). */
export async function divergenceFromTheirs(bytes: Uint8Array): Promise<number> {
  const ours = await logits(await reopened(bytes));
  const theirs = await theirLogits(bytes);
  const size = ours.length / tokens.length;
  const compared = compareProbabilities(softmaxRows(theirs, size), softmaxRows(ours, size), size);
  return compared.meanKl;
}

export async function theirLogits(bytes: Uint8Array): Promise<Float32Array> {
  const folder = await mkdtemp(join(tmpdir(), "lowbit-gguf-"));
  try {
    const path = join(folder, "theirs.gguf");
    await writeFile(path, bytes);
    const oracle = await llamaCpp(path);
    try {
      return await oracle.logits(tokens);
    } finally {
      await oracle.dispose();
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}
