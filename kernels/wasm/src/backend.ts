import {
  type Backend,
  type BackendMemory,
  freeBytes,
  type KvSpec,
  type KvStore,
  type LinearWeight,
  type LowbitError,
  type PositionMove,
  type Tensor,
  type ThreadHost,
  type Weight,
} from "@lowbit/core";
import { kvBytes, pageLayout, type WasmKv } from "./kv.ts";
import { pageCells } from "./kv-page.ts";
import { growableMemory, Heap } from "./memory.ts";
import type { ChosenModule } from "./modules.ts";
import { createOps } from "./ops.ts";
import { misuse, Recorder } from "./recorder.ts";
import { type ShiftExports, shiftPositions } from "./shift.ts";
import { WasmTensor } from "./tensor.ts";
import { startTeam, type Team, type TeamExports } from "./threads.ts";
import { createWeights, type WasmWeight, type WeightExports } from "./weights.ts";

/** What the compiled C offers to this side. */
interface Kernels extends WeightExports, ShiftExports {
  run(list: number, words: number): number;
  attention_scratch_bytes(heads: number, kvHeads: number, keySize: number, valueSize: number): number;
}

/** One instance of the kernels with its own memory, bounded by `limitBytes`; more than one thread needs one for shared memory. */
export async function createBackend(
  chosen: ChosenModule,
  limitBytes: number,
  host?: ThreadHost,
  threads = 1,
): Promise<Backend> {
  const { addressSize } = chosen;
  const { memory, limit } = growableMemory(limitBytes, chosen);
  const instance = await WebAssembly.instantiate(chosen.module, { env: { memory } });
  const exports = instance.exports as unknown as Kernels & {
    readonly __heap_base: WebAssembly.Global;
    prefer_wide(wide: number): void;
  } & TeamExports;
  exports.prefer_wide(chosen.wideDots === false ? 0 : 1);
  const heap = new Heap(memory, Number(exports.__heap_base.value), limit, addressSize);
  const team = host && threads > 1 ? await startTeam(host, chosen.module, exports, heap, threads) : undefined;
  return new WasmBackend(heap, new Instance(exports, team), chosen);
}

/** The kernels until `close`: whoever holds a closed backend does not keep its memory alive. */
class Instance implements Omit<Kernels, "run"> {
  #exports: Kernels | undefined;
  readonly #team: Team | undefined;

  constructor(exports: Kernels, team: Team | undefined) {
    this.#exports = exports;
    this.#team = team;
  }

  get threads(): number {
    return this.#team?.count ?? 1;
  }

  get closed(): boolean {
    return this.#exports === undefined;
  }

  /** Throws once closed. */
  check(): Kernels {
    if (this.#exports === undefined) {
      throw misuse("The backend was disposed.", "disposed");
    }
    return this.#exports;
  }

  run(list: number, words: number): number | Promise<number> {
    const kernels = this.check();
    return this.#team ? this.#team.run(list, words) : kernels.run(list, words);
  }

  attention_scratch_bytes(heads: number, kvHeads: number, keySize: number, valueSize: number): number {
    return this.check().attention_scratch_bytes(heads, kvHeads, keySize, valueSize);
  }

  shift_positions(call: number): number {
    return this.check().shift_positions(call);
  }

  pack_rows(call: number): number {
    return this.check().pack_rows(call);
  }

  pack_dense(call: number): number {
    return this.check().pack_dense(call);
  }

  close(): void {
    this.#exports = undefined;
    this.#team?.close();
  }
}

class WasmBackend implements Backend {
  readonly name = "wasm";
  readonly description: string;
  readonly ops: Backend["ops"];
  readonly #heap: Heap;
  readonly #instance: Instance;
  readonly #weights: ReturnType<typeof createWeights>;
  readonly #recorder: Recorder;
  /** Weights, vectors and caches that are not yet freed. */
  readonly #live = new Set<object>();

  constructor(heap: Heap, kernels: Instance, { variant, addressSize }: ChosenModule) {
    const threads = kernels.threads === 1 ? "one thread" : `${kernels.threads} threads`;
    const wide = addressSize === 64 ? ", 64-bit memory" : "";
    this.description = `WebAssembly, ${variant === "relaxed" ? "relaxed SIMD" : "128-bit SIMD"}${wide}, ${threads}`;
    this.#heap = heap;
    this.#instance = kernels;
    this.#weights = createWeights(heap, kernels);
    this.#recorder = new Recorder(heap, kernels);
    this.ops = createOps({
      recorder: this.#recorder,
      kernels,
      tensor: (tensor, type) => this.#tensor(tensor, type),
      weight: (weight) => this.#own(weight, "weight") as WasmWeight,
      kv: (kv) => this.#own(kv, "cache") as WasmKv,
    });
  }

  layout(type: Parameters<Backend["layout"]>[0]): ReturnType<Backend["layout"]> {
    return this.#weights.layout(type);
  }

  weightBytes(type: Parameters<Backend["layout"]>[0], rows: number, columns: number): number {
    return this.#weights.weightBytes(type, rows, columns);
  }

  upload(weight: LinearWeight): Weight {
    this.#instance.check();
    const uploaded = this.#weights.upload(weight);
    this.#live.add(uploaded);
    // Collectors let tens of megabytes of buffers lie; isolates have no such room.
    if (weight.disposable) for (const { blocks } of weight.segments) freeBytes(blocks);
    return uploaded;
  }

  vector(data: Float32Array): Tensor {
    this.#instance.check();
    if (data.length === 0) {
      throw misuse("A vector needs at least one value.", "shape");
    }
    const address = this.#heap.allocate(data.length * 4, `A vector of ${data.length} values`);
    this.#heap.floats.set(data, address / 4);
    const tensor = new WasmTensor(
      this.#recorder,
      { rows: 1, columns: data.length, type: "f32" },
      address,
      true,
    );
    this.#live.add(tensor);
    return tensor;
  }

  kvBytes(spec: KvSpec): number {
    return kvBytes(spec);
  }

  kv(spec: KvSpec): KvStore {
    this.#instance.check();
    const { layers, kvHeads, keySize, valueSize, pageTokens, pages, type } = spec;
    const bytes = kvBytes(spec);
    const address = this.#heap.allocate(bytes, `A key/value cache of ${pages * pageTokens} positions`);
    const kv: WasmKv = {
      ...{ layers, kvHeads, keySize, valueSize, pageTokens, pages, type },
      ...{ bytes, address, layout: pageLayout(spec) },
    };
    this.#live.add(kv);
    return kv;
  }

  copyPage(kv: KvStore, from: number, to: number): void {
    const { address, layers, pages, layout } = this.#own(kv, "cache") as WasmKv;
    for (const page of [from, to]) {
      if (!Number.isInteger(page) || page < 0 || page >= pages) {
        throw misuse(`Page ${page} was to be copied in a cache of ${pages}.`, "page");
      }
    }
    const { bytes } = this.#heap;
    for (let layer = 0; layer < layers; layer++) {
      const at = address + layer * pages * layout.pageBytes;
      const source = at + from * layout.pageBytes;
      bytes.copyWithin(at + to * layout.pageBytes, source, source + layout.pageBytes);
    }
  }

  async readPage(kv: KvStore, page: number, count: number): Promise<Uint8Array> {
    const { cells, bytes } = pageCells(this.#own(kv, "cache") as WasmKv, page, count);
    const read = new Uint8Array(bytes);
    const memory = this.#heap.bytes;
    for (const { address, at, size } of cells) read.set(memory.subarray(address, address + size), at);
    return read;
  }

  writePage(kv: KvStore, page: number, count: number, bytes: Uint8Array): void {
    const { cells } = pageCells(this.#own(kv, "cache") as WasmKv, page, count, bytes.length);
    const memory = this.#heap.bytes;
    for (const { address, at, size } of cells) memory.set(bytes.subarray(at, at + size), address);
  }

  movePositions(kv: KvStore, move: PositionMove): void {
    shiftPositions(this.#heap, this.#instance, this.#own(kv, "cache") as WasmKv, move);
  }

  free(resource: Weight | Tensor | KvStore): void {
    if (this.#instance.closed) return;
    if (resource instanceof WasmTensor && resource.owner === this.#recorder && !resource.persistent) {
      this.#recorder.releaseTensor(resource);
      return;
    }
    this.#own(resource, "resource");
    this.#live.delete(resource);
    if (resource instanceof WasmTensor) this.#recorder.releaseTensor(resource);
    else if (isKv(resource)) this.#heap.release(resource.address);
    else this.#weights.free(resource as WasmWeight);
  }

  // On one thread the work is synchronous: the promise only carries the result or the error.
  async submit(): Promise<void> {
    this.#instance.check();
    await this.#recorder.submit();
  }

  async read(tensor: Tensor): Promise<Float32Array> {
    this.#instance.check();
    if (!(tensor instanceof WasmTensor && tensor.owner === this.#recorder)) throw foreign("tensor");
    if (!this.#recorder.isReadable(tensor)) {
      const name = `A tensor [${tensor.rows}, ${tensor.columns}]`;
      throw tensor.released
        ? misuse(`${name} was read after its release.`, "released")
        : misuse(`${name} was read before submit.`, "not-submitted");
    }
    const [from, to] = [tensor.address / 4, tensor.address / 4 + tensor.rows * tensor.columns];
    if (tensor.type === "i32") return Float32Array.from(this.#heap.words.subarray(from, to));
    return this.#heap.floats.slice(from, to);
  }

  memory(): BackendMemory {
    const { usedBytes, heldBytes, limitBytes } = this.#heap;
    return { usedBytes: usedBytes - this.#recorder.idleBytes, heldBytes, limitBytes };
  }

  async dispose(): Promise<void> {
    this.#instance.close();
    this.#live.clear();
    this.#heap.close();
  }

  #tensor(tensor: Tensor, type: "f32" | "i32"): WasmTensor {
    this.#instance.check();
    this.#recorder.begin();
    if (!(tensor instanceof WasmTensor && tensor.owner === this.#recorder)) throw foreign("tensor");
    if (tensor.released) {
      throw misuse(
        `A tensor [${tensor.rows}, ${tensor.columns}] was used after its release.`,
        "released",
        "Results live until their scope ends or until the pass after theirs begins.",
      );
    }
    if (tensor.type !== type) {
      throw misuse(`An ${tensor.type} tensor was given where ${type} is expected.`, "type");
    }
    return tensor;
  }

  #own(resource: object, kind: string): object {
    this.#instance.check();
    if (!this.#live.has(resource)) throw foreign(kind);
    return resource;
  }
}

function isKv(resource: Weight | Tensor | KvStore): resource is WasmKv {
  return "pageTokens" in resource;
}

function foreign(kind: string): LowbitError {
  return misuse(`This ${kind} belongs to another backend or was freed.`, "foreign");
}
