import { planOf, type QuantPlan, type ScalePlan } from "./quant-plan.ts";
import type { QuantType } from "./quant-type.ts";

/** Bits that a weight takes in the file, scales included. */
export function bitsPerWeight(type: QuantType): number {
  return (type.bytes * 8) / type.block;
}

/**
 * One line for people, e.g. "4-bit integers; scale: 6-bit per 32 × f16 per 256; min: 6-bit per 32 × f16 per 256; 4.5 bits
 * per weight". Throws `type-unsupported` if the description contradicts itself.
 */
export function describeType(type: QuantType): string {
  const plan = planOf(type);
  const parts = [describeCodes(plan)];
  if (plan.family !== "dense") {
    parts.push(`scale: ${describeScale(plan.scale)}`);
    if (plan.zeroPoint) {
      const { bits, per, format } = plan.zeroPoint;
      parts.push(`zero point: ${format ?? `${bits}-bit`} per ${per}`);
    }
    if (plan.min) parts.push(`min: ${describeScale(plan.min)}`);
  }
  parts.push(`${Number(bitsPerWeight(type).toFixed(4))} bits per weight`);
  return parts.join("; ");
}

function describeCodes(plan: QuantPlan): string {
  const { type, code, zero } = plan;
  if (type.values.kind === "dense") return `${type.values.format} numbers`;
  const bits = code?.bits ?? plan.levelBits;
  if (type.values.kind === "affine") {
    if (code?.signed && type.values.zero === 0) return `${bits}-bit signed integers`;
    return zero === 0 ? `${bits}-bit integers` : `${bits}-bit integers minus ${zero}`;
  }
  if (plan.dimension === 1) return `${bits}-bit codes for ${type.values.table.length} levels`;
  const book = `${bits}-bit codes for ${type.values.table.length / plan.dimension} entries of ${plan.dimension} weights`;
  const sign = plan.sign ? ", signs apart" : "";
  const delta = type.delta ? `, shifted by ${type.delta.values.join(" or ")}` : "";
  return book + sign + delta;
}

function describeScale(scale: ScalePlan): string {
  const parts: string[] = [];
  if (scale.sub) parts.push(`${scale.sub.bits}-bit per ${scale.sub.per}`);
  if (scale.super) parts.push(`${scale.super.format} per ${scale.super.per}`);
  return parts.length === 0 ? String(scale.multiplier) : parts.join(" × ");
}
