// Written by generate/glue.ts from the module's sections.
let instance;

/** A memory that the kernels accept; grow it at will. */
export function createMemory(maximumPages = 262144) {
  return new WebAssembly.Memory({ address: "i64", initial: 4n, maximum: BigInt(maximumPages), shared: true });
}

function finish(created, memory) {
  instance = { ...created.exports, memory };
  return instance;
}

function isOptions(input) {
  return typeof input === "object" && input !== null && ("module_or_path" in input || "module" in input);
}

/** Instantiates from bytes or a compiled module, at once. */
export function initSync(input, memory = createMemory()) {
  const source = isOptions(input) ? input.module : input;
  const module = source instanceof WebAssembly.Module ? source : new WebAssembly.Module(source);
  return finish(new WebAssembly.Instance(module, { env: { memory } }), memory);
}

/** Instantiates from a URL, Request, Response, bytes or compiled module; without an argument from the file beside this one. */
export default async function init(input, memory = createMemory()) {
  let source = isOptions(input) ? input.module_or_path : input;
  source = await (source ?? new URL("lowbit_kernels_bg.wasm", import.meta.url));
  if (typeof source === "string" || source instanceof URL || (typeof Request === "function" && source instanceof Request)) {
    source = await fetch(source);
  }
  if (typeof Response === "function" && source instanceof Response) {
    if (!source.ok) throw new Error(`${source.url}: HTTP status ${source.status}`);
    source = await source.arrayBuffer();
  }
  const module = source instanceof WebAssembly.Module ? source : await WebAssembly.compile(source);
  return finish(await WebAssembly.instantiate(module, { env: { memory } }), memory);
}

export function embed_rows(...values) {
  return instance.embed_rows(...values);
}

export function dot_trial(...values) {
  return instance.dot_trial(...values);
}

export function linear(...values) {
  return instance.linear(...values);
}

export function prefer_wide(...values) {
  return instance.prefer_wide(...values);
}

export function activation_bytes(...values) {
  return instance.activation_bytes(...values);
}

export function activation_quantize(...values) {
  return instance.activation_quantize(...values);
}

export function pack_rows(...values) {
  return instance.pack_rows(...values);
}

export function pack_dense(...values) {
  return instance.pack_dense(...values);
}

export function run(...values) {
  return instance.run(...values);
}

export function attention_scratch_bytes(...values) {
  return instance.attention_scratch_bytes(...values);
}

export function selftest(...values) {
  return instance.selftest(...values);
}

export function looks_like_x86(...values) {
  return instance.looks_like_x86(...values);
}

export function shift_positions(...values) {
  return instance.shift_positions(...values);
}

export function begin_pass(...values) {
  return instance.begin_pass(...values);
}

export function work(...values) {
  return instance.work(...values);
}
