import type {
  LanguageModelV4CallOptions,
  LanguageModelV4FunctionTool,
  LanguageModelV4ToolChoice,
  SharedV4Warning,
} from "@ai-sdk/provider";
import type { GenerateRequest, ResponseFormat, ToolChoice } from "@lowbit/core";
import { languageModelOptions } from "./options.ts";
import { messagesOf } from "./prompt.ts";

export interface MappedCall {
  readonly request: GenerateRequest;
  /** Settings that have no effect here. */
  readonly warnings: SharedV4Warning[];
}

/** A call of the AI SDK as the engine takes it. What is absent has the engine's defaults; the engine checks values. */
export function requestOf(options: LanguageModelV4CallOptions): MappedCall {
  const { presencePenalty, frequencyPenalty, reasoning, responseFormat, toolChoice } = options;
  const warnings: SharedV4Warning[] = [];
  if (reasoning !== undefined && reasoning !== "provider-default") {
    warnings.push({
      type: "unsupported",
      feature: "reasoning",
      details: "The model alone decides how much it thinks before it answers.",
    });
  }
  const request: GenerateRequest = {
    messages: messagesOf(options.prompt),
    tools: toolsOf(options.tools ?? [], warnings),
    toolChoice: toolChoice && toolChoiceOf(toolChoice),
    responseFormat: responseFormat && responseFormatOf(responseFormat),
    maxTokens: options.maxOutputTokens,
    stop: options.stopSequences,
    temperature: options.temperature,
    topK: options.topK,
    topP: options.topP,
    presencePenalty,
    frequencyPenalty,
    // The specification has these two look at the whole text.
    penaltyWindow: presencePenalty || frequencyPenalty ? -1 : undefined,
    seed: options.seed,
    signal: options.abortSignal,
    ...languageModelOptions(options.providerOptions),
  };
  return { request, warnings };
}

function toolsOf(
  tools: NonNullable<LanguageModelV4CallOptions["tools"]>,
  warnings: SharedV4Warning[],
): object[] | undefined {
  const functions = tools.filter((tool): tool is LanguageModelV4FunctionTool => {
    if (tool.type === "function") return true;
    warnings.push({
      type: "unsupported",
      feature: `provider-defined tool ${tool.id}`,
      details: "lowbit brings no tools of its own; give functions.",
    });
    return false;
  });
  if (functions.some(({ inputExamples = [] }) => inputExamples.length > 0)) {
    warnings.push({
      type: "unsupported",
      feature: "inputExamples of tools",
      details: "Chat templates have no place for them; put examples into the description.",
    });
  }
  if (functions.length === 0) return undefined;
  return functions.map(({ name, description, inputSchema: parameters, strict }) => ({
    type: "function",
    // Templates print what is there, so absent fields stay absent.
    function: {
      name,
      ...(description !== undefined && { description }),
      parameters,
      ...(strict !== undefined && { strict }),
    },
  }));
}

function toolChoiceOf(choice: LanguageModelV4ToolChoice): ToolChoice {
  return choice.type === "tool" ? { name: choice.toolName } : choice.type;
}

function responseFormatOf(format: NonNullable<LanguageModelV4CallOptions["responseFormat"]>): ResponseFormat {
  if (format.type === "text") return { type: "text" };
  const { schema, name } = format;
  if (schema === undefined) return { type: "json_object" };
  return { type: "json_schema", schema, ...(name !== undefined && { name }) };
}
