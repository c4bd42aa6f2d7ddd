import { Worker } from "node:worker_threads";
import binaryen from "binaryen";

/** Larger than caches of today; each thread has its own. */
const bufferBytes = 2 ** 28;
const loads = 16;

/** (func $read (param from, to)): reads memory from one address to the other, 16 bytes a load, and mixes what it read. */
export function readModule(): Uint8Array<ArrayBuffer> {
  const body = Array.from({ length: loads }, (_, i) => {
    const sum = `$s${i % 4}`;
    return `(local.set ${sum} (v128.xor (local.get ${sum}) (v128.load offset=${16 * i} (local.get $at))))`;
  });
  const wat = `(module (memory (export "memory") ${bufferBytes / 65536})
    (func (export "read") (param $at i32) (param $to i32) (result i32)
      (local $s0 v128) (local $s1 v128) (local $s2 v128) (local $s3 v128)
      (loop $more
        ${body.join("\n")}
        (local.set $at (i32.add (local.get $at) (i32.const ${16 * loads})))
        (br_if $more (i32.lt_u (local.get $at) (local.get $to))))
      (i32x4.extract_lane 0 (v128.xor (v128.xor (local.get $s0) (local.get $s1)) (v128.xor (local.get $s2) (local.get $s3))))))`;
  const module = binaryen.parseText(wat);
  try {
    module.setFeatures(binaryen.Features.SIMD128);
    if (!module.validate()) throw new Error("The loop that reads memory is not valid.");
    return new Uint8Array(module.emitBinary());
  } finally {
    module.dispose();
  }
}

/** In each thread: says when its memory is there, reads it over and over for a while that begins for all at once, and says how much that was. */
const script = `
const { parentPort, workerData } = require("node:worker_threads");
const { exports } = new WebAssembly.Instance(new WebAssembly.Module(workerData.code));
const bytes = exports.memory.buffer.byteLength;
// Pages that were never written are all the same page.
new Uint8Array(exports.memory.buffer).fill(1);
for (let i = 0; i < 8; i++) exports.read(0, bytes);
parentPort.on("message", ({ start, ms }) => {
  while (Date.now() < start);
  let done = 0;
  const begin = performance.now();
  do { exports.read(0, bytes); done += bytes; } while (performance.now() - begin < ms);
  parentPort.postMessage({ bytes: done, ms: performance.now() - begin });
});
parentPort.postMessage("ready");
`;

/** What bounds decoding: how fast weights can be read at all. */
export interface Bandwidth {
  readonly threads: number;
  readonly bytesPerSecond: number;
  readonly method: string;
}

/**
 * Bytes per second that so many threads read together, from 256 MiB each. It is WebAssembly that reads, with 128-bit loads: native code with
 * wider ones may read a little faster on one thread. The best of several trials, as others can only slow it down.
 */
export async function readBandwidth(threads: number, trials = 5, trialMs = 400): Promise<Bandwidth> {
  const code = readModule();
  const workers = Array.from(
    { length: threads },
    () => new Worker(script, { eval: true, workerData: { code } }),
  );
  try {
    await Promise.all(workers.map((worker) => reply(worker)));
    let best = 0;
    for (let trial = 0; trial < trials; trial++) {
      const request = { start: Date.now() + 20, ms: trialMs };
      const results = workers.map(async (worker) => {
        const answer = reply(worker);
        worker.postMessage(request);
        return (await answer) as { bytes: number; ms: number };
      });
      const rates = (await Promise.all(results)).map(({ bytes, ms }) => (bytes / ms) * 1000);
      best = Math.max(
        best,
        rates.reduce((sum, rate) => sum + rate, 0),
      );
    }
    const method = "WebAssembly, 128-bit loads from 256 MiB a thread";
    return { threads, bytesPerSecond: Math.round(best), method };
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

function reply(worker: Worker): Promise<unknown> {
  return new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
}
