/**
 * Writes the inner loops of the packed matrix products as WebAssembly assembly, and the C table of them:
 *
 *     node generate/kernels.ts <simd128 | relaxed> <i32 | i64> <folder>
 *
 * Not C, because compilers order the instructions of such loops by their expression trees: all loads first, then a chain of dot products,
 * with most vectors spilled in between; engines then keep that order. Here a code vector is unpacked, used for every token and forgotten.
 * Measured on x86 without VNNI, the same loop from C runs at less than half the speed.
 *
 * A kernel multiplies `quarters` quarters of a band, four rows each, by `tokens` tokens over some blocks of 32 columns. Lanes are rows. Per scale group the
 * arithmetic is integer and exact; then acc += (scale · x scale) · f32(sum), in this order in every kernel, so that all give the same bits.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type DenseKind, DenseWriter } from "./dense.ts";
import { maskTable } from "./emitter.ts";
import { PackedWriter } from "./packed.ts";
import type { Dot, Mode } from "./packed-kernel.ts";

/** Every way of holding a code that c/type.h allows, in the order that `choose` in c/linear-packed.c counts on. */
const holdings: readonly (readonly [Mode, number])[] = [
  ...[1, 2, 3, 4, 5, 6].map((width) => ["CODES", width] as const),
  ...[1, 2, 3, 4].map((width) => ["TABLE", width] as const),
  ["SIGNED_TABLE", 4],
  ["BYTES", 8],
];

/** In the order of the kinds in c/linear.h. */
const denseKinds: readonly DenseKind[] = ["f32", "f16", "bf16"];

/** One token by four quarters, or four tokens by two. */
const shapes = [
  { tokens: 1, quarters: 4 },
  { tokens: 4, quarters: 2 },
] as const;

function main(): void {
  const [variant, pointer, folder] = process.argv.slice(2);
  const known = (variant === "simd128" || variant === "relaxed") && (pointer === "i32" || pointer === "i64");
  if (!known || folder === undefined) {
    throw new Error("usage: generate/kernels.ts <simd128 | relaxed> <i32 | i64> <folder>");
  }
  const dots: readonly Dot[] = variant === "relaxed" ? ["wide", "narrow"] : ["simd"];
  const packed = dots.flatMap((dot) =>
    holdings.flatMap(([mode, width]) =>
      ([16, 32] as const).flatMap((group) =>
        shapes.map((shape) => {
          const symbol = `kernel_${dot}_${mode.toLowerCase()}${width}_g${group}_t${shape.tokens}`;
          return {
            symbol,
            code: new PackedWriter({ dot, mode, width, group, ...shape }, pointer).write(symbol),
          };
        }),
      ),
    ),
  );
  const dense = denseKinds.flatMap((kind) =>
    shapes.map((shape) => {
      const symbol = `kernel_dense_${kind}_t${shape.tokens}`;
      return { symbol, code: new DenseWriter({ kind, ...shape }, pointer).write(symbol) };
    }),
  );
  const table = (name: string, kernels: readonly { symbol: string }[]): string =>
    `const Kernel ${name}[] = {\n${kernels.map(({ symbol }) => `    ${symbol},\n`).join("")}};\n`;
  writeFileSync(join(folder, "kernels.s"), [...packed, ...dense].map(({ code }) => code).join("\n"));
  writeFileSync(
    join(folder, "kernel-table.c"),
    [
      "// Written by generate/kernels.ts.",
      '#include "linear-internal.h"',
      ...[...packed, ...dense].map(({ symbol }) => `void ${symbol}(const TileCall *call);`),
      "// Order: dot (wide, narrow), holding, columns per scale (16, 32), tokens (1, 4).",
      table("packed_kernels", packed),
      "// Order: kind, tokens (1, 4).",
      table("dense_kernels", dense),
      maskTable(),
    ].join("\n"),
  );
}

main();
