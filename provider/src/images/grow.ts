import { stat } from "node:fs/promises";
import { execa } from "execa";
import { z } from "zod";

/** What `sfdisk --json` says of a disk, as far as it matters here; in sectors of 512 bytes. */
const partitionTable = z.object({
  partitiontable: z.object({
    partitions: z.array(z.object({ node: z.string(), start: z.number(), size: z.number() })),
  }),
});

const SECTOR = 512;
/** As little as this behind a partition is alignment, or a GPT's backup; sectors. */
const ALIGNMENT = 2048;

/**
 * Lets the root partition reach to the end of its disk, if no other lies behind it; a GPT's backup header goes there too.
 * The file system in it is the caller's.
 * @param disk a RAW file
 * @param rootOffset bytes from its start to the root partition
 * @returns the partition's size now, bytes; undefined where it is not the last one
 */
export async function growPartition(disk: string, rootOffset: number): Promise<number | undefined> {
  const root = await lastPartition(disk);
  if (root === undefined || root.start * SECTOR !== rootOffset) {
    return undefined;
  }
  const { size: bytes } = await stat(disk);
  if (bytes / SECTOR - root.start - root.size <= ALIGNMENT) {
    return root.size * SECTOR;
  }
  await execa("sfdisk", ["--quiet", "--no-reread", "--no-tell-kernel", "--force", "-N", root.number, disk], {
    input: ", +\n",
    timeout: 60_000,
  });
  const grown = await lastPartition(disk);
  return grown && grown.size * SECTOR;
}

/** The one that begins last; undefined where there is no table that sfdisk understands. */
async function lastPartition(disk: string) {
  const { failed, stdout } = await execa("sfdisk", ["--json", disk], { timeout: 60_000, reject: false });
  if (failed) {
    return undefined;
  }
  const { partitions } = partitionTable.parse(JSON.parse(stdout)).partitiontable;
  const last = partitions.sort((one, other) => one.start - other.start).at(-1);
  return last && { ...last, number: last.node.slice(disk.length) };
}
