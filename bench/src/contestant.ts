/** What is asked of an engine once it is loaded. */
export interface PassRequest {
  readonly prompt: readonly number[];
  /** Tokens to write, greedily, beyond the first. */
  readonly decodeTokens: number;
  /**
   * The prompt is the one before, and what the engine remembers of it may be used: of such a pass only the decoding counts. Else nothing is
   * remembered.
   */
  readonly keep: boolean;
}

/** One measured pass: a prompt, then greedy decoding on top of it. */
export interface Pass {
  /** Tokens that were read. */
  readonly promptTokens: number;
  readonly promptMs: number;
  /** Until the first token was there. */
  readonly firstTokenMs: number;
  readonly decodedTokens: number;
  readonly decodeMs: number;
}

/** A model that has been loaded where the engine runs: this process's child, or a page. */
export interface Started {
  /** What the engine says about itself. */
  readonly description: string;
  /** From an open file to a model that can run. */
  readonly loadMs: number;
  /** From an open file to the first token after a prompt of eight. */
  readonly openToFirstTokenMs: number;
}

/** The part of an engine that runs beside its model. */
export interface Engine {
  pass(request: PassRequest): Promise<Pass>;
  close(): Promise<void>;
}

/** An engine in the comparison, in a process of its own. */
export interface Contestant extends Engine, Started {
  readonly version: string;
  /** The largest resident set that any one of its processes has had; undefined where the system does not tell. */
  peakMemoryBytes(): number | undefined;
  /** What a page fetches to run it: scripts and modules, gzipped; undefined outside of pages. */
  readonly downloadBytes: number | undefined;
}

export interface StartOptions {
  /** Path of a GGUF file or a folder; in a page, the address of the file or of a folder, with a slash at its end. */
  readonly modelPath: string;
  readonly contextLength: number;
  readonly threads: number;
  /** Eight tokens. */
  readonly firstPrompt: readonly number[];
}

export function tokensPerSecond(tokens: number, ms: number): number {
  return (tokens / ms) * 1000;
}

/** NaN of nothing. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** Ids that share no beginning with another seed's, so that no cache helps. */
export function promptOf(length: number, seed: number, vocabularySize: number): number[] {
  const from = Math.floor(vocabularySize / 4);
  const span = Math.floor(vocabularySize / 2);
  return Array.from({ length }, (_, index) => from + ((index * 7919 + (seed + 1) * 104_729) % span));
}
