import {
  decodeDense,
  dequantize,
  floatToHalf,
  isUnpacked,
  type LinearWeight,
  LowbitError,
  type QuantType,
  type WeightSegment,
} from "@lowbit/core";
import type { Heap } from "./memory.ts";
import { bandRows } from "./packed-layout.ts";
import { kinds, roundUp, type SegmentLayout } from "./segment-layout.ts";

/** The exports of the module that packing calls: `PackCall` in c/repack.c; 0 or an error. */
export interface PackExports {
  pack_rows(call: number): number;
  pack_dense(call: number): number;
}

const packCallWords = 7;
/** What the packer may read past a block's end, and more. */
const slackBytes = 16;
/** Blocks copied per call: enough to make calls rare, little enough not to matter. */
const chunkBytes = 128 * 1024;

/** Moves one segment's blocks through scratch memory into its bands at `data`; `header` is its `Segment` struct. */
export function packSegment(
  heap: Heap,
  kernels: PackExports,
  weight: LinearWeight,
  segment: WeightSegment,
  layout: SegmentLayout,
  header: number,
  data: number,
): void {
  const { type, blocks } = segment;
  const columns = segment.to - segment.from;
  const unpacked = layout.packed !== undefined && isUnpacked(type.code);
  const sourceRow = (columns / type.block) * type.bytes;
  const rowBytes = layout.packed ? sourceRow : columns * (layout.kind === kinds.f32 ? 4 : 2);
  const chunkRows = Math.floor(chunkBytes / Math.max(rowBytes, 1) / bandRows) * bandRows;
  const rowsAtOnce = Math.min(Math.max(bandRows, chunkRows), roundUp(weight.out, bandRows));
  const levelsAt = roundUp(4 * packCallWords, 64);
  const codesAt = levelsAt + (layout.packed ? roundUp(4 * layout.columns, 64) : 0);
  const rowsAt = codesAt + (unpacked ? roundUp(rowsAtOnce * columns, 64) : 0);
  const call = heap.allocate(rowsAt + rowsAtOnce * rowBytes + slackBytes, `packing rows of ${type.name}`);
  try {
    const bands = Math.ceil(weight.out / bandRows);
    for (let expert = 0; expert < (weight.experts ?? 1); expert++) {
      for (let row = 0; row < weight.out; row += rowsAtOnce) {
        const rows = Math.min(rowsAtOnce, weight.out - row);
        const first = expert * weight.out + row;
        const source = blocks.subarray(first * sourceRow, (first + rows) * sourceRow);
        const to = heap.bytes.subarray(call + rowsAt, call + rowsAt + rows * rowBytes);
        if (layout.packed) {
          checkFinite(type, source, first, rows);
          to.set(source);
        } else copyDense(type, source, to, layout.kind);
        if (unpacked)
          unpackCodes(type, source, heap.bytes.subarray(call + codesAt, call + codesAt + rows * columns));
        const band = data + (expert * bands + row / bandRows) * layout.bandBytes;
        const codes = unpacked ? call + codesAt : 0;
        const levels = heap.word(call + levelsAt);
        const words = [heap.word(header), heap.word(call + rowsAt), rowBytes, rows, levels];
        heap.words.set([...words, heap.word(codes), heap.word(band)], call / 4);
        const status = layout.packed
          ? kernels.pack_rows(heap.word(call))
          : kernels.pack_dense(heap.word(call));
        if (status !== 0) throw nonFinite(type, first, rows);
      }
    }
  } finally {
    heap.release(call);
  }
}

/** Byte codes that stand for an infinity or for no number. */
function checkFinite(type: QuantType, source: Uint8Array, first: number, rows: number): void {
  const format = type.values.kind === "dense" ? type.values.format : undefined;
  // E4M3 has two codes for NaN; in E5M2 the highest exponent stands for infinities and NaN.
  const mask = format === "f8-e4m3" ? 0x7f : format === "f8-e5m2" ? 0x7c : undefined;
  if (mask === undefined) return;
  for (let i = 0; i < source.length; i++) {
    if ((source[i]! & mask) === mask) throw nonFinite(type, first, rows);
  }
}

function nonFinite(type: QuantType, first: number, rows: number): LowbitError {
  return new LowbitError(
    "file-corrupt",
    `A ${type.values.kind === "dense" ? "weight" : "scale"} of a ${type.name} tensor is infinite or not a number (rows ${first} to ${first + rows - 1}).`,
    {
      reason: "non-finite-scale",
      plugin: "wasm",
      hint: "The file is damaged or was quantized wrongly; fetch it again.",
    },
  );
}

/** Codes that are not bit fields, one byte each. */
function unpackCodes(type: QuantType, blocks: Uint8Array, codes: Uint8Array): void {
  if (!isUnpacked(type.code)) return;
  const largest = 2 ** type.code.bits - 1;
  for (let b = 0; b * type.bytes < blocks.length; b++) {
    const to = codes.subarray(b * type.block, (b + 1) * type.block);
    type.code.unpack(blocks.subarray(b * type.bytes, (b + 1) * type.bytes), to);
    if (to.some((code) => code > largest)) {
      throw new LowbitError("type-unsupported", `${type.name} unpacked a code above ${largest}.`, {
        reason: "invalid-description",
      });
    }
  }
}

/** Rows of any type as the plain numbers that a dense segment holds. `to` is cut to the rows. */
function copyDense(type: QuantType, blocks: Uint8Array, to: Uint8Array, kind: number): void {
  const format = type.values.kind === "dense" ? type.values.format : undefined;
  if (format !== undefined && kinds[format as "f32" | "f16" | "bf16"] === kind) {
    to.set(blocks);
    return;
  }
  const values = new Float32Array(to.length / (kind === kinds.f32 ? 4 : 2));
  if (format === undefined) dequantize(type, blocks, values);
  else decodeDense(format, blocks, values);
  if (kind === kinds.f32) to.set(new Uint8Array(values.buffer));
  else to.set(new Uint8Array(Uint16Array.from(values, floatToHalf).buffer));
}
