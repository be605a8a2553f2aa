import { execa } from "execa";
import { withBytes } from "./bytes";
import { endOf, lastOnDisk, type Partition, readPartitions } from "./partitions";

/** As little as this behind a partition is alignment, or a GPT's backup; bytes. */
const ALIGNMENT = 1024 * 1024;

/**
 * Lets the root partition reach to the end of its disk, if no other lies behind it; a GPT's backup header goes there too.
 * The file system in it is the caller's.
 * @param disk a RAW file
 * @param rootOffset bytes from its start to the root partition
 * @returns the partition's size now, bytes; undefined where it is not the last one
 */
export async function growPartition(disk: string, rootOffset: number): Promise<number | undefined> {
  const { last, size } = await lastPartition(disk);
  if (last?.start !== rootOffset) {
    return undefined;
  }
  if (size - endOf(last) <= ALIGNMENT) {
    return last.length;
  }
  const options = ["--quiet", "--no-reread", "--no-tell-kernel", "--force", "-N", String(last.number)];
  await execa("sfdisk", [...options, disk], { input: ", +\n", timeout: 60_000 });
  return (await lastPartition(disk)).last?.length;
}

function lastPartition(disk: string): Promise<{ readonly last: Partition | undefined; readonly size: number }> {
  return withBytes(disk, async (bytes) => {
    const table = await readPartitions(bytes);
    return { last: table && lastOnDisk(table), size: bytes.size };
  });
}
