import {
  type Architecture,
  type Checkpoint,
  type CheckpointWriter,
  LowbitError,
  type StagedWeight,
  type StoredWeight,
} from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { architectures } from "@lowbit/models";
import { runModel, testPlatform } from "@lowbit/testing";

export interface Converted {
  readonly files: Record<string, Uint8Array>;
  readonly stored: ReadonlyMap<string, StoredWeight>;
}

/** Stores every weight that the architecture asks for, by way of JSON as an interrupted conversion has it, and finishes. */
export async function convertAll(source: Checkpoint, writer: CheckpointWriter): Promise<Converted> {
  const architecture = architectures.find(({ names }) =>
    names.includes(source.config.architecture),
  ) as Architecture;
  const present = new Set(source.entries().map(({ role }) => role));
  const stored = new Map<string, StoredWeight>();
  const staged: StagedWeight[] = [];
  for (const { role, kind, optional } of architecture.weights(source.config)) {
    if (optional && !present.has(role)) continue;
    const made =
      kind === "linear"
        ? writer.store(role, await source.weight(role))
        : writer.storeVector(role, await source.vector(role));
    stored.set(role, made);
    staged.push(stage(role, made));
  }
  const files: Record<string, Uint8Array> = {};
  await writer.finish(
    {
      async create(file) {
        if (files[file]) throw new LowbitError("internal", `${file} was written twice.`);
        const parts: Uint8Array[] = [];
        return {
          async write(bytes) {
            parts.push(bytes.slice());
          },
          async close() {
            files[file] = new Uint8Array(Buffer.concat(parts));
          },
        };
      },
    },
    staged,
  );
  return { files, stored };
}

function stage(role: string, { tensors, note }: StoredWeight): StagedWeight {
  return {
    role,
    ...(note !== undefined && { note: JSON.parse(JSON.stringify(note)) }),
    tensors: tensors.map(({ data, ...tensor }) => ({
      ...tensor,
      bytes: data.length,
      async *read() {
        const middle = data.length >> 1;
        yield data.subarray(0, middle);
        yield data.subarray(middle);
      },
    })),
  };
}

export async function referenceLogits(
  checkpoint: Checkpoint,
  tokens: readonly number[],
): Promise<Float32Array> {
  const backend = await reference().create(testPlatform());
  try {
    return await runModel({ checkpoint, architectures, backend, tokens });
  } finally {
    await backend.dispose();
  }
}
