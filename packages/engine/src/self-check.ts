import { type Checkpoint, LowbitError, type Tokenizer } from "@lowbit/core";
import { forward } from "./forward.ts";
import type { Runner } from "./runner.ts";

/** What a probe text becomes: words, numbers, code, spaces, several scripts and an emoji, so that any two tokenizers differ in it. */
const probeText =
  "Hello, World! 3.14159 × 2 = 6.28318\n\tfor (let i = 0; i < 10; i++) {  don't_stop(); }\r\n" +
  "Ünïcödé Привет 你好，世界 こんにちは مرحبا 👩‍🚀   end";

/** Where a checkpoint says what its tokenizer makes of the probe text. */
export const probeKeys: readonly string[] = ["lowbit.tokenizer_probe", "safetensors.lowbit.tokenizer_probe"];

/** A fingerprint of how a tokenizer cuts text: FNV-1a of the ids of a fixed text, in hexadecimal. */
export function tokenizerProbe(tokenizer: Tokenizer): string {
  let hash = 0x811c9dc5;
  for (const id of tokenizer.encode(probeText, { addSpecial: false })) {
    for (let shift = 0; shift < 32; shift += 8) {
      hash = Math.imul(hash ^ ((id >>> shift) & 255), 0x01000193);
    }
  }
  return (hash >>> 0).toString(16).padStart(8, "0");
}

/** Throws `file-corrupt`/tokenizer-probe where the checkpoint states a fingerprint and the tokenizer has another. */
export function checkTokenizer(tokenizer: Tokenizer, { metadata }: Checkpoint, name: string): void {
  const stated = probeKeys.map((key) => metadata.get(key)).find((value) => typeof value === "string");
  if (stated === undefined) return;
  const actual = tokenizerProbe(tokenizer);
  if (actual === stated) return;
  throw new LowbitError(
    "file-corrupt",
    `${name}: its tokenizer cuts text otherwise than the checkpoint states (${actual}, stated ${stated}).`,
    {
      reason: "tokenizer-probe",
      hint: "Tokenizer files of another model or version were put beside it; fetch the checkpoint again.",
    },
  );
}

/**
 * Runs two tokens and looks at the logits: a model whose weights were read wrongly, or are damaged, mostly gives numbers that are none, or
 * the same for every token. Throws `file-corrupt`/self-check.
 */
export async function checkLogits(
  runner: Runner,
  tokenizer: Tokenizer | undefined,
  name: string,
): Promise<void> {
  const { config, plan } = runner;
  if (config.causal === false || plan.contextLength < 2) return;
  const first = tokenizer?.bos ?? 0;
  const tokens = [first, Math.min(config.vocabularySize - 1, 1)];
  const logits = await forward(runner, tokens, { rows: "last" });
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const logit of logits) {
    if (!Number.isFinite(logit)) throw failed(name, "logits are not finite");
    low = Math.min(low, logit);
    high = Math.max(high, logit);
  }
  if (low === high && logits.length > 1) throw failed(name, "every token is as likely as any other");
}

function failed(name: string, what: string): LowbitError {
  return new LowbitError("file-corrupt", `${name} was loaded, but does not work: ${what}.`, {
    reason: "self-check",
    hint:
      "Its weights are damaged, or it is quantized otherwise than its configuration says; fetch it again. " +
      "selfCheck: false loads it all the same.",
  });
}
