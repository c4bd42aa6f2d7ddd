/** How text between literal tokens becomes ids, and an id bytes. */
export interface TokenModel {
  /** "bpe", "spm", "unigram", "wordpiece". */
  readonly kind: string;
  /** Applied to a text in turn; what comes out last are the words. */
  readonly stages: readonly Stage[];
  /** Appends the ids of a word. */
  readonly encode: WordEncoder;
  /** UTF-8 of a normal or byte token; it may be part of a character. */
  readonly bytes: (id: number) => Uint8Array;
  /** UTF-8 of a special or user-defined token. */
  readonly literalBytes: (id: number) => Uint8Array;
  /** One space at the start of decoded text is an artefact of encoding. */
  readonly stripsLeadingSpace: boolean;
}

export type WordEncoder = (word: string, ids: number[]) => void;

/** `beginning`: the piece is at the very start of the input. */
export type Emit = (piece: string, beginning: boolean) => void;

/** Changes a piece of text, or cuts it. */
export type Stage = (piece: string, beginning: boolean, emit: Emit) => void;

/** Runs a text through all stages; none sees an empty piece. */
export function runStages(
  stages: readonly Stage[],
  text: string,
  beginning: boolean,
  emit: (word: string) => void,
  from = 0,
): void {
  if (text === "") return;
  const stage = stages[from];
  if (stage === undefined) emit(text);
  else stage(text, beginning, (piece, first) => runStages(stages, piece, first, emit, from + 1));
}

const encoder = new TextEncoder();

export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}
