import { readFileSync } from "node:fs";

/** What Linux says of a process in /proc/PID/stat; see proc(5). */
export interface ProcessStat {
  readonly command: string;
  /** `R`, `S`, `Z` …. */
  readonly state: string;
  readonly parent: number;
  /** Its process group. */
  readonly group: number;
  /** The group in the foreground of its terminal; -1 where it has none. */
  readonly foregroundGroup: number;
  /** Ticks since boot. */
  readonly startTime: string;
}

/** undefined where there is no such process, and on systems without /proc. */
export function statOf(pid: number): ProcessStat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The command may hold anything, parentheses too.
    const [begin, end] = [text.indexOf("("), text.lastIndexOf(")")];
    const fields = text.slice(end + 2).split(" ");
    return {
      command: text.slice(begin + 1, end),
      state: fields[0] ?? "",
      parent: Number(fields[1]),
      group: Number(fields[2]),
      foregroundGroup: Number(fields[5]),
      startTime: fields[19] ?? "",
    };
  } catch {
    return undefined;
  }
}
