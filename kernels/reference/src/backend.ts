import {
  type Backend,
  type BackendMemory,
  bitsPerWeight,
  type KernelLayout,
  type KvSpec,
  type KvStore,
  type LinearWeight,
  type Ops,
  type PositionMove,
  type QuantType,
  type Tensor,
  type Weight,
} from "@lowbit/core";
import { attention } from "./attention.ts";
import { kvBytes, ReferenceKv } from "./kv.ts";
import { movePositions } from "./kv-move.ts";
import { readPage, writePage } from "./kv-page.ts";
import { linearOps } from "./linear.ts";
import { plainOps } from "./ops.ts";
import { Pass } from "./pass.ts";
import { Store } from "./store.ts";
import { invalid, ReferenceTensor } from "./tensor.ts";
import { ReferenceWeight } from "./weights.ts";

/** The contract, literally. Ops are computed as they are recorded, which nobody can tell: results are read after `submit`. */
export class ReferenceBackend implements Backend {
  readonly name = "reference";
  readonly description = "plain TypeScript, f32 with sums in f64";
  readonly ops: Ops;
  readonly #store: Store;
  readonly #pass: Pass;
  readonly #resources = new Set<ReferenceWeight | ReferenceTensor | ReferenceKv>();
  #decodedBytes: number;

  /** @param decodedBytes budget for whole decoded matrices, beside the store */
  constructor(limitBytes: number, decodedBytes: number) {
    this.#store = new Store(limitBytes);
    this.#pass = new Pass(this.#store);
    this.#decodedBytes = decodedBytes;
    this.ops = {
      ...plainOps(this.#pass),
      ...linearOps(this.#pass, (weight) => this.#own(weight, ReferenceWeight, "weight")),
      attention: (q, k, v, options) =>
        attention(this.#pass, (kv) => this.#own(kv, ReferenceKv, "cache"), q, k, v, options),
    };
  }

  layout(type: QuantType): KernelLayout {
    return { name: `${type.name} blocks`, bitsPerWeight: bitsPerWeight(type) };
  }

  weightBytes(type: QuantType, rows: number, columns: number): number {
    return rows * Math.ceil(columns / type.block) * type.bytes;
  }

  upload(linearWeight: LinearWeight): Weight {
    this.#pass.check();
    const weight = new ReferenceWeight(linearWeight);
    this.#store.take(weight.bytes, "a weight");
    this.#resources.add(weight);
    // First come, first served: weights are used in turn, so throwing one out for the next would decode each every time.
    if (weight.decodedBytes <= this.#decodedBytes) {
      this.#decodedBytes -= weight.decodedBytes;
      weight.keepDecoded();
    }
    return weight;
  }

  vector(data: Float32Array): Tensor {
    this.#pass.check();
    this.#store.take(data.byteLength, "a vector");
    const tensor = new ReferenceTensor(this.#pass, data.slice(), 1, data.length, true);
    this.#resources.add(tensor);
    return tensor;
  }

  kvBytes(spec: KvSpec): number {
    return kvBytes(spec);
  }

  kv(spec: KvSpec): KvStore {
    this.#pass.check();
    this.#store.take(kvBytes(spec), "the key/value cache");
    const kv = new ReferenceKv(spec);
    this.#resources.add(kv);
    return kv;
  }

  copyPage(kv: KvStore, from: number, to: number): void {
    this.#own(kv, ReferenceKv, "cache").copyPage(from, to);
  }

  async readPage(kv: KvStore, page: number, count: number): Promise<Uint8Array> {
    return readPage(this.#own(kv, ReferenceKv, "cache"), page, count);
  }

  writePage(kv: KvStore, page: number, count: number, bytes: Uint8Array): void {
    writePage(this.#own(kv, ReferenceKv, "cache"), page, count, bytes);
  }

  movePositions(kv: KvStore, move: PositionMove): void {
    movePositions(this.#own(kv, ReferenceKv, "cache"), move);
  }

  free(resource: Weight | Tensor | KvStore): void {
    if (resource instanceof ReferenceTensor && !resource.persistent) {
      this.#pass.drop(this.#pass.own(resource));
      return;
    }
    const own = resource as ReferenceWeight | ReferenceTensor | ReferenceKv;
    if (!this.#resources.delete(own)) {
      throw invalid("free: this is not a live resource of this backend.", "released");
    }
    this.#store.give(own.bytes);
    if (own instanceof ReferenceWeight && own.isDecoded) this.#decodedBytes += own.decodedBytes;
    own.release();
  }

  async submit(): Promise<void> {
    this.#pass.submit();
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    return Float32Array.from(this.#pass.readable(tensor));
  }

  memory(): BackendMemory {
    const { usedBytes, limitBytes } = this.#store;
    return { usedBytes, heldBytes: usedBytes, limitBytes };
  }

  async dispose(): Promise<void> {
    for (const resource of [...this.#resources]) this.free(resource);
    this.#pass.close();
  }

  #own<Kind extends ReferenceWeight | ReferenceKv>(
    resource: Weight | KvStore,
    kind: abstract new (...args: never[]) => Kind,
    what: string,
  ): Kind {
    if (resource instanceof kind && this.#resources.has(resource)) return resource;
    throw invalid(`This ${what} was freed, or comes from another backend.`, "released");
  }
}
