/** Tokens per second that an engine has shown while it was warming up. */
export interface Rates {
  readonly prefill: number;
  readonly decode: number;
}

/** Passes of one kind that an engine is asked for. */
export interface Sizing {
  readonly promptTokens: number;
  readonly decodeTokens: number;
  readonly rounds: number;
}

/** Shorter passes say the same of engines that take long for them; those of other engines stay whole. */
const shortenBy = 4;

/**
 * How much of a measurement fits in `limitMs` for one engine: all rounds if they fit, else fewer, else a quarter of the tokens, else none, and why.
 */
export function sizePasses(
  wanted: Sizing,
  rates: Rates,
  limitMs: number,
  mayShorten: boolean,
): Sizing | { readonly reason: string } {
  const short = {
    ...wanted,
    promptTokens: Math.ceil(wanted.promptTokens / shortenBy),
    decodeTokens: Math.ceil(wanted.decodeTokens / shortenBy),
  };
  for (const sizing of mayShorten ? [wanted, short] : [wanted]) {
    const rounds = Math.min(wanted.rounds, Math.floor(limitMs / passMs(sizing, rates)));
    if (rounds >= 1) return { ...sizing, rounds };
  }
  const seconds = Math.round(passMs(wanted, rates) / 1000);
  return {
    reason: `one pass would take ${seconds} s, of the ${Math.round(limitMs / 1000)} s that there are`,
  };
}

export function passMs({ promptTokens, decodeTokens }: Omit<Sizing, "rounds">, rates: Rates): number {
  return 1000 * (promptTokens / rates.prefill + decodeTokens / rates.decode);
}
