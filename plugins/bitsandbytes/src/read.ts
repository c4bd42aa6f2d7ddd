import type { JsonValue, PackedCheckpoint, PackedModules } from "@lowbit/core";
import { buildGrid, type ModuleTensors, modulesWith, type OpenModule, openModules } from "@lowbit/packing";
import { int8Weight } from "./int8.ts";
import { openFourBit } from "./read-4bit.ts";
import { fail, int8Shape } from "./types.ts";

/** "nf4", "nf4-nested", "fp4", "fp4-nested", "int8" */
export interface VariantModule {
  readonly variant: string;
  readonly module: OpenModule;
}

const stateName = /^(.*)\.weight\.quant_state\.bitsandbytes__(.*)$/s;

/** The declared method decides; without one, the names of tensors. Older files state only load_in_4bit or load_in_8bit. */
export function detectBitsandbytes(checkpoint: PackedCheckpoint): number {
  const get = settingsOf(checkpoint.quantization);
  const method = get("quant_method");
  if (typeof method === "string") return method.toLowerCase() === "bitsandbytes" ? 1 : 0;
  if (get("load_in_4bit") === true || get("load_in_8bit") === true) return 0.9;
  for (const name of checkpoint.tensors.keys()) if (stateName.test(name)) return 0.5;
  for (const module of modulesWith(checkpoint, ".SCB"))
    if (checkpoint.tensors.has(`${module}.weight`)) return 0.5;
  return 0;
}

/** Reads every weight's quant_state and table of values; absmaxes and codes are checked as each weight is read. */
export async function openBitsandbytes(
  checkpoint: PackedCheckpoint,
  signal?: AbortSignal,
): Promise<PackedModules> {
  const get = settingsOf(checkpoint.quantization);
  const kinds = new Map<string, string>();
  for (const name of checkpoint.tensors.keys()) {
    const [, module, kind] = stateName.exec(name) ?? [];
    if (module === undefined || kind === undefined) continue;
    if (kinds.has(module))
      throw fail("duplicate", `${checkpoint.name}: module ${module} has two quant_states`);
    kinds.set(module, kind);
  }
  // Absmaxes or a table without a state would leave the module to be taken for a plain matrix of bytes.
  const names = [...modulesWith(checkpoint, ".SCB", ".weight.absmax", ".weight.quant_map"), ...kinds.keys()];
  const metadata = new Map<string, string | number | boolean>();
  const variants = new Set<string>();
  const open = async (tensors: ModuleTensors, signal?: AbortSignal): Promise<OpenModule> => {
    const { module, variant } = await openModule(tensors, kinds.get(tensors.module), signal);
    const is8 = variant === "int8";
    if (
      get(is8 ? "load_in_8bit" : "load_in_4bit") === false &&
      get(is8 ? "load_in_4bit" : "load_in_8bit") === true
    ) {
      const what = `${checkpoint.quantizationFile} declares ${is8 ? 4 : 8}-bit weights, ${tensors.where} is ${variant}`;
      throw fail("invalid-config", what);
    }
    variants.add(variant);
    return module;
  };
  const modules = await openModules(checkpoint, "bitsandbytes", names, metadata, open, signal);
  describe(metadata, get, [...variants].sort());
  return modules;
}

type Settings = (key: string) => JsonValue | undefined;

function settingsOf(quantization: JsonValue | undefined): Settings {
  // The underscored names are those of configurations that transformers wrote out itself.
  return (key) =>
    quantization instanceof Map ? (quantization.get(key) ?? quantization.get(`_${key}`)) : undefined;
}

function describe(
  metadata: Map<string, string | number | boolean>,
  get: Settings,
  variants: readonly string[],
): void {
  if (variants.length === 0)
    metadata.set("weights", "plain: the configuration asks to quantize them on loading");
  else metadata.set("variant", variants.join(", "));
  const declared = get("bnb_4bit_quant_type");
  const fourBit = variants.filter((variant) => variant !== "int8");
  if (typeof declared === "string" && fourBit.some((variant) => !variant.startsWith(declared)))
    metadata.set("contradiction", `declared ${declared}, stored ${fourBit.join(", ")}`);
  const threshold = get("llm_int8_threshold");
  if (variants.includes("int8") && typeof threshold === "number")
    metadata.set("outlier threshold", threshold);
}

async function openModule(
  tensors: ModuleTensors,
  kind: string | undefined,
  signal: AbortSignal | undefined,
): Promise<VariantModule> {
  const isInt8 = tensors.has("SCB");
  if (isInt8 && kind !== undefined) throw fail("duplicate", `${tensors.where} is quantized in two ways`);
  if (isInt8) return { variant: "int8", module: openInt8(tensors) };
  if (kind !== undefined) return openFourBit(tensors, kind, signal);
  throw fail("missing-tensor", `${tensors.where} has no weight.quant_state.bitsandbytes__nf4 or __fp4`);
}

function openInt8(tensors: ModuleTensors): OpenModule {
  const { checkpoint, where } = tensors;
  const weight = tensors.need("weight", ["I8"], [undefined, undefined]);
  const [out, columns] = weight.shape as [number, number];
  const scb = tensors.need("SCB", ["F32"]);
  const format = tensors.maybe("weight_format", ["U8"]);
  if (scb.bytes !== out * 4 || (format && format.bytes !== 1)) {
    const shapes = [scb, format].map((tensor) => tensor && `[${tensor.shape.join(", ")}]`).join(" and ");
    throw fail("shape-mismatch", `${where}: SCB and weight_format are ${shapes}, expected [${out}] and []`);
  }
  const segments = buildGrid(0, columns, int8Shape(columns)).segments.map(({ type, from, to }) => ({
    type,
    from,
    to,
  }));
  return tensors.open({ out, in: columns, segments }, async (signal) => {
    const [rows, scales, layout] = await Promise.all([
      checkpoint.read(weight, signal),
      tensors.scaleBits(scb, signal),
      format && checkpoint.read(format, signal),
    ]);
    if (layout && layout[0] !== 0) {
      const what = `${where}: its weight_format is ${layout[0]}; only 0, plain rows, can be read`;
      throw fail("unsupported-layout", what, "type-unsupported");
    }
    return int8Weight(rows, new Float32Array(scales.buffer, scales.byteOffset, out), columns);
  });
}
