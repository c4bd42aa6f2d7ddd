import { type Stage, type TokenModel, utf8 } from "./model.ts";
import { mapStage } from "./stages.ts";
import type { Vocabulary } from "./vocabulary.ts";

/**
 * Byte-level tokens write each byte as one printable character: printable Latin-1 stands for itself,
 * the other 68 bytes are U+0100 and on, in order.
 */
const characters: string[] = [];
const bytesOf = new Map<string, number>();
for (let byte = 0, other = 0; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  const character = String.fromCharCode(printable ? byte : 0x100 + other++);
  characters.push(character);
  bytesOf.set(character, byte);
}

const allPrintable = /^[!-~]*$/;

/** Writes the bytes of a text as characters. */
export function byteText(text: string): string {
  if (allPrintable.test(text)) return text;
  let written = "";
  for (const byte of utf8(text)) written += characters[byte]!;
  return written;
}

export function byteLevelStage(): Stage {
  return mapStage(byteText);
}

/** Decoding of byte-level tokens. One with a character that stands for no byte is plain text, as literal tokens are. */
export function byteLevelDecoding(vocabulary: Vocabulary): Pick<TokenModel, "bytes" | "literalBytes"> {
  const literalBytes = (id: number): Uint8Array => utf8(vocabulary.tokens[id]!);
  return { bytes: (id) => readBytes(vocabulary.tokens[id]!) ?? literalBytes(id), literalBytes };
}

function readBytes(token: string): Uint8Array | undefined {
  const bytes = new Uint8Array(token.length);
  for (let i = 0; i < token.length; i++) {
    const byte = bytesOf.get(token[i]!);
    if (byte === undefined) return undefined;
    bytes[i] = byte;
  }
  return bytes;
}
