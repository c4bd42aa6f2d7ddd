import { Command } from "commander";
import type { Model } from "lowbit";
import { type ChatMessage, type GenerateEvent, type GenerateRequest, LowbitError } from "lowbit";
import { UsageError } from "../errors.ts";
import { terminalText } from "../format.ts";
import { type Io, readAll, writeJson } from "../io.ts";
import { interruptible, modelLabel, openModel } from "../model.ts";
import {
  addCacheOption,
  addDraftOption,
  addLoadOptions,
  addSamplingOptions,
  type DraftFlags,
  type LoadFlags,
  type SamplingFlags,
  samplingOf,
} from "../options.ts";
import { createProgress } from "../progress.ts";
import { openSession, writeSession } from "../session.ts";
import { lineReader } from "./lines.ts";

interface RunFlags extends LoadFlags, DraftFlags, SamplingFlags {
  readonly prompt?: string;
  readonly system?: string;
  readonly raw?: boolean;
  readonly interactive?: boolean;
  readonly session?: string;
  readonly json?: boolean;
  readonly stats?: boolean;
}

export function runCommand(io: Io): Command {
  const command = new Command("run")
    .description("answer one prompt, or chat")
    .argument(
      "[model]",
      "file, folder, URL or hf:org/repository of a model (default: pico, which comes with lowbit)",
    )
    .option("-p, --prompt <text>", "the prompt; without it standard input is read, on a terminal as a chat")
    .option("-s, --system <text>", "the system message")
    .option("-i, --interactive", "chat line by line even if standard input is not a terminal")
    .option(
      "--session <file>",
      "go on where the run that wrote this file ended, and write it again at the end",
    )
    .option("--raw", "continue the prompt as it stands, without the model's chat template");
  addSamplingOptions(command);
  addDraftOption(addCacheOption(addLoadOptions(command)));
  return command
    .option("--json", "print every event as a line of JSON")
    .option("--stats", "print token counts and speeds to standard error at the end")
    .action((model: string | undefined, flags: RunFlags) => run(io, model, flags));
}

async function run(io: Io, model: string | undefined, flags: RunFlags): Promise<void> {
  if (flags.prompt !== undefined && flags.interactive) {
    throw new UsageError("--prompt asks one question and --interactive many; give one of them.");
  }
  const chatting = flags.interactive || (flags.prompt === undefined && io.stdin.isTTY === true);
  const prompt = chatting ? undefined : (flags.prompt ?? (await readAll(io.stdin)));
  if (prompt === "")
    throw new UsageError("The prompt is empty; give one with --prompt or on standard input.");

  const { model: loaded, close } = await interruptible(io, (signal) => openModel(io, model, flags, signal));
  try {
    const templated = loaded.tokenizer.renderChat !== undefined && !flags.raw;
    if (flags.system !== undefined && !templated) {
      throw new UsageError("--system needs a chat template, which is absent or switched off here.");
    }
    const said = flags.session === undefined ? undefined : await openSession(loaded, flags.session);
    const earlier = said ?? systemOf(flags);
    let messages = earlier;
    if (prompt === undefined) messages = await chat(io, loaded, modelLabel(model), templated, flags, earlier);
    else {
      const user: ChatMessage = { role: "user", content: prompt };
      const request = templated ? { messages: [...earlier, user] } : { prompt };
      const content = await interruptible(io, (signal) => answer(io, loaded, request, flags, signal));
      messages = [...earlier, user, { role: "assistant", content }];
    }
    if (flags.session !== undefined && messages !== earlier) {
      await writeSession(loaded, flags.session, templated ? messages : []);
    }
  } finally {
    await close();
  }
}

function systemOf(flags: RunFlags): ChatMessage[] {
  return flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
}

/** Generates and prints; returns the text. */
async function answer(
  io: Io,
  model: Model,
  request: GenerateRequest,
  flags: RunFlags,
  signal: AbortSignal,
): Promise<string> {
  const progress = createProgress(io);
  const show = (text: string) => io.stdout.write(io.stdout.isTTY ? terminalText(text) : text);
  let text = "";
  let finish: (GenerateEvent & { type: "finish" }) | undefined;
  try {
    for await (const event of model.generate({ ...request, ...samplingOf(flags), signal })) {
      if (flags.json) writeJson(io, event);
      if (event.type === "prompt") {
        progress.update("reading", event.done, event.total, "tokens");
        continue;
      }
      progress.clear();
      // What a model thinks is not its answer: a pipe gets the answer alone.
      if (event.type === "reasoning" && !flags.json) io.stderr.write(terminalText(event.text));
      if (event.type !== "token" && event.type !== "finish") continue;
      if (!flags.json) show(event.text);
      text += event.text;
      if (event.type === "finish") finish = event;
    }
  } finally {
    progress.clear();
    if (!flags.json && text !== "" && !text.endsWith("\n")) io.stdout.write("\n");
  }
  if (flags.stats && finish !== undefined) io.stderr.write(`${statsLine(finish)}\n`);
  return text;
}

function statsLine({ reason, seed, usage, timings }: GenerateEvent & { type: "finish" }): string {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  const rate = (value: number) => value.toFixed(value < 100 ? 1 : 0);
  return [
    `prompt ${promptTokens} tokens (${cachedTokens} from the cache) at ${rate(timings.promptTokensPerSecond)} tokens/s`,
    `answer ${completionTokens} tokens at ${rate(timings.tokensPerSecond)} tokens/s`,
    `seed ${seed}`,
    `ended by ${reason}`,
  ].join(" · ");
}

const help = "/clear forgets the conversation, /exit leaves (as Ctrl-D does), Ctrl-C stops an answer.\n";

/** Turns until the user leaves; the conversation as it stands then. */
async function chat(
  io: Io,
  model: Model,
  label: string,
  templated: boolean,
  flags: RunFlags,
  earlier: ChatMessage[],
): Promise<ChatMessage[]> {
  const terminal = io.stdin.isTTY === true;
  const say = (text: string) => (terminal ? io.stderr.write(text) : undefined);
  say(`${label}, ${model.info.backend}. ${help}`);
  if (!templated) say("There is no chat template: each line is continued as it stands.\n");
  let messages = earlier;
  const lines = lineReader(io);
  try {
    for (let line = await lines.next(); line !== undefined; line = await lines.next()) {
      const text = line.trim();
      if (text === "") continue;
      if (text === "/exit") break;
      if (text === "/clear") messages = systemOf(flags);
      else if (text === "/help") io.stderr.write(help);
      else if (text.startsWith("/")) io.stderr.write(`There is no ${text.split(" ")[0]}. ${help}`);
      else messages = await turn(io, model, messages, text, templated, flags);
    }
  } finally {
    lines.close();
  }
  return messages;
}

/** One question and its answer; the conversation as it stands afterwards. */
async function turn(
  io: Io,
  model: Model,
  messages: ChatMessage[],
  text: string,
  templated: boolean,
  flags: RunFlags,
): Promise<ChatMessage[]> {
  const asked: ChatMessage[] = [...messages, { role: "user", content: text }];
  const request = templated ? { messages: asked } : { prompt: text };
  try {
    const reply = await interruptible(io, (signal) => answer(io, model, request, flags, signal));
    return [...asked, { role: "assistant", content: reply }];
  } catch (error) {
    if (!LowbitError.is(error)) throw error;
    if (error.code === "aborted" && io.stdin.isTTY === true) {
      io.stderr.write("(stopped; this question is forgotten)\n");
      return messages;
    }
    if (error.code === "context-full") {
      io.stderr.write(`${error.message} /clear starts over.\n`);
      return messages;
    }
    throw error;
  }
}
