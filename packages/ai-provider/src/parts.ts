import type {
  LanguageModelV4Content,
  LanguageModelV4FinishReason,
  LanguageModelV4StreamPart,
  LanguageModelV4Usage,
  SharedV4ProviderMetadata,
} from "@ai-sdk/provider";
import { type FinishReason, type GenerateEvent, LowbitError, type Usage } from "@lowbit/core";
import { providerName } from "./options.ts";

type FinishPart = Extract<LanguageModelV4StreamPart, { type: "finish" }>;

/** From the engine's events to the parts of the AI SDK's streams. */
export interface PartWriter {
  push(event: GenerateEvent): LanguageModelV4StreamPart[];
  /** The end of a generation that failed on its way. */
  fail(error: unknown): LanguageModelV4StreamPart[];
}

const finishReasons: Readonly<Record<FinishReason, LanguageModelV4FinishReason["unified"]>> = {
  end: "stop",
  stop: "stop",
  length: "length",
  "tool-calls": "tool-calls",
};

export function createPartWriter(): PartWriter {
  let blocks = 0;
  /** The text or reasoning that is being written. */
  let block: { readonly type: "text" | "reasoning"; readonly id: string } | undefined;
  /** The call whose arguments are being written. */
  let call: string | undefined;
  /** Tokens that nothing has been seen of so far, and those that reasoning was seen of. */
  let unseen = 0;
  let reasoningTokens = 0;

  const closeBlock = (): LanguageModelV4StreamPart[] => {
    if (block === undefined) return [];
    const { type, id } = block;
    block = undefined;
    return [{ type: `${type}-end`, id }];
  };
  const closeCall = (): LanguageModelV4StreamPart[] => {
    if (call === undefined) return [];
    const id = call;
    call = undefined;
    return [{ type: "tool-input-end", id }];
  };
  const write = (type: "text" | "reasoning", delta: string): LanguageModelV4StreamPart[] => {
    if (delta === "") return [];
    const parts = block?.type === type ? [] : closeBlock();
    if (block === undefined) {
      block = { type, id: String(blocks++) };
      parts.push({ type: `${type}-start`, id: block.id });
    }
    return [...parts, { type: `${type}-delta`, id: block.id, delta }];
  };
  const writeCall = (id: string, toolName: string, delta: string): LanguageModelV4StreamPart[] => {
    const parts = closeBlock();
    if (call !== id) {
      parts.push(...closeCall(), { type: "tool-input-start", id, toolName });
      call = id;
    }
    if (delta !== "") parts.push({ type: "tool-input-delta", id, delta });
    return parts;
  };

  return {
    push(event) {
      switch (event.type) {
        case "prompt":
          return [];
        case "token":
          unseen++;
          if (event.text !== "") unseen = 0;
          return write("text", event.text);
        case "reasoning":
          reasoningTokens += unseen;
          unseen = 0;
          return write("reasoning", event.text);
        case "tool-call-delta":
          unseen = 0;
          return writeCall(event.id, event.name, event.text);
        case "tool-call": {
          const { id, name, arguments: input } = event;
          // Where no deltas came before, the call is one.
          const parts = call === id ? [] : writeCall(id, name, input);
          return [
            ...parts,
            ...closeCall(),
            { type: "tool-call", toolCallId: id, toolName: name, input: input.trim() === "" ? "{}" : input },
          ];
        }
        case "finish":
          return [
            ...write("text", event.text),
            ...closeBlock(),
            ...closeCall(),
            {
              type: "finish",
              finishReason: { unified: finishReasons[event.reason], raw: event.reason },
              usage: usageOf(event.usage, reasoningTokens),
              providerMetadata: {
                [providerName]: { seed: event.seed, timings: { ...event.timings } },
              },
            },
          ];
      }
    },
    fail(error) {
      const raw = LowbitError.is(error) ? error.code : undefined;
      return [
        ...closeBlock(),
        ...closeCall(),
        { type: "error", error },
        { type: "finish", finishReason: { unified: "error", raw }, usage: unknownUsage },
      ];
    },
  };
}

const unknownUsage: LanguageModelV4Usage = {
  inputTokens: { total: undefined, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: undefined, text: undefined, reasoning: undefined },
};

function usageOf(usage: Usage, reasoning: number): LanguageModelV4Usage {
  const { promptTokens, cachedTokens, completionTokens } = usage;
  return {
    inputTokens: {
      total: promptTokens,
      noCache: promptTokens - cachedTokens,
      cacheRead: cachedTokens,
      // Every token stays in the cache until its room is needed: there is no writing to account for.
      cacheWrite: undefined,
    },
    outputTokens: { total: completionTokens, text: completionTokens - reasoning, reasoning },
    raw: { ...usage },
  };
}

/** What a whole stream of parts amounts to. */
export interface WholeAnswer {
  readonly content: LanguageModelV4Content[];
  readonly finishReason: LanguageModelV4FinishReason;
  readonly usage: LanguageModelV4Usage;
  readonly providerMetadata: SharedV4ProviderMetadata | undefined;
}

/** Awaits the events of a generation. */
export async function wholeAnswer(events: AsyncIterable<GenerateEvent>): Promise<WholeAnswer> {
  const writer = createPartWriter();
  const content: LanguageModelV4Content[] = [];
  let finish: FinishPart | undefined;
  let text = "";
  for await (const event of events) {
    for (const part of writer.push(event)) {
      if (part.type === "text-delta" || part.type === "reasoning-delta") text += part.delta;
      else if (part.type === "text-end" || part.type === "reasoning-end") {
        content.push({ type: part.type === "text-end" ? "text" : "reasoning", text });
        text = "";
      } else if (part.type === "tool-call") content.push(part);
      else if (part.type === "finish") finish = part;
    }
  }
  if (finish === undefined) throw new TypeError("A generation ended without a finish event.");
  const { finishReason, usage, providerMetadata } = finish;
  return { content, finishReason, usage, providerMetadata };
}
