import type { ChatMessage, GenerateRequest } from "@lowbit/core";
import { badField } from "./errors.ts";
import {
  boolean,
  checkFields,
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
import { contentOf, parsed, responseFormatOf, shapeOf, toolOf, toolsRule } from "./messages.ts";
import type { Models } from "./models.ts";
import { type ResponseEvent, responseEvents } from "./response-events.ts";
import { samplingOf, tokenLimit } from "./sampling.ts";
import { sseLine, type Work } from "./work.ts";

const { stop: _, ...sampling } = samplingRules;

const rules: Rules = {
  ...labels,
  ...sampling,
  model: text,
  input: () => undefined,
  instructions: text,
  stream: boolean,
  max_output_tokens: integer(1),
  tools: toolsRule,
  tool_choice: (value) =>
    typeof value === "string" || isObject(value) ? undefined : "a string or an object",
  parallel_tool_calls: only(true),
  text: object,
  // Nothing is kept from one request to the next.
  store: only(false),
  truncation: only("disabled"),
  background: only(false),
  include: (value) => (Array.isArray(value) && value.length === 0 ? undefined : "empty here"),
};

/** POST /v1/responses: what of it needs no memory of earlier requests. */
export async function responses(models: Models, request: Request, work: Work): Promise<Response> {
  const fields = checkFields(await readJson(request), rules);
  need(fields, "model", "input");
  const model = models.find(fields.model as string);
  const generation = requestOf(fields, work);
  await work.start();
  const events = responseEvents(await work.generate(model, generation), echoOf(fields));
  if (fields.stream === true) return work.stream(lines(events));
  for await (const event of events) {
    if (event.type === "response.completed" || event.type === "response.incomplete")
      return Response.json(event.response);
  }
  throw new TypeError("A response ended without its last event.");
}

async function* lines(events: AsyncGenerator<ResponseEvent>): AsyncGenerator<string, void, void> {
  for await (const event of events) yield sseLine(event, event.type);
}

function requestOf(fields: Readonly<Record<string, unknown>>, work: Work): Omit<GenerateRequest, "signal"> {
  const tools = ((fields.tools as unknown[] | undefined) ?? []).map((tool, i) => {
    if (!isObject(tool) || tool.type !== "function") {
      throw badField(`tools[${i}].type`, `tools[${i}] must be of type "function".`, "unsupported_tool");
    }
    const { type: _, ...definition } = tool;
    return toolOf(definition, `tools[${i}]`);
  });
  const options = checkFields(fields.text ?? {}, { format: object, verbosity: only("medium") }, "text");
  const format = options.format === undefined ? undefined : responseFormatOf(options.format, "text.format");
  const opening: ChatMessage[] =
    fields.instructions === undefined ? [] : [{ role: "system", content: fields.instructions as string }];
  return {
    ...samplingOf(fields),
    ...tokenLimit(fields, work.limits.completionTokens, "max_output_tokens"),
    ...shapeOf(tools, fields.tool_choice, format),
    messages: [...opening, ...inputOf(fields.input)],
  };
}

/** Items as messages; calls that follow each other belong to one message of the assistant. */
function inputOf(input: unknown): ChatMessage[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  if (!Array.isArray(input) || input.length === 0) {
    throw badField("input", "input must be a string or an array of items.", "invalid_type");
  }
  const messages: ChatMessage[] = [];
  for (const [i, item] of (input as unknown[]).entries()) {
    const where = `input[${i}]`;
    if (!isObject(item)) throw badField(where, `${where} must be an object.`, "invalid_type");
    const { type = "message" } = item;
    if (type === "message") messages.push(messageOf(item, where));
    else if (type === "function_call") {
      const fields = checkFields(
        item,
        { type: text, id: text, call_id: text, name: text, arguments: text, status: text },
        where,
      );
      need(fields, "call_id", "name", "arguments");
      const { call_id: id, name, arguments: given } = fields;
      const call = { id, type: "function", function: { name, arguments: parsed(given as string) } };
      const last = messages[messages.length - 1];
      const before = last?.role === "assistant" ? (last.tool_calls as object[] | undefined) : undefined;
      if (last && before) messages[messages.length - 1] = { ...last, tool_calls: [...before, call] };
      else messages.push({ role: "assistant", content: "", tool_calls: [call] });
    } else if (type === "function_call_output") {
      const fields = checkFields(
        item,
        { type: text, id: text, call_id: text, output: () => undefined, status: text },
        where,
      );
      need(fields, "call_id", "output");
      messages.push({
        role: "tool",
        content: contentOf(fields.output, `${where}.output`),
        tool_call_id: fields.call_id,
      });
    } else if (type !== "reasoning") {
      throw badField(
        `${where}.type`,
        `This server takes no items of type ${JSON.stringify(type)}.`,
        "unsupported_item",
      );
    }
  }
  if (messages.length === 0) throw badField("input", "input holds no message.");
  return messages;
}

function messageOf(item: Readonly<Record<string, unknown>>, where: string): ChatMessage {
  const roles = ["system", "developer", "user", "assistant"];
  const fields = checkFields(
    item,
    {
      type: text,
      id: text,
      status: text,
      role: (role) => (roles.includes(role as string) ? undefined : `one of ${roles.join(", ")}`),
      content: () => undefined,
    },
    where,
  );
  need(fields, "role", "content");
  const role = fields.role === "developer" ? "system" : (fields.role as string);
  return { role, content: contentOf(fields.content, `${where}.content`) };
}

/** What a response repeats of its request. */
function echoOf(fields: Readonly<Record<string, unknown>>): object {
  const { model, instructions = null, max_output_tokens = null, temperature = null, top_p = null } = fields;
  const {
    tools = [],
    tool_choice = "auto",
    text: format = { format: { type: "text" } },
    metadata = {},
  } = fields;
  return {
    model,
    instructions,
    max_output_tokens,
    temperature,
    top_p,
    tools,
    tool_choice,
    text: format,
    metadata,
    parallel_tool_calls: true,
    previous_response_id: null,
    store: false,
    truncation: "disabled",
  };
}
