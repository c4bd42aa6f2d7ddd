/** Fields of `TileCall` (c/linear-internal.h), the one argument of every kernel; each is of a pointer's size. */
export const call: Readonly<
  Record<"weights" | "codes" | "meta" | "blocks" | "scales" | "constants" | "acc", number>
> = {
  weights: 0,
  scales: 1,
  constants: 2,
  acc: 3,
  blocks: 4,
  codes: 5,
  meta: 9,
};

/** Type of pointers: 64 bits with 64-bit memory. */
export type PointerType = "i32" | "i64";

/** Quarters of a band. */
export const quarters = 4;

/** Bytes between the accumulators of two tokens, and the scales of two groups: four quarters of 16. */
export const stripBytes: number = 16 * quarters;

export type MaskName = 1 | 2 | 3 | 4 | 15 | 16 | 48 | "low" | "ones" | "half" | "rescale";

/** The vectors of `kernel_masks`, which is written beside the kernels, by name; each is one 32-bit word four times. */
const masks: Readonly<Record<MaskName, number>> = {
  1: 0x01010101,
  2: 0x02020202,
  3: 0x03030303,
  4: 0x04040404,
  15: 0x0f0f0f0f,
  16: 0x10101010,
  48: 0x30303030,
  /** The low byte of each 16-bit lane. */
  low: 0x00ff00ff,
  /** 1 in each 16-bit lane. */
  ones: 0x00010001,
  /** Sign and magnitude of an f16 shifted to an f32's place. */
  half: 0x8fffe000,
  /** 2^112, what such an f32 is then short of. */
  rescale: 0x77800000,
};

/** The C definition of `kernel_masks`. Masks come from memory, because engines would build a constant anew at each use. */
export function maskTable(): string {
  const rows = Object.values(masks).map(
    (word) => `  {${new Array(4).fill(`0x${word.toString(16)}u`).join(", ")}},`,
  );
  return `uint32_t kernel_masks[${rows.length}][4] __attribute__((aligned(16))) = {\n${rows.join("\n")}\n};\n`;
}

function maskOffset(mask: MaskName): number {
  return 16 * Object.keys(masks).indexOf(`${mask}`);
}

/** Code and locals of one function; locals are declared as they are named. */
export class Emitter {
  readonly lines: string[] = [];
  readonly #pointer: PointerType;
  readonly #locals: string[] = [];
  readonly #index = new Map<string, number>([["call", 0]]);

  constructor(pointer: PointerType) {
    this.#pointer = pointer;
  }

  op(...ops: string[]): void {
    this.lines.push(...ops);
  }

  get(name: string): void {
    this.op(`local.get ${this.#of(name)}`);
  }

  set(name: string, type: "i32" | "i64" | "v128" = "v128"): void {
    this.op(`local.set ${this.#of(name, type)}`);
  }

  tee(name: string): void {
    this.op(`local.tee ${this.#of(name, "v128")}`);
  }

  load(name: string, offset = 0): void {
    this.get(name);
    this.op(`v128.load ${offset}:p2align=0`);
  }

  splat(name: string, offset: number): void {
    this.get(name);
    this.op(`v128.load32_splat ${offset}:p2align=2`);
  }

  shift(bits: number, signed = false): void {
    if (bits === 0) return;
    this.op(`i32.const ${Math.abs(bits)}`, bits > 0 ? `i16x8.shr_${signed ? "s" : "u"}` : "i16x8.shl");
  }

  /** Ands the value on the stack with a mask that `loadMask` has named. */
  mask(mask: MaskName): void {
    this.get(`mask ${mask}`);
    this.op("v128.and");
  }

  loadMask(mask: MaskName): void {
    this.op(`${this.#pointer}.const kernel_masks`, `v128.load ${maskOffset(mask)}:p2align=4`);
    this.set(`mask ${mask}`);
  }

  /** Sets a pointer, or a count, from a field of the call. */
  loadPointer(name: string, field: number): void {
    this.get("call");
    this.op(this.#pointer === "i32" ? `i32.load ${4 * field}:p2align=2` : `i64.load ${8 * field}:p2align=3`);
    this.set(name, this.#pointer);
  }

  advance(pointer: string, bytes: number): void {
    this.get(pointer);
    this.op(`${this.#pointer}.const ${bytes}`, `${this.#pointer}.add`);
    this.set(pointer, this.#pointer);
  }

  /** Counts one down; on the stack: is there more to do? */
  countDown(count: string): void {
    this.advance(count, -1);
    this.get(count);
    this.op(`${this.#pointer}.const 0`, `${this.#pointer}.ne`);
  }

  /** On the stack: is the count below `least`? */
  below(count: string, least: number): void {
    this.get(count);
    this.op(`${this.#pointer}.const ${least}`, `${this.#pointer}.lt_s`);
  }

  text(symbol: string): string {
    const locals = this.#locals.length > 0 ? [`\t.local ${this.#locals.join(", ")}`] : [];
    const head = [`\t.section .text.${symbol},"",@`, `\t.globl ${symbol}`, `\t.type ${symbol},@function`];
    const body = this.lines.map((line) => `\t${line}`);
    return [
      ...head,
      `${symbol}:`,
      `\t.functype ${symbol} (${this.#pointer}) -> ()`,
      ...locals,
      ...body,
      "\tend_function",
      "",
    ].join("\n");
  }

  #of(name: string, type?: "i32" | "i64" | "v128"): number {
    let index = this.#index.get(name);
    if (index === undefined) {
      if (type === undefined) throw new Error(`${name} is used before it is set`);
      index = this.#index.size;
      this.#index.set(name, index);
      this.#locals.push(type);
    }
    return index;
  }
}
