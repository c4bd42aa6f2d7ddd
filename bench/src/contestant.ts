/** One measured pass: a fresh context, a prompt, then greedy decoding on top of it. */
export interface Pass {
  readonly promptTokens: number;
  readonly promptMs: number;
  readonly decodedTokens: number;
  readonly decodeMs: number;
}

/** An engine in the comparison. It is loaded once and then asked for passes, turn by turn with the others. */
export interface Contestant {
  readonly name: string;
  readonly version: string;
  /** Milliseconds from an open file to a model that can run. */
  readonly loadMs: number;
  pass(prompt: readonly number[], decodeTokens: number): Promise<Pass>;
  close(): Promise<void>;
}

export interface ContestantOptions {
  readonly modelPath: string;
  readonly contextLength: number;
  readonly threads: number;
}

export type ContestantFactory = (options: ContestantOptions) => Promise<Contestant>;

export function tokensPerSecond(tokens: number, ms: number): number {
  return (tokens / ms) * 1000;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
