import type { Activation, AttentionOptions, LowbitError, Ops, Tensor, Weight } from "@lowbit/core";
import { AttentionRecorder } from "./attention.ts";
import type { WasmKv } from "./kv.ts";
import { byElements, byProductRows } from "./phases.ts";
import { misuse, Op, type Recorder, real } from "./recorder.ts";
import type { WasmTensor } from "./tensor.ts";
import { activationBytes, type WasmWeight } from "./weights.ts";

const activations: Readonly<Record<Activation, number>> = {
  silu: 0,
  gelu: 1,
  "gelu-tanh": 2,
  relu: 3,
  "relu-squared": 4,
  sigmoid: 5,
};

/** What the operations need of the backend: its own handles behind the contract's. Each throws for foreign or freed ones. */
export interface OpsContext {
  readonly recorder: Recorder;
  readonly kernels: {
    attention_scratch_bytes(heads: number, kvHeads: number, keySize: number, valueSize: number): number;
  };
  tensor(tensor: Tensor, type: "f32" | "i32"): WasmTensor;
  weight(weight: Weight): WasmWeight;
  kv(kv: AttentionOptions["kv"]): WasmKv;
}

/** The contract's operations: each checks shapes, takes memory for its result and adds an entry to the list. */
export function createOps({ recorder, kernels, tensor, weight: weightOf, kv: kvOf }: OpsContext): Ops {
  const attention = new AttentionRecorder(recorder, kernels);
  const real32 = (x: Tensor): WasmTensor => tensor(x, "f32");

  /** Address of the quantized form of x, where the weight wants it; else 0. */
  function quantized(x: WasmTensor, weight: WasmWeight): number {
    return weight.quantizes ? recorder.quantized(x, activationBytes(x.rows, x.columns)) : 0;
  }

  /** x as the weight wants its columns. */
  function ordered(x: WasmTensor, weight: WasmWeight): WasmTensor {
    return weight.order === undefined ? x : recorder.permuted(x, weight.order, weight.columns);
  }

  function elementwise(op: number, name: string, x: WasmTensor, y: WasmTensor): WasmTensor {
    const repeat = y.rows === 1 && x.rows !== 1;
    if (y.columns !== x.columns || (y.rows !== x.rows && !repeat)) {
      throw mismatch(name, x, `y ${shape(y)}, expected the same shape or [1, ${x.columns}]`);
    }
    const result = recorder.tensor(x.rows, x.columns);
    const sharing = repeat ? 0 : byElements(x.rows, x.columns);
    recorder.reads(x, sharing);
    recorder.reads(y, sharing);
    recorder.writes(result, sharing);
    recorder.record(op, x.word, y.word, result.word, x.rows, x.columns, repeat ? 1 : 0);
    return result;
  }

  function mapped(op: number, x: WasmTensor, ...rest: number[]): WasmTensor {
    const result = recorder.tensor(x.rows, x.columns);
    const sharing = byElements(x.rows, x.columns);
    recorder.reads(x, sharing);
    recorder.writes(result, sharing);
    recorder.record(op, x.word, result.word, x.rows * x.columns, ...rest);
    return result;
  }

  function rowwise(op: number, x: WasmTensor): WasmTensor {
    const result = recorder.tensor(x.rows, x.columns);
    recorder.reads(x);
    recorder.writes(result);
    recorder.record(op, x.word, result.word, x.rows, x.columns);
    return result;
  }

  function checkIds(name: string, ids: Int32Array, bound: number): void {
    if (ids.length === 0) throw invalid(name, "there are no rows to take");
    for (const id of ids) {
      if (id < 0 || id >= bound) throw invalid(name, `row ${id} is outside 0 to ${bound - 1}`, "row-range");
    }
  }

  return {
    embed(table, ids) {
      const weight = weightOf(table);
      checkIds("embed", ids, weight.out * weight.experts);
      const result = recorder.tensor(ids.length, weight.in);
      if (weight.order === undefined) {
        recorder.writes(result);
        recorder.recordWithData(Op.embed, [recorder.word(weight.address), result.word, ids.length], ids);
        return result;
      }
      const bytes = ids.length * weight.columns * 4;
      const rows = recorder.allocate(bytes, "Rows in another order");
      recorder.writesBytes(rows, bytes);
      recorder.recordWithData(
        Op.embed,
        [recorder.word(weight.address), recorder.word(rows), ids.length],
        ids,
      );
      recorder.readsBytes(rows, bytes);
      recorder.writes(result);
      const sizes = [ids.length, weight.in, weight.columns];
      recorder.record(
        Op.permuteColumns,
        recorder.word(rows),
        recorder.word(weight.order),
        result.word,
        ...sizes,
        1,
      );
      recorder.release(rows, bytes);
      return result;
    },

    linear(input, linearWeight) {
      const x = real32(input);
      const weight = weightOf(linearWeight);
      if (x.columns !== weight.in) throw mismatch("linear", x, `weight [${weight.out}, ${weight.in}]`);
      if (weight.experts !== 1)
        throw invalid("linear", `the weight has ${weight.experts} experts; use expertLinear`);
      const result = recorder.tensor(x.rows, weight.out);
      const seen = ordered(x, weight);
      const codes = quantized(seen, weight);
      if (codes) recorder.readsBytes(codes, activationBytes(seen.rows, seen.columns));
      recorder.reads(seen);
      recorder.writes(result, byProductRows(x.rows, weight.out));
      recorder.work(Math.max(weight.bytes, (x.rows * x.columns * weight.out) / 4));
      recorder.record(
        Op.linear,
        recorder.word(weight.address),
        seen.word,
        recorder.word(codes),
        x.rows,
        result.word,
      );
      return result;
    },

    expertLinear(input, linearWeight, chosen) {
      const x = real32(input);
      const ids = tensor(chosen, "i32");
      const weight = weightOf(linearWeight);
      const entries = ids.rows * ids.columns;
      if (x.columns !== weight.in || (x.rows !== ids.rows && x.rows !== entries)) {
        throw mismatch("expertLinear", x, `ids ${shape(ids)}, weight [${weight.out}, ${weight.in}]`);
      }
      if (ids.bound > weight.experts) {
        throw invalid(
          "expertLinear",
          `ids go up to ${ids.bound - 1}, the weight has ${weight.experts} experts`,
        );
      }
      const result = recorder.tensor(entries, weight.out);
      const seen = ordered(x, weight);
      const codes = quantized(seen, weight);
      const scratchBytes = (2 * entries + weight.experts + 1) * 4 * recorder.threads;
      const scratch = recorder.allocate(scratchBytes, "Expert lists");
      if (codes) recorder.readsBytes(codes, activationBytes(seen.rows, seen.columns));
      recorder.reads(seen);
      recorder.reads(ids);
      recorder.writesBytes(scratch, scratchBytes);
      recorder.writes(result);
      recorder.work(entries * x.columns * weight.out);
      recorder.record(
        Op.expertLinear,
        recorder.word(weight.address),
        seen.word,
        recorder.word(codes),
        ids.word,
        ids.rows,
        ids.columns,
        x.rows === ids.rows ? 0 : 1,
        result.word,
        recorder.word(scratch),
      );
      recorder.release(scratch, scratchBytes);
      return result;
    },

    rmsNorm(input, { weight: scale, epsilon, group }) {
      const x = real32(input);
      const width = group ?? x.columns;
      if (!(Number.isInteger(width) && width >= 1 && x.columns % width === 0)) {
        throw mismatch("rmsNorm", x, `groups of ${width}`);
      }
      const factors = scale && vectorOf("rmsNorm", x, real32(scale), width);
      const result = recorder.tensor(x.rows, x.columns);
      // Of a single row every thread reads all.
      recorder.reads(x);
      recorder.writes(result, x.rows * x.columns === width ? byElements(1, width) : 0);
      recorder.record(
        Op.rmsNorm,
        x.word,
        factors?.word ?? 0,
        result.word,
        x.rows,
        x.columns,
        width,
        real(epsilon),
      );
      return result;
    },

    layerNorm(input, { weight: scale, bias, epsilon }) {
      const x = real32(input);
      const factors = vectorOf("layerNorm", x, real32(scale), x.columns);
      const shift = bias && vectorOf("layerNorm", x, real32(bias), x.columns);
      const result = recorder.tensor(x.rows, x.columns);
      recorder.reads(x);
      recorder.writes(result, x.rows === 1 ? byElements(1, x.columns) : 0);
      recorder.record(
        Op.layerNorm,
        x.word,
        factors.word,
        shift?.word ?? 0,
        result.word,
        x.rows,
        x.columns,
        real(epsilon),
      );
      return result;
    },

    rope(input, turns, { headSize, pairing }) {
      const x = real32(input);
      const angles = real32(turns);
      const valid = Number.isInteger(headSize) && headSize >= 1 && x.columns % headSize === 0;
      if (!valid || angles.rows !== x.rows || angles.columns % 2 !== 0 || angles.columns > headSize) {
        throw mismatch("rope", x, `angles ${shape(angles)}, head size ${headSize}`);
      }
      const result = recorder.tensor(x.rows, x.columns);
      recorder.reads(x);
      recorder.reads(angles);
      recorder.writes(result);
      recorder.record(
        Op.rope,
        x.word,
        angles.word,
        result.word,
        x.rows,
        x.columns / headSize,
        headSize,
        angles.columns,
        pairing === "halves" ? 1 : 0,
      );
      return result;
    },

    attention: (q, k, v, options) =>
      attention.record(real32(q), real32(k), real32(v), kvOf(options.kv), options),
    add: (x, y) => elementwise(Op.add, "add", real32(x), real32(y)),
    mul: (x, y) => elementwise(Op.mul, "mul", real32(x), real32(y)),

    activate(input, kind) {
      const x = real32(input);
      const result = recorder.tensor(x.rows, x.columns);
      const sharing = byElements(x.rows, x.columns);
      recorder.reads(x, sharing);
      recorder.writes(result, sharing);
      recorder.record(Op.activate, activationOf(kind), x.word, result.word, x.rows * x.columns);
      return result;
    },

    gate(gated, other, kind) {
      const x = real32(gated);
      const up = real32(other);
      if (x.rows !== up.rows || x.columns !== up.columns) throw mismatch("gate", x, `up ${shape(up)}`);
      const result = recorder.tensor(x.rows, x.columns);
      const sharing = byElements(x.rows, x.columns);
      recorder.reads(x, sharing);
      recorder.reads(up, sharing);
      recorder.writes(result, sharing);
      recorder.record(Op.gate, activationOf(kind), x.word, up.word, result.word, x.rows * x.columns);
      return result;
    },

    scale: (x, factor) => mapped(Op.scale, real32(x), real(factor)),

    softcap(x, cap) {
      if (!(cap > 0)) throw invalid("softcap", `the cap is ${cap}, expected > 0`);
      return mapped(Op.softcap, real32(x), real(cap));
    },

    softmax: (x) => rowwise(Op.softmax, real32(x)),
    normalizeRows: (x) => rowwise(Op.normalizeRows, real32(x)),

    topK(input, k) {
      const x = real32(input);
      if (!(Number.isInteger(k) && k >= 1 && k <= x.columns)) throw mismatch("topK", x, `k = ${k}`);
      const ids = recorder.tensor(x.rows, k, "i32", x.columns);
      const values = recorder.tensor(x.rows, k);
      recorder.reads(x);
      recorder.writes(ids);
      recorder.writes(values);
      recorder.record(Op.topK, x.word, x.rows, x.columns, k, ids.word, values.word);
      return { ids, values };
    },

    columns(input, from, to) {
      const x = real32(input);
      if (!(Number.isInteger(from) && Number.isInteger(to) && from >= 0 && from < to && to <= x.columns)) {
        throw mismatch("columns", x, `range [${from}, ${to})`);
      }
      const result = recorder.tensor(x.rows, to - from);
      recorder.reads(x);
      recorder.writes(result);
      recorder.record(Op.columns, x.word, result.word, x.rows, x.columns, from, to - from);
      return result;
    },

    gatherRows(input, rows) {
      const x = real32(input);
      checkIds("gatherRows", rows, x.rows);
      const result = recorder.tensor(rows.length, x.columns);
      recorder.reads(x);
      recorder.writes(result);
      recorder.recordWithData(Op.gatherRows, [x.word, result.word, x.columns, rows.length], rows);
      return result;
    },

    weightedSum(parts, factors) {
      const y = real32(parts);
      const weights = real32(factors);
      if (y.rows !== weights.rows * weights.columns) {
        throw mismatch("weightedSum", y, `weights ${shape(weights)}`);
      }
      const result = recorder.tensor(weights.rows, y.columns);
      recorder.reads(y);
      recorder.reads(weights);
      recorder.writes(result);
      recorder.record(
        Op.weightedSum,
        y.word,
        weights.word,
        result.word,
        weights.rows,
        weights.columns,
        y.columns,
      );
      return result;
    },

    constant(data, rows, columns) {
      const valid = Number.isInteger(rows) && Number.isInteger(columns) && rows >= 1 && columns >= 1;
      if (!valid || data.length !== rows * columns) {
        throw invalid("constant", `${data.length} values do not make [${rows}, ${columns}]`);
      }
      const result = recorder.tensor(rows, columns);
      recorder.copy(result.address, data);
      return result;
    },

    scope: (body) => recorder.scope(body),
  };
}

function activationOf(kind: Activation): number {
  const code = activations[kind];
  if (code === undefined) {
    throw invalid("activate", `the activation ${JSON.stringify(kind)} is unknown`, "activation");
  }
  return code;
}

function vectorOf(name: string, x: WasmTensor, vector: WasmTensor, columns: number): WasmTensor {
  if (vector.rows !== 1 || vector.columns !== columns) {
    throw mismatch(name, x, `weight or bias ${shape(vector)}, expected [1, ${columns}]`);
  }
  return vector;
}

function shape(tensor: Tensor): string {
  return `[${tensor.rows}, ${tensor.columns}]`;
}

function mismatch(name: string, x: Tensor, rest: string): LowbitError {
  return invalid(name, `shapes do not fit: x ${shape(x)}, ${rest}`);
}

function invalid(name: string, what: string, reason = "shape"): LowbitError {
  return misuse(`${name}: ${what}.`, reason);
}
