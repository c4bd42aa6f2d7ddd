import type { GenerateEvent } from "@lowbit/core";
import type { Model } from "@lowbit/engine";
import { finishReasons } from "./chat.ts";
import { badField } from "./errors.ts";
import {
  boolean,
  checkFields,
  includesUsage,
  integer,
  labels,
  need,
  object,
  only,
  type Rules,
  readJson,
  samplingRules,
  text,
} from "./fields.ts";
import type { Models } from "./models.ts";
import { samplingOf, tokenLimit } from "./sampling.ts";
import { finite, usageOf } from "./tokens.ts";
import { newId, sseLine, type Work } from "./work.ts";

const isIds = (value: unknown): value is number[] =>
  Array.isArray(value) && value.length > 0 && value.every((id) => Number.isInteger(id));

const rules: Rules = {
  ...labels,
  ...samplingRules,
  model: text,
  prompt: () => undefined,
  stream: boolean,
  stream_options: object,
  max_tokens: integer(1),
  logprobs: integer(0, 5),
  n: only(1),
  best_of: only(1),
  echo: only(false),
};

/** POST /v1/completions: continues a text, or token ids. */
export async function completions(models: Models, request: Request, work: Work): Promise<Response> {
  const fields = checkFields(await readJson(request), rules);
  need(fields, "model", "prompt");
  const model = models.find(fields.model as string);
  const withUsage = includesUsage(fields);
  const { logprobs } = fields as { logprobs?: number };
  const generation = {
    ...samplingOf(fields),
    // OpenAI's default, which clients of this route count on.
    ...tokenLimit(
      { max_tokens: Math.min(16, work.limits.completionTokens), ...fields },
      work.limits.completionTokens,
      "max_tokens",
    ),
    prompt: promptOf(fields.prompt),
    ...(logprobs !== undefined && { logprobs: true, topLogprobs: logprobs }),
  };
  await work.start();
  const events = await work.generate(model, generation);
  const head = {
    id: newId("cmpl-"),
    object: "text_completion",
    created: Math.floor(Date.now() / 1000),
    model: fields.model as string,
    system_fingerprint: `lowbit-${model.info.backend}`,
  };
  const table = logprobs === undefined ? undefined : createTable(model);
  if (fields.stream === true) return work.stream(chunks(events, head, table, withUsage));
  let answer = "";
  for await (const event of events) {
    if (event.type === "token") table?.add(event, answer.length);
    if (event.type === "token" || event.type === "finish") answer += event.text;
    if (event.type !== "finish") continue;
    const choice = {
      index: 0,
      text: answer,
      logprobs: table?.take() ?? null,
      finish_reason: finishReasons[event.reason],
    };
    return Response.json({ ...head, choices: [choice], usage: usageOf(event.usage) });
  }
  throw new TypeError("A generation ended without a finish event.");
}

function promptOf(prompt: unknown): string | number[] {
  // One text may come in an array of its own.
  const one = Array.isArray(prompt) && prompt.length === 1 && !isIds(prompt) ? prompt[0] : prompt;
  if (typeof one === "string" || isIds(one)) return one;
  throw badField("prompt", "prompt must be one string or one array of token ids.");
}

async function* chunks(
  events: AsyncGenerator<GenerateEvent>,
  head: object,
  table: Table | undefined,
  withUsage: boolean,
): AsyncGenerator<string, void, void> {
  const line = (choices: readonly object[], usage?: object): string =>
    sseLine({ ...head, choices, ...(withUsage && { usage: usage ?? null }) });
  let offset = 0;
  for await (const event of events) {
    if (event.type !== "token" && event.type !== "finish") continue;
    if (event.type === "token") table?.add(event, offset);
    offset += event.text.length;
    const finish = event.type === "finish" ? finishReasons[event.reason] : null;
    if (event.text !== "" || table || finish) {
      yield line([{ index: 0, text: event.text, logprobs: table?.take() ?? null, finish_reason: finish }]);
    }
    if (event.type === "finish" && withUsage) yield line([], usageOf(event.usage));
  }
  yield sseLine("[DONE]");
}

/** This route's form of log probabilities. */
interface Table {
  add(event: Extract<GenerateEvent, { type: "token" }>, offset: number): void;
  take(): object;
}

function createTable({ tokenizer }: Model): Table {
  const name = (id: number): string => tokenizer.decode([id], { special: true });
  const empty = () => ({
    tokens: [] as string[],
    token_logprobs: [] as number[],
    top_logprobs: [] as Record<string, number>[],
    text_offset: [] as number[],
  });
  let held = empty();
  return {
    add({ id, logprob, top = [] }, offset) {
      held.tokens.push(name(id));
      held.token_logprobs.push(finite(logprob));
      held.top_logprobs.push(Object.fromEntries(top.map((each) => [name(each.id), finite(each.logprob)])));
      held.text_offset.push(offset);
    },
    take() {
      const taken = held;
      held = empty();
      return taken;
    },
  };
}
