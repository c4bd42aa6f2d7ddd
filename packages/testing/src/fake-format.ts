import {
  type Architecture,
  type Checkpoint,
  type CheckpointWriter,
  decodeDense,
  denseType,
  denseWeight,
  type LinearWeight,
  LowbitError,
  type ModelConfig,
  rowsOf,
  type StoredWeight,
  type WeightEntry,
  type WeightSpec,
} from "@lowbit/core";
import { random, seedFor } from "./random.ts";

const F32 = denseType("F32", "f32");
const F16 = denseType("F16", "f16");
const I8 = denseType("I8", "i8");

export interface FakeOptions {
  /** @default 3 */
  readonly layers?: number;
  /** @default 8 */
  readonly width?: number;
  /** @default 1 */
  readonly seed?: number;
  /** Instead of random ones. */
  readonly values?: (role: string, values: Float32Array) => void;
}

function fakeConfig(layers: number, width: number): ModelConfig {
  return {
    architecture: "fake",
    contextLength: 8,
    vocabularySize: 2 * width,
    embeddingSize: width,
    layers,
    feedForwardSize: width,
    heads: 1,
    kvHeads: 1,
    keySize: width,
    valueSize: width,
    normEpsilon: 1e-5,
  };
}

/** A family of a matrix with a bias and a norm in each layer, and an optional head. */
export const fakeArchitecture: Architecture = {
  id: "fake",
  names: ["fake"],
  weights: ({ layers, embeddingSize: width, vocabularySize }): WeightSpec[] => [
    { role: "embed", kind: "linear", shape: [vocabularySize, width] },
    ...Array.from({ length: layers }, (_, i): WeightSpec[] => [
      { role: `layers.${i}.attn.norm`, kind: "vector", shape: [width] },
      { role: `layers.${i}.attn.q`, kind: "linear", shape: [width, width] },
    ]).flat(),
    { role: "head", kind: "linear", shape: [vocabularySize, width], optional: true },
  ],
  forward() {
    throw new Error("nothing runs it");
  },
};

/** A checkpoint of f32 weights that exists nowhere: everything is drawn when it is read. */
export function fakeCheckpoint({ layers = 3, width = 8, seed = 1, values }: FakeOptions = {}): Checkpoint {
  const config = fakeConfig(layers, width);
  const specs = fakeArchitecture.weights(config).filter(({ optional }) => !optional);
  const draw = (role: string, count: number): Float32Array => {
    const uniform = random(seedFor(role, seed));
    const drawn = new Float32Array(count);
    // Large ones repeat, so that drawing takes no time.
    const period = Math.min(count, 4099);
    for (let i = 0; i < count; i++) drawn[i] = i < period ? uniform() - 0.5 : drawn[i - period]!;
    values?.(role, drawn);
    return drawn;
  };
  const product = (shape: readonly number[]) => shape.reduce((total, size) => total * size, 1);
  const entry = (role: string | undefined, name: string, shape: readonly number[]): WeightEntry => {
    return { role, name, shape, type: F32, bytes: 4 * product(shape) };
  };
  const find = (role: string): WeightSpec => {
    const spec = specs.find((candidate) => candidate.role === role);
    if (spec) return spec;
    throw new LowbitError("weight-missing", `There is no ${role}.`);
  };
  return {
    format: "fake",
    config,
    metadata: new Map(),
    entries: () => [
      ...specs.flatMap(({ role, shape }) => [
        entry(role, `fake.${role}`, shape),
        ...(role.endsWith("attn.q") ? [entry(`${role}.bias`, `fake.${role}.bias`, [width])] : []),
      ]),
      entry(undefined, "fake.leftover", [3]),
    ],
    async weight(role) {
      const [out = 0] = find(role).shape;
      const blocks = new Uint8Array(draw(role, out * width).buffer);
      return {
        out,
        in: width,
        ...(role.endsWith("attn.q") && { bias: draw(`${role}.bias`, width) }),
        segments: [{ type: F32, from: 0, to: width, blocks }],
      };
    },
    vector: async (role) => draw(role, product(find(role).shape)),
    async close() {},
  };
}

export interface FakeWriterOptions {
  /** f32 moves; f16 rounds, or holds what is f16 already; i8 rounds a lot. @default "f32" */
  readonly type?: "f32" | "f16" | "i8";
  /** @default "folder" */
  readonly output?: "file" | "folder";
}

/** A writer of files that hold nothing but names and bytes: "weights.bin" with one tensor after another, and "index.json". */
export function fakeWriter({ type = "f32", output = "folder" }: FakeWriterOptions = {}): CheckpointWriter {
  const target = { f32: F32, f16: F16, i8: I8 }[type];
  return {
    output,
    ...(output === "file" && { fileName: "weights.bin" }),
    store(role, weight): StoredWeight {
      const values = denseWeight(weight);
      const blocks = type === "f32" ? new Uint8Array(values.buffer) : roundTo(type, values);
      const stored: LinearWeight = {
        ...weight,
        segments: [{ type: target, from: 0, to: weight.in, blocks }],
      };
      return {
        tensors: [
          { name: `${role}.weight`, dtype: target.name, shape: [rowsOf(weight), weight.in], data: blocks },
          ...(weight.bias
            ? [
                {
                  name: `${role}.bias`,
                  dtype: "F32",
                  shape: [weight.bias.length],
                  data: bytesOf(weight.bias),
                },
              ]
            : []),
        ],
        weight: stored,
        moved: type === "f32",
        note: { rows: rowsOf(weight) },
      };
    },
    storeVector: (role, values) => ({
      tensors: [{ name: role, dtype: "F32", shape: [values.length], data: bytesOf(values) }],
      weight: values,
      moved: true,
    }),
    async finish(folder, staged) {
      const index: unknown[] = [];
      const sink = await folder.create("weights.bin");
      try {
        for (const { role, tensors, note } of staged) {
          for (const tensor of tensors) {
            for await (const piece of tensor.read()) await sink.write(piece);
            const { name, dtype, shape, bytes } = tensor;
            index.push({ role, name, dtype, shape, bytes, note });
          }
        }
      } finally {
        await sink.close();
      }
      if (output === "file") return;
      const second = await folder.create("index.json");
      await second.write(new TextEncoder().encode(JSON.stringify(index)));
      await second.close();
    },
  };
}

function roundTo(type: "f16" | "i8", values: Float32Array): Uint8Array {
  if (type === "i8") return new Uint8Array(Int8Array.from(values, (value) => Math.round(value)).buffer);
  const halves = Float16Array.from(values);
  return new Uint8Array(halves.buffer);
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
}

/** Values that are f16 already. */
export function toHalves(_role: string, values: Float32Array): void {
  decodeDense("f16", roundTo("f16", values), values);
}
