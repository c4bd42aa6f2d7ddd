/**
 * Ceilings on what users download: each package's own code bundled, minified and gzipped. A ceiling is raised only with a
 * new reason beside it.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Metafile } from "esbuild";
import { root } from "./workspace.ts";

export interface Ceiling {
  /** What is weighed, for messages. */
  readonly name: string;
  /** An entry to bundle, or a file to weigh as it is; from the root. */
  readonly file: string;
  /** Bundle the dependencies too, as a web application would. @default false */
  readonly whole?: boolean;
  readonly gzipBytes: number;
  readonly reason: string;
}

export const ceilings: readonly Ceiling[] = [
  {
    name: "@lowbit/core",
    file: "packages/core/src/index.ts",
    gzipBytes: 15_000,
    reason: "the design's budget: contracts, plans, the reference dequantizer",
  },
  {
    name: "@lowbit/packing",
    file: "packages/packing/src/index.ts",
    gzipBytes: 10_000,
    reason:
      "the safetensors container, bit streams, grids of integers, bounded patterns, checked access to modules",
  },
  ...(
    [
      ["safetensors", 23_000, "Hugging Face folders of every family, both ways, tokenizer files included"],
      ["gptq", 8_000, "reader and writer"],
      ["awq", 6_000, "reader and writer of three layouts"],
      ["exl2", 7_000, "reader, writer, and the search for scales"],
      ["bitsandbytes", 8_500, "reader and writer of 4 and 8 bits"],
      ["compressed-tensors", 14_000, "four packings and a dozen layouts, both ways"],
      ["hqq", 7_500, "reader and writer of every width"],
    ] as const
  ).map(([name, gzipBytes, reason]) => ({
    name: `@lowbit/${name}`,
    file: `plugins/${name}/src/index.ts`,
    gzipBytes,
    reason,
  })),
  {
    name: "@lowbit/gguf",
    file: "plugins/gguf/src/index.ts",
    gzipBytes: 26_500,
    reason:
      "reader and every ggml type (the IQ grids alone are about 7 kB); writer with configuration and keys of four kinds of tokenizers (3 kB), and quantizers",
  },
  {
    name: "@lowbit/tokenizers",
    file: "packages/tokenizers/src/index.ts",
    gzipBytes: 20_500,
    reason:
      "four kinds of tokenizers with the pre-tokenizers' patterns (14.3 kB), and budgeted chat templates with their engine",
  },
  {
    name: "@lowbit/grammar",
    file: "packages/grammar/src/index.ts",
    gzipBytes: 19_500,
    reason:
      "JSON Schema with patterns, formats and limits of numbers as an automaton, and its masks (15 kB); tool calls of nine families and reasoning (4 kB)",
  },
  {
    name: "@lowbit/models",
    file: "packages/models/src/index.ts",
    gzipBytes: 6_000,
    reason: "every family over shared blocks: a new family is about 0.3 kB",
  },
  {
    name: "@lowbit/platform for Node",
    file: "packages/platform/src/node.ts",
    gzipBytes: 16_000,
    reason:
      "local files and outputs; range requests that survive faults (3.2 kB), the hub (1.6), pieces, R2, verified caches (3.7)",
  },
  {
    name: "@lowbit/platform",
    file: "packages/platform/src/web.ts",
    gzipBytes: 13_500,
    reason: "the same without local files; caches in OPFS and the Cache API",
  },
  {
    name: "@lowbit/engine",
    file: "packages/engine/src/index.ts",
    gzipBytes: 21_500,
    reason:
      "planning, loading, the paged cache, batching (1.6 kB), sampling, generation, drafts, sessions, shifting (4 kB)",
  },
  {
    name: "@lowbit/convert",
    file: "packages/convert/src/index.ts",
    gzipBytes: 7_000,
    reason: "staging, resuming, comparing and reporting",
  },
  {
    name: "@lowbit/kernels-reference",
    file: "kernels/reference/src/index.ts",
    gzipBytes: 9_000,
    reason: "every op in plain TypeScript",
  },
  {
    name: "@lowbit/kernels-wasm",
    file: "kernels/wasm/src/index.ts",
    gzipBytes: 18_500,
    reason: "memory, repacking, the recorder, threads, pages and shifts; the modules are weighed below",
  },
  {
    name: "@lowbit/kernels-wasm, relaxed module",
    file: "kernels/wasm/pkg/relaxed/lowbit_kernels_bg.wasm",
    gzipBytes: 39_000,
    reason: "dot products for each code width, group and tile, unrolled",
  },
  {
    name: "@lowbit/kernels-wasm, simd128 module",
    file: "kernels/wasm/pkg/simd128/lowbit_kernels_bg.wasm",
    gzipBytes: 38_000,
    reason: "the same without relaxed SIMD",
  },
  {
    name: "lowbit",
    file: "packages/lowbit/src/index.ts",
    gzipBytes: 1_700,
    reason: "it only puts the others together, for loading and for converting",
  },
  {
    name: "lowbit in a web page",
    file: "packages/lowbit/src/index.ts",
    whole: true,
    gzipBytes: 210_000,
    reason:
      "readers and writers of every format, conversion, the template engine, structured output (19 kB), sources and caches; without the modules",
  },
  {
    name: "a web page that runs GGUF",
    file: "tools/gguf-page.ts",
    whole: true,
    gzipBytes: 117_000,
    reason:
      "what a page downloads that puts its own engine together: engine, kernels, GGUF with its writer, tokenizers (17 kB), sources and caches (13 kB); a module comes on top",
  },
  {
    name: "@lowbit/server",
    file: "packages/server/src/index.ts",
    gzipBytes: 12_000,
    reason: "four routes with every field checked, admission, metrics",
  },
  {
    name: "@lowbit/server with Hono",
    file: "packages/server/src/index.ts",
    whole: true,
    gzipBytes: 25_000,
    reason: "what a Worker that serves a model carries beside the engine",
  },
  {
    name: "@lowbit/ai-provider",
    file: "packages/ai-provider/src/index.ts",
    gzipBytes: 5_000,
    reason: "prompts, parts, settings and their warnings, models on demand",
  },
  {
    name: "@lowbit/ai-provider in a web page",
    file: "packages/ai-provider/src/index.ts",
    whole: true,
    gzipBytes: 220_000,
    reason:
      "lowbit itself, which is a chunk of its own and loaded for locations alone, and the AI SDK's errors (3 kB)",
  },
  {
    name: "@lowbit/cli",
    file: "packages/cli/src/index.ts",
    gzipBytes: 13_000,
    reason: "six commands",
  },
  {
    name: "@lowbit/pico",
    file: "models/pico/src/index.ts",
    gzipBytes: 500,
    reason: "addresses of files; the model itself is 3.7 MB",
  },
];

export interface Weighing {
  readonly name: string;
  readonly gzipBytes: number;
  readonly ceiling: Ceiling;
}

/** Minified and gzipped bytes of a bundle, or gzipped bytes of a file that is not code. */
export async function weigh(ceiling: Ceiling): Promise<Weighing> {
  const path = join(root, ceiling.file);
  const bytes = ceiling.file.endsWith(".ts")
    ? await bundle(path, ceiling.whole ?? false)
    : new Uint8Array(readFileSync(path));
  return { name: ceiling.name, gzipBytes: gzipSync(bytes, { level: 9 }).byteLength, ceiling };
}

async function bundle(entry: string, whole: boolean): Promise<Uint8Array> {
  const result = await build({
    entryPoints: [entry],
    bundle: true,
    write: false,
    format: "esm",
    target: "es2023",
    minify: true,
    treeShaking: true,
    logLevel: "silent",
    metafile: true,
    // A package alone is weighed as Node loads it; the whole as a web page does, where a Node built-in fails the build.
    ...(whole
      ? { platform: "browser", conditions: ["browser", "module"] }
      : { platform: "node", packages: "external" }),
  });
  if (whole) refuseBuiltins(result.metafile);
  return (result.outputFiles[0] as { contents: Uint8Array }).contents;
}

/** A bundle for the web holds no import of a Node built-in, not even a dynamic one. */
function refuseBuiltins(metafile: Metafile): void {
  for (const output of Object.values(metafile.outputs)) {
    for (const { path } of output.imports) {
      if (path.startsWith("node:")) throw new Error(`the bundle for the web imports ${path}`);
    }
  }
}

/** Are there packages that nothing weighs, or that weigh too much? One sentence each. */
export async function checkSizes(
  list: readonly Ceiling[],
): Promise<{ problems: string[]; weighings: Weighing[] }> {
  const problems: string[] = [];
  const weighings: Weighing[] = [];
  for (const ceiling of list) {
    if (!existsSync(join(root, ceiling.file))) {
      problems.push(`${ceiling.name}: there is no ${ceiling.file} to weigh.`);
      continue;
    }
    try {
      const weighing = await weigh(ceiling);
      weighings.push(weighing);
      if (weighing.gzipBytes > ceiling.gzipBytes) {
        problems.push(
          `${ceiling.name}: ${weighing.gzipBytes} bytes gzipped, over its ceiling of ${ceiling.gzipBytes} (${ceiling.reason}).`,
        );
      }
    } catch (error) {
      problems.push(`${ceiling.name}: cannot be bundled: ${error instanceof Error ? error.message : error}`);
    }
  }
  return { problems, weighings };
}

export function sizeTable(weighings: readonly Weighing[]): string {
  const kb = (bytes: number) => (bytes / 1000).toFixed(1).padStart(7);
  return weighings
    .map(({ name, gzipBytes, ceiling }) => `${name.padEnd(40)}${kb(gzipBytes)} of${kb(ceiling.gzipBytes)} kB`)
    .join("\n");
}

if (import.meta.main) {
  const { problems, weighings } = await checkSizes(ceilings);
  console.log(sizeTable(weighings));
  for (const problem of problems) console.error(problem);
  process.exitCode = problems.length === 0 ? 0 : 1;
}
