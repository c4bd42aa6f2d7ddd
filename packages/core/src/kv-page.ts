import type { KvSpec } from "./backend.ts";

/**
 * Positions of a cache in the form that all backends read and write (`Backend.readPage`, `Backend.writePage`). For each layer come the
 * parts of `kvParts` in their order; a part is [kvHeads][positions] cells, little-endian, without gaps. Keys and values are f32, f16,
 * or for q8_0 int8 codes, whose scales follow as f16, one for 32 codes: value = code · scale, −127 ≤ code ≤ 127, and unless all
 * values are 0 the largest code is ±127. Nothing is infinite or NaN.
 */
export interface KvPart {
  readonly kind: "keys" | "values" | "keyScales" | "valueScales";
  /** Of one head at one position. */
  readonly cellBytes: number;
}

export function kvParts({ type, keySize, valueSize }: KvSpec): readonly KvPart[] {
  const element = type === "f32" ? 4 : type === "f16" ? 2 : 1;
  const parts: KvPart[] = [
    { kind: "keys", cellBytes: element * keySize },
    { kind: "values", cellBytes: element * valueSize },
  ];
  if (type !== "q8_0") return parts;
  return [
    ...parts,
    { kind: "keyScales", cellBytes: keySize / 16 },
    { kind: "valueScales", cellBytes: valueSize / 16 },
  ];
}

/** Bytes of one position: all parts, heads and layers. */
export function kvPositionBytes(spec: KvSpec): number {
  const cells = kvParts(spec).reduce((sum, { cellBytes }) => sum + cellBytes, 0);
  return spec.layers * spec.kvHeads * cells;
}
