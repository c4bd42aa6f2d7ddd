#!/usr/bin/env node
import { exitCodes } from "./errors.ts";
import { processIo } from "./io.ts";
import { main } from "./program.ts";

// A reader that has seen enough (`lowbit run | head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(exitCodes.ok);
  throw error;
});

process.exitCode = await main(process.argv.slice(2), processIo());
