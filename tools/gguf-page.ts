/** What a web page imports that wants one format only: weighed by check-size.ts. */
import { createEngine, type Engine } from "@lowbit/engine";
import { gguf } from "@lowbit/gguf";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { platform } from "@lowbit/platform";
import { createTokenizer } from "@lowbit/tokenizers";

export const engine: Engine = createEngine({
  platform: platform(),
  backends: [wasm()],
  plugins: [gguf()],
  architectures,
  createTokenizer,
});
