import type { RootPlace } from "../root/root";
import { type Bytes, partOf } from "./bytes";
import { type Container, containerOf } from "./container";
import { type Partition, type PartitionTable, readPartitions } from "./partitions";
import { type RootFileSystem, type Signature, signaturesOf } from "./signatures";

const BOOT_CODE_LENGTH = 440;

/** What a disk looks like from outside: what it is, how it is divided, and what its first partition holds. */
export interface DiskLayout {
  /** Bytes. */
  readonly size: number;
  /** Absent for a RAW one; then all else is looked at. */
  readonly container?: Container;
  readonly table?: PartitionTable;
  /** What lies there instead of a partition table. */
  readonly wholeDisk: readonly Signature[];
  readonly hasBootCode: boolean;
  /** The one with number 1. */
  readonly first?: Partition;
  /** Signatures in the first partition. */
  readonly holds: readonly Signature[];
}

/** Reads some hundred KiB, whatever the disk holds. */
export async function layoutOf(disk: Bytes): Promise<DiskLayout> {
  const { size } = disk;
  const container = await containerOf(disk);
  if (container) {
    return { size, container, wholeDisk: [], hasBootCode: false, holds: [] };
  }
  const [bootCode, table] = await Promise.all([disk.read(0, BOOT_CODE_LENGTH), readPartitions(disk)]);
  const hasBootCode = bootCode.some((byte) => byte !== 0);
  // A file system's own boot sector looks like a table with nothing in it.
  const isEmpty = !table || (table.partitions.length === 0 && table.problems.length === 0);
  const wholeDisk = isEmpty ? await signaturesOf(disk) : [];
  if (!table || wholeDisk.length > 0) {
    return { size, wholeDisk, hasBootCode, holds: [] };
  }
  const first = table.partitions.find(({ number }) => number === 1);
  const holds = first ? await signaturesOf(partOf(disk, first.start, first.length)) : [];
  return { size, table, wholeDisk: [], hasBootCode, ...(first && { first }), holds };
}

/** Where the root file system is; undefined where there is none that can be used. */
export function rootPlace(layout: DiskLayout): RootPlace | undefined {
  const root = rootSignature(layout);
  return layout.first && root ? { offset: layout.first.start, kind: root.kind as RootFileSystem } : undefined;
}

/** The root file system of a disk that has one which can be used. */
export function rootSignature({ holds }: Pick<DiskLayout, "holds">): Signature | undefined {
  return holds.find(({ kind, problem }) => kind !== "volume" && kind !== "other" && !problem);
}
