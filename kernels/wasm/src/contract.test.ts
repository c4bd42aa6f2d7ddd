import type { BackendFactory } from "@lowbit/core";
import { reference } from "@lowbit/kernels-reference";
import { testBackend } from "@lowbit/testing";
import { threadsOf } from "../test/support.ts";
import { wasm } from "./index.ts";

/** As loads make it, with `threads` threads. */
function factory(variant: "simd128" | "relaxed", threads: number, addressSize: 32 | 64 = 32): BackendFactory {
  const made = wasm({ variant, addressSize });
  return {
    ...made,
    create: (platform) => made.create({ ...platform, threads: threadsOf(threads) }, { threads }),
  };
}

for (const variant of ["simd128", "relaxed"] as const) {
  for (const threads of [1, 3]) {
    testBackend(`wasm ${variant}, ${threads} threads`, factory(variant, threads), { against: reference() });
  }
}

testBackend("wasm, 64-bit addresses", factory("relaxed", 2, 64), { against: reference() });
