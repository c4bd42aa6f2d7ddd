import type { JsonValue, SafetensorsTensor } from "@lowbit/core";
import type { ModuleTensors } from "@lowbit/packing";
import { fail, packingOfBits, packings, type View, viewOf } from "./layout.ts";

/** What a module says of itself in small tensors, and the configuration of it or of all. */
export interface Settings {
  get(key: string): JsonValue | undefined;
}

const keys = ["nbits", "group_size", "axis", "shape", "packing", "view_as_float"];
const dtypes = ["I32", "I64", "U8", "F32"] as const;

/** Reads the small tensors "prefix" + key that exist, and checks them against the configuration, which fills gaps. */
export async function readSettings(
  site: ModuleTensors,
  prefix: string,
  config: ReadonlyMap<string, JsonValue> | undefined,
  signal?: AbortSignal,
): Promise<Settings> {
  const own = new Map<string, JsonValue>();
  await Promise.all(
    keys.map(async (key) => {
      if (!site.has(prefix + key)) return;
      const tensor = site.need(prefix + key, dtypes);
      if (tensor.bytes > 1024) {
        throw site.fail("shape-mismatch", `${tensor.name} has ${tensor.bytes} bytes, too many for a setting`);
      }
      own.set(key, decode(tensor, await site.checkpoint.read(tensor, signal), key));
    }),
  );
  for (const [key, value] of own) {
    const declared = config?.get(key) ?? undefined;
    if (declared === undefined || same(value, declared)) continue;
    const text = `${JSON.stringify(value)}, but ${JSON.stringify(declared)} is declared`;
    throw site.fail("invalid-config", `${site.where}: ${prefix}${key} is ${text}`);
  }
  return { get: (key) => own.get(key) ?? config?.get(key) ?? undefined };
}

/** Numbers as floats are not quite what a configuration writes (1.58). */
function same(a: JsonValue, b: JsonValue): boolean {
  if (typeof a === "boolean" || typeof b === "boolean") return Boolean(a) === Boolean(b);
  if (typeof a === "number" && typeof b === "number") return Math.abs(a - b) < 1e-6;
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Strings are code points in bytes, the rest numbers. */
function decode({ name, dtype }: SafetensorsTensor, bytes: Uint8Array, key: string): JsonValue {
  if (key === "packing") return String.fromCharCode(...bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const size = { I32: 4, I64: 8, U8: 1, F32: 4 }[dtype as "I32"];
  const list = Array.from({ length: bytes.length / size }, (_, i) => {
    if (dtype === "I64") return Number(view.getBigInt64(i * 8, true));
    if (dtype === "F32") return view.getFloat32(i * 4, true);
    return dtype === "I32" ? view.getInt32(i * 4, true) : view.getUint8(i);
  });
  if (key === "shape") return list;
  if (list.length !== 1) throw fail("shape-mismatch", `${name} has ${list.length} numbers, expected one`);
  return list[0]!;
}

/**
 * The configuration of one module: `weight_quant_params` of all or of the modules of its kind ("self_attn.q_proj"), or, as older
 * tools write it, the parameters themselves.
 */
export function configOf(
  quantization: JsonValue | undefined,
  module: string,
  part = "weight_quant_params",
): ReadonlyMap<string, JsonValue> | undefined {
  const root = quantization instanceof Map ? (quantization.get("quant_config") ?? quantization) : undefined;
  if (!(root instanceof Map)) return undefined;
  for (const [key, value] of root) {
    if (!(value instanceof Map) || !(module === key || module.endsWith(`.${key}`))) continue;
    const own = value.get(part) ?? (part === "weight_quant_params" ? value : undefined);
    if (own instanceof Map) return own;
  }
  const common = root.get(part);
  if (common instanceof Map) return common;
  return part === "weight_quant_params" && root.has("nbits") ? root : undefined;
}

/** Checks the settings of a module, or of its nested scales, whose shape is known. Throws invalid-config and more. */
export function readView(where: string, settings: Settings, known?: { out: number; in: number }): View {
  const bits = settings.get("nbits");
  const name = settings.get("packing") ?? packingOfBits[String(Math.round(Number(bits) * 100) / 100)];
  const packing = typeof name === "string" && Object.hasOwn(packings, name) ? packings[name] : undefined;
  const whole = Math.ceil(Number(bits));
  if (typeof bits !== "number" || !(whole >= 1 && whole <= 8)) {
    const reason = typeof bits === "number" ? "unsupported-bits" : "invalid-config";
    throw fail(reason, `${where}: nbits is ${JSON.stringify(bits)}; 1 to 8 are possible`, "type-unsupported");
  }
  if (!packing)
    throw fail(
      "unsupported-variant",
      `${where}: packing ${JSON.stringify(name)} is not known`,
      "format-unsupported",
    );
  if (whole > packing.bits) throw fail("invalid-config", `${where}: ${bits} bits do not fit ${name}`);
  const axis = settings.get("axis") ?? 0;
  if (axis !== 0 && axis !== 1) throw fail("invalid-config", `${where}: axis is ${JSON.stringify(axis)}`);
  const [out, width] = known ? [known.out, known.in] : sizes(where, settings.get("shape"));
  const declared = settings.get("group_size");
  const group = declared ?? (axis === 1 ? width : out);
  if (typeof group !== "number" || !Number.isSafeInteger(group) || group < 1) {
    throw fail("invalid-config", `${where}: group_size is ${JSON.stringify(declared)}`);
  }
  const view = viewOf({ out, in: width }, axis, group, whole, packing);
  if (view) return view;
  throw fail(
    "shape-mismatch",
    `${where}: [${out}, ${width}] cannot be packed as ${name} in groups of ${group}`,
  );
}

function sizes(where: string, shape: JsonValue | undefined): [number, number] {
  if (shape === undefined)
    throw fail("missing-tensor", `${where} has no shape, neither as a tensor nor in the configuration`);
  const list = Array.isArray(shape) ? shape : [];
  const [out, width] = list;
  const valid = list.length === 2 && list.every((size) => Number.isSafeInteger(size) && Number(size) >= 1);
  if (valid && Number.isSafeInteger(Number(out) * Number(width))) return [Number(out), Number(width)];
  throw fail("invalid-shape", `${where}: its shape is ${JSON.stringify(shape)}, not two sizes`);
}
