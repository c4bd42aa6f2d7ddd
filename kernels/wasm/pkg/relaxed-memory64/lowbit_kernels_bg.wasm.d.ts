// Written by generate/glue.ts from the module's sections.
export const __stack_pointer: WebAssembly.Global;
export const embed_rows: (a: bigint, b: bigint, c: number, d: bigint, e: bigint) => void;
export const dot_trial: (a: number, b: number) => void;
export const linear: (a: bigint, b: bigint) => void;
export const prefer_wide: (a: number) => void;
export const activation_bytes: (a: number, b: number) => number;
export const activation_quantize: (a: bigint, b: bigint, c: number, d: number, e: number, f: bigint) => void;
export const pack_rows: (a: number) => number;
export const pack_dense: (a: number) => number;
export const run: (a: number, b: number) => number;
export const attention_scratch_bytes: (a: number, b: number, c: number, d: number) => number;
export const selftest: () => number;
export const looks_like_x86: () => number;
export const shift_positions: (a: number) => number;
export const begin_pass: (a: number, b: number, c: number) => void;
export const work: (a: number, b: number) => number;
export const __heap_base: WebAssembly.Global;
