import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { benchCommand } from "./commands/bench.ts";
import { cacheCommand } from "./commands/cache.ts";
import { convertCommand } from "./commands/convert.ts";
import { inspectCommand } from "./commands/inspect.ts";
import { runCommand } from "./commands/run.ts";
import { serveCommand } from "./commands/serve.ts";
import { tokenizeCommand } from "./commands/tokenize.ts";
import { errorMessage, exitCodeOf, exitCodes } from "./errors.ts";
import type { Io } from "./io.ts";

const footer = `
Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 stopped by Ctrl-C.
LOWBIT_DEBUG=1 shows where an error came from.`;

function createProgram(io: Io): Command {
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  const program = new Command("lowbit")
    .description("Quantized language models in every JavaScript runtime.")
    .version(version)
    .addHelpText("after", footer);
  for (const create of [
    runCommand,
    serveCommand,
    inspectCommand,
    convertCommand,
    benchCommand,
    tokenizeCommand,
    cacheCommand,
  ])
    program.addCommand(create(io));
  const inner = program.commands.flatMap(({ commands }) => commands);
  for (const command of [program, ...program.commands, ...inner]) {
    command
      .exitOverride()
      .configureOutput({
        writeOut: (text) => io.stdout.write(text),
        writeErr: (text) => io.stderr.write(text),
        outputError: (text, write) => write(text.replace(/^error: /, "lowbit: ")),
      })
      .showHelpAfterError(
        `(lowbit ${command === program ? "" : `${command.name()} `}--help lists what there is)`,
      )
      .allowExcessArguments(false);
  }
  return program;
}

/** Runs the command line and returns its exit code. `args` are those after the command's name. */
export async function main(args: readonly string[], io: Io): Promise<number> {
  const program = createProgram(io);
  try {
    if (args.length === 0) program.help({ error: true });
    await program.parseAsync(args, { from: "user" });
    return exitCodes.ok;
  } catch (error) {
    const message = errorMessage(error, io.env.LOWBIT_DEBUG === "1");
    if (message !== undefined) io.stderr.write(`${message}\n`);
    return error instanceof CommanderError && args.length === 0 ? exitCodes.usage : exitCodeOf(error);
  }
}
