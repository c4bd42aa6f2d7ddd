import { formatBytes } from "./format.ts";
import type { Io } from "./io.ts";

/** A bar on a terminal's stderr; silent elsewhere. */
export interface Progress {
  /** Bytes by default; `unit` names what else is counted. */
  update(label: string, done: number, total: number, unit?: string): void;
  /** Wipes the bar. */
  clear(): void;
}

const barWidth = 24;
/** Redrawing more often than this costs time and shows nothing. */
const intervalMs = 80;

export function createProgress(io: Io): Progress {
  if (io.stderr.isTTY !== true) return { update() {}, clear() {} };
  let drawnAt = Number.NEGATIVE_INFINITY;
  let shown = false;
  return {
    update(label, done, total, unit) {
      const now = performance.now();
      if (now - drawnAt < intervalMs) return;
      drawnAt = now;
      shown = true;
      io.stderr.write(
        `\r\x1b[K${progressLine(label, done, total, unit).slice(0, (io.stderr.columns || 80) - 1)}`,
      );
    },
    clear() {
      if (shown) io.stderr.write("\r\x1b[K");
      shown = false;
    },
  };
}

export function progressLine(label: string, done: number, total: number, unit?: string): string {
  const share = total > 0 ? Math.min(1, Math.max(0, done / total)) : 0;
  const filled = Math.round(share * barWidth);
  const bar = "█".repeat(filled) + "░".repeat(barWidth - filled);
  const amount =
    unit === undefined ? `${formatBytes(done)} of ${formatBytes(total)}` : `${done} of ${total} ${unit}`;
  return `${label} ${bar} ${String(Math.floor(share * 100)).padStart(3)} % ${amount}`;
}
