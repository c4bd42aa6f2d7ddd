import {
  isPermutation,
  type KernelLayout,
  type LinearWeight,
  LowbitError,
  type QuantType,
  type Weight,
} from "@lowbit/core";
import type { Heap } from "./memory.ts";
import { type PackExports, packSegment } from "./pack.ts";
import { bandRows, bandShape, type PackedLayout } from "./packed-layout.ts";
import { kinds, placeSegments, roundUp, segmentLayout } from "./segment-layout.ts";
import { typeInfo } from "./type-info.ts";

/** An uploaded weight: `address` is its `Weight` struct (c/linear.h). */
export interface WasmWeight extends Weight {
  readonly address: number;
  /** Some segment is packed: `linear` needs the quantized activations. */
  readonly quantizes: boolean;
  readonly types: readonly QuantType[];
  /**
   * Address of the order in which it wants its inputs, −1 for zeros; weights with equal orders share one. Undefined: as they come.
   */
  readonly order: number | undefined;
  /** Inputs in that order: `in`, and zeros. */
  readonly columns: number;
}

export type WeightExports = PackExports;

/** Layout choice, upload and release of linear weights in one WebAssembly memory. */
export interface Weights {
  layout(type: QuantType): KernelLayout;
  /**
   * Most bytes that `upload` takes for one segment of this shape without bias, row scales and a permutation's 4 bytes per input, header
   * included; of a weight whose segments neither overlap nor leave gaps.
   */
  weightBytes(type: QuantType, rows: number, columns: number): number;
  upload(weight: LinearWeight): WasmWeight;
  free(weight: WasmWeight): void;
}

/** Bytes of the quantized form of x [rows, columns] (`Activation` in c/linear.h), in the larger of the two builds. */
export function activationBytes(rows: number, columns: number): number {
  return 64 + rows * (Math.ceil(columns / 32) + 5) * (32 + 96);
}

const headerWords = 8;
const segmentWords = 16;

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
      for (const pointer of pointers) {
        const at = address / 4 + pointer;
        words[at] = heap.word(words[at]! + address);
      }
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
      const { name, bitsPerWeight } = segmentLayout(type, 32 * type.block);
      return { name, bitsPerWeight };
    },

    weightBytes(type, rows, columns) {
      const { bandBytes, columns: held } = segmentLayout(type, columns);
      const orderBytes = held > columns ? 4 * held : 0;
      const headBytes = roundUp(4 * (headerWords + segmentWords), 64);
      return headBytes + orderBytes + bandBytes * Math.ceil(rows / bandRows);
    },

    upload(weight) {
      checkWeight(weight);
      const experts = weight.experts ?? 1;
      const bands = Math.ceil(weight.out / bandRows);
      const { columns, segments: placed, order: wanted, adds, gaps } = placeSegments(weight);
      const layouts = placed.map(({ layout }) => layout);
      const headBytes = roundUp(4 * (headerWords + segmentWords * layouts.length), 64);
      const biasBytes = weight.bias ? roundUp(4 * weight.bias.length, 64) : 0;
      const rowScaleBytes = weight.rowScale ? roundUp(4 * weight.rowScale.length, 64) : 0;
      const dataBytes = layouts.map(({ bandBytes }) => bandBytes * bands * experts);
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
        if (wanted) order = acquireOrder(wanted);
        const quantizes = layouts.some(({ kind }) => kind === kinds.packed);
        const flags = (quantizes ? 1 : 0) + (gaps ? 2 : 0);
        const bias = weight.bias ? heap.word(address + headBytes) : 0;
        const rowScale = weight.rowScale ? heap.word(rowScaleAt) : 0;
        const head = [weight.out, columns, experts, bands, bias, flags, layouts.length, rowScale];
        let data = rowScaleAt + rowScaleBytes;
        const segments = weight.segments.map((segment, i) => {
          const layout = layouts[i]!;
          const shape = layout.packed && bandShape(layout.packed, layout.columns);
          const scales = shape
            ? [shape.superAt, shape.subAt, shape.minSuperAt, shape.minSubAt, shape.codesAt]
            : [0, 0, 0, 0, 0];
          const chunk = shape ? [shape.chunk, shape.chunkBytes] : [0, 0];
          const type = typeAddresses[i] ?? 0;
          const words = [
            layout.kind,
            placed[i]!.from,
            layout.columns,
            layout.bandBytes,
            heap.word(data),
            heap.word(type),
            ...scales,
          ];
          const held = { segment, layout, data, address: address + 4 * (headerWords + segmentWords * i) };
          data += dataBytes[i]!;
          head.push(...words, adds[i] ? 1 : 0, ...chunk, 0, 0);
          return held;
        });
        heap.words.set(head, address / 4);
        for (const { segment, layout, data: at, address: header } of segments) {
          packSegment(heap, kernels, weight, segment, layout, header, at);
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
          columns,
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
