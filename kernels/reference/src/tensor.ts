import { LowbitError, type Tensor } from "@lowbit/core";

/** Errors say which backend found the fault. */
export function invalid(what: string, reason = "shape"): LowbitError {
  return new LowbitError("bad-argument", what, { reason, plugin: "reference" });
}

/** A matrix as a plain array. Released ones throw when used, so that mistakes in scopes show here first. */
export class ReferenceTensor implements Tensor {
  readonly rows: number;
  readonly columns: number;
  /** What it belongs to; tells the tensors of two backends apart. */
  readonly owner: object;
  /** Lives until `free`, not until the end of its pass. */
  readonly persistent: boolean;
  #values: Float32Array | Int32Array | undefined;

  constructor(
    owner: object,
    values: Float32Array | Int32Array,
    rows: number,
    columns: number,
    persistent = false,
  ) {
    if (!(Number.isInteger(rows) && Number.isInteger(columns) && rows >= 1 && columns >= 1)) {
      throw invalid(`A tensor of [${rows}, ${columns}] is impossible; both sizes must be positive integers.`);
    }
    if (values.length !== rows * columns) {
      throw invalid(`${values.length} values do not make a tensor of [${rows}, ${columns}].`);
    }
    this.owner = owner;
    this.rows = rows;
    this.columns = columns;
    this.persistent = persistent;
    this.#values = values;
  }

  get bytes(): number {
    return (this.#values?.length ?? 0) * 4;
  }

  get values(): Float32Array | Int32Array {
    if (this.#values === undefined) {
      throw invalid(
        `A tensor of [${this.rows}, ${this.columns}] was used after it was released: by free, at the end of its scope, or by the next pass.`,
        "released",
      );
    }
    return this.#values;
  }

  release(): void {
    this.#values = undefined;
  }
}

/** "[rows, columns]", for messages. */
export function shape(tensor: Tensor): string {
  return `[${tensor.rows}, ${tensor.columns}]`;
}
