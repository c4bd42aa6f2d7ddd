import { cpus } from "node:os";

/** Time that all cores have spent so far, in milliseconds. */
export interface CoreTimes {
  readonly busy: number;
  readonly all: number;
}

export function coreTimes(): CoreTimes {
  let busy = 0;
  let all = 0;
  for (const { times } of cpus()) {
    const sum = times.user + times.nice + times.sys + times.irq + times.idle;
    all += sum;
    busy += sum - times.idle;
  }
  return { busy, all };
}

/** Share of the cores' time that was busy since then, from 0 to 1. */
export function busyShare(since: CoreTimes, now: CoreTimes = coreTimes()): number {
  return now.all > since.all ? (now.busy - since.busy) / (now.all - since.all) : 0;
}

/** What was seen before a round. */
export interface Gate {
  readonly waitedMs: number;
  /** In the last second before it. */
  readonly busyShare: number;
  /** Somebody else was at work when the time to wait was over. */
  readonly disturbed: boolean;
}

/** More than this, and somebody else is at work. */
const quietShare = 0.1;

/** Waits for a second in which the machine is quiet, but at most `limitMs` beyond the first. */
export async function waitForQuiet(
  limitMs: number,
  sample: () => Promise<number> = sampleSecond,
): Promise<Gate> {
  const begin = performance.now();
  for (;;) {
    const busy = await sample();
    const waitedMs = Math.round(performance.now() - begin);
    const disturbed = busy > quietShare;
    if (!disturbed || waitedMs >= limitMs) return { waitedMs, busyShare: round(busy), disturbed };
  }
}

async function sampleSecond(): Promise<number> {
  const before = coreTimes();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  return busyShare(before);
}

function round(share: number): number {
  return Math.round(share * 1000) / 1000;
}

/** Was more at work during a pass than its own threads? With a thread on every core that cannot be told. */
export function crowded(share: number, cores: number, threads: number): boolean {
  return share * cores > threads + 0.6;
}
