import type { BitField, QuantType } from "@lowbit/core";
import {
  type LinearWeight,
  LowbitError,
  planOf,
  type QuantPlan,
  readFields,
  readLevels,
  rowsOf,
  type WeightSegment,
} from "@lowbit/core";
import { readCodes, wordsOf, writeCodes } from "./bit-stream.ts";

/**
 * The form that GPTQ, AWQ, compressed-tensors, HQQ and their like share once their packing is undone: rows of b-bit codes, each
 * `group` consecutive columns with a scale of their own and perhaps a zero point, w = scale · (code − zero).
 */
export interface GridShape {
  /** 1 to 8. */
  readonly bits: number;
  /** Columns that share a scale. */
  readonly group: number;
  /** "none": the weight has row scales, or none at all. */
  readonly scale: "f16" | "bf16" | "f32" | "none";
  /** The same for all groups; or an unsigned byte, or a float, for each. */
  readonly zero: number | "integer" | "f16" | "bf16" | "f32";
  /** w = scale · code + min with a min for each group, in this format; then `zero` is 0. */
  readonly min?: "f16" | "f32";
  readonly round?: "f16" | "bf16";
}

/** Blocks no longer than this keep plans small; a wider group repeats its scale in each of its blocks. */
const maxBlock = 1024;
const maxTypes = 64;
const types = new Map<string, QuantType>();
const shapes = new WeakMap<QuantType, GridShape>();
const fieldBits = { f16: 16, bf16: 16, f32: 32, integer: 8 } as const;

/** The shape that a type was made for by `gridType`. */
export function gridShapeOf(type: QuantType): GridShape | undefined {
  return shapes.get(type);
}

/** The type of a grid's blocks: [scale] [zero or min] [codes, a little-endian bit stream]. Equal shapes mostly get the same object. */
export function gridType(shape: GridShape): QuantType {
  const { bits, group, scale, zero, min, round } = shape;
  const sizes = [bits, group];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 1) || bits > 8) {
    throw new LowbitError("bad-argument", `There are no grids of ${bits} bits in groups of ${group}.`);
  }
  const tail = [
    typeof zero === "number" ? zero : `z-${zero}`,
    min && `min-${min}`,
    round && `round-${round}`,
  ];
  const name = [`int${bits}`, `g${group}`, scale, ...tail].filter((part) => part !== undefined).join(" ");
  const known = types.get(name);
  if (known) return known;
  const block = blockOf(group);
  let at = 0;
  const field = (width: number): BitField => {
    at += width;
    return { per: block, pieces: [{ at: at - width, bits: width, dims: [] }] };
  };
  const super_ = scale === "none" ? undefined : { field: field(fieldBits[scale]), format: scale };
  const zeroField = typeof zero === "number" ? undefined : field(fieldBits[zero]);
  const minField = min && field(fieldBits[min]);
  const code: BitField = { per: 1, pieces: [{ at, bits, dims: [[block, bits]] }] };
  const type: QuantType = {
    name,
    block,
    bytes: at / 8 + Math.ceil((block * bits) / 8),
    code,
    values: { kind: "affine", zero: typeof zero === "number" ? zero : 0 },
    ...(super_ && { scale: { super: super_ } }),
    ...(zeroField && { zero: { field: zeroField, ...(zero !== "integer" && { format: zero as "f16" }) } }),
    ...(minField && min && { min: { super: { field: minField, format: min }, multiplier: -1 } }),
    ...(round && { round }),
  };
  // A bound, because files choose the shapes.
  if (types.size >= maxTypes) types.delete(types.keys().next().value ?? "");
  types.set(name, type);
  shapes.set(type, shape);
  return type;
}

/** The longest block that a group is a whole number of; kernels want whole blocks of 32 columns, or at least of 16. */
function blockOf(group: number): number {
  for (const unit of [32, 16, 1].filter((unit) => group % unit === 0)) {
    for (let parts = Math.ceil(group / maxBlock); parts <= group / unit; parts++) {
      if (group % (parts * unit) === 0) return group / parts;
    }
  }
  return 1;
}

export interface GridBuilder {
  /** Groups in a row; the last may be short. */
  readonly groups: number;
  readonly segments: readonly WeightSegment[];
  /**
   * Packs one row: `in` codes, and for each group the scale's bits in its format and the zero point or min (an integer, or bits in
   * its format). Absent parts are not looked at.
   */
  row(row: number, codes: Uint8Array, scales?: ArrayLike<number>, zeros?: ArrayLike<number>): void;
  /** The same for codes that are one stream of bits already, as `writeCodes` makes it, unused bits 0: mostly copied, not unpacked. */
  stream(row: number, stream: Uint32Array, scales?: ArrayLike<number>, zeros?: ArrayLike<number>): void;
}

/** Room for a grid of `rows` rows. A last group that is short becomes a segment of its own. */
export function buildGrid(rows: number, columns: number, shape: GridShape): GridBuilder {
  const group = Math.min(shape.group, columns);
  const whole = Math.floor(columns / group) * group;
  const spans = [
    { from: 0, to: whole, group },
    { from: whole, to: columns, group: columns - whole },
  ].filter(({ from, to }) => to > from);
  const parts = spans.map(({ from, to, group }) => {
    const type = gridType({ ...shape, group });
    const blocks = new Uint8Array(rows * ((to - from) / type.block) * type.bytes);
    return { segment: { type, from, to, blocks }, group, view: new DataView(blocks.buffer) };
  });
  const scaleBytes = shape.scale === "none" ? 0 : fieldBits[shape.scale] / 8;
  const second = shape.min ?? (typeof shape.zero === "number" ? undefined : shape.zero);
  const secondBytes = second === undefined ? 0 : fieldBits[second] / 8;
  const { bits } = shape;
  const words = new Uint32Array(wordsOf(Math.min(maxBlock, group), bits));
  const packed = new Uint8Array(words.buffer);
  // Blocks can be cut from a stream at whole bytes.
  const aligned = parts.every(
    ({ segment: { type, from, to } }) =>
      (from * bits) % 8 === 0 && (from + type.block === to || (type.block * bits) % 8 === 0),
  );
  const unpacked = new Uint8Array(aligned ? 0 : columns);

  function fill(
    row: number,
    codes: Uint8Array | undefined,
    stream: Uint8Array,
    scales: ArrayLike<number> | undefined,
    zeros: ArrayLike<number> | undefined,
  ): void {
    let groupBefore = 0;
    for (const { segment, group, view } of parts) {
      const { type, from, to, blocks } = segment;
      const codeBytes = type.bytes - scaleBytes - secondBytes;
      let at = row * ((to - from) / type.block) * type.bytes;
      for (let column = from; column < to; column += type.block, at += type.bytes) {
        const g = groupBefore + Math.floor((column - from) / group);
        put(view, at, scaleBytes, scales?.[g] ?? 0);
        put(view, at + scaleBytes, secondBytes, zeros?.[g] ?? 0);
        if (codes) writeCodes(words, { bits }, codes.subarray(column, column + type.block));
        const start = codes ? 0 : (column * bits) / 8;
        blocks.set(stream.subarray(start, start + codeBytes), at + scaleBytes + secondBytes);
      }
      groupBefore += (to - from) / group;
    }
  }

  return {
    groups: Math.ceil(columns / group),
    segments: parts.map(({ segment }) => segment),
    row: (row, codes, scales, zeros) => fill(row, codes, packed, scales, zeros),
    stream(row, stream, scales, zeros) {
      if (!aligned) return fill(row, readCodes(stream, { bits }, unpacked), packed, scales, zeros);
      fill(
        row,
        undefined,
        new Uint8Array(stream.buffer, stream.byteOffset, stream.byteLength),
        scales,
        zeros,
      );
    },
  };
}

function put(view: DataView, at: number, bytes: number, value: number): void {
  if (bytes === 1) view.setUint8(at, value);
  else if (bytes === 2) view.setUint16(at, value, true);
  else if (bytes === 4) view.setUint32(at, value, true);
}

/** A weight seen as a grid, whatever its types' layout: what writers move from one format to another without computing. */
export interface IntegerGrid extends GridShape {
  readonly zero: number | "integer";
  /** Groups in a row; the last may be short. */
  readonly groups: number;
  /** Reads one row: `in` codes, and for each group the scale's bits and the zero point. */
  row(row: number, codes: Uint8Array, scales: Uint32Array, zeros: Uint8Array): void;
}

/**
 * Undefined where some segment is no integer grid with one scale per group and integer zero points, or where segments differ in
 * anything but a short last group.
 */
export function integerGrid(weight: LinearWeight): IntegerGrid | undefined {
  const parts: { segment: WeightSegment; plan: QuantPlan; group: number; perRow: number }[] = [];
  let end = 0;
  for (const segment of weight.segments) {
    const { type, from, to } = segment;
    const plan = planOf(type);
    const group = gridShapeOf(type)?.group ?? (type.scale?.super ? plan.group : to - from);
    const first = parts[0];
    const same =
      !first ||
      (plan.levelBits === first.plan.levelBits &&
        plan.zero === first.plan.zero &&
        (type.zero === undefined) === (first.segment.type.zero === undefined) &&
        type.round === first.segment.type.round &&
        plan.scale.super?.format === first.plan.scale.super?.format &&
        group <= first.group &&
        (end - first.segment.from) % first.group === 0);
    if (from !== end || !same || !isGrid(plan) || (first && to < weight.in)) return undefined;
    parts.push({ segment, plan, group, perRow: ((to - from) / type.block) * type.bytes });
    end = to;
  }
  const first = parts[0];
  if (first === undefined || end !== weight.in) return undefined;
  const { plan, segment, group } = first;
  const format = plan.scale.super?.format as GridShape["scale"] | undefined;
  const fields = new Int32Array(maxFields(parts.map(({ plan }) => plan)));
  // Codes of the types made here are a stream at the end of a block, which reads faster than by the plan.
  const words = new Uint32Array(wordsOf(maxBlock, 8));
  const stream = new Uint8Array(words.buffer);
  return {
    bits: plan.levelBits,
    group,
    scale: format ?? "none",
    zero: segment.type.zero ? "integer" : plan.zero,
    ...(segment.type.round && { round: segment.type.round }),
    groups: parts.reduce((sum, { segment, group }) => sum + (segment.to - segment.from) / group, 0),
    row(row, codes, scales, zeros) {
      if (!(row >= 0 && row < rowsOf(weight)))
        throw new LowbitError("bad-argument", `There is no row ${row}.`);
      let groupBefore = 0;
      for (const { segment, plan, group, perRow } of parts) {
        const { type, from, to, blocks } = segment;
        let at = row * perRow;
        for (let column = from; column < to; column += type.block, at += type.bytes) {
          const block = blocks.subarray(at, at + type.bytes);
          const into = codes.subarray(column, column + type.block);
          if (gridShapeOf(type)) {
            const { levelBits: bits } = plan;
            stream.set(block.subarray(type.bytes - Math.ceil((type.block * bits) / 8)));
            readCodes(words, { bits }, into);
          } else readLevels(plan, block, into);
          const span = Math.min(group, type.block);
          if (plan.scale.super) readFields(plan.scale.super, block, 0, fields);
          for (let c = 0; c < type.block; c += span) {
            const g = groupBefore + Math.floor((column - from + c) / group);
            if (plan.scale.super) scales[g] = fields[Math.floor(c / plan.scale.super.per)]!;
          }
          if (plan.zeroPoint === undefined)
            zeros.fill(plan.zero, groupBefore, groupBefore + (to - from) / group);
          else {
            readFields(plan.zeroPoint, block, 0, fields);
            for (let c = 0; c < type.block; c += span) {
              const g = groupBefore + Math.floor((column - from + c) / group);
              zeros[g] = fields[Math.floor(c / plan.zeroPoint.per)]! + plan.zeroPoint.offset;
            }
          }
        }
        groupBefore += (to - from) / group;
      }
    },
  };
}

function isGrid(plan: QuantPlan): boolean {
  const format = plan.scale.super?.format;
  const plainScale = format === undefined || format === "f16" || format === "bf16" || format === "f32";
  return (
    plan.family === "ints" &&
    plainScale &&
    plan.scale.sub === undefined &&
    plan.scale.multiplier === 1 &&
    (plan.min === undefined || plan.zeroPoint !== undefined) &&
    (plan.zeroPoint === undefined || plan.zeroPoint.format === undefined) &&
    (plan.zeroPoint !== undefined || (plan.zero >= 0 && plan.zero <= 255))
  );
}

function maxFields(plans: readonly QuantPlan[]): number {
  return Math.max(
    1,
    ...plans.flatMap(({ scale, zeroPoint }) => [scale.super?.count ?? 0, zeroPoint?.count ?? 0]),
  );
}
