/** Finds stop strings in text that arrives in pieces. */
export interface StopMatcher {
  /** Text that is certain to stand before any stop string, and whether one has been found. */
  push(text: string): { readonly text: string; readonly stopped: boolean };
  /** What was held back in case a stop string followed. */
  flush(): string;
}

/** Holds back the longest tail that could begin a stop string; text after the first one found is dropped. */
export function createStopMatcher(stops: readonly string[]): StopMatcher {
  let held = "";
  return {
    push(text) {
      if (stops.length === 0) return { text, stopped: false };
      held += text;
      const found = stops.map((stop) => held.indexOf(stop)).filter((at) => at >= 0);
      const at = found.length > 0 ? Math.min(...found) : held.length - possibleTail(held, stops);
      const out = held.slice(0, at);
      held = found.length > 0 ? "" : held.slice(at);
      return { text: out, stopped: found.length > 0 };
    },
    flush() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}

/** Length of the longest tail of `text` that is a proper beginning of a stop string. */
function possibleTail(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    const most = Math.min(stop.length - 1, text.length);
    for (let length = most; length > longest; length--) {
      if (text.endsWith(stop.slice(0, length))) longest = length;
    }
  }
  return longest;
}
