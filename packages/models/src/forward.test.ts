import { type Backend, memorySource, type Ops, singleFile, type TokenBatch } from "@lowbit/core";
import { openGguf } from "@lowbit/gguf";
import { reference } from "@lowbit/kernels-reference";
import {
  type OpenModel,
  openModel,
  type TinyModelOptions,
  testPlatform,
  tinyModelBytes,
} from "@lowbit/testing";
import { expect, test } from "vitest";
import { architectures } from "./index.ts";

const families: readonly TinyModelOptions[] = [
  { architecture: "llama" },
  { architecture: "llama", experts: { count: 4, used: 2 } },
  { architecture: "qwen2moe", experts: { count: 4, used: 2 } },
  { architecture: "qwen3" },
  { architecture: "gemma2", layers: 4 },
  { architecture: "gemma3", layers: 7 },
  { architecture: "phi3", ropeScaling: { kind: "longrope", originalContextLength: 96 } },
  { architecture: "gpt2" },
  { architecture: "bitnet" },
];

async function open(options: TinyModelOptions, change: { ops?: (ops: Ops) => Ops; sequences?: number } = {}) {
  const checkpoint = await openGguf(singleFile(memorySource(await tinyModelBytes(options)), "model.gguf"));
  const backend: Backend = await reference().create(testPlatform());
  const model = await openModel({
    checkpoint,
    architectures,
    backend,
    contextLength: 64,
    sequences: change.sequences ?? 1,
    ops: change.ops?.(backend.ops) ?? backend.ops,
  });
  return { checkpoint, backend, model };
}

const tokensOf = (length: number, seed: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => (i * 37 + seed * 11 + ((i * i) % 7)) % 320);

function batchOf(model: OpenModel, tokens: Int32Array, from = 0): TokenBatch {
  return {
    tokens,
    positions: tokens.map((_, i) => from + i),
    sequences: new Int32Array(tokens.length),
    pages: [model.pages()],
  };
}

test.each(families)("$architecture: only the rows that were asked for, in their order", async (options) => {
  const { model } = await open(options);
  const tokens = tokensOf(20, 1);
  const width = model.context.config.vocabularySize;
  const all = await model.forward(
    batchOf(model, tokens),
    tokens.map((_, i) => i),
  );
  expect(all.length).toBe(20 * width);
  const rows = Int32Array.of(19, 3, 3);
  const some = await model.forward(batchOf(model, tokens), rows);
  expect(some).toEqual(
    Float32Array.from([...rows].flatMap((r) => [...all.subarray(r * width, (r + 1) * width)])),
  );
  const hidden = await model.forward(batchOf(model, tokens), rows, "hidden");
  expect(hidden.length).toBe(3 * model.context.config.embeddingSize);
});

test.each(families)("$architecture: several sequences in a batch are as each alone", async (options) => {
  const { model } = await open(options, { sequences: 2 });
  const [a, b] = [tokensOf(18, 2), tokensOf(11, 3)];
  const last = (tokens: Int32Array): Int32Array => Int32Array.of(tokens.length - 1);
  const alone = [
    await model.forward(batchOf(model, a), last(a)),
    await model.forward(batchOf(model, b), last(b)),
  ];
  // The first 10 of a; then the rest of it with all of b.
  await model.forward(batchOf(model, a.slice(0, 10)), Int32Array.of(0));
  const together = await model.forward(
    {
      tokens: Int32Array.from([...b, ...a.slice(10)]),
      positions: Int32Array.from([...b.map((_, i) => i), ...a.slice(10).map((_, i) => 10 + i)]),
      sequences: Int32Array.from([...b.map(() => 1), ...a.slice(10).map(() => 0)]),
      pages: [model.pages(0), model.pages(1)],
    },
    Int32Array.of(18, 10),
  );
  expect(together).toEqual(Float32Array.from(alone.flatMap((values) => [...values])));
});

test("activations do not add up over the layers", async () => {
  const peak = async (layers: number): Promise<number> => {
    let most = 0;
    const watch = (backend: Backend, ops: Ops): Ops => {
      const watched = <Args extends unknown[], Result>(op: (...args: Args) => Result) => {
        return (...args: Args): Result => {
          const result = op(...args);
          most = Math.max(most, backend.memory().usedBytes);
          return result;
        };
      };
      return Object.fromEntries(
        Object.entries(ops).map(([name, op]) => [name, watched(op)]),
      ) as unknown as Ops;
    };
    const checkpoint = await openGguf(
      singleFile(memorySource(await tinyModelBytes({ architecture: "llama", layers })), "model.gguf"),
    );
    const backend = await reference().create(testPlatform());
    const ops = watch(backend, backend.ops);
    const model = await openModel({ checkpoint, architectures, backend, contextLength: 64, ops });
    const store = backend.memory().usedBytes;
    await model.forward(batchOf(model, tokensOf(40, 4)), Int32Array.of(39));
    return most - store;
  };
  const few = await peak(2);
  expect(few).toBeGreaterThan(0);
  expect(await peak(12)).toBe(few);
});

test.each(families)("$architecture: asks for what the checkpoint has", async (options) => {
  const { checkpoint } = await open(options);
  const architecture = architectures.find(({ names }) => names.includes(options.architecture));
  const specs = architecture?.weights(checkpoint.config) ?? [];
  const shapes = new Map(checkpoint.entries().map(({ role, shape }) => [role, shape]));
  for (const { role, shape, optional } of specs) {
    if (optional && !shapes.has(role)) continue;
    expect(shapes.get(role), role).toEqual(shape);
  }
  expect(new Set(specs.map(({ role }) => role)).size).toBe(specs.length);
  // Nothing but biases, which come with their matrices, is left over.
  const asked = new Set(specs.map(({ role }) => role));
  const left = [...shapes.keys()].filter((role) => !asked.has(role ?? "") && !role?.endsWith(".bias"));
  expect(left).toEqual([]);
});

test("names are taken once", () => {
  const names = architectures.flatMap((architecture) => architecture.names);
  expect(new Set(names).size).toBe(names.length);
});
