import { readFileSync } from "node:fs";
import type { Backend, Tensor, ThreadHost } from "@lowbit/core";
import { platform } from "@lowbit/platform";
import { createBackend } from "../src/backend.ts";
import type { ModuleName } from "../src/modules.ts";

/** The builds under test. */
export const variants = [
  "simd128",
  "relaxed",
  "simd128-threads",
  "relaxed-threads",
  "relaxed-memory64",
] as const;

const modules = new Map<ModuleName, WebAssembly.Module>();

/** The committed build, compiled once. */
export function moduleOf(variant: ModuleName): WebAssembly.Module {
  let module = modules.get(variant);
  if (module === undefined) {
    const url = new URL(`../pkg/${variant}/lowbit_kernels_bg.wasm`, import.meta.url);
    module = new WebAssembly.Module(readFileSync(url));
    modules.set(variant, module);
  }
  return module;
}

/** As if there were so many processors. */
export function threadsOf(processors: number): ThreadHost {
  const { threads } = platform();
  if (threads === undefined) throw new Error("this runtime has no threads");
  return { processors, start: threads.start };
}

/** Builds with threads get three, which share no range evenly. */
export function backendOf(name: ModuleName, limitBytes: number = 2 ** 28, threads = 3): Promise<Backend> {
  const variant = name.startsWith("relaxed") ? "relaxed" : "simd128";
  const addressSize = name.endsWith("64") ? 64 : 32;
  const shared = name.includes("-");
  const chosen = { module: moduleOf(name), variant, shared, addressSize } as const;
  return createBackend(chosen, limitBytes, threadsOf(2), shared ? threads : 1);
}

/** Records, runs and reads back what `body` returns. */
export async function evaluate(backend: Backend, body: () => Tensor): Promise<Float32Array> {
  const result = body();
  await backend.submit();
  return backend.read(result);
}

/** Uniform numbers in [0, 1): the same for the same seed. */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}

/** About normal numbers. */
export function normals(length: number, random: () => number, deviation = 1): Float32Array {
  return Float32Array.from(
    { length },
    () => (random() + random() + random() + random() - 2) * Math.sqrt(3) * deviation,
  );
}

/** Distance in units in the last place of the expected value's f32, subnormals included. */
export function ulps(actual: number, expected: number): number {
  if (Object.is(actual, expected) || actual === expected) return 0;
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(expected))));
  return Math.abs(actual - expected) / 2 ** (exponent - 23);
}

/** Largest |actual − expected|, infinite where one is not finite. */
export function largestError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!);
    worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : Math.max(worst, error);
  }
  return worst;
}

/** Are two arrays equal to the last bit? (Test runners compare large arrays slowly.) */
export function sameBits(a: Float32Array, b: Float32Array): boolean {
  const bytes = (x: Float32Array): Buffer => Buffer.from(x.buffer, x.byteOffset, x.byteLength);
  return bytes(a).equals(bytes(b));
}

export function concat(parts: readonly Float32Array[]): Float32Array {
  const result = new Float32Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}
