import type { AnswerParser, AnswerPiece } from "@lowbit/core";
import { type CallScanner, createCallScanner } from "./call-scanner.ts";
import type { Dialect } from "./dialects.ts";
import { quotedArguments } from "./quoted-arguments.ts";

export interface AnswerParserOptions {
  readonly markers: ReadonlySet<number>;
  /** Undefined where no tools are offered. */
  readonly dialect: Dialect | undefined;
  /** Names of the tools: what tells a call without marks from any other JSON. */
  readonly names: ReadonlySet<string>;
  readonly reasoning: readonly [string, string] | undefined;
  /** The prompt has opened the reasoning. */
  readonly thinking: boolean;
  /** The answer keeps to a form of its own: marks within it are part of it, only at its start they are marks. */
  readonly formed: boolean;
}

/** Longer than any name with its marks: what has no arguments by then is no call. */
const longestHeader = 300;
const idLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/** calls: in a section of them, before or between calls; quoted: in arguments that are not JSON. */
type Mode = "text" | "reasoning" | "calls" | "call" | "quoted";

export function createAnswerParser(options: AnswerParserOptions): AnswerParser {
  const { dialect, reasoning, names } = options;
  const opens = [...(dialect?.opens ?? []), ...(reasoning ? [reasoning[0]] : [])];
  let mode: Mode = options.thinking ? "reasoning" : "text";
  let held = "";
  /** Nothing but white space so far, in the answer or since the reasoning. */
  let fresh = true;
  /** Nothing but white space of the reasoning so far. */
  let freshReasoning = true;
  let scanner: CallScanner | undefined;
  /** What led to the call at hand, for when it is none; empty once a section has had a call. */
  let lead = "";
  let marked = false;
  let quotedName = "";
  let id = "";
  let sent = 0;
  let pieces: AnswerPiece[] = [];

  const say = (text: string): void => {
    // White space between reasoning, calls and text belongs to neither.
    const shown = fresh && opens.length > 0 && mode !== "reasoning" ? text.trimStart() : text;
    if (shown === "") return;
    fresh = false;
    const last = pieces[pieces.length - 1];
    if (last?.type === "text") pieces[pieces.length - 1] = { type: "text", text: last.text + shown };
    else pieces.push({ type: "text", text: shown });
  };

  const think = (text: string): void => {
    const shown = freshReasoning ? text.trimStart() : text;
    if (shown === "") return;
    freshReasoning = false;
    pieces.push({ type: "reasoning", text: shown });
  };

  const take = (count: number): string => {
    const text = held.slice(0, count);
    held = held.slice(count);
    return text;
  };

  /** One step; false when more text is needed. */
  const step = (last: boolean): boolean => {
    if (mode === "reasoning") return stepReasoning(last);
    if (mode === "call") return stepCall();
    if (mode === "quoted") return stepQuoted(last);
    return mode === "calls" ? stepCalls(last) : stepText(last);
  };

  const stepReasoning = (last: boolean): boolean => {
    const close = reasoning![1];
    const at = held.indexOf(close);
    if (at >= 0) {
      think(take(at).trimEnd());
      take(close.length);
      [mode, fresh] = ["text", true];
      return true;
    }
    // White space at the end waits: it may be the last.
    const sure = last
      ? held.trimEnd().length
      : held.slice(0, held.length - tail(held, [close])).trimEnd().length;
    think(take(sure));
    if (last) held = "";
    return false;
  };

  const stepText = (last: boolean): boolean => {
    const found = opens
      .map((open) => [held.indexOf(open), open] as const)
      .filter(([at, open]) => at >= 0 && (isStart(at) || (open !== reasoning?.[0] && !options.formed)));
    const first = found.sort(([a, x], [b, y]) => a - b || y.length - x.length)[0];
    if (dialect && fresh && startsJson(held, first?.[0] ?? held.length)) {
      lead = take(held.indexOf("{"));
      marked = false;
      return begin(undefined);
    }
    if (first === undefined) {
      if (!last && fresh && dialect && mayStartJson(held)) return false;
      const sure = held.slice(0, held.length - tail(held, opens));
      // White space waits: before a call it is dropped.
      say(take(last ? held.length : dialect ? sure.trimEnd().length : sure.length));
      return false;
    }
    const [at, open] = first;
    const before = take(at);
    take(open.length);
    if (open === reasoning?.[0]) {
      say(before);
      [mode, freshReasoning] = ["reasoning", true];
    } else {
      const text = before.trimEnd();
      say(text);
      [mode, lead, marked] = ["calls", before.slice(text.length) + open, true];
    }
    return true;
  };

  /** Does nothing but white space stand before this place? Reasoning comes first, or after a call. */
  const isStart = (at: number): boolean => fresh && held.slice(0, at).trim() === "";

  /** A call that is the answer itself, perhaps in a fence. */
  const startsJson = (text: string, before: number): boolean => {
    const start = /^\s*(?:```(?:json|tool_call)?\s*)?\{/.exec(text);
    return start !== null && start[0].length <= before && dialect?.bare === true;
  };
  const mayStartJson = (text: string): boolean =>
    dialect?.bare === true && /^\s*(?:`{0,2}|```[a-z_]{0,9}\s*)$/.test(text);

  const begin = (name: string | undefined): boolean => {
    [id, sent] = ["", -1];
    if (dialect!.quote !== undefined) [mode, quotedName] = ["quoted", name ?? ""];
    else [mode, scanner] = ["call", createCallScanner(["arguments", "parameters"], name)];
    return true;
  };

  const stepCalls = (last: boolean): boolean => {
    const { closes, fillers, nameOf } = dialect!;
    const marks = [...closes, ...fillers];
    const mark = marks.find((text) => held.startsWith(text));
    if (mark !== undefined) {
      note(take(mark.length));
      if (closes.includes(mark)) endSection();
      return true;
    }
    if (!last && marks.some((text) => text.startsWith(held))) return false;
    const between = /^[\s,;[\]]+/.exec(held)?.[0].length ?? 0;
    if (between > 0) {
      note(take(between));
      return true;
    }
    if (held.startsWith("{")) return begin(undefined);
    const brace = held.indexOf("{");
    if (nameOf && brace > 0 && brace <= longestHeader) {
      const header = take(brace);
      note(header);
      return begin(nameOf(header).trim());
    }
    if (held === "" || (nameOf && !last && brace < 0 && held.length <= longestHeader)) return false;
    endSection();
    return true;
  };

  const note = (text: string): void => {
    if (lead !== "") lead += text;
  };

  /** Without a call in it, the section was text. */
  const endSection = (): void => {
    [mode, fresh] = ["text", fresh || lead === ""];
    say(lead);
    lead = "";
  };

  const stepCall = (): boolean => {
    const call = scanner!;
    take(call.push(held));
    const known = call.name !== undefined && (marked || names.has(call.name));
    if (known && call.input !== "") emit(call.name!, call.input);
    if (!call.ended) return false;
    endCall(known ? call.name : undefined, call.finish(), call.text);
    return true;
  };

  const stepQuoted = (last: boolean): boolean => {
    const ends = dialect!.closes.map((close) => held.indexOf(close)).filter((at) => at >= 0);
    if (ends.length === 0 && !last) return false;
    const text = take(ends.length === 0 ? held.length : Math.min(...ends));
    endCall(quotedName, quotedArguments(text.trim(), dialect!.quote!), text);
    return true;
  };

  const endCall = (name: string | undefined, input: string | undefined, text: string): void => {
    scanner = undefined;
    mode = marked ? "calls" : "text";
    if (name !== undefined && name !== "" && input !== undefined) {
      emit(name, input);
      pieces.push({ type: "tool-call", id, name, arguments: input });
      [lead, fresh] = ["", true];
      return;
    }
    mode = "text";
    if (sent < 0) say(lead + text);
    lead = "";
  };

  const emit = (name: string, input: string): void => {
    if (sent < 0) {
      id = Array.from({ length: 9 }, () => idLetters[Math.floor(Math.random() * idLetters.length)]).join("");
      pieces.push({ type: "tool-call-delta", id, name, text: "" });
      sent = 0;
    }
    if (input.length > sent) pieces.push({ type: "tool-call-delta", id, name, text: input.slice(sent) });
    sent = input.length;
  };

  const drain = (last: boolean): AnswerPiece[] => {
    pieces = [];
    while (held !== "" && step(last));
    return pieces;
  };

  return {
    markers: options.markers,
    push(text) {
      held += text;
      return drain(false);
    },
    flush() {
      drain(true);
      if (mode === "call" && sent < 0) say(lead + (scanner?.text ?? ""));
      if (mode === "calls") endSection();
      return pieces;
    },
  };
}

/** Length of the longest tail that could begin one of the marks. */
function tail(text: string, marks: readonly string[]): number {
  let longest = 0;
  for (const mark of marks) {
    for (let length = Math.min(mark.length - 1, text.length); length > longest; length--) {
      if (text.endsWith(mark.slice(0, length))) longest = length;
    }
  }
  return longest;
}
