import { BOOT_ENTRIES } from "../disk/boot-configuration";
import type { BootLoaderPlace } from "../disk/boot-loader";
import type { GuestChange } from "../disk/inject";
import type { DiskLayout } from "../disk/layout";
import { BIOS_BOOT, EFI_SYSTEM } from "../disk/partition-types";
import type { OpenDisk } from "../examine";
import type { GuestFileSystem } from "../root/file-system";
import type { RootPlace } from "../root/root";
import { BOOT_FILES, type BootFile, bootEntry, fixBootFile } from "./boot-files";
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
  /** A boot loader that is to be written; absent: there is one. */
  readonly bootLoader?: { readonly place: BootLoaderPlace; readonly folder: string };
  /** Why nothing helps. */
  readonly hopeless?: string;
}

const FSTAB = "/etc/fstab";
const BOOT_ENTRY = /^\s*[^#\s]\S*\s+\/boot\s/m;
/** Where a GRUB 2 has its configuration, by distribution. */
const GRUB_FOLDERS = ["/boot/grub", "/boot/grub2"];
const GRUB_CONFIGURATION = "grub.cfg";
/** What a boot loader of ours needs before the first partition, or as a partition of its own, bytes. */
const ROOM_FOR_GRUB = 1024 * 1024;
/** What reads entries of the Boot Loader Specification: in Red Hat's GRUB only. */
const READS_ENTRIES = /^\s*blscfg\b/m;

/** Looks what has to be put right: names of disks, the serial console, and a boot loader that is missing. */
export async function findFixes({ bytes, layout, place, root, devices }: OpenDisk): Promise<Fixes> {
  const disk = await namesOn(bytes, layout, devices === "virtio" ? "/dev/vda" : "/dev/sda");
  const hasInitrd =
    (await root.list("/boot")).some(({ name }) => /^init(rd|ramfs)/.test(name)) ||
    // It lies beside the kernels, in another partition.
    BOOT_ENTRY.test(await root.read(FSTAB));
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
  layout: DiskLayout,
  root: GuestFileSystem,
  menu: string | undefined,
): Promise<Fixes> {
  const place = bootLoaderPlace(layout, fixes.root);
  if (typeof place === "string") {
    return { ...fixes, hopeless: place };
  }
  const where = place.partition === undefined ? "its first MiB" : `its partition ${place.partition.number}`;
  const said = [...fixes.said, `it has no boot loader: GRUB is written into ${where}`];
  for (const folder of GRUB_FOLDERS) {
    const text = await root.read(`${folder}/${GRUB_CONFIGURATION}`);
    if (text !== "" && !READS_ENTRIES.test(text)) {
      return { ...fixes, said, bootLoader: { place, folder } };
    }
  }
  if (menu === undefined) {
    return { ...fixes, hopeless: "there is no kernel in the /boot of its root file system" };
  }
  const [folder = ""] = GRUB_FOLDERS;
  const configuration = { path: `${folder}/${GRUB_CONFIGURATION}`, content: menu, mode: 0o644 };
  return { ...fixes, said, changes: [...fixes.changes, configuration], bootLoader: { place, folder } };
}

/** Where there is room for one; in words, why there is none. */
function bootLoaderPlace({ table, first }: DiskLayout, { kind }: RootPlace): BootLoaderPlace | string {
  if (table?.kind === "gpt") {
    const partition = table.partitions.find(({ type, length }) => type === BIOS_BOOT && length >= ROOM_FOR_GRUB / 4);
    const isForUefi = table.partitions.some(({ type }) => type === EFI_SYSTEM);
    return partition
      ? { table: "gpt", root: { number: first?.number ?? 1, kind }, partition }
      : `its GPT has no BIOS boot partition for one${isForUefi ? ": it starts by UEFI, which machines here don't have" : ""}`;
  }
  return table && (first?.start ?? 0) >= ROOM_FOR_GRUB
    ? { table: "msdos", root: { number: first?.number ?? 1, kind } }
    : "there is room for one only where the first partition begins at 1 MiB or later";
}

async function bootEntries(root: GuestFileSystem): Promise<BootFile[]> {
  const entries = await root.list(BOOT_ENTRIES);
  return entries
    .filter(({ name, kind }) => kind === "file" && name.endsWith(".conf"))
    .map(({ name }) => bootEntry(name));
}

async function modeOf(root: GuestFileSystem, path: string): Promise<number> {
  const slash = path.lastIndexOf("/");
  const entries = await root.list(path.slice(0, slash));
  return entries.find(({ name }) => name === path.slice(slash + 1))?.mode ?? 0o644;
}
