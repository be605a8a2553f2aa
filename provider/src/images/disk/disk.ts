import type { DiskImage, ExaminedDisk } from "../../drivers/driver";
import { InvalidImage } from "../../drivers/errors";
import type { GuestFileSystem } from "../root/file-system";
import { findNetworkReader } from "../root/network-reader";
import { type RootPlace, withRoot } from "../root/root";
import { LAYOUT_RULES, rootSignature } from "../standard/layout";
import { type Bytes, partOf, withBytes } from "./bytes";
import { type Container, containerOf } from "./container";
import { devicesFor } from "./devices";
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

/** A disk whose root file system can be looked into. */
export interface OpenDisk {
  readonly file: string;
  readonly bytes: Bytes;
  readonly layout: DiskLayout;
  readonly place: RootPlace;
  readonly root: GuestFileSystem;
}

/**
 * Opens a disk for as long as `use` takes. Nothing is mounted.
 * @throws InvalidImage with the reason why its root can't be looked into
 */
export async function withDisk<T>(file: string, use: (disk: OpenDisk) => Promise<T>): Promise<T> {
  return withBytes(file, async (bytes) => {
    const layout = await layoutOf(bytes);
    const place = rootPlace(layout);
    if (!place) {
      await refuseUnrunnable(file, layout);
      throw new InvalidImage(`disk ${file}`, "its first partition holds no root file system", "Copy one into it");
    }
    return withRoot(file, place, (root) => use({ file, bytes, layout, place, root }));
  });
}

/**
 * Looks whether a file is a disk that can be run: as the standard's rules for its layout ask; and what it needs. Reads
 * little of it, and the kernels' module lists and what starts in it.
 * @throws InvalidImage with the reason
 */
export function examineDisk(file: string): Promise<ExaminedDisk> {
  return withDisk(file, examine);
}

/** @throws InvalidImage for one that can't be run */
export async function examine({ file, layout, place, root }: OpenDisk): Promise<ExaminedDisk> {
  await refuseUnrunnable(file, layout);
  const { offset, kind } = place;
  const [devices, reader] = await Promise.all([devicesFor(root), findNetworkReader(root)]);
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

/**
 * @param put the id of a rule that needn't hold, as that can be put right
 * @throws InvalidImage
 */
export async function refuseUnrunnable(file: string, layout: DiskLayout, put?: string): Promise<void> {
  for (const { id, level, find } of LAYOUT_RULES) {
    const [first] = level === "error" && id !== put ? ((await find(layout)) ?? []) : [];
    if (first) {
      throw new InvalidImage(`disk ${file}`, first.found, first.fix);
    }
  }
}

/** Where the root file system of a prepared disk is. */
export function rootOf({ rootOffset, rootFileSystem }: DiskImage): RootPlace {
  return { offset: rootOffset, kind: rootFileSystem ?? "ext" };
}
