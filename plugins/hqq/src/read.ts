import {
  buildGrid,
  decodeDense,
  denseType,
  type LinearWeight,
  type PackedCheckpoint,
  type PackedModule,
  type PackedModules,
  throwIfAborted,
  type WeightSegment,
} from "@lowbit/core";
import { fail, unpackRow } from "./layout.ts";
import { configOf, readSettings, readView } from "./settings.ts";
import {
  checkCodes,
  dequantizeView,
  find,
  floatDtypes,
  needCodes,
  openValues,
  type Values,
  wordsOfView,
} from "./values.ts";

interface Module extends PackedModule {
  read(signal?: AbortSignal): Promise<LinearWeight>;
}

const f32 = denseType("F32", "f32");

/** The declared method decides; without one, the names of tensors. */
export function detectHqq({ quantization, tensors }: PackedCheckpoint): number {
  const method = quantization instanceof Map ? quantization.get("quant_method") : undefined;
  if (typeof method === "string") return method.toLowerCase() === "hqq" ? 1 : 0;
  for (const name of tensors.keys()) if (name.endsWith(".W_q")) return 0.5;
  return 0;
}

/** Reads the settings of every module, some at a time. */
export async function openHqq(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const names = [...checkpoint.tensors.keys()]
    .filter((name) => name.endsWith(".W_q"))
    .map((name) => name.slice(0, -".W_q".length));
  const parts = partsOf(checkpoint, names);
  const modules = new Map<string, Module>();
  for (let i = 0; i < names.length; i += 8) {
    throwIfAborted(signal);
    const some = names.slice(i, i + 8);
    const opened = await Promise.all(
      some.map((name) => openModule(checkpoint, name, parts.get(name)!, signal)),
    );
    for (const [k, module] of opened.entries()) modules.set(some[k]!, module);
  }
  const metadata = new Map<string, string | number | boolean>([["modules", modules.size]]);
  const plain = [...modules.values()].filter(({ segments }) => segments[0]?.type === f32).length;
  if (plain > 0) metadata.set("modules grouped across rows, kept as F32", plain);
  return {
    metadata,
    describe: (name) => modules.get(name),
    async weight(name, signal) {
      const module = modules.get(name);
      if (module) return module.read(signal);
      throw fail(
        "missing-tensor",
        `${checkpoint.name} has no HQQ module ${JSON.stringify(name)}`,
        "weight-missing",
      );
    },
  };
}

/** All tensors under each module's name. */
function partsOf({ tensors }: PackedCheckpoint, names: readonly string[]): Map<string, string[]> {
  const parts = new Map(names.map((name) => [name, [] as string[]]));
  for (const name of tensors.keys()) {
    for (let end = name.lastIndexOf("."); end > 0; end = name.lastIndexOf(".", end - 1)) {
      parts.get(name.slice(0, end))?.push(name);
    }
  }
  return parts;
}

async function openModule(
  checkpoint: PackedCheckpoint,
  name: string,
  tensors: readonly string[],
  signal?: AbortSignal,
): Promise<Module> {
  const where = `${checkpoint.name}: module ${name}`;
  const settings = await readSettings(checkpoint, name, configOf(checkpoint.quantization, name), signal);
  const view = readView(where, settings);
  const { out, in: columns, group, bits, axis } = view;
  const packed = needCodes(checkpoint, `${name}.W_q`, view, Boolean(settings.get("view_as_float")));
  const scale = await openValues(checkpoint, name, "scale", view, signal);
  const zero = await openValues(checkpoint, name, "zero", view, signal);
  const bias = find(checkpoint, `${name}.bias`, floatDtypes);
  if (bias && (bias.shape.length !== 1 || bias.shape[0] !== out)) {
    throw fail("shape-mismatch", `${where} has ${out} outputs, its bias is [${bias.shape.join(", ")}]`);
  }
  // A group may go on in the next row; its part in each row is a group of its own.
  const width = commonDivisor(group, columns);
  const shape = { bits, group: width, scale: scale.format, zero: zero.format };
  const dense = axis === 0;
  const segments = dense ? [{ type: f32, from: 0, to: columns }] : buildGrid(0, columns, shape).segments;

  function layRows(words: Uint8Array | Uint32Array, scales: Values, zeros: Values): readonly WeightSegment[] {
    const builder = buildGrid(out, columns, shape);
    const codes = new Uint8Array(columns);
    const rowScales = new Uint32Array(builder.groups);
    const rowZeros = new Uint32Array(builder.groups);
    for (let n = 0; n < out; n++) {
      for (let k = 0, g = 0; k < columns; k += width, g++) {
        const at = n * columns + k;
        const row = Math.floor(at / group);
        unpackRow(view, words, row, at % group, width, codes, k);
        rowScales[g] = scales.bits[row]!;
        rowZeros[g] = zeros.bits[row]!;
      }
      checkCodes(where, view, codes);
      builder.row(n, codes, rowScales, rowZeros);
    }
    return builder.segments;
  }

  return {
    out,
    in: columns,
    segments: segments.map(({ type, from, to }) => ({ type, from, to })),
    bytes: tensors.reduce((sum, part) => sum + checkpoint.tensors.get(part)!.bytes, 0),
    tensors,
    async read(signal) {
      const [bytes, scales, zeros, biases] = await Promise.all([
        checkpoint.read(packed, signal),
        scale.read(signal),
        zero.read(signal),
        bias && checkpoint.read(bias, signal),
      ]);
      throwIfAborted(signal);
      const words = wordsOfView(view, bytes);
      const biasValues = new Float32Array(out);
      if (bias && biases)
        decodeDense(
          { F16: "f16", BF16: "bf16", F32: "f32" }[bias.dtype as "F16"] as "f16",
          biases,
          biasValues,
        );
      const blocks = dense ? dequantizeView(where, view, words, scales, zeros) : undefined;
      return {
        out,
        in: columns,
        segments: blocks
          ? [{ ...segments[0]!, blocks: new Uint8Array(blocks.buffer) }]
          : layRows(words, scales, zeros),
        ...(bias && { bias: biasValues }),
      };
    },
  };
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}
