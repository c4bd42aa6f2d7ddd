import type { ModelConfig } from "@lowbit/core";
import type { MemoryPlan } from "./plan.ts";
import { sha256 } from "./session-format.ts";
import type { LoadedWeights } from "./weights.ts";

/**
 * What tells models apart whose keys and values differ: SHA-256 over the hyper-parameters, the role, type and shape of every weight, all
 * values of norms and other vectors, and the first and last bytes of each matrix (`LoadedWeights.samples`). The name of a file is no
 * part of it, nor are the format and the kernels. Two models that agree in all this and differ within their matrices count as one.
 */
export function modelIdentity(
  config: ModelConfig,
  plan: MemoryPlan,
  weights: LoadedWeights,
): Promise<Uint8Array> {
  const { name, contextLength, ...rest } = config;
  const { scaling } = config.rope ?? {};
  const original = scaling?.kind === "factors" ? scaling.originalContextLength : undefined;
  const text = JSON.stringify({
    config: sorted(rest),
    // Which of two sets of rotation factors the keys were turned by.
    long: original !== undefined && plan.contextLength > original,
    weights: plan.weights.map(({ role, type, shape }) => [role, type, shape]),
  });
  const parts: Uint8Array[] = [new TextEncoder().encode(text)];
  for (const { role } of plan.weights) {
    const values = weights.vectors.get(role)?.values;
    const sample = values
      ? new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
      : weights.samples.get(role);
    if (sample) parts.push(sample);
  }
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return sha256(all);
}

/** Formats fill a configuration in different orders. */
function sorted(value: unknown): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, item]) => [key, sorted(item)]));
}
