/** The coarse kinds of failure. Programs branch on these; `reason` carries the precise word. */
export type LowbitErrorCode =
  | "format-unsupported"
  | "file-corrupt"
  | "type-unsupported"
  | "architecture-unsupported"
  | "weight-missing"
  | "backend-unavailable"
  | "out-of-memory"
  | "context-full"
  | "aborted"
  | "not-found"
  | "bad-argument"
  | "internal";

export interface LowbitErrorOptions {
  /** The precise word, e.g. "truncated", "duplicate", "overlap". */
  reason?: string;
  /** Name of the plugin or package that raised it. */
  plugin?: string;
  /** What to do about it: one sentence, appended to the message. */
  hint?: string;
  cause?: unknown;
}

const marker: symbol = Symbol.for("lowbit.error");

/**
 * The one error class. The message says what was found, what was expected and, through `hint`, what to do.
 * `LowbitError.is` also recognises instances from another copy of the package.
 */
export class LowbitError extends Error {
  readonly code: LowbitErrorCode;
  readonly reason: string | undefined;
  readonly plugin: string | undefined;
  readonly hint: string | undefined;

  constructor(code: LowbitErrorCode, message: string, options: LowbitErrorOptions = {}) {
    const prefix = options.plugin === undefined ? "" : `[${options.plugin}] `;
    const suffix = options.hint === undefined ? "" : ` ${options.hint}`;
    super(`${prefix}${message}${suffix}`, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "LowbitError";
    this.code = code;
    this.reason = options.reason;
    this.plugin = options.plugin;
    this.hint = options.hint;
    Object.defineProperty(this, marker, { value: true });
  }

  static is(value: unknown): value is LowbitError {
    return typeof value === "object" && value !== null && marker in value;
  }
}

/** Throws `aborted` if the signal has fired; call it between units of work. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new LowbitError("aborted", "The operation was aborted.", {
      reason: "aborted",
      cause: signal.reason,
    });
  }
}
