import { LowbitError } from "@lowbit/core";

/** An answer in the form of OpenAI's errors. */
export class ApiError extends Error {
  readonly status: number;
  readonly type: string;
  readonly code: string | null;
  readonly param: string | null;
  /** Seconds after which to try again. */
  readonly retryAfter: number | undefined;

  constructor(
    status: number,
    message: string,
    details: { type?: string; code?: string; param?: string; retryAfter?: number; cause?: unknown } = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = "ApiError";
    this.status = status;
    this.type = details.type ?? typeOf(status);
    this.code = details.code ?? null;
    this.param = details.param ?? null;
    this.retryAfter = details.retryAfter;
  }
}

function typeOf(status: number): string {
  if (status === 401) return "authentication_error";
  if (status === 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

/** A wrong value of a field of the request. */
export function badField(param: string, message: string, code = "invalid_value"): ApiError {
  return new ApiError(400, message, { param, code });
}

/** Names of engine options as clients know them. */
const clientNames: Readonly<Record<string, string>> = {
  topP: "top_p",
  topK: "top_k",
  minP: "min_p",
  typicalP: "typical_p",
  maxTokens: "max_tokens",
  logitBias: "logit_bias",
  topLogprobs: "top_logprobs",
  presencePenalty: "presence_penalty",
  frequencyPenalty: "frequency_penalty",
  repetitionPenalty: "repetition_penalty",
  responseFormat: "response_format",
  toolChoice: "tool_choice",
  schema: "response_format",
};

/** What a client is told of a failure. Nothing but LowbitErrors speak for themselves: others may hold what is not for strangers. */
export function apiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (!LowbitError.is(error)) {
    return new ApiError(500, "The server failed to answer.", { code: "internal_error", cause: error });
  }
  const { code, reason, message } = error;
  const details = { code: reason ?? code, cause: error };
  switch (code) {
    case "bad-argument": {
      if (reason === "disposed")
        return new ApiError(503, "The model is being shut down.", { code: "shutting_down" });
      const param = reason === undefined ? undefined : (clientNames[reason] ?? reason);
      return new ApiError(400, message, { code: "invalid_value", ...(param && { param }), cause: error });
    }
    case "context-full":
      return new ApiError(400, message, { ...details, code: "context_length_exceeded" });
    case "out-of-memory":
      return new ApiError(503, message, { ...details, code: "out_of_memory", retryAfter: 5 });
    case "aborted":
      return new ApiError(499, "The client closed the request.", { ...details, code: "aborted" });
    default:
      return new ApiError(500, message, details);
  }
}

export function errorBody({ message, type, param, code }: ApiError): object {
  return { error: { message, type, param, code } };
}

export function errorResponse(error: ApiError): Response {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (error.retryAfter !== undefined) headers["retry-after"] = String(error.retryAfter);
  if (error.status === 401) headers["www-authenticate"] = "Bearer";
  return new Response(JSON.stringify(errorBody(error)), { status: error.status, headers });
}
