import { randomUUID } from "node:crypto";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { dirname } from "node:path";
import { z } from "zod";
import { VirtualClusterError } from "./drivers/errors";
import { home } from "./home";

/** What is about to be changed at a site. */
export interface Change {
  readonly operation: "create" | "update" | "delete" | "sweep";
  /** The cluster's name at its site. */
  readonly cluster: string;
  /** Absent where it is the cluster itself. */
  readonly node?: string;
  /** What the site calls itself. */
  readonly site: string;
  /** Whose the cluster is; absent where only its record at the site would tell. */
  readonly owner?: string;
}

const entry = z.object({
  /** ISO 8601. */
  at: z.string(),
  /** The same in both lines of one change. */
  id: z.string(),
  /** `user@host` of whoever did it. */
  who: z.string(),
  operation: z.string(),
  cluster: z.string(),
  node: z.string().optional(),
  site: z.string(),
  owner: z.string().optional(),
  /** `begun` is written before anything is changed. */
  outcome: z.enum(["begun", "done", "failed"]),
  /** Of one that failed: what kind of error it was, and at what. */
  error: z.string().optional(),
});
export type AuditEntry = z.output<typeof entry>;

/** One change, as its lines tell of it. */
export interface AuditedChange extends Omit<AuditEntry, "outcome"> {
  /** `cut off`: there is no line of its end, since it goes on still, or its process was killed. */
  readonly outcome: "done" | "failed" | "cut off";
  readonly seconds?: number;
}

/**
 * The file that every change at a site is written into, a line of JSON before it and one after it:
 * `$VIRTUAL_CLUSTER_AUDIT_LOG`, default `audit.jsonl` in the user's folder.
 */
export function auditLog(): string {
  return process.env.VIRTUAL_CLUSTER_AUDIT_LOG || home("audit.jsonl");
}

/** Does the work, and writes down that it is done. One that can't be written down is done all the same, and that is said. */
export async function audited<T>(change: Change, work: () => Promise<T>): Promise<T> {
  const common = { id: randomUUID(), who: `${userInfo().username}@${hostname()}`, ...change };
  write({ ...common, outcome: "begun" });
  try {
    const result = await work();
    write({ ...common, outcome: "done" });
    return result;
  } catch (error) {
    write({ ...common, outcome: "failed", error: reasonOf(error) });
    throw error;
  }
}

/** Never what a site or a guest has said: that may hold anything. */
function reasonOf(error: unknown): string {
  return error instanceof VirtualClusterError
    ? `${error.name}: ${error.summary.slice(0, 200)}`
    : error instanceof Error
      ? error.constructor.name
      : typeof error;
}

function write(line: Omit<AuditEntry, "at">): void {
  const file = auditLog();
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    // One write at the end of the file: lines of processes that work at the same time don't mix.
    appendFileSync(file, `${JSON.stringify({ at: new Date().toISOString(), ...line })}\n`, { mode: 0o600 });
  } catch (error) {
    console.error(`the audit log ${file} can't be written (${(error as NodeJS.ErrnoException).code})`);
  }
}

/** The changes of an audit log, oldest first; what isn't one of its lines is passed over. */
export function readAuditLog(file = auditLog()): AuditedChange[] {
  const changes = new Map<string, AuditedChange>();
  for (const line of textOf(file).split("\n")) {
    const parsed = entry.safeParse(jsonOf(line));
    if (parsed.success) {
      const { outcome, at, ...rest } = parsed.data;
      const begun = changes.get(rest.id);
      const seconds = begun && (Date.parse(at) - Date.parse(begun.at)) / 1000;
      changes.set(rest.id, {
        ...rest,
        at: begun?.at ?? at,
        outcome: outcome === "begun" ? "cut off" : outcome,
        ...(seconds !== undefined && { seconds }),
      });
    }
  }
  return [...changes.values()];
}

function textOf(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      return "";
    }
    throw error;
  }
}

function jsonOf(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
