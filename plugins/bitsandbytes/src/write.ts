import {
  floatToHalf,
  halfToFloat,
  type LinearShape,
  type LinearWeight,
  type LowbitError,
  type PackedConfiguration,
  type PackedDescription,
  type PackedTensor,
  type PackingOptions,
  type PackingWriter,
} from "@lowbit/core";
import { fourBitParts, quantizeFourBit } from "./four-bit.ts";
import { int8Parts, quantizeInt8 } from "./int8.ts";
import { nestedCodes } from "./nested.ts";
import { formatState } from "./state.ts";
import { type FourBit, fail } from "./types.ts";

const variants = ["nf4", "nf4-nested", "fp4", "fp4-nested", "int8"] as const;
const blockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/** Modules that transformers leaves plain, or whose names it does not tell apart. */
const plainRoles = /^embed|^head$|router$/;

/**
 * Options: `variant` (@default "nf4", or "int8" with `bits` 8); `groupSize` 32 to 4096, the block of a 4-bit absmax (@default 64).
 * "-nested" quantizes the absmaxes as well. Without a variant, weights of either width are held.
 */
export function bitsandbytesWriter(options: PackingOptions): PackingWriter {
  const { bits, groupSize, symmetric = true } = options;
  const variant = variants.find((variant) => variant === (options.variant ?? (bits === 8 ? "int8" : "nf4")));
  if (!variant)
    throw refuse(`there is no variant ${JSON.stringify(options.variant)}, only ${variants.join(", ")}`);
  const width = variant === "int8" ? 8 : 4;
  if (bits !== undefined && bits !== width) throw refuse(`${variant} has ${width} bits, not ${bits}`);
  if (!symmetric) throw refuse("it has no zero points");
  if (groupSize !== undefined && (width === 8 ? groupSize !== -1 : !blockSizes.includes(groupSize))) {
    const possible = width === 8 ? "whole rows (−1)" : blockSizes.join(", ");
    throw refuse(`blocks of ${groupSize} are not possible for ${variant}; ${possible} are`);
  }
  const free = options.variant === undefined && bits === undefined;
  return {
    hold: (weight) => {
      const own =
        ((free || width === 4) && fourBitParts(weight)) || ((free || width === 8) && int8Parts(weight));
      return own ? weight : undefined;
    },
    quantize: (values, shape) => quantize(values, shape, variant, groupSize ?? 64),
    pack,
    configuration: (modules, dense) => configuration(modules, dense, variant),
  };
}

function quantize(
  values: Float32Array,
  { out, in: columns, experts = 1, role }: LinearShape,
  variant: (typeof variants)[number],
  blockSize: number,
): LinearWeight | undefined {
  // Rows that are no multiple of 16 would need an absmax for every few weights once they are in memory.
  if (experts !== 1 || plainRoles.test(role) || columns % 16 !== 0) return undefined;
  if (variant === "int8") return quantizeInt8(values, out, columns);
  const kind = variant.slice(0, 3) as FourBit;
  return quantizeFourBit(values, out, columns, { kind, blockSize, nested: variant.endsWith("-nested") });
}

function pack(module: string, weight: LinearWeight): readonly PackedTensor[] {
  const tensor = (
    suffix: string,
    dtype: PackedTensor["dtype"],
    shape: readonly number[],
    data: ArrayBufferView,
  ): PackedTensor => ({
    name: `${module}.${suffix}`,
    dtype,
    shape,
    data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
  });
  const bias = weight.bias ? [biasTensor(`${module}.bias`, weight.bias)] : [];
  const eight = int8Parts(weight);
  if (eight) {
    return [
      tensor("weight", "I8", [weight.out, weight.in], eight.rows),
      tensor("SCB", "F32", [weight.out], eight.scb),
      tensor("weight_format", "U8", [], new Uint8Array(1)),
      ...bias,
    ];
  }
  const four = fourBitParts(weight);
  if (!four) throw refuse(`${module} is not a weight that it made or can hold`);
  const { state, table, packed, absmax, nested } = four;
  const codes = nested && nestedCodes(absmax, nested);
  const json = formatState(state);
  return [
    tensor("weight", "U8", [packed.length, 1], packed),
    codes
      ? tensor("weight.absmax", "U8", [codes.length], codes)
      : tensor("weight.absmax", "F32", [absmax.length], absmax),
    tensor("weight.quant_map", "F32", [16], table),
    ...(nested
      ? [
          tensor("weight.nested_absmax", "F32", [nested.outer.length], nested.outer),
          tensor("weight.nested_quant_map", "F32", [256], nested.map),
        ]
      : []),
    tensor(`weight.quant_state.bitsandbytes__${state.kind}`, "U8", [json.length], json),
    ...bias,
  ];
}

/** Halves, unless that would change it. */
function biasTensor(name: string, bias: Float32Array): PackedTensor {
  const halves = Uint16Array.from(bias, floatToHalf);
  const exact = bias.every((value, i) => Object.is(halfToFloat(halves[i]!), value));
  const data = new Uint8Array(exact ? halves.buffer : bias.slice().buffer);
  return { name, dtype: exact ? "F16" : "F32", shape: [bias.length], data };
}

/** As transformers writes it. Plain matrices must be listed, because it would take the rest for quantized. */
function configuration(
  modules: ReadonlyMap<string, PackedDescription>,
  dense: readonly string[],
  variant: (typeof variants)[number],
): PackedConfiguration {
  const kinds = new Set(
    [...modules.values()].flatMap(({ types }) => types.map((type) => type.split(" ")[0]!)),
  );
  const eight = kinds.has("int8") || (kinds.size === 0 && variant === "int8");
  if (eight && kinds.size > 1) {
    const hint = "choose a variant: weights of the other width are then quantized anew";
    throw refuse(`a model has either 4-bit or 8-bit weights, this one got both; ${hint}`);
  }
  const [kind = eight ? "nf4" : variant.slice(0, 3)] = eight ? [] : kinds;
  return {
    quantization: {
      _load_in_4bit: !eight,
      _load_in_8bit: eight,
      bnb_4bit_compute_dtype: "float16",
      bnb_4bit_quant_storage: "uint8",
      bnb_4bit_quant_type: kind,
      bnb_4bit_use_double_quant: !eight && variant.endsWith("-nested"),
      llm_int8_enable_fp32_cpu_offload: false,
      llm_int8_has_fp16_weight: false,
      llm_int8_skip_modules: dense.length > 0 ? [...dense] : null,
      llm_int8_threshold: 6,
      load_in_4bit: !eight,
      load_in_8bit: eight,
      quant_method: "bitsandbytes",
    },
  };
}

function refuse(what: string): LowbitError {
  return fail("option", `bitsandbytes: ${what}`, "bad-argument");
}
