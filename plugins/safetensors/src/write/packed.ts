import {
  denseWeight,
  type LinearWeight,
  LowbitError,
  type PackedDescription,
  type PackingWriter,
  type StoredTensor,
} from "@lowbit/core";
import { stackExperts } from "../weight-parts.ts";

/** One weight of a packing: rows in the file's order, a module for each expert. */
export interface PackedParts {
  readonly tensors: readonly StoredTensor[];
  /** As a reader stacks them. */
  readonly weight: LinearWeight;
  readonly moved: boolean;
  readonly modules: Readonly<Record<string, PackedDescription>>;
}

/** Where the parts go. */
export interface Target {
  readonly role: string;
  /** The module of each part. */
  readonly modules: readonly string[];
  /** Whether they are experts. */
  readonly stacked: boolean;
}

/**
 * Moves all parts, or rounds all of them: one stack has one type. Undefined where the packing leaves such a weight alone, and where
 * experts would come out too different to be run as a stack.
 */
export function packParts(
  writer: PackingWriter,
  parts: readonly LinearWeight[],
  target: Target,
): PackedParts | undefined {
  const held = all(parts, (part) => writer.hold(part));
  const made = held ?? all(parts, (part) => quantized(writer, part, target.role));
  const weight = made && stacked(made, target);
  if (!made || !weight) return undefined;
  const tensors: StoredTensor[] = [];
  const modules: Record<string, PackedDescription> = {};
  for (const [i, part] of made.entries()) {
    const module = target.modules[i] as string;
    tensors.push(...writer.pack(module, part));
    modules[module] = {
      role: target.role,
      types: part.segments.map(({ type }) => type.name),
      ...writer.describe?.(part),
    };
  }
  return { tensors, weight, moved: held !== undefined, modules };
}

function all<T>(parts: readonly T[], make: (part: T) => T | undefined): T[] | undefined {
  const made: T[] = [];
  for (const part of parts) {
    const one = make(part);
    if (one === undefined) return undefined;
    made.push(one);
  }
  return made;
}

function quantized(writer: PackingWriter, part: LinearWeight, role: string): LinearWeight | undefined {
  const { out, in: width, bias } = part;
  const made = writer.quantize(denseWeight(part), { out, in: width, role });
  return made && { ...made, ...(bias && { bias }) };
}

function stacked(parts: readonly LinearWeight[], { role, stacked }: Target): LinearWeight | undefined {
  if (!stacked) return parts[0];
  try {
    return stackExperts(role, parts);
  } catch (error) {
    if (LowbitError.is(error) && error.reason === "mixed-experts") return undefined;
    throw error;
  }
}
