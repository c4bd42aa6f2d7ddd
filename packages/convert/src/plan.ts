import {
  type Architecture,
  type Checkpoint,
  type LinearWeight,
  LowbitError,
  type WeightEntry,
  type WeightSpec,
} from "@lowbit/core";
import { shapeOf, type UnusedTensor } from "./report.ts";

/** A weight to carry over. */
export interface Carried {
  readonly spec: WeightSpec;
  /** Of the matrix or vector; the first. */
  readonly entries: readonly WeightEntry[];
  /** With those of its bias. */
  readonly bytes: number;
}

/** What the architecture asks for and the source has; and what is left over. */
export function planWeights(
  source: Checkpoint,
  architectures: readonly Architecture[],
): { carried: Carried[]; notCarried: UnusedTensor[] } {
  const { config } = source;
  const architecture = architectures.find(({ names }) => names.includes(config.architecture));
  if (architecture === undefined) {
    throw new LowbitError(
      "architecture-unsupported",
      `The architecture ${JSON.stringify(config.architecture)} is not known here.`,
      { reason: "unknown-architecture" },
    );
  }
  const byRole = new Map<string | undefined, WeightEntry[]>();
  // Once: a source may make its entries anew each time.
  const all = source.entries();
  for (const entry of all) {
    const list = byRole.get(entry.role);
    if (list) list.push(entry);
    else byRole.set(entry.role, [entry]);
  }
  const used = new Set<WeightEntry>();
  const carried = architecture.weights(config).flatMap((spec): Carried[] => {
    const { role, kind, optional } = spec;
    const entries = byRole.get(role);
    if (entries === undefined) {
      if (optional) return [];
      throw new LowbitError(
        "weight-missing",
        `${architecture.id} needs the weight ${role}, and it is not there.`,
        {
          reason: "missing-weight",
          hint: "The source may be cut short, or a part of a split model.",
        },
      );
    }
    const beside =
      kind === "linear" ? ["bias", "scale"].flatMap((part) => byRole.get(`${role}.${part}`) ?? []) : [];
    for (const entry of [...entries, ...beside]) used.add(entry);
    return [{ spec, entries, bytes: [...entries, ...beside].reduce((total, { bytes }) => total + bytes, 0) }];
  });
  const notCarried = all
    .filter((entry) => !used.has(entry))
    .map(({ name, shape, bytes }) => ({ name, shape, bytes }));
  return { carried, notCarried };
}

/** Reads a weight, and holds it against what the architecture expects. */
export async function readWeight(
  source: Checkpoint,
  { role, kind, shape }: WeightSpec,
  signal: AbortSignal | undefined,
): Promise<LinearWeight | Float32Array> {
  const weight = await (kind === "linear" ? source.weight(role, signal) : source.vector(role, signal));
  const found = weight instanceof Float32Array ? [weight.length] : shapeOf(weight);
  // Leading dimensions of 1 say nothing.
  const trim = (sizes: readonly number[]) => sizes.join("×").replace(/^(1×)+/, "");
  if (trim(found) !== trim(shape)) {
    throw new LowbitError(
      "file-corrupt",
      `${role} has the shape [${found.join(", ")}], expected [${shape.join(", ")}].`,
      { reason: "shape", hint: "Configuration and tensors do not belong together." },
    );
  }
  return weight;
}
