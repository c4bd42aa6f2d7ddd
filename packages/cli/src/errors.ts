import { CommanderError } from "commander";
import { LowbitError } from "lowbit";

/** How the command ends. */
export const exitCodes = { ok: 0, error: 1, usage: 2, aborted: 130 } as const;

/** A wrong combination of arguments, found after parsing. */
export class UsageError extends Error {}

export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage;
  if (error instanceof UsageError) return exitCodes.usage;
  if (LowbitError.is(error)) {
    if (error.code === "aborted") return exitCodes.aborted;
    // The engine judges the values of options; a model's own template that fails is no fault of the caller.
    if (error.code === "bad-argument" && !error.reason?.startsWith("template")) return exitCodes.usage;
  }
  return exitCodes.error;
}

/** One sentence for the user; undefined where the parser has already spoken or the user stopped us. */
export function errorMessage(error: unknown, debug: boolean): string | undefined {
  if (error instanceof CommanderError || exitCodeOf(error) === exitCodes.aborted) return undefined;
  if (debug && error instanceof Error) return `lowbit: ${error.stack ?? error.message}${causes(error)}`;
  const text = error instanceof Error ? error.message : String(error);
  const known = LowbitError.is(error) || error instanceof UsageError;
  return `lowbit: ${text.replaceAll("\n", " ")}${known ? "" : " (LOWBIT_DEBUG=1 shows where)"}`;
}

function causes(error: Error): string {
  const { cause } = error;
  return cause instanceof Error ? `\ncaused by ${cause.stack ?? cause.message}${causes(cause)}` : "";
}
