import type { AnswerParser, AnswerPiece, Tokenizer } from "@lowbit/core";
import { createStopMatcher } from "./stop.ts";

/** Reasoning, and pieces of calls. */
type SidePiece = Exclude<AnswerPiece, { type: "text" }>;

/** What became certain with a token. */
export interface AnswerStep {
  /** What stood before the text. */
  readonly before: readonly SidePiece[];
  /** Of the answer itself. */
  readonly text: string;
  readonly after: readonly SidePiece[];
  readonly stopped: boolean;
}

/** From tokens to what an answer says: characters made whole, stop strings found, reasoning and calls taken out. */
export interface Answer {
  /** Tool calls so far. */
  readonly calls: number;
  push(id: number): AnswerStep;
  /** Text that was held back; `stopped`: by a stop string, after which nothing counts. */
  finish(stopped: boolean): AnswerStep;
}

export function createAnswer(
  tokenizer: Tokenizer | undefined,
  stop: readonly string[],
  parser: AnswerParser | undefined,
): Answer {
  const decoder = tokenizer?.stream();
  const stops = createStopMatcher(stop);
  let calls = 0;

  /** The parser reads special tokens that nobody else sees. */
  const textOf = (id: number): string =>
    tokenizer && parser?.markers.has(id) && tokenizer.isSpecial(id)
      ? decoder!.flush() + (tokenizer.token(id) ?? "")
      : (decoder?.push(id) ?? "");

  const divide = (text: string, pieces: readonly AnswerPiece[] | undefined, stopped: boolean): AnswerStep => {
    if (pieces === undefined) return { before: [], text, after: [], stopped };
    const before: SidePiece[] = [];
    const after: SidePiece[] = [];
    let shown = "";
    for (const piece of pieces) {
      if (piece.type === "text") shown += piece.text;
      else (shown === "" ? before : after).push(piece);
      if (piece.type === "tool-call") calls++;
    }
    // With no text between, the token itself comes first.
    return shown === ""
      ? { before: [], text: "", after: before, stopped }
      : { before, text: shown, after, stopped };
  };

  return {
    get calls() {
      return calls;
    },
    push(id) {
      const { text, stopped } = stops.push(textOf(id));
      return divide(text, parser?.push(text), stopped);
    },
    finish(stopped) {
      const last = stopped ? { text: "", stopped } : stops.push(decoder?.flush() ?? "");
      const text = last.text + (last.stopped ? "" : stops.flush());
      return divide(text, parser && [...parser.push(text), ...parser.flush()], last.stopped);
    },
  };
}
