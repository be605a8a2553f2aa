import type { Command } from "commander";
import { type CacheEntry, cacheEntries, pruneCache } from "../images/repository/cache";
import { mebibytes, parseCount } from "./sizes";
import { alignColumns } from "./table";
import { printable, type Terminal } from "./terminal";

interface PruneOptions {
  readonly olderThan: number;
  readonly all?: true;
  readonly dryRun?: true;
}

const DAYS = 30;

const LIST_EXAMPLES = `
Examples:
  vc cache list
  vc cache list --json | jq '[.[].bytes] | add'`;

const PRUNE_EXAMPLES = `
What a running command uses stays, and so does what clusters need: that is at their sites. What is removed is fetched or
made again when it is wanted.

Examples:
  vc cache prune                     # what nobody has used for ${DAYS} days
  vc cache prune --older-than 7 --dry-run
  vc cache prune --all`;

/** Disks that were fetched or made ready on this machine. */
export function addCache(program: Command, terminal: Terminal): void {
  const cache = program
    .command("cache")
    .summary("list and prune what is kept of images")
    .description("Looks after the disks of images that this machine keeps, so that they aren't fetched again.");
  cache
    .command("list")
    .summary("list what is kept")
    .description("Lists what is kept of images, what was used last first.")
    .option("--json", "print it for programs")
    .addHelpText("after", LIST_EXAMPLES)
    .action(({ json }: { readonly json?: true }) => list(json ?? false, terminal));
  cache
    .command("prune")
    .summary("remove what isn't used any more")
    .description("Removes what nobody has used for a while.")
    .option("--older-than <days>", "for how long nobody has used it", parseCount, DAYS)
    .option("--all", "whenever it was used")
    .option("--dry-run", "only list what would be removed")
    .addHelpText("after", PRUNE_EXAMPLES)
    .action((options: PruneOptions) => prune(options, terminal));
}

async function list(json: boolean, { out }: Terminal): Promise<void> {
  const entries = await cacheEntries();
  if (json) {
    out(JSON.stringify(entries, undefined, 2));
    return;
  }
  out(entries.length > 0 ? `${tableOf(entries)}\n\n${totalOf(entries)}` : "Nothing is kept.");
}

async function prune({ olderThan, all, dryRun }: PruneOptions, { out }: Terminal): Promise<void> {
  const since = new Date(Date.now() - (all ? 0 : olderThan * 24 * 3600 * 1000));
  const removed = await pruneCache(since, dryRun ?? false);
  if (removed.length === 0) {
    out("There is nothing to remove.");
    return;
  }
  out(`${tableOf(removed)}\n\n${dryRun ? "It would remove" : "Removed"} ${totalOf(removed)}`);
}

function tableOf(entries: readonly CacheEntry[]): string {
  const rows = entries.map(({ about, bytes, lastUse, isWhole }) => [
    mebibytes(bytes),
    lastUse.toISOString().replace(/:\d\d\.\d+Z$/, "Z"),
    isWhole ? about : `${about} (unfinished)`,
  ]);
  return printable(alignColumns([["SIZE", "LAST USE", "WHAT"], ...rows]));
}

function totalOf(entries: readonly CacheEntry[]): string {
  const bytes = entries.reduce((sum, entry) => sum + entry.bytes, 0);
  return `${entries.length} ${entries.length === 1 ? "file" : "files"}, ${mebibytes(bytes)}`;
}
