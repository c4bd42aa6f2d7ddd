import { reference } from "@lowbit/kernels-reference";
import { testBackend } from "@lowbit/testing";
import { variants } from "../test/support.ts";
import { wasm } from "./index.ts";

for (const variant of variants) testBackend(`wasm ${variant}`, wasm({ variant }), { against: reference() });
