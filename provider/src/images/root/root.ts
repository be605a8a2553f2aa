import type { DiskImage } from "../../drivers/driver";
import type { RootFileSystem } from "../disk/signatures";
import { ExtFileSystem, type GuestFileSystem } from "./file-system";
import { Guestfish } from "./guestfish";
import { RememberedFileSystem } from "./remembered";

/** Where a disk's root file system is. */
export interface RootPlace {
  /** Bytes from the start of the disk. */
  readonly offset: number;
  readonly kind: RootFileSystem;
  /** Whether its files have SELinux' labels, so that what is put there needs them too. */
  readonly isLabelled?: true;
}

/**
 * Hands `use` the root file system of a RAW disk, to be read.
 * @throws InvalidImage for one that nothing here can read
 */
export async function withRoot<T>(
  file: string,
  { offset, kind }: RootPlace,
  use: (root: GuestFileSystem) => Promise<T>,
): Promise<T> {
  if (kind === "ext") {
    return looking(new ExtFileSystem(file, offset));
  }
  await using root = await Guestfish.open({ file, name: "/dev/sda1", isReadOnly: true });
  // Awaited here: it is closed as soon as this returns.
  return await looking(root);

  async function looking(root: GuestFileSystem): Promise<T> {
    const unchanged = new RememberedFileSystem(file, root);
    await unchanged.refuseEmpty();
    return use(unchanged);
  }
}

/** Where the root file system of a prepared disk is. */
export function rootOf({ rootOffset, rootFileSystem, isLabelled }: DiskImage): RootPlace {
  return { offset: rootOffset, kind: rootFileSystem ?? "ext", ...(isLabelled && { isLabelled }) };
}
