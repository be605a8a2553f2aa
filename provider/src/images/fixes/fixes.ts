import type { GuestChange } from "../disk/inject";
import type { DiskLayout } from "../disk/layout";
import type { OpenDisk } from "../examine";
import type { GuestFileSystem } from "../root/file-system";
import type { RootPlace } from "../root/root";
import { BOOT_ENTRIES, BOOT_FILES, type BootFile, fixBootFile } from "./boot-files";
import { bootMenu } from "./boot-menu";
import { namesOn } from "./disk-names";
import { type FixedText, fixFstab } from "./fstab";

/** What keeps a disk from running here and can be put right in a copy of it. */
export interface Fixes {
  readonly root: RootPlace;
  /** Whether that was in use when the disk was copied. */
  readonly isDirty: boolean;
  /** For people, a sentence's rest each; empty: nothing is to be done. */
  readonly said: readonly string[];
  readonly changes: readonly GuestChange[];
  /** The folder of the configuration of a boot loader that is to be written; absent: there is one. */
  readonly bootLoader?: string;
  /** Why nothing helps. */
  readonly hopeless?: string;
}

const FSTAB = "/etc/fstab";
/** Where a GRUB 2 has its configuration, by distribution. */
const GRUB_FOLDERS = ["/boot/grub", "/boot/grub2"];
const GRUB_CONFIGURATION = "grub.cfg";
/** What a boot loader of ours needs before the first partition, bytes. */
const ROOM_FOR_GRUB = 1024 * 1024;

/** Looks what has to be put right: names of disks, the serial console, and a boot loader that is missing. */
export async function findFixes({ bytes, layout, place, root, devices }: OpenDisk): Promise<Fixes> {
  const disk = await namesOn(bytes, layout, devices === "virtio" ? "/dev/vda" : "/dev/sda");
  const hasInitrd = (await root.list("/boot")).some(({ name }) => /^init(rd|ramfs)/.test(name));
  const texts = new Map<string, FixedText>();
  for (const bootFile of [{ path: FSTAB }, ...BOOT_FILES, ...(await bootEntries(root))]) {
    const { path } = bootFile;
    // Each byte as it is, whatever its encoding.
    const text = (await root.readBytes(path)).toString("latin1");
    texts.set(path, "before" in bootFile ? fixBootFile(text, bootFile, disk, hasInitrd) : fixFstab(text, disk));
  }
  const fixed = [...texts].filter(([, { said }]) => said.length > 0);
  const fixes = {
    root: place,
    isDirty: layout.holds.some(({ isDirty }) => isDirty === true),
    said: fixed.flatMap(([, { said }]) => said),
    changes: await Promise.all(
      fixed.map(async ([path, { text }]) => ({
        path,
        content: Buffer.from(text, "latin1"),
        mode: await modeOf(root, path),
      })),
    ),
  };
  return layout.hasBootCode ? fixes : withBootLoader(fixes, layout, root, await bootMenu(root, disk));
}

async function withBootLoader(
  fixes: Fixes,
  { table, first }: DiskLayout,
  root: GuestFileSystem,
  menu: string | undefined,
): Promise<Fixes> {
  if (table?.kind !== "mbr" || (first?.start ?? 0) < ROOM_FOR_GRUB) {
    return {
      ...fixes,
      hopeless: "there is room for one only in an MBR whose first partition begins at 1 MiB or later",
    };
  }
  const said = [...fixes.said, "it has no boot loader: GRUB is written into its first MiB"];
  for (const folder of GRUB_FOLDERS) {
    if (await root.has(`${folder}/${GRUB_CONFIGURATION}`)) {
      return { ...fixes, said, bootLoader: folder };
    }
  }
  if (menu === undefined) {
    return { ...fixes, hopeless: "there is no kernel in its /boot" };
  }
  const [folder = ""] = GRUB_FOLDERS;
  const configuration = { path: `${folder}/${GRUB_CONFIGURATION}`, content: menu, mode: 0o644 };
  return { ...fixes, said, changes: [...fixes.changes, configuration], bootLoader: folder };
}

async function bootEntries(root: GuestFileSystem): Promise<BootFile[]> {
  const { folder, before } = BOOT_ENTRIES;
  const entries = await root.list(folder);
  return entries
    .filter(({ name, kind }) => kind === "file" && name.endsWith(".conf"))
    .map(({ name }) => ({ path: `${folder}/${name}`, before }));
}

async function modeOf(root: GuestFileSystem, path: string): Promise<number> {
  const slash = path.lastIndexOf("/");
  const entries = await root.list(path.slice(0, slash));
  return entries.find(({ name }) => name === path.slice(slash + 1))?.mode ?? 0o644;
}
