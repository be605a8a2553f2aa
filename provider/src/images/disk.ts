import type { DiskImage } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { type Bytes, partOf, withBytes } from "./bytes";
import { type Container, containerOf } from "./container";
import type { GuestFileSystem } from "./file-system";
import { findNetworkReader } from "./network-reader";
import { type Partition, type PartitionTable, readPartitions } from "./partitions";
import { type RootPlace, withRoot } from "./root";
import { type RootFileSystem, type Signature, signaturesOf } from "./signatures";
import { LAYOUT_RULES, rootSignature } from "./standard/layout";

const BOOT_CODE_LENGTH = 440;
/** More than any image has. */
const MOST_KERNELS = 16;

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
  if (!table) {
    return { size, wholeDisk: await signaturesOf(disk), hasBootCode, holds: [] };
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
  const place = rootPlace(layout) as RootPlace;
  const { offset, kind } = place;
  const [devices, reader] = await withRoot(file, place, (root) =>
    Promise.all([devicesFor(root), findNetworkReader(root)]),
  );
  return {
    size: layout.size,
    rootOffset: offset,
    ...(kind !== "ext" && { rootFileSystem: kind }),
    devices,
    ...reader,
  };
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

/** What a machine must offer so that this system finds its disk and its network. */
export async function devicesFor(root: GuestFileSystem): Promise<DiskImage["devices"]> {
  return (await hasVirtio(root)) ? "virtio" : "sata";
}

/** Whether some kernel inside has drivers for virtio disks and NICs, built in or as modules. */
async function hasVirtio(root: GuestFileSystem): Promise<boolean> {
  const kernels = (await root.list("/lib/modules"))
    .map(({ name }) => name)
    .filter((name) => /^\d/.test(name))
    .slice(0, MOST_KERNELS);
  for (const kernel of kernels) {
    const lists = await Promise.all(
      ["modules.builtin", "modules.dep"].map((list) => root.read(`/lib/modules/${kernel}/${list}`)),
    );
    const all = lists.join("\n");
    if (/\/virtio_blk\.ko/.test(all) && /\/virtio_net\.ko/.test(all)) {
      return true;
    }
  }
  return false;
}

/** Where the root file system of a prepared disk is. */
export function rootOf({ rootOffset, rootFileSystem }: DiskImage): RootPlace {
  return { offset: rootOffset, kind: rootFileSystem ?? "ext" };
}
