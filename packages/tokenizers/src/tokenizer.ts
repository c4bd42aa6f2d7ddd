import {
  type ChatMessage,
  type ChatTemplateOptions,
  type EncodeOptions,
  LowbitError,
  type Tokenizer,
  type TokenStream,
} from "@lowbit/core";
import { LiteralMatcher, type LiteralToken } from "./literals.ts";
import { runStages, type TokenModel } from "./model.ts";
import { TokenType, type Vocabulary } from "./vocabulary.ts";

/** Everything that a source says, in one form. */
export interface TokenizerParts {
  readonly vocabulary: Vocabulary;
  readonly model: TokenModel;
  readonly literals: Iterable<LiteralToken>;
  readonly bos: number | undefined;
  readonly eos: number | undefined;
  readonly endTokens: ReadonlySet<number>;
  /** Ids put before and after a text when special tokens are added. */
  readonly prefix: readonly number[];
  readonly suffix: readonly number[];
  /** Its source, beside its renderer. */
  readonly chatTemplate?: string;
  readonly renderChat?: (messages: readonly ChatMessage[], options?: ChatTemplateOptions) => string;
}

export function assembleTokenizer(parts: TokenizerParts): Tokenizer {
  const { vocabulary, model, prefix, suffix } = parts;
  const matcher = new LiteralMatcher(parts.literals);

  const encode = (text: string, options: EncodeOptions = {}): number[] => {
    if (typeof text !== "string") {
      throw new LowbitError(
        "bad-argument",
        `The text to encode is of type ${typeof text}; expected a string.`,
        {
          reason: "invalid-type",
          plugin: "tokenizers",
        },
      );
    }
    const ids: number[] = [];
    const addSpecial = options.addSpecial ?? true;
    if (addSpecial) ids.push(...prefix);
    matcher.split(
      text,
      options.parseSpecial ?? false,
      (piece, beginning) => runStages(model.stages, piece, beginning, (word) => model.encode(word, ids)),
      (id) => ids.push(id),
    );
    if (addSpecial) ids.push(...suffix);
    return ids;
  };

  /** Decoded so far, by id. */
  const known: (Uint8Array | undefined)[] = [];
  const bytesOf = (id: number, special: boolean): Uint8Array => {
    if (!special && vocabulary.isSpecial(id)) return nothing;
    known[id] ??= readBytes(id);
    return known[id];
  };
  const readBytes = (id: number): Uint8Array => {
    const type = vocabulary.type(id);
    if (type === undefined) throw noSuchToken(id, vocabulary.size);
    const literal = vocabulary.isSpecial(id) || type === TokenType.userDefined;
    return literal ? model.literalBytes(id) : model.bytes(id);
  };
  /** Bytes of one id after another, without the space that encoding put first. */
  const reader = (special: boolean): ((id: number) => Uint8Array) => {
    let atStart = model.stripsLeadingSpace;
    return (id) => {
      const bytes = bytesOf(id, special);
      if (!atStart || bytes.length === 0) return bytes;
      atStart = false;
      return bytes[0] === 0x20 ? bytes.subarray(1) : bytes;
    };
  };

  const decode = (ids: readonly number[], options: { special?: boolean } = {}): string => {
    const parts = ids.map(reader(options.special ?? false));
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return utf8Decoder().decode(bytes);
  };

  const stream = (options: { special?: boolean } = {}): TokenStream => {
    const decoder = utf8Decoder();
    const read = reader(options.special ?? false);
    return {
      // The decoder holds back what isn't a whole character yet.
      push: (id) => decoder.decode(read(id), { stream: true }),
      flush: () => decoder.decode(),
    };
  };

  return {
    kind: model.kind,
    vocabularySize: vocabulary.size,
    bos: parts.bos,
    eos: parts.eos,
    endTokens: parts.endTokens,
    encode,
    decode,
    // Not from `known`: whoever asks goes over the whole vocabulary once.
    bytes: (id, options = {}) => (vocabulary.isSpecial(id) && !options.special ? nothing : readBytes(id)),
    token: (id) => vocabulary.tokens[id],
    id: (token) => vocabulary.id(token),
    isSpecial: (id) => vocabulary.isSpecial(id),
    stream,
    ...(parts.chatTemplate === undefined ? {} : { chatTemplate: parts.chatTemplate }),
    ...(parts.renderChat === undefined ? {} : { renderChat: parts.renderChat }),
  };
}

const nothing = new Uint8Array(0);

/** U+FEFF is text, not a mark. */
function utf8Decoder(): TextDecoder {
  return new TextDecoder("utf-8", { ignoreBOM: true });
}

function noSuchToken(id: number, size: number): LowbitError {
  return new LowbitError("bad-argument", `There is no token ${id}; the vocabulary has ${size}.`, {
    reason: "invalid-token",
    plugin: "tokenizers",
  });
}
