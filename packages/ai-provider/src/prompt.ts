import {
  type LanguageModelV4FilePart,
  type LanguageModelV4Message,
  type LanguageModelV4Prompt,
  type LanguageModelV4ToolResultOutput,
  type LanguageModelV4ToolResultPart,
  UnsupportedFunctionalityError,
} from "@ai-sdk/provider";
import type { ChatMessage } from "@lowbit/core";

type FileContent = Pick<LanguageModelV4FilePart, "data" | "mediaType" | "filename">;
type AssistantMessage = Extract<LanguageModelV4Message, { role: "assistant" }>;

/** The AI SDK's messages as chat templates take them. Throws UnsupportedFunctionalityError for what is not text. */
export function messagesOf(prompt: LanguageModelV4Prompt): ChatMessage[] {
  return prompt.flatMap(chatMessages);
}

function chatMessages(message: LanguageModelV4Message): ChatMessage[] {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }];
    case "user":
      return [{ role: "user", content: userText(message.content) }];
    case "assistant":
      return assistantMessages(message);
    case "tool":
      return message.content.map((part) => {
        // The AI SDK settles approvals of functions itself; what comes here is of a tool that some provider runs.
        if (part.type === "tool-approval-response")
          throw unsupported("tool approval responses", "lowbit runs no tools itself");
        return toolMessage(part);
      });
  }
}

function userText(content: Extract<LanguageModelV4Message, { role: "user" }>["content"]): string {
  const texts = content.map((part) => (part.type === "text" ? part.text : fileText(part)));
  // A file stands on lines of its own.
  return texts.join(content.some(({ type }) => type === "file") ? "\n" : "");
}

/** One message, or several where results of tools that another provider ran stand within it. */
function assistantMessages({ content }: AssistantMessage): ChatMessage[] {
  const messages: ChatMessage[] = [];
  let text = "";
  let reasoning = "";
  let calls: object[] = [];
  const close = (): void => {
    messages.push({
      role: "assistant",
      content: text,
      ...(reasoning !== "" && { reasoning_content: reasoning }),
      ...(calls.length > 0 && { tool_calls: calls }),
    });
    text = "";
    reasoning = "";
    calls = [];
  };
  for (const part of content) {
    switch (part.type) {
      case "text":
        text += part.text;
        break;
      case "reasoning":
        reasoning += part.text;
        break;
      case "tool-call":
        calls.push({
          id: part.toolCallId,
          type: "function",
          function: { name: part.toolName, arguments: part.input },
        });
        break;
      case "tool-result":
        if (text !== "" || reasoning !== "" || calls.length > 0) close();
        messages.push(toolMessage(part));
        break;
      case "file":
        text += fileText(part);
        break;
      case "reasoning-file":
        throw unsupported("files in reasoning", mediaTypes);
      case "custom":
        throw unsupported(`content of the kind ${part.kind}`, "it belongs to another provider");
    }
  }
  if (text !== "" || reasoning !== "" || calls.length > 0 || messages.length === 0) close();
  return messages;
}

function toolMessage({ toolCallId, toolName, output }: LanguageModelV4ToolResultPart): ChatMessage {
  return { role: "tool", name: toolName, tool_call_id: toolCallId, content: outputText(output) };
}

function outputText(output: LanguageModelV4ToolResultOutput): string {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "json":
    case "error-json":
      return JSON.stringify(output.value);
    case "execution-denied":
      return output.reason ?? "The user did not allow this call.";
    case "content":
      return output.value
        .map((part) => {
          if (part.type === "text") return part.text;
          if (part.type === "file") return fileText(part);
          throw unsupported("custom content of tool results", "it belongs to another provider");
        })
        .join("\n");
  }
}

const mediaTypes = "lowbit's models read text: give text, or a file of a type text/… or application/json";

function fileText({ data, mediaType, filename }: FileContent): string {
  const name = filename === undefined ? "" : ` (${filename})`;
  if (data.type === "text") return data.text;
  if (data.type !== "data" || !/^(text(\/|$)|application\/json\b)/.test(mediaType))
    throw unsupported(`files of the type ${mediaType}${name}`, mediaTypes);
  try {
    const bytes =
      typeof data.data === "string"
        ? Uint8Array.from(atob(data.data), (letter) => letter.charCodeAt(0))
        : data.data;
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw unsupported(`files of the type ${mediaType}${name} that are not UTF-8`, mediaTypes);
  }
}

function unsupported(functionality: string, what: string): UnsupportedFunctionalityError {
  return new UnsupportedFunctionalityError({
    functionality,
    message: `The prompt has ${functionality}; ${what}.`,
  });
}
