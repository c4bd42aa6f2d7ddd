import type { JsonValue, PackedCheckpoint, PackedModules, Packing } from "@lowbit/core";
import {
  declaredMethod,
  type ModuleTensors,
  modulesWith,
  type OpenModule,
  openModules,
} from "@lowbit/packing";
import { readBlock, readConfiguration, type Scheme } from "./config.ts";
import { type Fp4Scheme, openFp4 } from "./fp4.ts";
import { type Float8, openFloat8 } from "./fp8.ts";
import { type IntegerScheme, openBytes, openPacked } from "./integers.ts";
import { fail, invalid, type Metadata, member, packingName } from "./modules.ts";
import { compressedTensorsWriter } from "./write.ts";

/** Sure by the declared method, half sure by a tensor's name; 0 where another method is declared. */
function sure(
  checkpoint: PackedCheckpoint,
  methods: readonly string[],
  evidence: (name: string) => boolean,
): number {
  const method = declaredMethod(checkpoint);
  if (method !== undefined) return methods.includes(method) ? 1 : 0;
  for (const name of checkpoint.tensors.keys()) if (evidence(name)) return 0.5;
  return 0;
}

/** Files of llm-compressor and compressed-tensors. */
export const compressedTensorsPacking: Packing = {
  name: "compressed-tensors",
  detect: (checkpoint) => sure(checkpoint, ["compressed-tensors"], (name) => name.endsWith(".weight_packed")),
  async open(checkpoint, signal) {
    const config = readConfiguration(checkpoint.quantization);
    const names = [...modulesWith(checkpoint, ".weight_packed", ".weight_scale")];
    const { metadata } = config;
    const ignored = names.filter((name) => config.ignored(name)).length;
    if (ignored > 0) metadata.set("packed though on the list of ignored modules", ignored);
    const open = (site: ModuleTensors, signal?: AbortSignal) =>
      openCompressed(site, config.schemeOf(site.module), signal);
    return openModules(checkpoint, packingName, names, metadata, open, signal);
  },
  writer: compressedTensorsWriter,
};

function openCompressed(
  site: ModuleTensors,
  scheme: Scheme,
  signal?: AbortSignal,
): OpenModule | Promise<OpenModule> {
  const { type, bits, strategy, format, group, block } = scheme;
  const packed = site.has("weight_packed");
  const kind = `${type}${type === "float" ? bits : ""}${packed ? " packed" : ""}`;
  const expected: Readonly<Record<string, readonly string[]>> = {
    "int packed": ["pack-quantized"],
    int: ["int-quantized", "naive-quantized"],
    float8: ["float-quantized", "naive-quantized", "mxfp8-quantized"],
    "float4 packed": ["nvfp4-pack-quantized", "mxfp4-pack-quantized"],
  };
  if (!expected[kind] || (format !== undefined && !expected[kind].includes(format))) {
    throw invalid(
      `${site.where} holds ${kind} weights, which the format ${format ?? "(none)"} does not have`,
    );
  }
  if (type === "int") {
    if (strategy === "tensor_group" || strategy === "block")
      throw invalid(`${site.where}: integers have no strategy ${strategy}`);
    const integers: IntegerScheme = { ...scheme, strategy };
    return packed ? openPacked(site, integers, signal) : openBytes(site, integers);
  }
  if (kind === "float8") {
    const blocks =
      strategy === "tensor" || strategy === "channel" ? strategy : (block ?? ([1, group!] as const));
    return openFloat8(site, { scale: "weight_scale", strategy: blocks, format: "f8-e4m3" });
  }
  const nv = site.has("weight_global_scale");
  if (format?.startsWith(nv ? "mx" : "nv"))
    throw invalid(`${site.where} has ${nv ? "a" : "no"} weight_global_scale, unlike ${format}`);
  return openFp4(site, {
    codes: `${site.module}.weight_packed`,
    scales: `${site.module}.weight_scale`,
    group: group ?? (nv ? 16 : 32),
    ...(nv && { global: { part: "weight_global_scale", divides: true } }),
  });
}

const modeloptAlgorithms = ["FP8", "FP8_PER_CHANNEL_PER_TOKEN", "NVFP4", "MIXED_PRECISION"];

/** Files of NVIDIA ModelOpt: NVFP4 and FP8. */
export const modeloptPacking: Packing = {
  name: "modelopt",
  detect(checkpoint) {
    const producer = member(checkpoint.quantization, "producer", "name");
    if (declaredMethod(checkpoint) === undefined && producer === "modelopt") return 1;
    return sure(checkpoint, ["modelopt", "modelopt_fp4"], (name) => name.endsWith(".weight_scale_2"));
  },
  async open(checkpoint, signal) {
    const root = checkpoint.quantization;
    const config = member(root, "quantization") ?? root;
    const algorithm = member(config, "quant_algo");
    if (
      algorithm !== undefined &&
      (typeof algorithm !== "string" || !modeloptAlgorithms.includes(algorithm))
    ) {
      const what = `${checkpoint.name}: quant_algo ${JSON.stringify(algorithm)} of ModelOpt is not read`;
      throw fail(
        "unsupported-variant",
        what,
        "format-unsupported",
        `Known are ${modeloptAlgorithms.join(", ")}.`,
      );
    }
    const group = member(config, "group_size") ?? 16;
    if (!Number.isSafeInteger(group))
      throw invalid(`${checkpoint.name}: group_size is ${JSON.stringify(group)}`);
    const metadata: Metadata = new Map([["algorithm", algorithm ?? "by the tensors"]]);
    if (member(config, "kv_cache_quant_algo") !== undefined) {
      metadata.set("cache", "declared as quantized; kept in the engine's own type");
    }
    const open = (site: ModuleTensors): OpenModule => {
      if (site.checkpoint.tensors.has(`${site.module}.pre_quant_scale`)) {
        const what = `${site.where} scales its inputs (pre_quant_scale), which is not read`;
        throw fail("unsupported-variant", what, "format-unsupported");
      }
      const isNv = site.has("weight_scale_2");
      const allowed =
        algorithm === undefined || algorithm === "MIXED_PRECISION" || (algorithm === "NVFP4") === isNv;
      if (!allowed) throw invalid(`${site.where} is not packed as the declared ${algorithm}`);
      if (!isNv) return openFloat8(site, { scale: "weight_scale", strategy: "any" });
      const scheme: Fp4Scheme = {
        codes: `${site.module}.weight`,
        scales: `${site.module}.weight_scale`,
        group: Number(group),
        global: { part: "weight_scale_2", divides: false },
      };
      return openFp4(site, scheme);
    };
    return openModules(
      checkpoint,
      packingName,
      modulesWith(checkpoint, ".weight_scale"),
      metadata,
      open,
      signal,
    );
  },
};

const fp8Scales = ["weight_scale_inv", "weight_scale", "qscale_weight"];

/** Block FP8 of DeepSeek, and FP8 with a scale for the tensor or for each row. */
export const fp8Packing: Packing = {
  name: "fp8",
  detect: (checkpoint) =>
    sure(checkpoint, ["fp8", "fbgemm_fp8"], (name) => /\.(weight_scale_inv|qscale_weight)$/.test(name)),
  async open(checkpoint, signal) {
    const config = checkpoint.quantization;
    const declared = member(config, "fmt");
    const format = readFloat8(declared);
    const size = member(config, "weight_block_size");
    const block = size === undefined ? undefined : readBlock(size, "weight_block_size");
    const metadata: Metadata = new Map([
      ["scales", block ? `blocks of ${block.join(" × ")}` : "tensor or row"],
    ]);
    const open = (site: ModuleTensors): OpenModule => {
      const scale = fp8Scales.find((part) => site.has(part))!;
      const strategy = scale === "weight_scale_inv" && block ? block : "any";
      return openFloat8(site, { scale, strategy, ...(format && { format }) });
    };
    const names = modulesWith(checkpoint, ...fp8Scales.map((part) => `.${part}`));
    return openModules(checkpoint, packingName, names, metadata, open, signal);
  },
};

function readFloat8(value: JsonValue | undefined): Float8 | undefined {
  if (value === undefined) return undefined;
  if (value === "e4m3" || value === "float8_e4m3fn") return "f8-e4m3";
  if (value === "e5m2" || value === "float8_e5m2") return "f8-e5m2";
  throw invalid(`fmt is ${JSON.stringify(value)}, neither e4m3 nor e5m2`);
}

/** MXFP4 of gpt-oss: experts in one stack, under the names of transformers or the original ones. */
export const mxfp4Packing: Packing = {
  name: "mxfp4",
  detect(checkpoint) {
    const hasScales = (name: string) => checkpoint.tensors.has(name.replace(/blocks$/, "scales"));
    return sure(checkpoint, ["mxfp4"], (name) => /[._]blocks$/.test(name) && hasScales(name));
  },
  open(checkpoint, signal): Promise<PackedModules> {
    const open = (site: ModuleTensors): OpenModule => {
      const joint = checkpoint.tensors.has(`${site.module}_blocks`) ? "_" : ".";
      const bias = joint === "_" ? `${site.module}_bias` : `${site.module.replace(/_weight$/, "")}_bias`;
      return openFp4(site, {
        codes: `${site.module}${joint}blocks`,
        scales: `${site.module}${joint}scales`,
        bias,
        group: 32,
        stacked: true,
      });
    };
    return openModules(
      checkpoint,
      packingName,
      modulesWith(checkpoint, "_blocks", ".blocks"),
      new Map(),
      open,
      signal,
    );
  },
};
