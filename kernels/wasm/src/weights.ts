import {
  decodeDense,
  dequantize,
  floatToHalf,
  isPermutation,
  isUnpacked,
  type KernelLayout,
  type LinearWeight,
  LowbitError,
  type QuantType,
  type Weight,
  type WeightSegment,
} from "@lowbit/core";
import type { Heap } from "./memory.ts";
import { type PackedLayout, packedLayout, recordShape, superItemBytes } from "./packed-layout.ts";
import { typeInfo } from "./type-info.ts";

/** An uploaded weight: `address` is its `Weight` struct (c/linear.h). */
export interface WasmWeight extends Weight {
  readonly address: number;
  /** Some segment is packed: `linear` needs the quantized activations. */
  readonly quantizes: boolean;
  readonly types: readonly QuantType[];
  /** Address of the order in which it wants its inputs; weights with equal orders share one. */
  readonly order: number | undefined;
}

/** Layout choice, upload and release of linear weights in one WebAssembly memory. */
export interface Weights {
  layout(type: QuantType): KernelLayout;
  /** Bytes that `upload` takes for one segment of this shape without bias, header included. */
  weightBytes(type: QuantType, rows: number, columns: number): number;
  upload(weight: LinearWeight): WasmWeight;
  free(weight: WasmWeight): void;
}

/** The exports of the module that uploads call: `PackCall` in c/repack.c; 0 or an error. */
export interface WeightExports {
  pack_rows(call: number): number;
  pack_dense(call: number): number;
}

/** Bytes of the quantized form of x [rows, columns] (`Activation` in c/linear.h), in the larger of the two builds. */
export function activationBytes(rows: number, columns: number): number {
  return 64 + rows * (Math.ceil(columns / 32) + 5) * (32 + 96);
}

const headerWords = 8;
const segmentWords = 12;
const packCallWords = 7;
/** What the packer may read past a block's end, and more. */
const slackBytes = 16;
/** Blocks copied per call: enough to make calls rare, little enough not to matter. */
const chunkBytes = 128 * 1024;

const kinds = { f32: 0, f16: 1, bf16: 2, packed: 3, lookup: 4 } as const;

/** One segment's place in memory. */
interface SegmentLayout {
  readonly name: string;
  readonly bitsPerWeight: number;
  readonly kind: (typeof kinds)[keyof typeof kinds];
  readonly packed: PackedLayout | undefined;
  /** Bytes of four rows. */
  readonly recordBytes: number;
}

/** Holds no memory until the first upload. */
export function createWeights(heap: Heap, kernels: WeightExports): Weights {
  const types = new Map<QuantType, { readonly address: number; uses: number }>();

  const acquireType = (layout: PackedLayout): number => {
    const { type } = layout.plan;
    let entry = types.get(type);
    if (entry === undefined) {
      const { bytes, pointers } = typeInfo(layout);
      const address = heap.allocate(bytes.length, `the tables of ${type.name}`);
      heap.bytes.set(bytes, address);
      const words = heap.words;
      for (const pointer of pointers) words[address / 4 + pointer]! += address;
      entry = { address, uses: 0 };
      types.set(type, entry);
    }
    entry.uses++;
    return entry.address;
  };

  const orders: { readonly address: number; readonly order: Int32Array; uses: number }[] = [];

  const acquireOrder = (order: Int32Array): number => {
    const equal = (known: Int32Array): boolean =>
      known.length === order.length && known.every((input, j) => input === order[j]);
    let entry = orders.find((known) => equal(known.order));
    if (entry === undefined) {
      const address = heap.allocate(4 * order.length, `an order of ${order.length} inputs`);
      heap.words.set(order, address / 4);
      entry = { address, order: order.slice(), uses: 0 };
      orders.push(entry);
    }
    entry.uses++;
    return entry.address;
  };

  const releaseOrder = (address: number): void => {
    const i = orders.findIndex((entry) => entry.address === address);
    const entry = orders[i];
    if (entry === undefined || --entry.uses > 0) return;
    heap.release(address);
    orders.splice(i, 1);
  };

  const releaseType = (type: QuantType): void => {
    const entry = types.get(type);
    if (entry !== undefined && --entry.uses === 0) {
      heap.release(entry.address);
      types.delete(type);
    }
  };

  return {
    layout(type) {
      const { name, bitsPerWeight } = segmentLayout(type, 0, 32 * type.block);
      return { name, bitsPerWeight };
    },

    weightBytes(type, rows, columns) {
      const { recordBytes } = segmentLayout(type, 0, columns);
      return roundUp(4 * (headerWords + segmentWords), 64) + roundUp(recordBytes * Math.ceil(rows / 4), 64);
    },

    upload(weight) {
      checkWeight(weight);
      const experts = weight.experts ?? 1;
      const groups = Math.ceil(weight.out / 4);
      const layouts = weight.segments.map(({ type, from, to }) => segmentLayout(type, from, to - from));
      const headBytes = roundUp(4 * (headerWords + segmentWords * layouts.length), 64);
      const biasBytes = weight.bias ? roundUp(4 * weight.bias.length, 64) : 0;
      const rowScaleBytes = weight.rowScale ? roundUp(4 * weight.rowScale.length, 64) : 0;
      const dataBytes = layouts.map(({ recordBytes }) => roundUp(recordBytes * groups * experts, 64));
      const bytes = dataBytes.reduce((sum, part) => sum + part, headBytes + biasBytes + rowScaleBytes);
      const address = heap.allocate(bytes, `a weight of ${experts * weight.out} × ${weight.in}`);
      const acquired: QuantType[] = [];
      let order: number | undefined;
      try {
        const typeAddresses = layouts.map(({ packed }) => {
          if (packed === undefined) return 0;
          acquired.push(packed.plan.type);
          return acquireType(packed);
        });
        if (weight.bias) heap.floats.set(weight.bias, (address + headBytes) / 4);
        const rowScaleAt = address + headBytes + biasBytes;
        if (weight.rowScale) heap.floats.set(weight.rowScale, rowScaleAt / 4);
        if (weight.permute) order = acquireOrder(weight.permute);
        const quantizes = layouts.some(({ kind }) => kind === kinds.packed);
        const { adds, gaps } = coverage(weight);
        const flags = (quantizes ? 1 : 0) + (gaps ? 2 : 0);
        const bias = weight.bias ? address + headBytes : 0;
        const rowScale = weight.rowScale ? rowScaleAt : 0;
        const head = [weight.out, weight.in, experts, groups, bias, flags, layouts.length, rowScale];
        let data = rowScaleAt + rowScaleBytes;
        const segments = weight.segments.map((segment, i) => {
          const layout = layouts[i]!;
          const columns = segment.to - segment.from;
          const shape = layout.packed && recordShape(layout.packed, columns);
          const scales = shape
            ? [shape.superAt, shape.subAt, shape.minSuperAt, shape.minSubAt]
            : [0, 0, 0, 0];
          const type = typeAddresses[i] ?? 0;
          const words = [layout.kind, segment.from, columns, layout.recordBytes, data, type, ...scales];
          const placed = { segment, layout, data, address: address + 4 * (headerWords + segmentWords * i) };
          data += dataBytes[i]!;
          head.push(...words, adds[i] ? 1 : 0, 0);
          return placed;
        });
        heap.words.set(head, address / 4);
        for (const { segment, layout, data: at, address: header } of segments) {
          pack(heap, kernels, weight, segment, layout, header, at);
        }
        const layout = [...new Set(layouts.map(({ name }) => name))].join(" + ");
        return {
          out: weight.out,
          in: weight.in,
          experts,
          layout,
          bytes,
          address,
          quantizes,
          types: acquired,
          order,
        };
      } catch (error) {
        for (const type of acquired) releaseType(type);
        if (order !== undefined) releaseOrder(order);
        heap.release(address);
        throw error;
      }
    },

    free(weight) {
      heap.release(weight.address);
      for (const type of weight.types) releaseType(type);
      if (weight.order !== undefined) releaseOrder(weight.order);
    },
  };
}

/** Moves one segment's blocks through scratch memory into its records. */
function pack(
  heap: Heap,
  kernels: WeightExports,
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
  const chunkRows = Math.max(4, Math.floor(chunkBytes / Math.max(rowBytes, 1) / 4) * 4);
  const rowsAtOnce = Math.min(chunkRows, roundUp(weight.out, 4));
  const levelsAt = roundUp(4 * packCallWords, 64);
  const codesAt = levelsAt + (layout.packed ? roundUp(4 * columns, 64) : 0);
  const rowsAt = codesAt + (unpacked ? roundUp(rowsAtOnce * columns, 64) : 0);
  const call = heap.allocate(rowsAt + rowsAtOnce * rowBytes + slackBytes, `packing rows of ${type.name}`);
  try {
    const groups = Math.ceil(weight.out / 4);
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
        const record = data + (expert * groups + row / 4) * layout.recordBytes;
        const codes = unpacked ? call + codesAt : 0;
        heap.words.set([header, call + rowsAt, rowBytes, rows, call + levelsAt, codes, record], call / 4);
        const status = layout.packed ? kernels.pack_rows(call) : kernels.pack_dense(call);
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
  if (mask !== undefined && source.some((byte) => (byte & mask) === mask)) throw nonFinite(type, first, rows);
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

function segmentLayout(type: QuantType, from: number, columns: number): SegmentLayout {
  const packed = from % 32 === 0 && columns % 32 === 0 ? packedLayout(type) : undefined;
  if (packed !== undefined) {
    const { plan, width, min } = packed;
    const family = packed.floats ? "floats" : plan.family === "ints" ? "ints" : "book";
    const scaleBits = [plan.scale, min].map(
      (scale) =>
        (scale?.super && (scale === plan.scale || scale.super !== plan.scale.super)
          ? (8 * superItemBytes(scale.super.format)) / scale.super.per
          : 0) + (scale?.sub ? 8 / scale.sub.per : 0),
    );
    return {
      name: `${family}${width} g${plan.group}`,
      bitsPerWeight: width + scaleBits[0]! + scaleBits[1]!,
      kind: packed.floats ? kinds.lookup : kinds.packed,
      packed,
      recordBytes: recordShape(packed, columns).bytes,
    };
  }
  const format = denseFormat(type);
  const itemBytes = format === "f32" ? 4 : 2;
  return {
    name: `dense ${format}`,
    bitsPerWeight: itemBytes * 8,
    kind: kinds[format],
    packed: undefined,
    recordBytes: roundUp(4 * itemBytes * columns, 16),
  };
}

/** The smallest dense format that holds a type's values exactly. */
function denseFormat(type: QuantType): "f32" | "f16" | "bf16" {
  if (type.values.kind !== "dense") return "f32";
  switch (type.values.format) {
    case "bf16":
      return "bf16";
    case "f16":
    case "f8-e4m3":
    case "f8-e5m2":
    case "i8":
      // The latter where rows are no multiple of 32, and have no planes.
      return "f16";
    default:
      return "f32";
  }
}

/** Which segments overlap an earlier one, and whether some column has none. */
function coverage({ segments, in: columns }: LinearWeight): { adds: readonly boolean[]; gaps: boolean } {
  const adds = segments.map(({ from, to }, i) =>
    segments.slice(0, i).some((earlier) => earlier.from < to && from < earlier.to),
  );
  let covered = 0;
  for (const { from, to } of [...segments].sort((a, b) => a.from - b.from)) {
    if (from > covered) return { adds, gaps: true };
    covered = Math.max(covered, to);
  }
  return { adds, gaps: covered < columns };
}

function checkWeight(weight: LinearWeight): void {
  const { out, in: columns, experts = 1, bias, permute, rowScale, segments } = weight;
  const fail = (what: string): never => {
    throw new LowbitError("bad-argument", `A weight of ${out} × ${columns} cannot be uploaded: ${what}.`, {
      plugin: "wasm",
    });
  };
  for (const size of [out, columns, experts]) {
    if (!Number.isSafeInteger(size) || size < 1 || size > 2 ** 30) fail(`${size} is not a size`);
  }
  const rows = out * experts;
  if (rows > 2 ** 30) fail(`${rows} rows are too many`);
  if (bias !== undefined && bias.length !== rows)
    fail(`its bias has ${bias.length} values, its rows are ${rows}`);
  if (rowScale !== undefined && rowScale.length !== rows)
    fail(`there are ${rowScale.length} row scales, its rows are ${rows}`);
  if (rowScale?.some((factor) => !Number.isFinite(factor))) fail("a row scale is not finite");
  if (permute !== undefined && !isPermutation(permute, columns))
    fail(`the order of its inputs is no permutation of ${columns}`);
  for (const { type, from, to, blocks } of segments) {
    if (
      !(Number.isSafeInteger(from) && Number.isSafeInteger(to) && from >= 0 && to > from && to <= columns)
    ) {
      fail(`a segment covers columns ${from} to ${to}`);
    }
    if ((to - from) % type.block !== 0)
      fail(`${to - from} columns are not whole ${type.name} blocks of ${type.block}`);
    const expected = rows * ((to - from) / type.block) * type.bytes;
    if (blocks.length !== expected)
      fail(`its ${type.name} segment has ${blocks.length} bytes, ${expected} are needed`);
  }
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple;
}
