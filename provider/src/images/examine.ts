import type { DiskImage, ExaminedDisk } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { type Bytes, withBytes } from "./disk/bytes";
import { devicesFor } from "./disk/devices";
import { type DiskLayout, layoutOf, rootPlace } from "./disk/layout";
import type { GuestFileSystem } from "./root/file-system";
import { findNetworkReader } from "./root/network-reader";
import { type RootPlace, withRoot } from "./root/root";
import { isLabelled } from "./root/selinux";
import { LAYOUT_RULES } from "./standard/layout";

/** A disk whose root file system can be looked into. */
export interface OpenDisk {
  readonly file: string;
  readonly bytes: Bytes;
  readonly layout: DiskLayout;
  readonly place: RootPlace;
  readonly root: GuestFileSystem;
  readonly devices: DiskImage["devices"];
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
    return withRoot(file, place, async (root) => {
      const labelled = (await isLabelled(root)) ? { ...place, isLabelled: true as const } : place;
      return use({ file, bytes, layout, place: labelled, root, devices: await devicesFor(root) });
    });
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
export async function examine({ file, layout, place, root, devices }: OpenDisk): Promise<ExaminedDisk> {
  await refuseUnrunnable(file, layout);
  const { offset, kind, isLabelled } = place;
  const reader = await findNetworkReader(root);
  return {
    size: layout.size,
    rootOffset: offset,
    ...(kind !== "ext" && { rootFileSystem: kind }),
    ...(isLabelled && { isLabelled }),
    devices,
    ...reader,
  };
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
