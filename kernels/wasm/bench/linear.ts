/**
 * Speed of repacking, matrix–vector and matrix–matrix products per type and build, on a matrix that no cache holds:
 *
 *     node kernels/wasm/bench/linear.ts [--types Q4_0,Q8_0] [--rows 16384] [--columns 4096] [--tokens 1,64] [--kinds simd128,relaxed,narrow]
 *
 * Kinds: simd128, relaxed (its wide dot products) and narrow (the relaxed build where those are slow); the backend would choose the faster of
 * the last two. Prints the best of several runs on one thread: GB/s of weight memory read, GMAC/s, and 10⁶ weights/s repacked. Quantizing
 * the activations is included.
 */
import { parseArgs } from "node:util";
import { denseType, type QuantType } from "@lowbit/core";
import { ggmlTypes } from "@lowbit/gguf";
import { type GridShape, gridType } from "@lowbit/packing";
import { activationBytes } from "../src/weights.ts";
import { LinearKit, linearWeight, normals, randomBlocks, seeded } from "../test/linear-kit.ts";

/** Types of other formats, named by their traits. */
const grid = (shape: GridShape): [string, QuantType] => {
  const type = gridType(shape);
  return [type.name, type];
};
const nf4: QuantType = {
  name: "NF4",
  block: 64,
  bytes: 36,
  code: { per: 1, pieces: [{ at: 32, bits: 4, dims: [[64, 4]] }] },
  // Any values that are no small integers.
  values: {
    kind: "book",
    dimension: 1,
    table: Array.from({ length: 16 }, (_, i) => Math.fround(Math.sin(i))),
  },
  scale: { super: { field: { per: 64, pieces: [{ at: 0, bits: 32, dims: [] }] }, format: "f32" } },
};
const types: ReadonlyMap<string, QuantType> = new Map([
  ...[...ggmlTypes.values()].map((type): [string, QuantType] => [type.name, type]),
  grid({ bits: 4, group: 128, scale: "f16", zero: 8 }),
  grid({ bits: 4, group: 128, scale: "f16", zero: "integer" }),
  grid({ bits: 4, group: 64, scale: "f16", zero: "f16" }),
  grid({ bits: 8, group: 128, scale: "f16", zero: "integer" }),
  grid({ bits: 3, group: 128, scale: "f16", zero: "integer" }),
  ["NF4", nf4],
  ["f8-e4m3", denseType("f8-e4m3", "f8-e4m3")],
  ["f8-e5m2", denseType("f8-e5m2", "f8-e5m2")],
  // With a factor for each row.
  ["i8", denseType("i8", "i8")],
]);

const { values } = parseArgs({
  options: {
    types: {
      type: "string",
      default:
        "Q4_0,Q4_1,Q8_0,Q4_K,Q5_K,Q6_K,Q3_K,Q2_K,Q5_0,IQ4_NL,IQ4_XS,MXFP4,IQ2_XXS,IQ3_S,TQ2_0,Q1_0,F16,F32," +
        "int4 g128 f16 8,int4 g128 f16 z-integer,int4 g64 f16 z-f16,int3 g128 f16 z-integer,int8 g128 f16 z-integer,NF4,f8-e4m3,i8",
    },
    rows: { type: "string", default: "16384" },
    columns: { type: "string", default: "4096" },
    tokens: { type: "string", default: "1,64" },
    kinds: { type: "string", default: "simd128,relaxed,narrow" },
    seconds: { type: "string", default: "0.5" },
  },
});
const rows = Number(values.rows);
const columns = Number(values.columns);

function bestSeconds(run: () => void): number {
  run();
  let best = Number.POSITIVE_INFINITY;
  const end = performance.now() + 1000 * Number(values.seconds);
  for (let n = 0; n < 3 || performance.now() < end; n++) {
    const start = performance.now();
    run();
    best = Math.min(best, (performance.now() - start) / 1000);
  }
  return best;
}

for (const kind of values.kinds.split(",") as ("simd128" | "relaxed" | "narrow")[]) {
  console.log(`\n${kind}, ${rows} × ${columns}`);
  console.log(
    `type                        layout          bpw   repack M/s ${values.tokens
      .split(",")
      .map((n) => `${`M=${n} GB/s`.padStart(12)}${"GMAC/s".padStart(8)}`)
      .join("")}`,
  );
  for (const name of values.types.split(",")) {
    const type = types.get(name);
    if (type === undefined) throw new Error(`There is no type ${name}: ${[...types.keys()].join(", ")}`);
    const kit = new LinearKit(kind);
    // A few distinct rows, repeated: the kernels' time does not depend on the values.
    const pattern = randomBlocks(type, (8 * columns) / type.block, seeded(1));
    const blocks = new Uint8Array((pattern.length / 8) * rows);
    for (let at = 0; at < blocks.length; at += pattern.length) blocks.set(pattern, at);
    const extra = name === "i8" ? { rowScale: new Float32Array(rows).fill(0.01) } : {};
    const start = performance.now();
    const weight = kit.weights.upload(linearWeight(type, rows, columns, blocks, extra));
    const repack = (rows * columns) / (performance.now() - start) / 1000;
    const cells = values.tokens
      .split(",")
      .map(Number)
      .map((tokens) => {
        const { heap } = kit;
        const x = heap.allocate(4 * tokens * columns, "x");
        const quantized = heap.allocate(activationBytes(tokens, columns), "quantized x");
        const y = heap.allocate(4 * tokens * rows, "y");
        const call = heap.allocate(64, "call");
        heap.floats.set(normals(tokens * columns, seeded(2)), x / 4);
        heap.words.set([weight.address, 0, 0, rows, x, quantized, 0, 0, tokens, y, rows], call / 4);
        const seconds = bestSeconds(() => {
          if (weight.quantizes) kit.quantizeAll(quantized, x, tokens, columns);
          kit.linearAll(call);
        });
        for (const address of [x, quantized, y, call]) heap.release(address);
        const reads = Math.ceil(tokens / 64);
        const rate = (value: number, width: number): string =>
          (value / seconds / 1e9).toFixed(1).padStart(width);
        return `${rate(weight.bytes * reads, 12)}${rate(rows * columns * tokens, 8)}`;
      });
    const bpw = ((8 * weight.bytes) / rows / columns).toFixed(2);
    console.log(
      `${name.padEnd(28)}${weight.layout.padEnd(14)}${bpw.padStart(6)}${repack.toFixed(0).padStart(12)} ${cells.join("")}`,
    );
  }
}
