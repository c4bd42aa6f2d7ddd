import { createInterface } from "node:readline/promises";
import type { Io } from "../io.ts";

/** Lines that a user types or a program pipes. */
export interface LineReader {
  /** Undefined at the end of the input, or after Ctrl-C on an empty prompt. */
  next(): Promise<string | undefined>;
  close(): void;
}

export function lineReader(io: Io): LineReader {
  return io.stdin.isTTY ? terminalLines(io) : pipedLines(io);
}

/**
 * A line editor that exists only while a line is awaited: it switches the terminal to raw mode, in which Ctrl-C would
 * not reach the process during an answer.
 */
function terminalLines(io: Io): LineReader {
  let history: string[] = [];
  return {
    async next() {
      const editor = createInterface({ input: io.stdin, output: io.stderr, terminal: true, history });
      editor.on("history", (lines: string[]) => {
        history = [...lines];
      });
      const ended = new Promise<undefined>((done) => {
        editor.once("SIGINT", () => done(undefined));
        editor.once("close", () => done(undefined));
      });
      try {
        const line = await Promise.race([editor.question("> "), ended]);
        if (line === undefined) io.stderr.write("\n");
        return line;
      } finally {
        editor.close();
      }
    },
    close() {},
  };
}

function pipedLines(io: Io): LineReader {
  const reader = createInterface({ input: io.stdin, terminal: false });
  const iterator = reader[Symbol.asyncIterator]();
  return {
    async next() {
      const { done, value } = await iterator.next();
      return done ? undefined : value;
    },
    close: () => reader.close(),
  };
}
