import type { DiskImage } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { type Bytes, partOf, withBytes } from "./bytes";
import { type Container, containerOf } from "./container";
import { type GuestFileSystem, openRoot } from "./file-system";
import { hasVirtioDrivers, kernelsOf } from "./kernels";
import { findNetworkReader } from "./network-reader";
import { type Partition, type PartitionTable, readPartitions } from "./partitions";
import { RememberedFileSystem } from "./remembered";
import { type RootFileSystem, type Signature, signaturesOf } from "./signatures";
import { LAYOUT_RULES, rootSignature } from "./standard/layout";

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

/**
 * Looks whether a file is a disk that can be run: as the standard's rules for its layout ask; and what it needs. Reads
 * little of it, and the kernels' module lists and what starts in it; nothing is mounted.
 * @throws InvalidImage with the reason
 */
export async function examineDisk(file: string): Promise<Omit<DiskImage, "digest">> {
  const layout = await withBytes(file, layoutOf);
  await refuseUnrunnable(file, layout);
  const { offset, kind } = rootPlace(layout) as RootPlace;
  const root = new RememberedFileSystem(file, await openRoot(file, offset, kind));
  await root.refuseEmpty();
  const [virtio, reader] = await Promise.all([hasVirtio(root), findNetworkReader(root)]);
  return {
    size: layout.size,
    rootOffset: offset,
    ...(kind !== "ext" && { rootFileSystem: kind }),
    devices: virtio ? "virtio" : "sata",
    ...reader,
  };
}

export interface RootPlace {
  /** Bytes from the start of the disk. */
  readonly offset: number;
  readonly kind: RootFileSystem;
}

/** Where the root file system is; undefined where there is none that can be used. */
export function rootPlace(layout: DiskLayout): RootPlace | undefined {
  const root = rootSignature(layout);
  return layout.first && root ? { offset: layout.first.start, kind: root.kind as RootFileSystem } : undefined;
}

async function refuseUnrunnable(file: string, layout: DiskLayout): Promise<void> {
  for (const { level, find } of LAYOUT_RULES) {
    const [first] = level === "error" ? ((await find(layout)) ?? []) : [];
    if (first) {
      throw new InvalidImage(`disk ${file}`, first.found, first.fix);
    }
  }
}

/** Whether some kernel inside has drivers for virtio disks and NICs, built in or as modules. */
async function hasVirtio(root: GuestFileSystem): Promise<boolean> {
  return (await kernelsOf(root)).some(hasVirtioDrivers);
}
