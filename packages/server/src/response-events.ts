import type { GenerateEvent, Usage } from "@lowbit/core";
import { newId } from "./work.ts";

/** An event of the responses API; those at the ends hold the whole response. */
export interface ResponseEvent {
  readonly type: string;
  readonly sequence_number: number;
  readonly response?: object;
  readonly [field: string]: unknown;
}

type Fields = Readonly<Record<string, unknown>>;

/** An item of the output while it is being written. */
interface OpenItem {
  readonly kind: "message" | "reasoning" | "function_call";
  readonly id: string;
  /** Of a call, as the engine names it. */
  readonly call: string;
  readonly name: string;
  text: string;
}

/** A generation as the events of the responses API: created, items with their pieces, completed. */
export async function* responseEvents(
  events: AsyncIterable<GenerateEvent>,
  echo: object,
): AsyncGenerator<ResponseEvent, void, void> {
  let number = 0;
  const event = (type: string, fields: Fields): ResponseEvent => ({
    type,
    sequence_number: number++,
    ...fields,
  });
  const output: object[] = [];
  const head = { id: newId("resp_"), object: "response", created_at: Math.floor(Date.now() / 1000), ...echo };
  const response = (status: string, more: object = {}): object => ({
    ...head,
    status,
    error: null,
    incomplete_details: null,
    output,
    usage: null,
    ...more,
  });
  let open: OpenItem | undefined;

  const place = (item: OpenItem): Fields => ({ item_id: item.id, output_index: output.length });
  const part = (item: OpenItem): Fields => ({ ...place(item), content_index: 0 });

  function* begin(item: OpenItem): Generator<ResponseEvent> {
    if (open !== undefined && open.kind === item.kind && open.call === item.call) return;
    yield* finish();
    open = item;
    yield event("response.output_item.added", {
      output_index: output.length,
      item: itemOf(item, "in_progress"),
    });
    if (item.kind !== "function_call") {
      yield event("response.content_part.added", { ...part(item), part: partOf(item.kind, "") });
    }
  }

  function* finish(status = "completed"): Generator<ResponseEvent> {
    if (open === undefined) return;
    const item = open;
    open = undefined;
    const { text, name } = item;
    if (item.kind === "function_call") {
      yield event("response.function_call_arguments.done", { ...place(item), name, arguments: text });
    } else {
      const done = item.kind === "message" ? "response.output_text.done" : "response.reasoning_text.done";
      yield event(done, { ...part(item), text, ...(item.kind === "message" && { logprobs: [] }) });
      yield event("response.content_part.done", { ...part(item), part: partOf(item.kind, text) });
    }
    const ended = itemOf(item, status);
    yield event("response.output_item.done", { output_index: output.length, item: ended });
    output.push(ended);
  }

  function* write(kind: "message" | "reasoning", text: string): Generator<ResponseEvent> {
    if (text === "") return;
    yield* begin({ kind, id: newId(kind === "message" ? "msg_" : "rs_"), call: "", name: "", text: "" });
    if (open === undefined) return;
    open.text += text;
    const type = kind === "message" ? "response.output_text.delta" : "response.reasoning_text.delta";
    yield event(type, { ...part(open), delta: text, ...(kind === "message" && { logprobs: [] }) });
  }

  yield event("response.created", { response: response("in_progress") });
  yield event("response.in_progress", { response: response("in_progress") });
  for await (const piece of events) {
    if (piece.type === "token") yield* write("message", piece.text);
    else if (piece.type === "reasoning") yield* write("reasoning", piece.text);
    else if (piece.type === "tool-call-delta" || piece.type === "tool-call") {
      const { id: call, name } = piece;
      yield* begin({ kind: "function_call", id: newId("fc_"), call, name, text: "" });
      if (open === undefined) continue;
      // A call that comes whole, without pieces, is one piece.
      const whole = piece.type === "tool-call";
      const delta = whole ? piece.arguments.slice(open.text.length) : piece.text;
      open.text += delta;
      if (delta !== "") yield event("response.function_call_arguments.delta", { ...place(open), delta });
      if (whole) yield* finish();
    } else if (piece.type === "finish") {
      yield* write("message", piece.text);
      const cut = piece.reason === "length";
      yield* finish(cut ? "incomplete" : "completed");
      const usage = usageOf(piece.usage);
      yield cut
        ? event("response.incomplete", {
            response: response("incomplete", { usage, incomplete_details: { reason: "max_output_tokens" } }),
          })
        : event("response.completed", { response: response("completed", { usage }) });
    }
  }
}

function itemOf({ kind, id, call, name, text }: OpenItem, status: string): object {
  if (kind === "function_call") return { type: kind, id, status, call_id: call, name, arguments: text };
  const content = status === "in_progress" ? [] : [partOf(kind, text)];
  if (kind === "reasoning") return { type: kind, id, status, summary: [], content };
  return { type: kind, id, status, role: "assistant", content };
}

function partOf(kind: "message" | "reasoning", text: string): object {
  if (kind === "reasoning") return { type: "reasoning_text", text };
  return { type: "output_text", text, annotations: [], logprobs: [] };
}

function usageOf({ promptTokens, cachedTokens, completionTokens }: Usage): object {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens },
    output_tokens: completionTokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens: promptTokens + completionTokens,
  };
}
