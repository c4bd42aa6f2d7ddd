import type { FinishReason, GenerateEvent, GenerateRequest } from "@lowbit/core";
import type { Model } from "@lowbit/engine";
import { badField } from "./errors.ts";
import {
  boolean,
  checkFields,
  includesUsage,
  integer,
  isObject,
  labels,
  need,
  object,
  only,
  type Rules,
  readJson,
  samplingRules,
  text,
} from "./fields.ts";
import { chatToolsOf, messagesOf, responseFormatOf, shapeOf, toolsRule } from "./messages.ts";
import type { Models } from "./models.ts";
import { samplingOf, tokenLimit } from "./sampling.ts";
import { chatLogprob, usageOf } from "./tokens.ts";
import { newId, sseLine, type Work } from "./work.ts";

const rules: Rules = {
  ...labels,
  ...samplingRules,
  model: text,
  messages: (value) => (Array.isArray(value) ? undefined : "an array"),
  stream: boolean,
  stream_options: object,
  max_tokens: integer(1),
  max_completion_tokens: integer(1),
  logprobs: boolean,
  top_logprobs: integer(0, 20),
  n: only(1),
  tools: toolsRule,
  tool_choice: (value) =>
    typeof value === "string" || isObject(value) ? undefined : "a string or an object",
  parallel_tool_calls: only(true),
  response_format: object,
  store: only(false),
  modalities: (value) => (JSON.stringify(value) === '["text"]' ? undefined : '["text"] here'),
};

/** POST /v1/chat/completions */
export async function chatCompletions(models: Models, request: Request, work: Work): Promise<Response> {
  const fields = checkFields(await readJson(request), rules);
  need(fields, "model", "messages");
  const model = models.find(fields.model as string);
  const withUsage = includesUsage(fields);
  const generation = requestOf(fields, work);
  await work.start();
  const events = await work.generate(model, generation);
  const head = {
    id: newId("chatcmpl-"),
    created: Math.floor(Date.now() / 1000),
    model: fields.model as string,
    system_fingerprint: `lowbit-${model.info.backend}`,
  };
  const logprobs = fields.logprobs === true;
  if (fields.stream === true) {
    return work.stream(chunks(model, events, head, logprobs, withUsage));
  }
  return Response.json({ ...head, object: "chat.completion", ...(await whole(model, events, logprobs)) });
}

function requestOf(fields: Readonly<Record<string, unknown>>, work: Work): Omit<GenerateRequest, "signal"> {
  const { top_logprobs: topLogprobs = 0, logprobs = false } = fields as {
    top_logprobs?: number;
    logprobs?: boolean;
  };
  if (topLogprobs > 0 && !logprobs) throw badField("top_logprobs", "top_logprobs goes with logprobs: true.");
  const tools = fields.tools === undefined ? [] : chatToolsOf(fields.tools);
  const format =
    fields.response_format === undefined
      ? undefined
      : responseFormatOf(fields.response_format, "response_format");
  return {
    ...samplingOf(fields),
    ...tokenLimit(fields, work.limits.completionTokens, "max_completion_tokens", "max_tokens"),
    ...shapeOf(tools, fields.tool_choice, format),
    messages: messagesOf(fields.messages),
    ...(logprobs && { logprobs, topLogprobs }),
  };
}

export const finishReasons: Readonly<Record<FinishReason, string>> = {
  end: "stop",
  stop: "stop",
  length: "length",
  "tool-calls": "tool_calls",
};

async function whole(
  model: Model,
  events: AsyncGenerator<GenerateEvent>,
  logprobs: boolean,
): Promise<object> {
  const content: object[] = [];
  const calls: object[] = [];
  let answer = "";
  let reasoning = "";
  for await (const event of events) {
    if (event.type === "token" || event.type === "finish") answer += event.text;
    if (event.type === "reasoning") reasoning += event.text;
    if (event.type === "token" && logprobs) content.push(chatLogprob(model.tokenizer, event));
    if (event.type === "tool-call") {
      calls.push({
        id: event.id,
        type: "function",
        function: { name: event.name, arguments: event.arguments },
      });
    }
    if (event.type !== "finish") continue;
    const message = {
      role: "assistant",
      content: answer === "" && calls.length > 0 ? null : answer,
      refusal: null,
      ...(reasoning !== "" && { reasoning_content: reasoning }),
      ...(calls.length > 0 && { tool_calls: calls }),
    };
    const choice = {
      index: 0,
      message,
      logprobs: logprobs ? { content, refusal: null } : null,
      finish_reason: finishReasons[event.reason],
    };
    return { choices: [choice], usage: usageOf(event.usage) };
  }
  throw new TypeError("A generation ended without a finish event.");
}

async function* chunks(
  model: Model,
  events: AsyncGenerator<GenerateEvent>,
  head: object,
  logprobs: boolean,
  withUsage: boolean,
): AsyncGenerator<string, void, void> {
  const line = (choices: readonly object[], usage?: object): string =>
    sseLine({
      ...head,
      object: "chat.completion.chunk",
      choices,
      ...(withUsage && { usage: usage ?? null }),
    });
  const chunk = (delta: object, finish: string | null = null, entry?: object): string =>
    line([
      {
        index: 0,
        delta,
        logprobs: entry ? { content: [entry], refusal: null } : null,
        finish_reason: finish,
      },
    ]);
  /** Calls in the order in which they began. */
  const calls: string[] = [];
  const call = (id: string, name: string, piece: string): string => {
    const known = calls.indexOf(id);
    const index = known < 0 ? calls.push(id) - 1 : known;
    const opening = known < 0 ? { id, type: "function" } : {};
    const called = known < 0 ? { name, arguments: piece } : { arguments: piece };
    return chunk({ tool_calls: [{ index, ...opening, function: called }] });
  };
  yield chunk({ role: "assistant", content: "", refusal: null });
  for await (const event of events) {
    if (event.type === "token") {
      const entry = logprobs ? chatLogprob(model.tokenizer, event) : undefined;
      if (event.text !== "" || entry) yield chunk({ content: event.text }, null, entry);
    } else if (event.type === "reasoning") yield chunk({ reasoning_content: event.text });
    else if (event.type === "tool-call-delta") yield call(event.id, event.name, event.text);
    else if (event.type === "tool-call" && !calls.includes(event.id))
      yield call(event.id, event.name, event.arguments);
    else if (event.type === "finish") {
      if (event.text !== "") yield chunk({ content: event.text });
      yield chunk({}, finishReasons[event.reason]);
      if (withUsage) yield line([], usageOf(event.usage));
    }
  }
  yield sseLine("[DONE]");
}
