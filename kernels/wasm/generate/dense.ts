import { call, Emitter, type PointerType, quarters, stripBytes } from "./emitter.ts";

export type DenseKind = "f32" | "f16" | "bf16";

export interface DenseKernel {
  readonly kind: DenseKind;
  readonly quarters: number;
  readonly tokens: number;
}

/** Columns per turn of the loop; a second loop does the rest one by one. */
const unroll = 4;

/**
 * A dense kernel: acc += the sum, from zero, of column · x over the columns in order. In `TileCall`, `codes` point to the tokens' f32 and `blocks`
 * counts columns, at least 1. Column k of a quarter is its four rows' values.
 */
export class DenseWriter {
  readonly #k: DenseKernel;
  readonly #e: Emitter;
  readonly #quarters: readonly number[];
  readonly #tokens: readonly number[];

  constructor(kernel: DenseKernel, pointer: PointerType) {
    this.#k = kernel;
    this.#e = new Emitter(pointer);
    this.#quarters = [...new Array(kernel.quarters).keys()];
    this.#tokens = [...new Array(kernel.tokens).keys()];
  }

  /** The function's assembly. */
  write(symbol: string): string {
    const e = this.#e;
    e.loadPointer("weights", call.weights);
    for (const t of this.#tokens) e.loadPointer(`x${t}`, call.codes + t);
    e.loadPointer("columns", call.blocks);
    e.loadPointer("acc", call.acc);
    if (this.#k.kind === "f16") {
      e.loadMask("half");
      e.loadMask("rescale");
    }
    for (const t of this.#tokens) {
      for (const r of this.#quarters) {
        e.op("v128.const 0, 0, 0, 0");
        e.set(`f${t}_${r}`);
      }
    }
    this.#loop(unroll);
    this.#loop(1);
    for (const t of this.#tokens) {
      for (const r of this.#quarters) {
        const offset = stripBytes * t + 16 * r;
        e.get("acc");
        e.load("acc", offset);
        e.get(`f${t}_${r}`);
        e.op("f32x4.add", `v128.store ${offset}:p2align=0`);
      }
    }
    return e.text(symbol);
  }

  /** While at least `step` columns are left: that many. */
  #loop(step: number): void {
    const e = this.#e;
    e.op("block", "loop");
    e.below("columns", step);
    e.op("br_if 1");
    for (let k = 0; k < step; k++) this.#column(k);
    e.advance("weights", step * quarters * this.#columnBytes);
    for (const t of this.#tokens) e.advance(`x${t}`, 4 * step);
    e.advance("columns", -step);
    e.op("br 0", "end_loop", "end_block");
  }

  /** Bytes of a quarter's column. */
  get #columnBytes(): number {
    return this.#k.kind === "f32" ? 16 : 8;
  }

  #column(k: number): void {
    const e = this.#e;
    const named = this.#tokens.length > 1;
    if (named) {
      for (const r of this.#quarters) {
        this.#values(r, k);
        e.set(`c${r}`);
      }
    }
    for (const t of this.#tokens) {
      e.splat(`x${t}`, 4 * k);
      e.set("q");
      for (const r of this.#quarters) {
        e.get(`f${t}_${r}`);
        if (named) e.get(`c${r}`);
        else this.#values(r, k);
        e.get("q");
        e.op("f32x4.mul", "f32x4.add");
        e.set(`f${t}_${r}`);
      }
    }
  }

  /** A column's four values as f32, on the stack. */
  #values(quarter: number, k: number): void {
    const e = this.#e;
    const offset = (quarters * k + quarter) * this.#columnBytes;
    if (this.#k.kind === "f32") {
      e.load("weights", offset);
      return;
    }
    e.get("weights");
    if (this.#k.kind === "bf16") {
      e.op(`i32x4.load16x4_u ${offset}:p2align=3`, "i32.const 16", "i32x4.shl");
      return;
    }
    // Sign, and exponent and mantissa at their places in an f32 but for the exponent's bias, which the factor makes up.
    e.op(`i32x4.load16x4_s ${offset}:p2align=3`, "i32.const 13", "i32x4.shl");
    e.mask("half");
    e.get("mask rescale");
    e.op("f32x4.mul");
  }
}
