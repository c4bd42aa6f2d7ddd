import {
  type ChatMessage,
  type Completion,
  type GenerateEvent,
  type GenerateRequest,
  LowbitError,
  type ToolCall,
} from "@lowbit/core";

/** What a chat sets once; each turn may override the sampling. */
export interface ChatOptions extends Omit<GenerateRequest, "prompt" | "messages" | "signal"> {
  /** The system message. */
  system?: string;
  /** Earlier turns. */
  messages?: readonly ChatMessage[];
}

export type TurnOptions = Omit<GenerateRequest, "prompt" | "messages">;

/** A conversation. The cache keeps its beginning, so that a turn computes only what is new. */
export interface Chat {
  /** Everything said so far, the system message included. */
  readonly messages: readonly ChatMessage[];
  /** Says something and waits for the whole answer. */
  send(content: string | ChatMessage, options?: TurnOptions): Promise<Completion>;
  /**
   * Says something and yields the answer's events. The turn joins `messages` when the answer is complete; one that is aborted,
   * fails or is left early leaves them as they were.
   */
  stream(content: string | ChatMessage, options?: TurnOptions): AsyncGenerator<GenerateEvent, void, void>;
  /** Forgets everything but the system message. */
  clear(): void;
}

export function createChat(
  generate: (request: GenerateRequest) => AsyncGenerator<GenerateEvent, void, void>,
  complete: (events: AsyncIterable<GenerateEvent>) => Promise<Completion>,
  options: ChatOptions = {},
): Chat {
  const { system, messages: earlier, ...defaults } = options;
  const opening: ChatMessage[] = system === undefined ? [] : [{ role: "system", content: system }];
  let messages: ChatMessage[] = [...opening, ...(earlier ?? [])];
  let busy = false;

  async function* stream(
    content: string | ChatMessage,
    turn: TurnOptions = {},
  ): AsyncGenerator<GenerateEvent, void, void> {
    if (busy) {
      throw new LowbitError("bad-argument", "This chat is still answering.", {
        reason: "busy",
        hint: "Wait for the answer, or abort it; several chats may run side by side.",
      });
    }
    busy = true;
    const before = messages;
    try {
      const message: ChatMessage = typeof content === "string" ? { role: "user", content } : content;
      const asked = [...before, message];
      let text = "";
      const calls: ToolCall[] = [];
      for await (const event of generate({ ...defaults, ...turn, messages: asked })) {
        if (event.type === "token" || event.type === "finish") text += event.text;
        if (event.type === "tool-call") calls.push(event);
        if (event.type === "finish" && messages === before) messages = [...asked, answerMessage(text, calls)];
        yield event;
      }
    } finally {
      busy = false;
    }
  }

  return {
    get messages() {
      return messages;
    },
    send: (content, turn) => complete(stream(content, turn)),
    stream,
    clear() {
      messages = [...opening];
    },
  };
}

/** As chat templates read it: arguments as an object. */
function answerMessage(content: string, calls: readonly ToolCall[]): ChatMessage {
  if (calls.length === 0) return { role: "assistant", content };
  const toolCalls = calls.map(({ id, name, arguments: input }) => ({
    id,
    type: "function",
    function: { name, arguments: JSON.parse(input) as unknown },
  }));
  return { role: "assistant", content, tool_calls: toolCalls };
}
