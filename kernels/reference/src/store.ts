import { LowbitError } from "@lowbit/core";

/** Counts bytes against a limit. */
export class Store {
  readonly limitBytes: number;
  usedBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  /** Throws `out-of-memory` with the figures. */
  take(bytes: number, what: string): void {
    if (this.usedBytes + bytes > this.limitBytes) {
      throw new LowbitError(
        "out-of-memory",
        `${what}: ${bytes} bytes wanted, ${this.usedBytes} of ${this.limitBytes} in use.`,
        {
          reason: "limit",
          plugin: "reference",
          hint: "Take a shorter context or a smaller model, or raise memoryLimitBytes.",
        },
      );
    }
    this.usedBytes += bytes;
  }

  give(bytes: number): void {
    this.usedBytes -= bytes;
  }
}
