import { LowbitError, type Platform } from "@lowbit/core";
import { type AddressSize, createMemory, modulePages } from "./memory.ts";

export type Variant = "simd128" | "relaxed";

/** One file of this package: a variant for one thread, for several over shared memory, or with 64-bit addresses, and for any number. */
export type ModuleName = Variant | `${Variant}-threads` | "relaxed-memory64";

/** Compiled modules handed over by the user, for runtimes where the platform cannot find them. */
export type KernelModules = Partial<Record<ModuleName, WebAssembly.Module>>;

export interface VariantOptions {
  /** @default "auto" */
  readonly variant?: "auto" | Variant;
  /** For several threads? @default false */
  readonly shared?: boolean;
  /** @default 32 */
  readonly addressSize?: AddressSize;
  /** "auto" chooses among these. */
  readonly modules?: KernelModules;
  /** Where the platform finds them, unless `modules` is given. */
  readonly urls?: ((name: ModuleName) => URL) | undefined;
}

export interface ChosenModule {
  readonly variant: Variant;
  /** It wants shared memory. */
  readonly shared: boolean;
  readonly addressSize: AddressSize;
  readonly module: WebAssembly.Module;
  /** relaxed: is the four-way dot product one instruction here? Matters to speed alone. @default true */
  readonly wideDots?: boolean;
}

/** (module (func (param v128 v128 v128) (result v128) …)) around one i32x4.relaxed_dot_i8x16_i7x16_add_s. */
const relaxedProbe: Uint8Array<ArrayBuffer> = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x08, 0x01, 0x60, 0x03, 0x7b, 0x7b, 0x7b, 0x01, 0x7b],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x0a, 0x0d, 0x01, 0x0b, 0x00, 0x20, 0x00, 0x20, 0x01, 0x20, 0x02, 0xfd, 0x93, 0x02, 0x0b],
);

/** The same around i32x4.dot_i16x8_s of two operands. */
const simdProbe: Uint8Array<ArrayBuffer> = Uint8Array.of(
  ...[0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00],
  ...[0x01, 0x07, 0x01, 0x60, 0x02, 0x7b, 0x7b, 0x01, 0x7b],
  ...[0x03, 0x02, 0x01, 0x00],
  ...[0x0a, 0x0b, 0x01, 0x09, 0x00, 0x20, 0x00, 0x20, 0x01, 0xfd, 0xba, 0x01, 0x0b],
);

/** Does the engine have memory with 64-bit addresses, in its final form? */
export function supportsMemory64(): boolean {
  try {
    createMemory(modulePages, { shared: true, addressSize: 64 });
    return true;
  } catch {
    return false;
  }
}

/** Does the engine accept 128-bit SIMD, without which nothing here runs? */
export function supportsSimd(): boolean {
  return WebAssembly.validate(simdProbe);
}

/**
 * Picks the build for this engine: `relaxed` where the engine knows its dot product and computes it right (Node 20 behind
 * its flag does not), else `simd128`. Both compute the same bits. Throws `backend-unavailable` if the wish cannot be met.
 */
export async function chooseVariant(platform: Platform, options: VariantOptions = {}): Promise<ChosenModule> {
  const { shared = false, addressSize = 32, modules, urls } = options;
  const variant = addressSize === 64 ? "relaxed" : (options.variant ?? "auto");
  const nameOf = (wanted: Variant): ModuleName =>
    addressSize === 64 ? "relaxed-memory64" : shared ? `${wanted}-threads` : wanted;
  if (!supportsSimd()) {
    throw unavailable("this engine has no 128-bit SIMD in WebAssembly", "no-simd", "Use a newer runtime.");
  }
  const load = async (wanted: Variant): Promise<ChosenModule> => {
    const name = nameOf(wanted);
    if (modules === undefined && urls !== undefined)
      return { variant: wanted, shared, addressSize, module: await platform.wasm(urls(name)) };
    const module = modules?.[name];
    if (module !== undefined) return { variant: wanted, shared, addressSize, module };
    const given = Object.keys(modules ?? {}).join(", ") || "none";
    throw unavailable(
      `the ${name} module was not handed over (given: ${given})`,
      "no-module",
      "Add it to `modules`.",
    );
  };
  if (variant === "simd128") return load("simd128");
  if (variant === "auto" && modules !== undefined && modules[nameOf("relaxed")] === undefined)
    return load("simd128");
  if (WebAssembly.validate(relaxedProbe)) {
    const chosen = await load("relaxed");
    if ((await instantiate(chosen)).selftest() === 1) return chosen;
  }
  if (variant === "auto") return load("simd128");
  throw unavailable(
    "this engine lacks relaxed SIMD or computes it wrongly",
    "no-relaxed-simd",
    'Use variant "auto" or "simd128".',
  );
}

interface TrialExports {
  /** 1 if the instructions that engines have got wrong give known answers. */
  selftest(): number;
  dot_trial(wide: number, count: number): void;
  looks_like_x86(): number;
}

/** An instance with a memory of its own. */
async function instantiate(chosen: ChosenModule): Promise<TrialExports> {
  const { module } = chosen;
  const memory = createMemory(modulePages, chosen);
  const { exports } = await WebAssembly.instantiate(module, { env: { memory } });
  if (typeof exports.selftest !== "function") {
    throw unavailable(
      "the relaxed module is not one of lowbit's",
      "wrong-module",
      "Build it with kernels/wasm/build.sh.",
    );
  }
  return exports as unknown as TrialExports;
}

/** Long enough for engines to replace their first, hasty code, in which all dot products take the same time. */
const trialMs = 20;

/**
 * The wide dot product is one instruction with SDOT (ARM) and AVX-VNNI, five on other x86, where 16-bit sums are faster.
 * A short trial fills in `wideDots`; where the clock stands still or ticks too slowly, the kind of processor decides.
 */
export async function measureDots(chosen: ChosenModule, platform: Platform): Promise<ChosenModule> {
  if (chosen.variant !== "relaxed") return chosen;
  const trial = await instantiate(chosen);
  const best = [Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY];
  const begin = platform.now();
  for (let round = 0; round < 400 && platform.now() - begin < trialMs; round++) {
    for (const wide of [0, 1]) {
      const start = platform.now();
      trial.dot_trial(wide, 16);
      best[wide] = Math.min(best[wide]!, platform.now() - start);
    }
    if (round % 50 === 49) await platform.yield();
  }
  const [narrow = 0, wide = 0] = best;
  const clear = narrow > 0 && Math.abs(wide - narrow) > 0.1 * narrow;
  return { ...chosen, wideDots: clear ? wide < narrow : trial.looks_like_x86() === 0 };
}

function unavailable(what: string, reason: string, hint: string): LowbitError {
  return new LowbitError("backend-unavailable", `The WebAssembly kernels cannot run: ${what}.`, {
    reason,
    hint,
    plugin: "wasm",
  });
}
