import type { Backend, BackendFactory, Ops, Tensor } from "@lowbit/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { random } from "../random.ts";
import { testPlatform } from "../test-platform.ts";

/** How the backend under test may differ from exact arithmetic. */
export interface Precision {
  /**
   * What products with packed weights do to their input. "int8 per 32" rounds each 32 values to steps of max|x| / 127.
   * @default "int8 per 32"
   */
  readonly activations?: "f32" | "int8 per 32";
}

/** What the cases of a suite work with. */
export interface Bench {
  /** Registers a test, or a skipped one whose name says why. */
  readonly check: (id: string, body: () => void | Promise<void>) => void;
  readonly backend: () => Backend;
  readonly precision: Required<Precision>;
}

/** Opens one backend for all cases of a group. */
export function openBench(
  factory: BackendFactory,
  precision: Precision,
  skip: Readonly<Record<string, string>>,
  seen: Set<string>,
): Bench {
  let backend: Backend | undefined;
  beforeAll(async () => {
    backend = await factory.create(testPlatform());
  });
  afterAll(() => backend?.dispose());
  return {
    check(id, body) {
      seen.add(id);
      const reason = skip[id];
      if (reason === undefined) test(id, body);
      else test.skip(`${id} (skipped: ${reason})`, body);
    },
    backend() {
      if (backend === undefined) throw new Error("the backend was not created");
      return backend;
    },
    precision: { activations: precision.activations ?? "int8 per 32" },
  };
}

/** Records, submits and reads: what `record` returns, each as values. */
export async function evaluate(
  backend: Backend,
  record: (ops: Ops) => Tensor | readonly Tensor[],
): Promise<Float32Array[]> {
  const results = record(backend.ops);
  await backend.submit();
  const tensors = Array.isArray(results) ? (results as readonly Tensor[]) : [results as Tensor];
  const values: Float32Array[] = [];
  for (const tensor of tensors) {
    const read = await backend.read(tensor);
    expect(read.length, "values read").toBe(tensor.rows * tensor.columns);
    values.push(read);
  }
  return values;
}

/** The one result of `record`. */
export async function evaluateOne(backend: Backend, record: (ops: Ops) => Tensor): Promise<Float32Array> {
  const [values] = await evaluate(backend, record);
  return values ?? new Float32Array(0);
}

/** Numbers in [−size, size), seeded. */
export function numbers(count: number, seed: number, size = 1): Float32Array {
  const uniform = random(seed);
  return Float32Array.from({ length: count }, () => size * (2 * uniform() - 1));
}

/** Every value within its bound: one for all, or one for each. The message names the worst. */
export function expectNear(
  actual: Float32Array,
  expected: ArrayLike<number>,
  bound: number | ArrayLike<number>,
): void {
  expect(actual.length).toBe(expected.length);
  let worst = { excess: 0, text: "" };
  for (let i = 0; i < actual.length; i++) {
    const allowed = typeof bound === "number" ? bound : (bound[i] ?? 0);
    const difference = Math.abs((actual[i] ?? Number.NaN) - (expected[i] ?? 0));
    // A NaN is no match for anything.
    if (difference <= allowed) continue;
    const excess = difference / (allowed || Number.MIN_VALUE);
    if (Number.isNaN(excess) || excess > worst.excess) {
      worst = { excess, text: `value ${i} is ${actual[i]}, expected ${expected[i]} ± ${allowed}` };
    }
    if (Number.isNaN(excess)) break;
  }
  expect(worst.text).toBe("");
}

/** Equal as numbers (0 and −0 are). */
export function expectExactly(actual: Float32Array, expected: ArrayLike<number>): void {
  expectNear(actual, expected, 0);
}

/** Throws a LowbitError with this code, at record time. */
export function expectRefusal(body: () => unknown, code = "bad-argument"): void {
  let error: unknown;
  try {
    body();
  } catch (thrown) {
    error = thrown;
  }
  expect(error, "an error").toMatchObject({ name: "LowbitError", code });
}

export function largest(values: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i] ?? 0));
  return most;
}

export { describe, expect };
