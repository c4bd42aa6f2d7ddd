import { call, Emitter, type PointerType, quarters, stripBytes } from "./emitter.ts";
import {
  activationStride,
  isSigned,
  meta,
  type PackedKernel,
  pieces,
  quadsPerSum,
  quadsPerVector,
} from "./packed-kernel.ts";

export class PackedWriter {
  readonly #k: PackedKernel;
  readonly #e: Emitter;
  readonly #quarters: readonly number[];
  readonly #tokens: readonly number[];
  /** Accumulators that fit the registers stay in them. */
  readonly #resident: boolean;

  constructor(kernel: PackedKernel, pointer: PointerType) {
    this.#k = kernel;
    this.#e = new Emitter(pointer);
    this.#quarters = [...new Array(kernel.quarters).keys()];
    this.#tokens = [...new Array(kernel.tokens).keys()];
    this.#resident = kernel.quarters * kernel.tokens <= 4;
  }

  /** The function's assembly. */
  write(symbol: string): string {
    const e = this.#e;
    const { width, group } = this.#k;
    this.#loadPointers();
    this.#loadConstants();
    if (this.#resident) this.#eachSum((sum, offset) => this.#copy(() => e.load("acc", offset), sum));
    e.op("loop");
    const turns = quarters / this.#k.quarters;
    const groups = (): void => {
      for (let part = 0; part < 32 / group; part++) this.#group(part);
      e.advance("weights", this.#k.quarters * 16 * width);
    };
    if (turns === 1) groups();
    else this.#eachTurn(turns, groups);
    for (const t of this.#tokens) {
      e.advance(`x${t}`, activationStride(this.#k).block);
      e.advance(`m${t}`, meta.bytes);
    }
    e.advance("scales", (stripBytes * 32) / group);
    e.countDown("blocks");
    e.op("br_if 0", "end_loop");
    if (this.#resident) {
      this.#eachSum((sum, offset) => {
        e.get("acc");
        e.get(sum);
        e.op(`v128.store ${offset}:p2align=0`);
      });
    }
    return e.text(symbol);
  }

  /** Goes through the quarters of a block some at a time, in the order in which they lie in memory. */
  #eachTurn(turns: number, body: () => void): void {
    const e = this.#e;
    const turnBytes = stripBytes / turns;
    e.op(`i32.const ${turns}`);
    e.set("turns", "i32");
    e.op("loop");
    body();
    for (const pointer of ["scales", "acc"]) e.advance(pointer, turnBytes);
    e.get("turns");
    e.op("i32.const -1", "i32.add");
    e.tee("turns");
    e.op("br_if 0", "end_loop");
    for (const pointer of ["scales", "acc"]) e.advance(pointer, -stripBytes);
  }

  #copy(value: () => void, to: string): void {
    value();
    this.#e.set(to);
  }

  #eachSum(body: (sum: string, offset: number) => void): void {
    for (const t of this.#tokens) for (const r of this.#quarters) body(`f${t}_${r}`, stripBytes * t + 16 * r);
  }

  #loadPointers(): void {
    const e = this.#e;
    for (const t of this.#tokens) {
      e.loadPointer(`x${t}`, call.codes + t);
      e.loadPointer(`m${t}`, call.meta + t);
    }
    for (const name of ["weights", "blocks", "scales", "constants", "acc"] as const)
      e.loadPointer(name, call[name]);
  }

  #loadConstants(): void {
    const e = this.#e;
    const { mode, width } = this.#k;
    this.#copy(() => e.load("constants", 0), "minusZero");
    if (mode === "TABLE" || mode === "SIGNED_TABLE") this.#copy(() => e.load("constants", 16), "table");
    const masks = new Set(width < 8 ? pieces(width, 0).map(([, , mask]) => mask) : []);
    if (this.#usesHalves && !isSigned(mode)) masks.add("low");
    if (this.#resident && this.#k.dot === "narrow" && !isSigned(mode)) masks.add("ones");
    for (const mask of masks) e.loadMask(mask);
  }

  get #usesHalves(): boolean {
    return this.#k.dot === "simd" || (this.#k.dot === "narrow" && isSigned(this.#k.mode));
  }

  /** One quarter's operands of a quad, on the stack. With `raw` the vector of the low bits is kept for, or known from, another quad. */
  #operand(quarter: number, quad: number, raw?: "keep" | "known"): void {
    const e = this.#e;
    const { mode, width } = this.#k;
    if (mode === "TABLE" || mode === "SIGNED_TABLE") e.get("table");
    pieces(width, quad).forEach(([vector, shift, mask], i) => {
      if (i === 0 && raw === "known") e.get("raw");
      else e.load("weights", 16 * (width * quarter + vector));
      if (i === 0 && raw === "keep") e.tee("raw");
      e.shift(shift);
      if (width < 8) e.mask(mask);
      if (i > 0) e.op("v128.or");
    });
    if (mode === "TABLE" || mode === "SIGNED_TABLE") {
      e.op(this.#k.dot === "simd" ? "i8x16.swizzle" : "i8x16.relaxed_swizzle");
    }
  }

  /** −zero · Σq of the group, plus what the split of signed products leaves over, on the stack. */
  #start(token: number, part: number): void {
    const e = this.#e;
    const { dot, mode, group } = this.#k;
    const sum = group === 32 ? meta.whole : meta.half + 4 * part;
    e.splat(`m${token}`, sum);
    e.get("minusZero");
    e.op("i32x4.dot_i16x8_s");
    if (dot === "wide" && isSigned(mode)) {
      e.splat(`m${token}`, sum + meta.negative);
      e.op("i32x4.add");
    }
  }

  #group(part: number): void {
    const { dot, group, mode, width, tokens } = this.#k;
    const quads = group / 4;
    const first = part * quads;
    if (this.#usesHalves || isSigned(mode)) {
      this.#initialize(part);
      for (let quad = first; quad < first + quads; quad++) {
        if (this.#usesHalves) this.#quadOfHalves(quad);
        else this.#quadSigned(quad);
      }
    } else {
      // Quads that share a 16-bit sum; 0 where each goes to the 32-bit sum at once. With one token also those that share a vector of codes.
      const sum = dot === "narrow" && quadsPerSum(this.#k) > 1 ? quadsPerSum(this.#k) : 0;
      const early = sum < 4;
      if (early) this.#initialize(part);
      const step = tokens === 1 ? Math.min(4, quadsPerVector(width), sum || quads) : sum === 2 ? 2 : 1;
      for (let i = 0; i < quads; i += step) {
        const opens = sum > 0 && i % sum === 0;
        if (tokens === 1) this.#quadsOfOne(first + i, step, opens);
        else if (step === 2) this.#pair(first + i);
        else this.#quad(first + i, opens);
        const closes = sum > 0 && (i + step) % sum === 0 && !(tokens > 1 && step === 2);
        if (closes) this.#flush(part, !early && i < sum);
      }
    }
    this.#finish(part);
  }

  /** narrow: the 16-bit sums to 32 bits, added to the start (`fresh`) or to what there is. */
  #flush(part: number, fresh: boolean): void {
    const e = this.#e;
    for (const t of this.#tokens) {
      if (fresh) this.#copy(() => this.#start(t, part), "start");
      for (const r of this.#quarters) {
        e.get(fresh ? "start" : `d${t}_${r}`);
        e.get(`a${t}_${r}`);
        this.#widen();
        e.op("i32x4.add");
        e.set(`d${t}_${r}`);
      }
    }
  }

  /** Sums of neighbouring 16-bit lanes. With registers to spare, ones are kept in one. */
  #widen(): void {
    if (this.#resident) {
      this.#e.get("mask ones");
      this.#e.op("i32x4.dot_i16x8_s");
    } else {
      this.#e.op("i32x4.extadd_pairwise_i16x8_s");
    }
  }

  #initialize(part: number): void {
    for (const t of this.#tokens) {
      this.#start(t, part);
      const [first, ...rest] = this.#quarters;
      for (const r of rest) this.#e.tee(`d${t}_${r}`);
      this.#e.set(`d${t}_${first}`);
    }
  }

  /** wide and narrow with codes from 0 to 127: quarter by quarter, which needs few registers. `opens`: the 16-bit sums begin here. */
  #quadsOfOne(quad: number, count: number, opens: boolean): void {
    const e = this.#e;
    for (let i = 0; i < count; i++) this.#copy(() => e.splat("x0", 4 * (quad + i)), `q${i}`);
    for (const r of this.#quarters) {
      for (let i = 0; i < count; i++) {
        const raw = count === 1 ? undefined : i === 0 ? "keep" : "known";
        this.#dot(`0_${r}`, `q${i}`, () => this.#operand(r, quad + i, raw), opens && i === 0);
      }
    }
  }

  /** The same for several tokens: a quarter's codes are unpacked once. */
  #quad(quad: number, opens: boolean): void {
    const e = this.#e;
    for (const r of this.#quarters) this.#copy(() => this.#operand(r, quad), `c${r}`);
    for (const t of this.#tokens) {
      this.#copy(() => e.splat(`x${t}`, 4 * quad), "q");
      for (const r of this.#quarters) this.#dot(`${t}_${r}`, "q", () => e.get(`c${r}`), opens);
    }
  }

  /** narrow, where just two quads fit a 16-bit sum: quarter by quarter, or the sums would need a register each. */
  #pair(quad: number): void {
    const e = this.#e;
    for (const r of this.#quarters) {
      for (const i of [0, 1]) this.#copy(() => this.#operand(r, quad + i), `c${i}`);
      for (const t of this.#tokens) {
        e.get(`d${t}_${r}`);
        for (const i of [0, 1]) {
          e.splat(`x${t}`, 4 * (quad + i));
          e.get(`c${i}`);
          e.op("i16x8.relaxed_dot_i8x16_i7x16_s");
        }
        e.op("i16x8.add");
        this.#widen();
        e.op("i32x4.add");
        e.set(`d${t}_${r}`);
      }
    }
  }

  #dot(sum: string, q: string, codes: () => void, opens: boolean): void {
    const e = this.#e;
    const wide = this.#k.dot === "wide";
    const direct = !wide && quadsPerSum(this.#k) === 1;
    if (direct) e.get(`d${sum}`);
    else if (!wide && !opens) e.get(`a${sum}`);
    e.get(q);
    codes();
    if (wide) e.get(`d${sum}`);
    e.op(wide ? "i32x4.relaxed_dot_i8x16_i7x16_add_s" : "i16x8.relaxed_dot_i8x16_i7x16_s");
    if (direct) this.#widen();
    if (direct) e.op("i32x4.add");
    else if (!wide && !opens) e.op("i16x8.add");
    e.set(wide || direct ? `d${sum}` : `a${sum}`);
  }

  /** Σw·x = Σw·max(x,0) + Σ(~w)·max(−x,0) + Σmax(−x,0), because −w = ~w + 1. The last sum is in the start. */
  #quadSigned(quad: number): void {
    const invert = (): void => this.#e.op("v128.not");
    this.#quadOfParts(
      quad,
      (part) => 4 * quad + 32 * part,
      [undefined, invert],
      "i32x4.relaxed_dot_i8x16_i7x16_add_s",
    );
  }

  /** 16-bit lanes: bytes 0 and 2 of each row's four, then 1 and 3; activations are stored in this order. */
  #quadOfHalves(quad: number): void {
    const e = this.#e;
    const signed = isSigned(this.#k.mode);
    const even = (): void => {
      if (!signed) {
        e.mask("low");
        return;
      }
      e.shift(-8);
      e.shift(8, true);
    };
    this.#quadOfParts(quad, (part) => 8 * quad + 4 * part, [even, () => e.shift(8, signed)], undefined);
  }

  /**
   * Two dot products per quad: of what each of `parts` makes of the operand, and the activations at an offset. `fused` adds by itself, with the sum as
   * its last operand; otherwise i32x4.dot_i16x8_s and an addition.
   */
  #quadOfParts(
    quad: number,
    offset: (part: number) => number,
    parts: readonly ((() => void) | undefined)[],
    fused: string | undefined,
  ): void {
    const e = this.#e;
    const dot = (sum: string, weights: string, q: string): void => {
      if (fused === undefined) e.get(sum);
      e.get(weights);
      e.get(q);
      if (fused === undefined) {
        e.op("i32x4.dot_i16x8_s", "i32x4.add");
      } else {
        e.get(sum);
        e.op(fused);
      }
      e.set(sum);
    };
    const make = (part: (() => void) | undefined, from: string, to: string): void => {
      e.get(from);
      part?.();
      e.set(to);
    };
    if (this.#tokens.length === 1) {
      parts.forEach((_, p) => {
        this.#copy(() => e.splat("x0", offset(p)), `q${p}`);
      });
      for (const r of this.#quarters) {
        this.#copy(() => this.#operand(r, quad), "c");
        parts.forEach((part, p) => {
          make(part, "c", "h");
          dot(`d0_${r}`, "h", `q${p}`);
        });
      }
      return;
    }
    for (const r of this.#quarters) this.#copy(() => this.#operand(r, quad), `c${r}`);
    parts.forEach((part, p) => {
      for (const r of this.#quarters) make(part, `c${r}`, `h${r}`);
      for (const t of this.#tokens) {
        this.#copy(() => e.splat(`x${t}`, offset(p)), "q");
        for (const r of this.#quarters) dot(`d${t}_${r}`, `h${r}`, "q");
      }
    });
  }

  #finish(part: number): void {
    const e = this.#e;
    for (const r of this.#quarters) this.#copy(() => e.load("scales", stripBytes * part + 16 * r), `s${r}`);
    for (const t of this.#tokens) {
      this.#copy(() => e.splat(`m${t}`, meta.scale), "q");
      for (const r of this.#quarters) {
        const offset = stripBytes * t + 16 * r;
        if (!this.#resident) e.get("acc");
        if (this.#resident) e.get(`f${t}_${r}`);
        else e.load("acc", offset);
        e.get(`s${r}`);
        e.get("q");
        e.op("f32x4.mul");
        e.get(`d${t}_${r}`);
        e.op("f32x4.convert_i32x4_s", "f32x4.mul", "f32x4.add");
        if (this.#resident) e.set(`f${t}_${r}`);
        else e.op(`v128.store ${offset}:p2align=0`);
      }
    }
  }
}
