import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  floatToHalf,
  halfToFloat,
  memorySource,
  type Ops,
  portableMath,
  singleFile,
  type Tensor,
} from "@lowbit/core";
import { openGguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import { random, runModel, type TinyModelOptions, testPlatform, tinyModelBytes } from "@lowbit/testing";
import { compareProbabilities, llamaCpp, softmaxRows } from "@lowbit/testing/llama-cpp";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { architectures } from "./index.ts";

/**
 * Random models with f32 weights: ours on the reference backend, llama.cpp with an f32 cache. Logits have a standard
 * deviation of 2 to 3.
 *
 * Both multiply f32 by f32. The order and precision of sums (ours are f64) and llama.cpp's f32 rotation angles leave, as
 * measured, 2e-5 between logits at most and 2e-6 in the root mean square. Where a gelu is looked up among halves (see
 * `tabledGelu`), a last bit now and then falls on the other side and moves a value by 2^-11: 1.4e-3 at most, 1e-4 in the root mean
 * square. The bounds are a few times that; the last tests show that they see slips as small as another kind of gelu.
 */
const exact = { rms: 1e-5, logit: 1e-4, probability: 1e-5, kl: 1e-8 };
const throughHalves = { rms: 3e-4, logit: 5e-3, probability: 5e-4, kl: 5e-8 };

type Bound = typeof exact;

const models: readonly [name: string, options: TinyModelOptions, bound?: Bound][] = [
  ["llama, grouped heads", { architecture: "llama" }],
  ["llama, tied", { architecture: "llama", tied: true }],
  ["llama, as many key heads as heads", { architecture: "llama", kvHeads: 4 }],
  ["llama, one key head, wide heads", { architecture: "llama", kvHeads: 1, keySize: 24 }],
  ["llama, linear scaling", { architecture: "llama", ropeScaling: { kind: "linear", factor: 4 } }],
  [
    "llama, YaRN",
    { architecture: "llama", ropeScaling: { kind: "yarn", factor: 4, originalContextLength: 32 } },
  ],
  [
    "llama, llama3 scaling",
    { architecture: "llama", ropeScaling: { kind: "llama3", factor: 8, originalContextLength: 32 } },
  ],
  ["mixtral", { architecture: "llama", experts: { count: 4, used: 2 } }],
  ["qwen2, biases", { architecture: "qwen2", ropeBase: 1e6 }],
  [
    "qwen2, YaRN",
    { architecture: "qwen2", ropeScaling: { kind: "yarn", factor: 2, originalContextLength: 64 } },
  ],
  ["qwen2moe, shared expert", { architecture: "qwen2moe", experts: { count: 8, used: 3 } }],
  ["qwen3, wide heads", { architecture: "qwen3", keySize: 32, tied: true }],
  ["qwen3moe", { architecture: "qwen3moe", keySize: 32, experts: { count: 8, used: 3 } }],
  ["gemma", { architecture: "gemma", keySize: 32 }, throughHalves],
  ["gemma2, window 8, soft caps", { architecture: "gemma2", layers: 4, keySize: 32 }, throughHalves],
  ["gemma3, window 8", { architecture: "gemma3", layers: 7, ropeBase: 1e6 }, throughHalves],
  [
    "gemma3, linear scaling of its global layers",
    { architecture: "gemma3", layers: 7, ropeBase: 1e6, ropeScaling: { kind: "linear", factor: 8 } },
    throughHalves,
  ],
  ["phi3", { architecture: "phi3" }],
  [
    "phi3, short factors",
    { architecture: "phi3", ropeScaling: { kind: "longrope", originalContextLength: 256 } },
  ],
  [
    "phi3, long factors",
    {
      architecture: "phi3",
      ropeScaling: { kind: "longrope", originalContextLength: 32, attentionFactor: 1.2 },
    },
  ],
  ["gpt2", { architecture: "gpt2" }, throughHalves],
  ["bitnet", { architecture: "bitnet" }],
];

/** What `tinyModel` makes unless told otherwise. */
const vocabularySize = 320;
/** Longer than the windows, and than a page of the cache. */
const length = 40;
/** llama.cpp rounds contexts up to a multiple of 256, and chooses long factors by the result. */
const contextLength = 256;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "lowbit-llama-cpp-"));
});
afterAll(() => rm(folder, { recursive: true }));

function tokensFor(size: number): number[] {
  const uniform = random(5);
  return Array.from({ length }, () => Math.floor(uniform() * size));
}

async function theirs(bytes: Uint8Array, tokens: readonly number[]): Promise<Float32Array> {
  const path = join(folder, "model.gguf");
  await writeFile(path, bytes);
  const llama = await llamaCpp(path, { contextLength });
  try {
    return await llama.logits(tokens);
  } finally {
    await llama.dispose();
  }
}

/** llama.cpp looks gelu up in a table from halves to halves. With the same table what is left to differ is little. */
function tabledGelu(ops: Ops): Ops {
  const lookUp = (x: number): number => {
    if (Math.abs(x) >= 10) return Math.max(0, x);
    const half = halfToFloat(floatToHalf(x));
    const inner = Math.sqrt(2 / Math.PI) * half * (1 + 0.044715 * half * half);
    return halfToFloat(floatToHalf((half / 2) * (1 + portableMath.tanh(inner))));
  };
  const tabled = (x: Tensor): Tensor => {
    // The reference backend has computed a tensor's values when it hands it out.
    const { values } = x as Tensor & { readonly values: Float32Array };
    return ops.constant(values.map(lookUp), x.rows, x.columns);
  };
  return {
    ...ops,
    activate: (x, kind) => (kind === "gelu-tanh" ? tabled(x) : ops.activate(x, kind)),
    gate: (gate, up, kind) => (kind === "gelu-tanh" ? ops.mul(tabled(gate), up) : ops.gate(gate, up, kind)),
  };
}

interface Ways {
  /** Tokens in one pass. */
  readonly chunk?: number;
  readonly gelu?: (ops: Ops) => Ops;
}

async function ours(bytes: Uint8Array, tokens: readonly number[], ways: Ways = {}): Promise<Float32Array> {
  const { chunk = length, gelu = tabledGelu } = ways;
  const checkpoint = await openGguf(singleFile(memorySource(bytes), "model.gguf"));
  const backend = await reference().create(testPlatform());
  try {
    const ops = gelu(backend.ops);
    return await runModel({ checkpoint, architectures, backend, tokens, contextLength, chunk, ops });
  } finally {
    await backend.dispose();
    await checkpoint.close();
  }
}

interface Distance {
  readonly rms: number;
  readonly largest: number;
}

function distance(a: Float32Array, b: Float32Array): Distance {
  let largest = 0;
  let squares = 0;
  a.forEach((value, i) => {
    const difference = Math.abs(value - (b[i] ?? Number.NaN));
    largest = Math.max(largest, difference);
    squares += difference ** 2;
  });
  return { rms: Math.sqrt(squares / a.length), largest };
}

describe("logits and next-token probabilities are llama.cpp's", () => {
  test.each(models)("%s", async (_, options, bound = exact) => {
    const bytes = await tinyModelBytes(options);
    const tokens = tokensFor(vocabularySize);
    const expected = await theirs(bytes, tokens);
    const actual = await ours(bytes, tokens);
    expect(actual.length).toBe(expected.length);
    const { rms, largest } = distance(expected, actual);
    const probabilities = compareProbabilities(
      softmaxRows(expected, vocabularySize),
      softmaxRows(actual, vocabularySize),
      vocabularySize,
    );
    expect(rms).toBeLessThan(bound.rms);
    expect(largest).toBeLessThan(bound.logit);
    expect(probabilities.largest).toBeLessThan(bound.probability);
    expect(Math.abs(probabilities.meanKl)).toBeLessThan(bound.kl);
    // The cache gives what one pass gives.
    expect(distance(await ours(bytes, tokens, { chunk: 7 }), actual).largest).toBeLessThan(1e-4);
  });
});

/** A model and a slightly wrong reading of it. */
const slips: readonly [
  name: string,
  right: TinyModelOptions,
  wrong: Partial<TinyModelOptions>,
  bound?: Bound,
][] = [
  ["rotation base", { architecture: "llama" }, { ropeBase: 11_000 }],
  [
    "YaRN factor",
    { architecture: "llama", ropeScaling: { kind: "yarn", factor: 4, originalContextLength: 32 } },
    { ropeScaling: { kind: "yarn", factor: 4.2, originalContextLength: 32 } },
  ],
  [
    "experts per token",
    { architecture: "llama", experts: { count: 4, used: 2 } },
    { experts: { count: 4, used: 3 } },
  ],
  ["window", { architecture: "gemma2" }, { slidingWindow: 9 }, throughHalves],
  ["attention soft cap", { architecture: "gemma2" }, { attentionSoftcap: 5.5 }, throughHalves],
  ["layers of a pattern", { architecture: "gemma3", layers: 7 }, { slidingWindow: 64 }, throughHalves],
  [
    "long factors taken for short ones",
    { architecture: "phi3", ropeScaling: { kind: "longrope", originalContextLength: 32 } },
    { ropeScaling: { kind: "longrope", originalContextLength: 256 } },
  ],
];

describe("the bounds would show a slip", () => {
  test.each(slips)("%s", async (_, right, wrong, bound = exact) => {
    const tokens = tokensFor(vocabularySize);
    const expected = await theirs(await tinyModelBytes(right), tokens);
    const actual = await ours(await tinyModelBytes({ ...right, ...wrong }), tokens);
    expect(distance(expected, actual).rms).toBeGreaterThan(2 * bound.rms);
  });

  test("the other gelu", async () => {
    const otherGelu = (ops: Ops): Ops => ({ ...ops, activate: (x) => ops.activate(x, "gelu") });
    const tokens = tokensFor(vocabularySize);
    const bytes = await tinyModelBytes({ architecture: "gpt2" });
    const actual = await ours(bytes, tokens, { gelu: otherGelu });
    expect(distance(await theirs(bytes, tokens), actual).rms).toBeGreaterThan(2 * throughHalves.rms);
  });
});
