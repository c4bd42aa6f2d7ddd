import type { Model } from "lowbit";

export interface Answer {
  readonly ids: readonly number[];
  readonly text: string;
  readonly backend: string;
  readonly contextLength: number;
  /** SHA-256 of the question's last row of logits. */
  readonly logits: string;
}

/** The same question everywhere, greedily. */
export async function question(model: Model): Promise<Answer> {
  const ids: number[] = [];
  let text = "";
  const messages = [{ role: "user" as const, content: "What is 12 + 7?" }];
  for await (const event of model.generate({ messages, temperature: 0, maxTokens: 32 })) {
    if (event.type === "token") {
      ids.push(event.id);
      text += event.text;
    }
  }
  const logits = await model.forward(model.tokenizer.encode(messages[0]?.content ?? ""), { rows: "last" });
  const { backend, contextLength } = model.info;
  return { ids, text, backend, contextLength, logits: await sha256(logits) };
}

/** The hash of all bits of these numbers, in hexadecimal digits. */
export async function sha256(numbers: Float32Array): Promise<string> {
  const bytes = new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return hash.reduce((hex, byte) => hex + byte.toString(16).padStart(2, "0"), "");
}
