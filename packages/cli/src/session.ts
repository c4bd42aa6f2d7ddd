import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { type ChatMessage, LowbitError, type Model } from "lowbit";

/** Puts a session into the model; its conversation, or undefined if there is no such file yet. */
export async function openSession(model: Model, path: string): Promise<ChatMessage[] | undefined> {
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const { note } = await model.restoreSession(bytes);
  return conversationOf(note, path);
}

/** Saves what the model said last, with the conversation. The file appears whole, or stays as it was. */
export async function writeSession(
  model: Model,
  path: string,
  messages: readonly ChatMessage[],
): Promise<void> {
  const partial = `${path}.partial`;
  try {
    await writeFile(partial, model.streamSession({ note: JSON.stringify({ messages }) }));
    await rename(partial, path);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
}

function conversationOf(note: string, path: string): ChatMessage[] {
  try {
    const { messages } = JSON.parse(note) as { messages?: unknown };
    if (Array.isArray(messages) && messages.every(isMessage)) return messages;
  } catch {
    // Said below.
  }
  throw new LowbitError("file-corrupt", `${path}: the session holds no conversation.`, {
    reason: "session-note",
    hint: "It was not written by this command; give another file.",
  });
}

function isMessage(value: unknown): value is ChatMessage {
  if (typeof value !== "object" || value === null) return false;
  const { role, content } = value as { role?: unknown; content?: unknown };
  return typeof role === "string" && typeof content === "string";
}
