import { readdirSync, readFileSync } from "node:fs";

/** The largest resident set that a process has had, in bytes; undefined where there is no /proc, or no such process. */
export function peakResidentBytes(pid: number): number | undefined {
  const kilobytes = /^VmHWM:\s+(\d+) kB$/m.exec(text(`/proc/${pid}/status`) ?? "")?.[1];
  return kilobytes === undefined ? undefined : Number(kilobytes) * 1024;
}

/** The same of the largest among a process and all that descend from it. */
export function peakOfTree(pid: number): number | undefined {
  const peaks = treeOf(pid).flatMap((id) => peakResidentBytes(id) ?? []);
  return peaks.length === 0 ? undefined : Math.max(...peaks);
}

function treeOf(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const id of processes()) {
    // The name before the parent's id, in parentheses, may hold anything.
    const parent = Number(
      text(`/proc/${id}/stat`)
        ?.replace(/^.*\) \S /s, "")
        .split(" ")[0],
    );
    children.set(parent, [...(children.get(parent) ?? []), id]);
  }
  const found = [pid];
  for (let i = 0; i < found.length; i++) found.push(...(children.get(found[i] as number) ?? []));
  return found;
}

function processes(): number[] {
  try {
    return readdirSync("/proc").map(Number).filter(Number.isInteger);
  } catch {
    return [];
  }
}

function text(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
