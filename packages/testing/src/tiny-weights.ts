import type { QuantType } from "@lowbit/core";
import { random, seedFor } from "./random.ts";
import { roundToType } from "./round-to-type.ts";
import type { TinyTensor } from "./tiny-tensors.ts";

/** Above this many weights, blocks are drawn from a pool instead of being quantized one by one. */
const pooledFrom = 2 ** 17;
const poolBlocks = 1024;
const chunkBytes = 2 ** 20;

/**
 * The tensor's blocks, in chunks. Large tensors repeat random blocks from a pool of 1,024 in random order: quick to make,
 * and no two rows are alike.
 */
export function randomBlocks(tensor: TinyTensor, type: QuantType, seed: number): Iterable<Uint8Array> {
  const uniform = random(seedFor(tensor.name, seed));
  const count = tensor.shape.reduce((product, size) => product * size, 1);
  // A uniform distribution reaches √3 standard deviations.
  const reach = tensor.deviation * Math.sqrt(3);
  const draw = (length: number): Float32Array => {
    const values = new Float32Array(length);
    for (let i = 0; i < length; i++) values[i] = tensor.mean + reach * (2 * uniform() - 1);
    return values;
  };
  if (tensor.values) return [roundToType(type, tensor.values)];
  if (count < pooledFrom || count % 32 !== 0) return [roundToType(type, draw(count))];
  // Plain numbers come in runs of 32, so that a pool holds enough of them.
  const run = Math.max(32, type.block);
  const pool = roundToType(type, draw(poolBlocks * run));
  return chunks(pool, pool.length / poolBlocks, count / run, uniform);
}

function* chunks(
  pool: Uint8Array,
  step: number,
  count: number,
  uniform: () => number,
): Generator<Uint8Array> {
  const most = Math.max(1, Math.floor(chunkBytes / step));
  for (let done = 0; done < count; ) {
    const blocks = Math.min(most, count - done);
    const chunk = new Uint8Array(blocks * step);
    for (let i = 0; i < blocks; i++) {
      const from = Math.floor(uniform() * poolBlocks) * step;
      chunk.set(pool.subarray(from, from + step), i * step);
    }
    yield chunk;
    done += blocks;
  }
}
