import {
  type Architecture,
  type Backend,
  type Checkpoint,
  type LinearWeight,
  LowbitError,
  type Platform,
  type Tensor,
  throwIfAborted,
  type Weight,
  type WeightEntry,
  type WeightSpec,
} from "@lowbit/core";
import type { LoadProgress } from "./options.ts";
import type { MemoryPlan, PlannedWeight } from "./plan.ts";
import { listText } from "./text.ts";

/** What an architecture finds by role. */
export interface LoadedWeights {
  readonly linear: ReadonlyMap<string, Weight>;
  readonly vectors: ReadonlyMap<string, { readonly tensor: Tensor; readonly values: Float32Array }>;
  /** A few bytes of each matrix, to know it by. */
  readonly samples: ReadonlyMap<string, Uint8Array>;
}

/** Of either end of a matrix as the checkpoint holds it. */
const sampleBytes = 64;

/** The checkpoint's entries by role; several where a format joins them. */
export function entriesByRole(checkpoint: Checkpoint): ReadonlyMap<string, readonly WeightEntry[]> {
  const found = new Map<string, WeightEntry[]>();
  for (const entry of checkpoint.entries()) {
    if (entry.role === undefined) continue;
    const list = found.get(entry.role);
    if (list) list.push(entry);
    else found.set(entry.role, [entry]);
  }
  return found;
}

/** Throws `weight-missing`, or `file-corrupt`/`shape` where a weight is not as the architecture wants it. Reads no weight. */
export function checkEntries(
  architecture: Architecture,
  specs: readonly WeightSpec[],
  checkpoint: Checkpoint,
  entries: ReadonlyMap<string, readonly WeightEntry[]>,
  name: string,
): void {
  for (const spec of specs) {
    const found = entries.get(spec.role);
    if (found === undefined) {
      if (spec.optional) continue;
      throw missing(spec.role, architecture, checkpoint, entries, name);
    }
    const [entry] = found;
    if (found.length > 1 || entry === undefined) continue;
    if (trim(entry.shape) !== trim(spec.shape)) {
      throw wrongShape(
        spec,
        `${name}: ${entry.name} (${spec.role}) has the shape`,
        entry.shape,
        architecture,
      );
    }
  }
}

/** Hands the weights over one at a time: at most one is in host memory. */
export async function loadWeights(
  specs: readonly WeightSpec[],
  plan: MemoryPlan,
  checkpoint: Checkpoint,
  backend: Backend,
  platform: Platform,
  options: { signal?: AbortSignal | undefined; onProgress?: ((progress: LoadProgress) => void) | undefined },
): Promise<LoadedWeights> {
  const linear = new Map<string, Weight>();
  const vectors = new Map<string, { tensor: Tensor; values: Float32Array }>();
  const samples = new Map<string, Uint8Array>();
  const planned = new Map(plan.weights.map((weight) => [weight.role, weight]));
  const totalBytes = plan.weights.reduce((total, weight) => total + weight.fileBytes, 0);
  let doneBytes = 0;
  options.onProgress?.({ phase: "weights", doneBytes, totalBytes });
  for (const spec of specs) {
    const weight = planned.get(spec.role);
    if (weight === undefined) continue;
    throwIfAborted(options.signal);
    if (spec.kind === "linear") {
      const read = await readLinear(weight, checkpoint, options.signal);
      samples.set(spec.role, sampleOf(read));
      linear.set(spec.role, backend.upload(read));
    } else vectors.set(spec.role, await loadVector(weight, checkpoint, backend, options.signal));
    doneBytes += weight.fileBytes;
    options.onProgress?.({ phase: "weights", doneBytes, totalBytes, role: spec.role });
    await platform.yield();
  }
  throwIfAborted(options.signal);
  return { linear, vectors, samples };
}

function sampleOf({ segments }: LinearWeight): Uint8Array {
  const first = segments[0]?.blocks ?? new Uint8Array(0);
  const last = segments[segments.length - 1]?.blocks ?? first;
  return Uint8Array.of(...first.subarray(0, sampleBytes), ...last.subarray(-sampleBytes));
}

async function readLinear(
  { role, shape }: PlannedWeight,
  checkpoint: Checkpoint,
  signal: AbortSignal | undefined,
): Promise<LinearWeight> {
  const weight = await checkpoint.weight(role, signal);
  const got =
    weight.experts === undefined ? [weight.out, weight.in] : [weight.experts, weight.out, weight.in];
  if (trim(got) !== trim(shape)) {
    throw new LowbitError(
      "internal",
      `The ${checkpoint.format} format read ${role} as ${show(got)}, not ${show(shape)}.`,
    );
  }
  return weight;
}

async function loadVector(
  { role, shape }: PlannedWeight,
  checkpoint: Checkpoint,
  backend: Backend,
  signal: AbortSignal | undefined,
): Promise<{ tensor: Tensor; values: Float32Array }> {
  const values = await checkpoint.vector(role, signal);
  if (values.length !== shape.reduce((product, size) => product * size, 1)) {
    throw new LowbitError(
      "internal",
      `The ${checkpoint.format} format read ${values.length} values for ${role}, not ${show(shape)}.`,
    );
  }
  return { tensor: backend.vector(values), values };
}

function missing(
  role: string,
  architecture: Architecture,
  checkpoint: Checkpoint,
  entries: ReadonlyMap<string, readonly WeightEntry[]>,
  name: string,
): LowbitError {
  const unknown = checkpoint.entries().filter((entry) => entry.role === undefined);
  const prefix = role.slice(0, role.lastIndexOf(".") + 1);
  const near = [...entries.keys()].filter((other) => prefix !== "" && other.startsWith(prefix));
  const hint =
    unknown.length > 0
      ? `The file holds names that the format does not know: ${listText(
          unknown.map((entry) => entry.name),
          6,
        )}.`
      : near.length > 0
        ? `The file does hold ${listText(near, 6)}; it may be cut short, or a part of a split model.`
        : "The file may be cut short, or a part of a split model.";
  return new LowbitError(
    "weight-missing",
    `${name}: ${architecture.id} needs the weight ${role}, and it is not there.`,
    {
      reason: "missing-weight",
      hint,
    },
  );
}

function wrongShape(
  spec: WeightSpec,
  what: string,
  got: readonly number[],
  architecture: Architecture,
): LowbitError {
  return new LowbitError(
    "file-corrupt",
    `${what} ${show(got)}, but ${architecture.id} expects ${show(spec.shape)}.`,
    {
      reason: "shape",
      hint: "Metadata and tensors do not belong together.",
    },
  );
}

/** Leading dimensions of 1 say nothing. */
function trim(shape: readonly number[]): string {
  const from = shape.findIndex((size) => size !== 1);
  return (from < 0 ? [1] : shape.slice(from)).join("×");
}

function show(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}
