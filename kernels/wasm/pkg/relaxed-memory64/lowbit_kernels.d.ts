// Written by generate/glue.ts from the module's sections.
export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
  readonly __stack_pointer: WebAssembly.Global;
  readonly embed_rows: (a: bigint, b: bigint, c: number, d: bigint, e: bigint) => void;
  readonly dot_trial: (a: number, b: number) => void;
  readonly linear: (a: bigint, b: bigint) => void;
  readonly prefer_wide: (a: number) => void;
  readonly activation_bytes: (a: number, b: number) => number;
  readonly activation_quantize: (a: bigint, b: bigint, c: number, d: number, e: number, f: bigint) => void;
  readonly pack_rows: (a: number) => number;
  readonly pack_dense: (a: number) => number;
  readonly run: (a: number, b: number) => number;
  readonly attention_scratch_bytes: (a: number, b: number, c: number, d: number) => number;
  readonly selftest: () => number;
  readonly looks_like_x86: () => number;
  readonly shift_positions: (a: number) => number;
  readonly begin_pass: (a: number, b: number, c: number) => void;
  readonly work: (a: number, b: number) => number;
  readonly __heap_base: WebAssembly.Global;
  readonly memory: WebAssembly.Memory;
}

export function createMemory(maximumPages?: number): WebAssembly.Memory;
export function initSync(input: { module: BufferSource | WebAssembly.Module } | BufferSource | WebAssembly.Module, memory?: WebAssembly.Memory): InitOutput;
export default function init(input?: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>, memory?: WebAssembly.Memory): Promise<InitOutput>;
export function embed_rows(a: bigint, b: bigint, c: number, d: bigint, e: bigint): void;
export function dot_trial(a: number, b: number): void;
export function linear(a: bigint, b: bigint): void;
export function prefer_wide(a: number): void;
export function activation_bytes(a: number, b: number): number;
export function activation_quantize(a: bigint, b: bigint, c: number, d: number, e: number, f: bigint): void;
export function pack_rows(a: number): number;
export function pack_dense(a: number): number;
export function run(a: number, b: number): number;
export function attention_scratch_bytes(a: number, b: number, c: number, d: number): number;
export function selftest(): number;
export function looks_like_x86(): number;
export function shift_positions(a: number): number;
export function begin_pass(a: number, b: number, c: number): void;
export function work(a: number, b: number): number;
