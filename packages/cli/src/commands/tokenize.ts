import { Command, InvalidArgumentError } from "commander";
import { UsageError } from "../errors.ts";
import { formatTable, printable } from "../format.ts";
import { type Io, readAll, writeJson } from "../io.ts";
import { interruptible, openTokenizer } from "../model.ts";

interface TokenizeFlags {
  readonly text?: string;
  readonly decode?: number[];
  readonly parseSpecial?: boolean;
  readonly special: boolean;
  readonly json?: boolean;
}

export function tokenizeCommand(io: Io): Command {
  return new Command("tokenize")
    .description("text to token ids, or back")
    .argument(
      "[model]",
      "file, folder, URL or hf:org/repository of a model (default: pico); its weights are not read",
    )
    .option("-t, --text <text>", "the text; without it standard input is read")
    .option("-d, --decode <ids>", "token ids to turn into text, separated by commas or spaces", parseIds)
    .option("--parse-special", "read special tokens written out in the text as tokens")
    .option("--no-special", "leave out the begin and end tokens, and in decoding all special ones")
    .option("--json", "print one JSON object")
    .action((model: string | undefined, flags: TokenizeFlags) => tokenize(io, model, flags));
}

function parseIds(text: string): number[] {
  const parts = text.split(/[\s,]+/).filter((part) => part !== "");
  return parts.map((part) => {
    if (!/^\d+$/.test(part)) throw new InvalidArgumentError(`${JSON.stringify(part)} is not a token id.`);
    return Number(part);
  });
}

async function tokenize(io: Io, model: string | undefined, flags: TokenizeFlags): Promise<void> {
  if (flags.text !== undefined && flags.decode !== undefined) {
    throw new UsageError("--text encodes and --decode decodes; give one of them.");
  }
  const tokenizer = await interruptible(io, (signal) => openTokenizer(model, signal));
  if (tokenizer === undefined) throw new Error("The model carries no tokenizer.");
  if (flags.decode !== undefined) {
    const unknown = flags.decode.find((id) => id >= tokenizer.vocabularySize);
    if (unknown !== undefined) {
      throw new UsageError(
        `Token ${unknown} is outside the vocabulary; ids go from 0 to ${tokenizer.vocabularySize - 1}.`,
      );
    }
    const text = tokenizer.decode(flags.decode, { special: flags.special });
    if (flags.json) writeJson(io, { text, ids: flags.decode });
    else io.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
    return;
  }
  const text = flags.text ?? (await readAll(io.stdin));
  const ids = tokenizer.encode(text, {
    addSpecial: flags.special,
    parseSpecial: flags.parseSpecial ?? false,
  });
  if (flags.json) {
    writeJson(io, { ids, tokens: ids.map((id) => tokenizer.token(id)), kind: tokenizer.kind });
    return;
  }
  const columns = [{ title: "id", align: "right" as const }, { title: "token" }];
  const rows = ids.map((id) => [String(id), printable(tokenizer.token(id) ?? "")]);
  io.stdout.write(`${formatTable(columns, rows)}\n`);
  io.stderr.write(`${ids.length} tokens\n`);
}
