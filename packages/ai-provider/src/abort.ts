/** What the AI SDK takes for an abort and not for a failure. */
function isAbortError(error: unknown): boolean {
  const { name } = (typeof error === "object" && error !== null ? error : {}) as { name?: unknown };
  return name === "AbortError" || name === "TimeoutError";
}

/** The reason of a signal that has fired, in the form that the AI SDK recognizes. */
export function abortError({ reason }: AbortSignal): unknown {
  if (isAbortError(reason)) return reason;
  const said = reason instanceof Error ? reason.message : String(reason);
  return new DOMException(`The call was aborted: ${said}`, "AbortError");
}

/** Awaits work that ends when the signal fires; whatever error that ended with, the abort is what is told. */
export async function orAbort<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
  if (signal?.aborted) throw abortError(signal);
  try {
    return await work();
  } catch (error) {
    throw signal?.aborted ? abortError(signal) : error;
  }
}

/** Waits for shared work, which goes on for others when this caller's signal fires. */
export function waitFor<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise((resolve, reject) => {
    const leave = (): void => reject(abortError(signal));
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", leave));
    if (signal.aborted) leave();
    else signal.addEventListener("abort", leave, { once: true });
  });
}
