import { sha256 } from "@noble/hashes/sha2.js";

/** SHA-256 of bytes that come in parts, which the web's own digest does not do. */
export interface Hasher {
  update(bytes: Uint8Array): void;
  /** Lower-case hexadecimal. Ends the hasher. */
  hex(): string;
}

export function createHasher(): Hasher {
  const hash = sha256.create();
  return {
    update(bytes) {
      hash.update(bytes);
    },
    hex: () => toHex(hash.digest()),
  };
}

/** SHA-256 at once: the runtime's own where there is one (browsers have it in secure contexts only). */
export async function digestOf(bytes: Uint8Array): Promise<string> {
  const { subtle } = (globalThis as { crypto?: { subtle?: SubtleCrypto } }).crypto ?? {};
  if (subtle === undefined) return toHex(sha256(bytes));
  return toHex(new Uint8Array(await subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>)));
}

export function isSha256(text: unknown): text is string {
  return typeof text === "string" && /^[0-9a-f]{64}$/.test(text);
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
