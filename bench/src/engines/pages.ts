/** Scripts of pages: each defines start(options) and pass(request), and says when it is ready. */

const page = (script: string): string => `<!doctype html><script type="module">${script}
globalThis.ready = true;
</script>`;

/** lowbit in a worker, where waiting for other threads is allowed. */
export const lowbitPage = (worker: string): string =>
  page(`
const worker = new Worker("/page/${worker}.js", { type: "module" });
const ask = (message) => new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => "error" in data ? reject(new Error(data.error)) : resolve(data.value);
  worker.onerror = ({ message }) => reject(new Error(message || "The worker cannot be loaded."));
  worker.postMessage(message);
});
globalThis.start = (options) => ask({ call: "start", options });
globalThis.pass = (request) => ask({ call: "pass", request });
`);

/** wllama 2.3.1: low-level calls, one for each token. */
export const wllama231Page: string = page(`
import { Wllama, LoggerWithoutDebug } from "/esm/index.min.js";
let wllama;
globalThis.start = async ({ contextLength, threads, modelPath, firstPrompt }) => {
  wllama = new Wllama(
    { "single-thread/wllama.wasm": "/esm/single-thread/wllama.wasm", "multi-thread/wllama.wasm": "/esm/multi-thread/wllama.wasm" },
    { suppressNativeLog: true, logger: LoggerWithoutDebug },
  );
  const blob = await (await fetch(modelPath)).blob();
  const begin = performance.now();
  await wllama.loadModel([blob], { n_ctx: contextLength, n_batch: 512, n_threads: threads });
  const loadMs = performance.now() - begin;
  await pass({ prompt: firstPrompt, decodeTokens: 0, keep: false });
  const openToFirstTokenMs = performance.now() - begin;
  const running = wllama.getNumThreads();
  if (running !== threads) throw new Error("It runs " + running + " threads, not " + threads + ".");
  return { description: "WebAssembly", loadMs, openToFirstTokenMs };
};
let known = "";
globalThis.pass = async ({ prompt, decodeTokens, keep }) => {
  const same = keep && known === prompt.join();
  known = prompt.join();
  if (same) await wllama.kvRemove(prompt.length - 1, -1);
  else await wllama.kvClear();
  const begin = performance.now();
  const rest = same ? prompt.slice(-1) : prompt;
  await wllama.decode(rest, {});
  const prompted = performance.now();
  await wllama.samplingInit({ temp: 0 }, []);
  let token = (await wllama.samplingSample()).token;
  const first = performance.now();
  for (let i = 0; i < decodeTokens; i++) {
    await wllama.decode([token], {});
    token = (await wllama.samplingSample()).token;
  }
  return {
    promptTokens: rest.length,
    promptMs: prompted - begin,
    firstTokenMs: first - begin,
    decodedTokens: decodeTokens,
    decodeMs: performance.now() - first,
  };
};
`);

/** The current wllama: its completion call reports its own timings. */
export const wllamaCurrentPage: string = page(`
import { Wllama, LoggerWithoutDebug } from "/esm/index.min.js";
let wllama;
globalThis.start = async ({ contextLength, threads, modelPath, firstPrompt }) => {
  wllama = new Wllama({ default: "/esm/wasm/wllama.wasm" }, { suppressNativeLog: true, logger: LoggerWithoutDebug });
  const blob = await (await fetch(modelPath)).blob();
  const begin = performance.now();
  await wllama.loadModel([blob], { n_ctx: contextLength, n_batch: 512, n_threads: threads, n_gpu_layers: 0 });
  const loadMs = performance.now() - begin;
  await pass({ prompt: firstPrompt, decodeTokens: 0, keep: false });
  const openToFirstTokenMs = performance.now() - begin;
  const running = wllama.getNumThreads();
  if (running !== threads) throw new Error("It runs " + running + " threads, not " + threads + ".");
  return { description: "WebAssembly", loadMs, openToFirstTokenMs };
};
// It takes text only, and fails on an answer that is no UTF-8: single bytes above 127 are forbidden. Its server counts the tokens
// and times itself, from the first token on, which it counts, too.
const logit_bias = Array.from({ length: 128 }, (_, i) => [128 + i, false]);
globalThis.pass = async ({ prompt, decodeTokens, keep }) => {
  const letters = prompt.map((id) => String.fromCharCode(97 + (id % 26), 97 + ((id >> 5) % 26)));
  const response = await wllama.createCompletion({
    prompt: letters.join(" ").slice(0, Math.ceil(prompt.length * 1.5)),
    max_tokens: decodeTokens + 1,
    temperature: 0,
    ignore_eos: true,
    cache_prompt: keep,
    logit_bias,
  });
  const { prompt_n, prompt_ms, predicted_n, predicted_ms } = response.timings;
  return {
    promptTokens: prompt_n,
    promptMs: prompt_ms,
    firstTokenMs: prompt_ms,
    decodedTokens: predicted_n - 1,
    decodeMs: predicted_ms,
  };
};
`);
