import type { ChatMessage, GenerateRequest, ResponseFormat, ToolChoice } from "@lowbit/core";
import { badField } from "./errors.ts";
import { boolean, checkFields, isObject, need, object, type Rule, text } from "./fields.ts";

const roles = ["system", "developer", "user", "assistant", "tool"];

/** OpenAI's messages as templates take them: content as one string, arguments of calls as objects. Throws 400. */
export function messagesOf(value: unknown): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) {
    throw badField("messages", "messages must be an array of at least one message.", "invalid_type");
  }
  return value.map((message: unknown, i): ChatMessage => {
    const where = `messages[${i}]`;
    const fields = checkFields(
      message,
      {
        role: (role) => (roles.includes(role as string) ? undefined : `one of ${roles.join(", ")}`),
        content: () => undefined,
        name: text,
        tool_calls: (calls) => (Array.isArray(calls) ? undefined : "an array"),
        tool_call_id: text,
        refusal: text,
        reasoning_content: text,
        // Clients send back what they were given.
        annotations: (list) => (Array.isArray(list) && list.length === 0 ? undefined : "empty here"),
      },
      where,
    );
    need(fields, "role");
    const { role, name, tool_call_id, tool_calls, reasoning_content } = fields as Record<string, string>;
    const { refusal } = fields as { refusal?: string };
    return {
      role: role === "developer" ? "system" : (role as string),
      content: fields.content === undefined ? (refusal ?? "") : contentOf(fields.content, `${where}.content`),
      ...(name !== undefined && { name }),
      ...(tool_call_id !== undefined && { tool_call_id }),
      ...(reasoning_content !== undefined && { reasoning_content }),
      ...(tool_calls !== undefined && {
        tool_calls: (tool_calls as unknown as unknown[]).map((call, n) =>
          callOf(call, `${where}.tool_calls[${n}]`),
        ),
      }),
    };
  });
}

/** A string, or parts of text as one string. */
export function contentOf(content: unknown, where: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content))
    throw badField(where, `${where} must be a string or an array of parts.`, "invalid_type");
  return content
    .map((part: unknown, i) => {
      const known =
        isObject(part) && ["text", "input_text", "output_text", "refusal"].includes(String(part.type));
      const value = known ? (part.text ?? part.refusal) : undefined;
      if (typeof value === "string") return value;
      const type = isObject(part) ? part.type : part;
      throw badField(
        `${where}[${i}]`,
        `${where}[${i}] is of type ${JSON.stringify(type)}; this server takes text only.`,
        "unsupported_content",
      );
    })
    .join("");
}

function callOf(call: unknown, where: string): object {
  const { id, function: called } = checkFields(
    call,
    { id: text, type: text, function: object, index: () => undefined },
    where,
  );
  const { name, arguments: given = "{}" } = checkFields(
    called,
    { name: text, arguments: text },
    `${where}.function`,
  );
  return { id, type: "function", function: { name, arguments: parsed(given as string) } };
}

/** Arguments as an object; text that is none stays as it is. */
export function parsed(json: string): unknown {
  try {
    const value: unknown = JSON.parse(json);
    return isObject(value) ? value : json;
  } catch {
    return json;
  }
}

const functionName: Rule = (value) =>
  typeof value === "string" && /^[\w.-]{1,64}$/.test(value)
    ? undefined
    : "1 to 64 letters, digits, _, - and .";

/** A function as chat templates take it. Throws 400. */
export function toolOf(definition: unknown, where: string): object {
  const fields = checkFields(
    definition,
    { name: functionName, description: text, parameters: object, strict: boolean },
    where,
  );
  need(fields, "name");
  const { name, description, parameters = { type: "object", properties: {} }, strict } = fields;
  return {
    type: "function",
    function: {
      name,
      ...(description !== undefined && { description }),
      parameters,
      ...(strict !== undefined && { strict }),
    },
  };
}

/** Most functions of one request. */
const maxTools = 128;

export const toolsRule: Rule = (value) =>
  Array.isArray(value) && value.length <= maxTools ? undefined : `an array of at most ${maxTools} functions`;

/** `tools` of chat completions. */
export function chatToolsOf(tools: unknown): object[] {
  return (tools as unknown[]).map((tool, i) => {
    const where = `tools[${i}]`;
    if (!isObject(tool) || tool.type !== "function") {
      throw badField(`${where}.type`, `${where} must be of type "function".`, "unsupported_tool");
    }
    return toolOf(tool.function, `${where}.function`);
  });
}

/** `tool_choice` of chat completions, and of responses, which name the function one level higher. */
export function toolChoiceOf(choice: unknown): ToolChoice {
  if (choice === "auto" || choice === "none" || choice === "required") return choice;
  const named =
    isObject(choice) && choice.type === "function"
      ? isObject(choice.function)
        ? choice.function
        : choice
      : {};
  const { name } = named as { name?: unknown };
  if (typeof name === "string") return { name };
  throw badField("tool_choice", 'tool_choice must be "auto", "none", "required" or name a function.');
}

/** `response_format`, or `text.format` of responses, which has the schema one level higher. */
export function responseFormatOf(format: unknown, where: string): ResponseFormat {
  if (!isObject(format)) throw badField(where, `${where} must be an object.`, "invalid_type");
  if (format.type === "text" || format.type === "json_object") return { type: format.type };
  if (format.type !== "json_schema") {
    throw badField(`${where}.type`, `${where}.type must be "text", "json_object" or "json_schema".`);
  }
  const nested = isObject(format.json_schema);
  const { type: _, ...own } = format;
  const at = nested ? `${where}.json_schema` : where;
  const fields = checkFields(
    nested ? format.json_schema : own,
    { name: text, description: text, schema: object, strict: boolean },
    at,
  );
  need(fields, "schema");
  const {
    name,
    schema,
    strict = false,
  } = fields as { name?: string; schema: Record<string, unknown>; strict?: boolean };
  return { type: "json_schema", schema, strict, ...(name !== undefined && { name }) };
}

/** What tools and formats of a request mean to the engine. */
export function shapeOf(
  tools: readonly object[],
  choice: unknown,
  format: ResponseFormat | undefined,
): Pick<GenerateRequest, "tools" | "toolChoice" | "responseFormat"> {
  if (choice !== undefined && tools.length === 0 && choice !== "none" && choice !== "auto") {
    throw badField("tool_choice", "tool_choice goes with tools.");
  }
  return {
    ...(tools.length > 0 && { tools, ...(choice !== undefined && { toolChoice: toolChoiceOf(choice) }) }),
    ...(format !== undefined && format.type !== "text" && { responseFormat: format }),
  };
}
