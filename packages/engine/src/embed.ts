import { LowbitError, type ModelConfig } from "@lowbit/core";
import { checkText, passes } from "./forward.ts";
import { check, isSignal } from "./options.ts";
import type { Runner } from "./runner.ts";

export interface EmbedOptions {
  /** How the tokens' final hidden states become one. @default the model's own, else "mean" */
  pooling?: "mean" | "last" | "cls";
  /** Scale to length 1. @default true */
  normalize?: boolean;
  signal?: AbortSignal;
}

export function checkEmbedOptions(options: EmbedOptions): void {
  check("embed", options, {
    pooling: (value) =>
      ["mean", "last", "cls"].includes(value as string) ? undefined : 'one of "mean", "last" and "cls"',
    normalize: (value) => (typeof value === "boolean" ? undefined : "true or false"),
    signal: isSignal,
  });
}

/** One vector [embeddingSize] for a text. Sums in f64. */
export async function embed(
  runner: Runner,
  tokens: ArrayLike<number>,
  options: EmbedOptions,
): Promise<Float32Array> {
  const { config, plan } = runner;
  checkText(runner, tokens);
  const [from, to] = pooledRows(options.pooling ?? modelPooling(config), tokens.length);
  const size = config.embeddingSize;
  const sum = new Float64Array(size);
  const { signal } = options;
  const pieces = passes(runner, tokens, { from, to, most: plan.passTokens, output: "hidden", signal });
  for await (const { values } of pieces) {
    for (let i = 0; i < values.length; i++) sum[i % size] = (sum[i % size] ?? 0) + (values[i] ?? 0);
  }
  const length = Math.sqrt(sum.reduce((total, x) => total + x * x, 0));
  if (!Number.isFinite(length)) {
    throw new LowbitError("internal", "The model computed an embedding that is not finite.", {
      reason: "non-finite-logits",
      hint: "The weights are damaged, or this backend cannot run them.",
    });
  }
  const divisor = options.normalize === false ? to - from : length;
  return Float32Array.from(sum, (x) => (divisor > 0 ? x / divisor : 0));
}

function pooledRows(pooling: "mean" | "last" | "cls", count: number): readonly [from: number, to: number] {
  if (pooling === "mean") return [0, count];
  return pooling === "cls" ? [0, 1] : [count - 1, count];
}

function modelPooling({ pooling }: ModelConfig): "mean" | "last" | "cls" {
  return pooling === undefined || pooling === "none" ? "mean" : pooling;
}
