import { type KvSpec, type KvType, kvParts, kvPositionBytes, LowbitError } from "@lowbit/core";

/**
 * A session, little-endian:
 *
 *     0   16 bytes  "lowbit-session", padded with 0
 *     16  u32       version, 1
 *     20  u32       type of keys and values: 0 f32, 1 f16, 2 q8_0
 *     24  u32 × 5   layers, kvHeads, keySize, valueSize, positions of a page
 *     44  u32       tokens
 *     48  u32       bytes of the note
 *     52  u32       0
 *     56  32 bytes  the model's identity (identity.ts)
 *     88  u32 each  token ids
 *         bytes     the note, UTF-8
 *         32 bytes  SHA-256 of all before
 *
 * Then page by page: the keys and values of its positions (`KvPart` in core), the last page only those that it has, and SHA-256 of the
 * digest before and these bytes. So each page is checked, and that they are of one session and in order.
 */
export interface SessionHead {
  readonly kv: KvSpec;
  readonly identity: Uint8Array;
  readonly tokens: readonly number[];
  readonly note: string;
}

const magic: Uint8Array = new TextEncoder().encode("lowbit-session\0\0");
const version = 1;
const fixedBytes = 88;
const digestBytes = 32;
const types: readonly KvType[] = ["f32", "f16", "q8_0"];
/** A conversation of any context fits. */
export const mostNoteBytes: number = 2 ** 24;

/** Bytes of each page's part, without its digest. */
export function pageSizes(kv: KvSpec, tokens: number): number[] {
  const position = kvPositionBytes(kv);
  return Array.from(
    { length: Math.ceil(tokens / kv.pageTokens) },
    (_, page) => position * Math.min(kv.pageTokens, tokens - page * kv.pageTokens),
  );
}

/** What comes before the pages, with its digest behind. */
export async function encodeHead({ kv, identity, tokens, note }: SessionHead): Promise<Uint8Array> {
  const noted = new TextEncoder().encode(note);
  if (noted.length > mostNoteBytes) {
    throw new LowbitError("bad-argument", `saveSession: the note has ${noted.length} bytes.`, {
      reason: "note",
      hint: `Give at most ${mostNoteBytes}.`,
    });
  }
  const bytes = new Uint8Array(fixedBytes + 4 * tokens.length + noted.length + digestBytes);
  const view = new DataView(bytes.buffer);
  bytes.set(magic);
  const { layers, kvHeads, keySize, valueSize, pageTokens } = kv;
  const words = [version, types.indexOf(kv.type), layers, kvHeads, keySize, valueSize, pageTokens];
  for (const [i, word] of [...words, tokens.length, noted.length, 0].entries()) {
    view.setUint32(16 + 4 * i, word, true);
  }
  bytes.set(identity, 56);
  for (const [i, token] of tokens.entries()) view.setUint32(fixedBytes + 4 * i, token, true);
  bytes.set(noted, fixedBytes + 4 * tokens.length);
  const end = bytes.length - digestBytes;
  bytes.set(await sha256(bytes.subarray(0, end)), end);
  return bytes;
}

/** A session whose every byte has been checked. */
export interface OpenedSession {
  readonly tokens: readonly number[];
  readonly note: string;
  /** Keys and values of each page, as views. */
  readonly pages: readonly Uint8Array[];
}

/**
 * Checks a session against the model that is to have it, sizes first: nothing is read, hashed or allocated on the word of a header that the
 * bytes do not bear out. Throws `file-corrupt` for damage and `bad-argument` for a session of another model or kind of cache.
 */
export async function openSession(
  bytes: Uint8Array,
  wanted: Pick<SessionHead, "kv" | "identity"> & { contextLength: number; vocabularySize: number },
): Promise<OpenedSession> {
  if (bytes.length < fixedBytes + digestBytes)
    throw corrupt(`${bytes.length} bytes are too few`, "truncated");
  if (!sameBytes(bytes.subarray(0, magic.length), magic)) {
    throw corrupt("it does not begin like one", "not-a-session");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (at: number): number => view.getUint32(at, true);
  if (word(16) !== version) {
    throw foreign(`it has version ${word(16)}, and ${version} is known here`, "session-version");
  }
  checkKv(word, wanted.kv);
  const [count, noteBytes] = [word(44), word(48)];
  if (word(52) !== 0) throw corrupt("a reserved word is not 0", "reserved");
  const headBytes = fixedBytes + 4 * count + noteBytes + digestBytes;
  const position = kvPositionBytes(wanted.kv);
  const pageCount = Math.ceil(count / wanted.kv.pageTokens);
  const expected = headBytes + position * count + pageCount * digestBytes;
  if (count === 0 || noteBytes > mostNoteBytes || bytes.length !== expected) {
    throw corrupt(`it has ${bytes.length} bytes where its sizes ask for ${expected}`, "truncated");
  }
  if (!sameBytes(bytes.subarray(56, fixedBytes), wanted.identity)) {
    throw foreign("another model wrote it, or other weights of the same one", "session-model");
  }
  if (count > wanted.contextLength) {
    throw foreign(
      `its ${count} tokens do not fit a context of ${wanted.contextLength}`,
      "session-context",
      "Load the model with a larger contextLength.",
    );
  }
  const headEnd = headBytes - digestBytes;
  let digest = await sha256(bytes.subarray(0, headEnd));
  if (!sameBytes(bytes.subarray(headEnd, headBytes), digest))
    throw corrupt("its head is damaged", "checksum");
  const tokens = Array.from({ length: count }, (_, i) => word(fixedBytes + 4 * i));
  const outside = tokens.findIndex((token) => token >= wanted.vocabularySize);
  if (outside >= 0) throw corrupt(`token ${outside} is ${tokens[outside]}`, "token-id");
  const note = decodeNote(bytes.subarray(fixedBytes + 4 * count, headEnd));
  const pages: Uint8Array[] = [];
  let at = headBytes;
  for (const size of pageSizes(wanted.kv, count)) {
    const page = bytes.subarray(at, at + size);
    at += size + digestBytes;
    digest = await chained(digest, page);
    if (!sameBytes(bytes.subarray(at - digestBytes, at), digest)) {
      throw corrupt(`page ${pages.length} is damaged`, "checksum");
    }
    checkValues(wanted.kv, page);
    pages.push(page);
  }
  return { tokens, note, pages };
}

/** SHA-256 of a digest and the bytes behind it. */
export function chained(digest: Uint8Array, bytes: Uint8Array): Promise<Uint8Array> {
  const joined = new Uint8Array(digest.length + bytes.length);
  joined.set(digest);
  joined.set(bytes, digest.length);
  return sha256(joined);
}

/** Throws `backend-unavailable` where a page has no Web Crypto. */
export async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  const { subtle } = (globalThis as { crypto?: { subtle?: SubtleCrypto } }).crypto ?? {};
  if (subtle === undefined) {
    throw new LowbitError("backend-unavailable", "Sessions need Web Crypto, which is absent here.", {
      reason: "no-web-crypto",
      hint: "Browsers give it to pages from https and localhost.",
    });
  }
  // A copy: what others may write, or share, is no input for it.
  return new Uint8Array(await subtle.digest("SHA-256", new Uint8Array(bytes)));
}

function checkKv(word: (at: number) => number, kv: KvSpec): void {
  const type = types[word(20)];
  if (type === undefined) throw corrupt(`its type of cache is ${word(20)}`, "kv-type");
  if (type !== kv.type) {
    throw foreign(
      `its cache is ${type}, the model's ${kv.type}`,
      "session-kv",
      `Load with kvCache: "${type}".`,
    );
  }
  const names = ["layers", "kvHeads", "keySize", "valueSize", "pageTokens"] as const;
  for (const [i, name] of names.entries()) {
    const found = word(24 + 4 * i);
    if (found !== kv[name]) {
      throw foreign(`its cache has ${name} ${found}, the model's ${kv[name]}`, "session-model");
    }
  }
}

function decodeNote(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw corrupt("its note is not UTF-8", "note", cause);
  }
}

/** A checksum vouches for nobody: numbers that no cache holds would spread through the model. */
function checkValues(kv: KvSpec, page: Uint8Array): void {
  const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
  const cells = page.length / kvPositionBytes(kv);
  let at = 0;
  for (let layer = 0; layer < kv.layers; layer++) {
    for (const { kind, cellBytes } of kvParts(kv)) {
      const end = at + cells * kv.kvHeads * cellBytes;
      const scales = kind === "keyScales" || kind === "valueScales";
      let good = true;
      if (kv.type === "f32") {
        for (; at < end; at += 4) good &&= (view.getUint32(at, true) & 0x7f80_0000) !== 0x7f80_0000;
      } else if (kv.type === "f16" || scales) {
        for (; at < end; at += 2) good &&= (view.getUint16(at, true) & 0x7c00) !== 0x7c00;
      } else {
        for (; at < end; at++) good &&= page[at] !== 0x80;
      }
      if (!good) throw corrupt(`its ${kind} hold what is no number of ${kv.type}`, "kv-values");
    }
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function corrupt(what: string, reason: string, cause?: unknown): LowbitError {
  return new LowbitError("file-corrupt", `This is not a whole session: ${what}.`, {
    reason,
    hint: "Compute the text again.",
    cause,
  });
}

function foreign(
  what: string,
  reason: string,
  hint = "Restore it into the model that saved it, or compute the text again.",
): LowbitError {
  return new LowbitError("bad-argument", `This session does not fit: ${what}.`, { reason, hint });
}
