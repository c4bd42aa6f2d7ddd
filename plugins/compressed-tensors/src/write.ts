import {
  type LinearShape,
  type LinearWeight,
  LowbitError,
  type PackingOptions,
  type PackingWriter,
} from "@lowbit/core";
import { quantizeGrid } from "@lowbit/packing";
import { describeSchemes, type WrittenForm } from "./write-config.ts";
import { floatForm, quantizeFloat8, quantizeMxfp4, type Variant, variants } from "./write-floats.ts";
import { holdIntegers, integerForm, isClear } from "./write-integers.ts";

/** Modules that stay plain: tables of embeddings, heads, and the small matrices that choose experts. */
const plainRoles = /^(embed|head)|router$/;

/**
 * Options: `variant`, one of "pack-quantized" (@default), "int-quantized", "float-quantized", "mxfp4-pack-quantized"; for integers
 * `bits` 2 to 8 (@default 4; 8 in "int-quantized"), `groupSize` (@default 128; whole rows in "int-quantized") and `symmetric`
 * (@default true). Without a variant everything that its reader makes is held; with one, only that.
 */
export function compressedTensorsWriter(options: PackingOptions): PackingWriter {
  const { variant: wanted } = options;
  const variant = variants.find((known) => known === (wanted ?? "pack-quantized"));
  if (!variant)
    throw refuse(`there is no variant ${JSON.stringify(wanted)}; there are ${variants.join(", ")}`);
  checkOptions(variant, options);
  const integers = variant === "int-quantized" ? "bytes" : "words";
  return {
    hold(weight) {
      if (variant === "pack-quantized" || variant === "int-quantized") {
        const held = holdIntegers(weight, integers, options);
        if (held) return held;
      }
      const form = floatForm(weight);
      return form && (wanted === undefined || wanted === form.scheme.format) ? weight : undefined;
    },
    quantize(values, shape) {
      if (plainRoles.test(shape.role)) return undefined;
      if (!values.every(Number.isFinite)) throw refuse(`${shape.role} has values that are not finite`);
      return quantize(values, shape, variant, options);
    },
    pack: (module, weight) => formOf(weight, integers).pack(module),
    describe: (weight) => ({ scheme: formOf(weight, integers).scheme }),
    configuration: (modules, dense) => ({ quantization: describeSchemes(modules, dense) }),
  };
}

function checkOptions(variant: Variant, { bits, groupSize, symmetric }: PackingOptions): void {
  const whole = (value: number, from: number, to: number) =>
    Number.isInteger(value) && value >= from && value <= to;
  if (variant === "pack-quantized" || variant === "int-quantized") {
    if (bits !== undefined && !whole(bits, 2, 8)) throw refuse(`${bits} bits are not possible; 2 to 8 are`);
    if (groupSize !== undefined && groupSize !== -1 && !whole(groupSize, 8, 65_536))
      throw refuse(`groups of ${groupSize} are not possible; 8 columns or more are, and -1 for whole rows`);
    return;
  }
  const [ownBits, ownGroup] = variant === "float-quantized" ? [8, -1] : [4, 32];
  if ((bits ?? ownBits) !== ownBits || (groupSize ?? ownGroup) !== ownGroup || symmetric === false)
    throw refuse(`${variant} has ${ownBits} bits, a group size of ${ownGroup}, and is symmetric`);
}

function quantize(
  values: Float32Array,
  shape: LinearShape,
  variant: Variant,
  { bits, groupSize, symmetric = true }: PackingOptions,
): LinearWeight | undefined {
  const { out, in: columns, experts } = shape;
  if (variant === "float-quantized") return quantizeFloat8(values, shape);
  if (variant === "mxfp4-pack-quantized")
    return columns % 32 === 0 ? quantizeMxfp4(values, shape) : undefined;
  const bytes = variant === "int-quantized";
  const group = groupSize ?? (bytes ? -1 : 128);
  const own = group === -1 ? columns : group;
  // The reference divides rows into equal groups only.
  const ownBits = bits ?? (bytes ? 8 : 4);
  if (columns % own !== 0 || !(bytes || isClear(columns, ownBits))) return undefined;
  const zero = symmetric ? 2 ** (ownBits - 1) : "integer";
  const segments = quantizeGrid(values, columns, { bits: ownBits, group: own, scale: "bf16", zero });
  return { out, in: columns, ...(experts !== undefined && { experts }), segments };
}

function formOf(weight: LinearWeight, integers: "bytes" | "words"): WrittenForm {
  const form = (weight.experts ?? 1) === 1 ? (integerForm(weight, integers) ?? floatForm(weight)) : undefined;
  if (form) return form;
  throw refuse("this is no single matrix that it made or can hold");
}

function refuse(what: string): LowbitError {
  return new LowbitError("bad-argument", `compressed-tensors: ${what}.`, { plugin: "compressed-tensors" });
}
