import type { SafetensorsDtype, SafetensorsTensor } from "@lowbit/core";
import type { ModuleTensors } from "@lowbit/packing";
import { blockOf, fourBitWeight } from "./four-bit.ts";
import { unnest } from "./nested.ts";
import type { VariantModule } from "./read.ts";
import { parseState } from "./state.ts";
import { bookType, fail } from "./types.ts";

/** `bnb_4bit_quant_storage` only renames the bytes. */
const storages: readonly SafetensorsDtype[] = ["U8", "I8", "F16", "BF16", "F32"];

/** Reads and checks the state and the table of values of one weight. */
export async function openFourBit(
  tensors: ModuleTensors,
  kind: string,
  signal: AbortSignal | undefined,
): Promise<VariantModule> {
  const { checkpoint, where } = tensors;
  if (kind !== "nf4" && kind !== "fp4") {
    const what = `${where} has 4-bit type ${JSON.stringify(kind)}; nf4 and fp4 are known`;
    throw fail("unsupported-type", what, "type-unsupported");
  }
  const stateTensor = tensors.need(`weight.quant_state.bitsandbytes__${kind}`, ["U8"]);
  const state = parseState(where, kind, await checkpoint.read(stateTensor, signal));
  const { blockSize, nested } = state;
  const count = state.out * state.in;
  const blocks = Math.ceil(count / blockSize);
  const codes = tensors.need("weight", storages);
  const unit = { F16: 2, BF16: 2, F32: 4 }[codes.dtype as string] ?? 1;
  checkBytes(where, codes, Math.ceil(count / 2 / unit) * unit);
  const map = tensors.need("weight.quant_map", ["F32"], [16]);
  const absmax = tensors.need("weight.absmax", ["F32", "U8"]);
  const isNested = absmax.dtype === "U8";
  checkBytes(where, absmax, blocks * (isNested ? 1 : 4));
  if (!isNested && (nested || tensors.has("weight.nested_absmax")))
    throw fail("invalid-config", `${where}: its absmax is plain, but there are nested parts`);
  if (isNested && !nested)
    throw fail("invalid-config", `${where}: its absmax is nested, but its quant_state does not say how`);
  const outer = isNested ? tensors.need("weight.nested_absmax", ["F32"]) : undefined;
  if (outer && nested) checkBytes(where, outer, Math.ceil(blocks / nested.blockSize) * 4);
  const outerMap = isNested ? tensors.need("weight.nested_quant_map", ["F32"], [256]) : undefined;
  const table = await tensors.floats(map, signal);
  if (!table.every(Number.isFinite)) throw fail("invalid-value", `${where}: its quant_map is not finite`);
  const type = bookType(kind, table, blockOf(state));
  const shape = { out: state.out, in: state.in, segments: [{ type, from: 0, to: state.in }] };
  const module = tensors.open(shape, async (signal) => {
    const [packed, scaleBytes, outerScales, levels] = await Promise.all([
      checkpoint.read(codes, signal),
      checkpoint.read(absmax, signal),
      outer && tensors.floats(outer, signal),
      outerMap && tensors.floats(outerMap, signal),
    ]);
    const second =
      nested && outerScales && levels ? { ...nested, outer: outerScales, map: levels } : undefined;
    const scales = second ? unnest(scaleBytes, second) : new Float32Array(scaleBytes.slice().buffer);
    const bad = scales.findIndex((scale) => !Number.isFinite(scale));
    if (bad >= 0) throw fail("non-finite-scale", `${where}: absmax ${bad} is not finite`);
    return fourBitWeight({ state, table, packed, absmax: scales, ...(second && { nested: second }) });
  });
  return { variant: isNested ? `${kind}-nested` : kind, module };
}

/** Shapes vary between versions; the count of bytes does not. */
function checkBytes(where: string, { name, bytes }: SafetensorsTensor, expected: number): void {
  if (bytes === expected) return;
  throw fail("shape-mismatch", `${where}: ${name} has ${bytes} bytes, expected ${expected}`);
}
