import type { Tensor } from "@lowbit/core";
import type { Store } from "./store.ts";
import { invalid, ReferenceTensor } from "./tensor.ts";

/** Who lives how long: results of one pass, nested scopes, and the border between two passes. */
export class Pass {
  readonly #store: Store;
  /** Innermost scope last; the first one is the pass itself. */
  #scopes: Set<ReferenceTensor>[] = [new Set()];
  #submitted = false;
  #closed = false;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Throws once closed. */
  check(): void {
    if (this.#closed) throw invalid("The backend was disposed.", "disposed");
  }

  /** Every op calls it first: after a submit it starts a new pass, and what the old one made is gone. */
  begin(): void {
    this.check();
    if (this.#submitted) this.clear();
  }

  /** Results stay readable from here until the next op. */
  submit(): void {
    this.check();
    if (this.#scopes.length > 1) throw invalid("submit was called inside a scope.", "scope");
    this.#submitted = true;
  }

  /** The numbers of an op's input. */
  reals(tensor: Tensor): Float32Array {
    const values = this.#input(tensor);
    if (values instanceof Float32Array) return values;
    throw invalid("These are indices, where numbers are expected.", "type");
  }

  /** The indices that an op works with. */
  indices(tensor: Tensor): Int32Array {
    const values = this.#input(tensor);
    if (values instanceof Int32Array) return values;
    throw invalid("These are numbers, where indices from topK are expected.", "type");
  }

  #input(tensor: Tensor): Float32Array | Int32Array {
    this.begin();
    return this.own(tensor).values;
  }

  /** Throws for tensors of other backends. */
  own(tensor: Tensor): ReferenceTensor {
    if (tensor instanceof ReferenceTensor && tensor.owner === this) return tensor;
    throw invalid("This tensor comes from another backend.", "foreign");
  }

  /** Values that may be read now. */
  readable(tensor: Tensor): Float32Array | Int32Array {
    this.check();
    const own = this.own(tensor);
    if (!own.persistent && !this.#submitted) {
      throw invalid("read: nothing is computed before submit.", "not-submitted");
    }
    return own.values;
  }

  /** Takes up the result of an op. */
  result(values: Float32Array | Int32Array, rows: number, columns: number): Tensor {
    this.begin();
    const tensor = new ReferenceTensor(this, values, rows, columns);
    this.#store.take(tensor.bytes, "activations");
    this.#scopes.at(-1)?.add(tensor);
    return tensor;
  }

  scope(body: () => Tensor): Tensor {
    this.begin();
    const inside = new Set<ReferenceTensor>();
    this.#scopes.push(inside);
    try {
      const kept = body();
      for (const tensor of inside) {
        if (tensor === kept) this.#scopes.at(-2)?.add(tensor);
        else this.#release(tensor);
      }
      return kept;
    } catch (error) {
      for (const tensor of inside) this.#release(tensor);
      throw error;
    } finally {
      this.#scopes.pop();
    }
  }

  close(): void {
    this.clear();
    this.#closed = true;
  }

  clear(): void {
    for (const scope of this.#scopes) for (const tensor of scope) this.#release(tensor);
    this.#scopes = [new Set()];
    this.#submitted = false;
  }

  /** For `free`: a result given back before its time. */
  drop(tensor: ReferenceTensor): void {
    for (const scope of this.#scopes) if (scope.delete(tensor)) this.#release(tensor);
  }

  #release(tensor: ReferenceTensor): void {
    this.#store.give(tensor.bytes);
    tensor.release();
  }
}
