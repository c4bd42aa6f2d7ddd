import type { Tensor } from "@lowbit/core";
import type { Recorder } from "./recorder.ts";

/** A tensor in WebAssembly memory. */
export class WasmTensor implements Tensor {
  /** The pass memory that it lives in; tells backends' tensors apart. */
  readonly owner: Recorder;
  readonly rows: number;
  readonly columns: number;
  readonly type: "f32" | "i32";
  readonly address: number;
  /** Lives until `free`, not until its scope ends. */
  readonly persistent: boolean;
  /** i32: all values are below it. */
  readonly bound: number;
  /** Address of the quantized form, once a linear asked for it; 0 before. */
  quantized = 0;
  quantizedBytes = 0;
  /** Its columns in other orders, by the order's address. */
  readonly permuted: Map<number, WasmTensor> = new Map();
  released = false;

  /** Its address for a word of the list. */
  get word(): number {
    return this.owner.word(this.address);
  }

  get bytes(): number {
    return this.rows * this.columns * 4;
  }

  constructor(
    owner: Recorder,
    shape: { rows: number; columns: number; type: "f32" | "i32"; bound?: number },
    address: number,
    persistent: boolean,
  ) {
    this.owner = owner;
    this.rows = shape.rows;
    this.columns = shape.columns;
    this.type = shape.type;
    this.bound = shape.bound ?? 0;
    this.address = address;
    this.persistent = persistent;
  }
}
