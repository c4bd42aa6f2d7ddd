import { dequantize, isPermutation, type LinearWeight, rowsOf, type Weight } from "@lowbit/core";
import { invalid } from "./tensor.ts";

/** An uploaded weight: its blocks as they came, decoded row by row when they are needed. */
export class ReferenceWeight implements Weight {
  readonly out: number;
  readonly in: number;
  readonly experts: number;
  readonly layout: string;
  readonly bytes: number;
  /** experts · out long. */
  readonly bias: Float32Array | undefined;
  #segments: LinearWeight["segments"];
  readonly #permute: Int32Array | undefined;
  readonly #rowScale: Float32Array | undefined;
  /** The whole matrix, where the budget for decoded ones has room. */
  #decoded: Float32Array | undefined;
  #released = false;

  constructor(weight: LinearWeight) {
    check(weight);
    this.out = weight.out;
    this.in = weight.in;
    this.experts = weight.experts ?? 1;
    // Copies: the caller may reuse its buffers.
    this.#segments = weight.segments.map((segment) => ({ ...segment, blocks: segment.blocks.slice() }));
    this.bias = weight.bias?.slice();
    this.#permute = weight.permute?.slice();
    this.#rowScale = weight.rowScale?.slice();
    this.layout = [...new Set(this.#segments.map(({ type }) => `${type.name} blocks`))].join(" + ");
    this.bytes = this.#segments.reduce(
      (sum, { blocks }) => sum + blocks.length,
      4 * ((this.bias?.length ?? 0) + (this.#permute?.length ?? 0) + (this.#rowScale?.length ?? 0)),
    );
  }

  get isDecoded(): boolean {
    return this.#decoded !== undefined;
  }

  get decodedBytes(): number {
    return this.out * this.experts * this.in * 4;
  }

  /** Decodes everything once. */
  keepDecoded(): void {
    const rows = this.out * this.experts;
    const decoded = new Float32Array(rows * this.in);
    for (let r = 0; r < rows; r++) this.#decodeRow(r, decoded.subarray(r * this.in, (r + 1) * this.in));
    this.#decoded = decoded;
  }

  /** Row r of all experts' rows. `room` is used where the row has to be decoded, and is `in` long. */
  row(r: number, room: Float32Array): Float32Array {
    if (this.#decoded) return this.#decoded.subarray(r * this.in, (r + 1) * this.in);
    if (this.#released) throw invalid("A weight was used after free.", "released");
    this.#decodeRow(r, room);
    return room;
  }

  release(): void {
    this.#segments = [];
    this.#decoded = undefined;
    this.#released = true;
  }

  /** As core's `denseWeight` has it: where segments overlap their values are summed; columns that no segment covers are 0. */
  #decodeRow(r: number, out: Float32Array): void {
    out.fill(0);
    for (const { type, from, to, blocks } of this.#segments) {
      const bytes = ((to - from) / type.block) * type.bytes;
      const part = new Float32Array(to - from);
      dequantize(type, blocks.subarray(r * bytes, (r + 1) * bytes), part);
      for (let i = 0; i < part.length; i++) {
        const at = this.#permute ? this.#permute[from + i]! : from + i;
        out[at] = out[at]! + part[i]!;
      }
    }
    const factor = this.#rowScale?.[r];
    if (factor !== undefined) for (let i = 0; i < out.length; i++) out[i] = out[i]! * factor;
  }
}

function check(weight: LinearWeight): void {
  const { out, in: width, experts = 1, bias, permute, rowScale, segments } = weight;
  const sizes = [out, width, experts];
  if (!sizes.every((size) => Number.isSafeInteger(size) && size >= 1)) {
    throw invalid(`A weight of ${experts} × [${out}, ${width}] is impossible.`);
  }
  const rows = rowsOf(weight);
  if (bias !== undefined && bias.length !== rows) {
    throw invalid(`The bias has ${bias.length} values, the weight ${rows} rows.`);
  }
  if (rowScale !== undefined && rowScale.length !== rows) {
    throw invalid(`There are ${rowScale.length} row scales, but ${rows} rows.`);
  }
  if (permute !== undefined && !isPermutation(permute, width)) {
    throw invalid(`The order of its inputs is no permutation of ${width}.`);
  }
  for (const { type, from, to, blocks } of segments) {
    const inside = Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= width;
    if (!inside || (to - from) % type.block !== 0) {
      throw invalid(
        `${type.name} cannot hold columns ${from} to ${to} of ${width}: blocks have ${type.block}.`,
      );
    }
    const bytes = rows * ((to - from) / type.block) * type.bytes;
    if (blocks.length !== bytes) {
      throw invalid(
        `${type.name}: ${rows} rows of columns ${from} to ${to} take ${bytes} bytes, but ${blocks.length} came.`,
      );
    }
  }
}
