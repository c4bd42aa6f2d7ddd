/** What a page runs that wants GGUF files alone. */
import { createEngine } from "@lowbit/engine";
import { gguf } from "@lowbit/gguf";
import { wasm } from "@lowbit/kernels-wasm";
import { architectures } from "@lowbit/models";
import { platform } from "@lowbit/platform";
import { createTokenizer } from "@lowbit/tokenizers";
import { serveWorker } from "./lowbit-worker.ts";

const engine = createEngine({
  platform: platform(),
  backends: [wasm()],
  plugins: [gguf()],
  architectures,
  createTokenizer,
});
serveWorker((location, options) => engine.load(location, options));
