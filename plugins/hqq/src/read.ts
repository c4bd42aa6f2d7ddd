import { denseType, type LinearWeight, type PackedCheckpoint, type PackedModules } from "@lowbit/core";
import {
  buildGrid,
  declaredMethod,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
} from "@lowbit/packing";
import { unpackRow, type View } from "./layout.ts";
import { configOf, readSettings, readView } from "./settings.ts";
import { checkCodes, dequantizeView, needCodes, openValues, type Values, wordsOfView } from "./values.ts";

const f32 = denseType("F32", "f32");
/** What files say of a module besides, and reading does not need. */
const unread = [
  ...["unpack_view_dtype", "compute_dtype", "quant_scale", "quant_zero", "offload_meta", "channel_wise"],
  ...["optimize", "round_zero", "encoded_state_dict", "stores_quant_config"],
];

/** The declared method decides; without one, the names of tensors. */
export function detectHqq(checkpoint: PackedCheckpoint): number {
  const method = declaredMethod(checkpoint);
  if (method !== undefined) return method === "hqq" ? 1 : 0;
  return modulesWith(checkpoint, ".W_q").next().done ? 0 : 0.5;
}

/** Reads the settings of every module, some at a time. */
export async function openHqq(checkpoint: PackedCheckpoint, signal?: AbortSignal): Promise<PackedModules> {
  const metadata = new Map<string, string | number | boolean>();
  let plain = 0;
  const open = async (site: ModuleTensors, signal?: AbortSignal): Promise<OpenModule> => {
    const module = await openModule(site, signal);
    if (module.segments[0]?.type === f32) plain++;
    return module;
  };
  const modules = await openModules(
    checkpoint,
    "hqq",
    modulesWith(checkpoint, ".W_q"),
    metadata,
    open,
    signal,
  );
  if (plain > 0) metadata.set("modules grouped across rows, kept as F32", plain);
  return modules;
}

async function openModule(site: ModuleTensors, signal?: AbortSignal): Promise<OpenModule> {
  const { checkpoint, module, where } = site;
  const settings = await readSettings(site, "", configOf(checkpoint.quantization, module), signal);
  const view = readView(where, settings);
  const { out, in: columns, group, bits } = view;
  const packed = needCodes(site, "W_q", view, Boolean(settings.get("view_as_float")));
  const scale = await openValues(site, "scale", view, signal);
  const zero = await openValues(site, "zero", view, signal);
  // A group may go on in the next row; its part in each row is a group of its own.
  const width = commonDivisor(group, columns);
  const shape = { bits, group: width, scale: scale.format, zero: zero.format };
  const dense = view.axis === 0;
  const segments = dense ? [{ type: f32, from: 0, to: columns }] : buildGrid(0, columns, shape).segments;
  const outline = { out, in: columns, segments: segments.map(({ type, from, to }) => ({ type, from, to })) };
  return site.open(
    outline,
    async (signal) => {
      const [bytes, scales, zeros] = await Promise.all([
        checkpoint.read(packed, signal),
        scale.read(signal),
        zero.read(signal),
      ]);
      const words = wordsOfView(view, bytes);
      if (!dense) return { segments: layRows(site, view, words, shape, scales, zeros) };
      const values = dequantizeView(site, view, words, scales, zeros);
      return { segments: [{ ...segments[0]!, blocks: new Uint8Array(values.buffer) }] };
    },
    { unread },
  );
}

function layRows(
  site: ModuleTensors,
  view: View,
  words: Uint8Array | Uint32Array,
  shape: Parameters<typeof buildGrid>[2],
  scales: Values,
  zeros: Values,
): LinearWeight["segments"] {
  const { out, in: columns, group } = view;
  const builder = buildGrid(out, columns, shape);
  const codes = new Uint8Array(columns);
  const rowScales = new Uint32Array(builder.groups);
  const rowZeros = new Uint32Array(builder.groups);
  for (let n = 0; n < out; n++) {
    for (let k = 0, g = 0; k < columns; k += shape.group, g++) {
      const at = n * columns + k;
      const row = Math.floor(at / group);
      unpackRow(view, words, row, at % group, shape.group, codes, k);
      rowScales[g] = scales.bits[row]!;
      rowZeros[g] = zeros.bits[row]!;
    }
    checkCodes(site, view, codes);
    builder.row(n, codes, rowScales, rowZeros);
  }
  return builder.segments;
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}
