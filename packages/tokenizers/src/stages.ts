import { LowbitError } from "@lowbit/core";
import type { Stage } from "./model.ts";

/** What becomes of the matches of a splitting pattern; the names are those of tokenizer.json. */
export type SplitBehavior = "Removed" | "Isolated" | "MergedWithPrevious" | "MergedWithNext" | "Contiguous";

/** A stage that changes the text and never cuts it. */
export function mapStage(change: (text: string, beginning: boolean) => string): Stage {
  return (piece, beginning, emit) => emit(change(piece, beginning), beginning);
}

/** A stage that cuts at the matches of a global pattern; `invert` swaps matches and gaps. */
export function splitStage(
  pattern: RegExp,
  behavior: SplitBehavior = "Isolated",
  invert: boolean = false,
): Stage {
  return (piece, beginning, emit) => {
    let first = beginning;
    const send = (text: string): void => {
      if (text === "") return;
      emit(text, first);
      first = false;
    };
    if (behavior === "Isolated") {
      eachPart(pattern, piece, send);
      return;
    }
    /** What waits for a part that may join it. */
    let open = "";
    let openIsMatch = false;
    eachPart(pattern, piece, (text, found) => {
      const isMatch = found !== invert;
      const joins = joinsPrevious(behavior, openIsMatch, isMatch);
      if (!joins) {
        send(open);
        open = "";
      }
      if (isMatch && behavior === "Removed") first = false;
      else open += text;
      openIsMatch = isMatch;
    });
    send(open);
  };
}

function joinsPrevious(behavior: SplitBehavior, previousIsMatch: boolean, isMatch: boolean): boolean {
  switch (behavior) {
    case "Contiguous":
      return previousIsMatch === isMatch;
    case "MergedWithPrevious":
      return isMatch && !previousIsMatch;
    case "MergedWithNext":
      return previousIsMatch && !isMatch;
    default:
      return false;
  }
}

/** Calls back with matches and the gaps between them, in order. Empty matches cut nothing. */
function eachPart(pattern: RegExp, text: string, visit: (part: string, isMatch: boolean) => void): void {
  let end = 0;
  for (let from = 0; from <= text.length; ) {
    const match = nextMatch(pattern, text, from);
    if (match === undefined) break;
    const [start, found] = match;
    if (found === "") {
      // Past the whole of a surrogate pair.
      from = start + ((text.codePointAt(start) ?? 0) > 0xffff ? 2 : 1);
      continue;
    }
    if (start > end) visit(text.slice(end, start), false);
    visit(found, true);
    end = start + found.length;
    from = end;
  }
  if (end < text.length) visit(end === 0 ? text : text.slice(end), false);
}

function nextMatch(
  pattern: RegExp,
  text: string,
  from: number,
): readonly [start: number, found: string] | undefined {
  // The caller's visitor may run the same pattern, so its own state is no use.
  pattern.lastIndex = from;
  try {
    const match = pattern.exec(text);
    return match === null ? undefined : [match.index, match[0]];
  } catch (cause) {
    // Engines give up on runs of millions of characters, with a RangeError or an internal error.
    throw new LowbitError(
      "bad-argument",
      `The text has too long a run of like characters: the engine gave up at character ${from} of ${text.length}.`,
      { reason: "limit-exceeded", plugin: "tokenizers", hint: "Encode it in parts.", cause },
    );
  }
}
