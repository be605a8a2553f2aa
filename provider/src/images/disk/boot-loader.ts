import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";
import { inTemporaryFolder } from "../../temporary-folder";
import { type Partition, SECTOR } from "./partitions";
import type { RootFileSystem } from "./signatures";

const GRUB_FOLDER = "/usr/lib/grub/i386-pc";

/** Where the first partition of a disk made here begins: in bytes from its start, behind the boot loader. */
export const FIRST_PARTITION_OFFSET = 1024 * 1024;

/** The part of the first sector that is the boot loader's; the disk's signature and the partition table follow it. */
const BOOT_CODE_LENGTH = 440;
const PARTITION_TABLE_OFFSET = 446;
const LINUX_PARTITION = 0x83;

/**
 * The first sector of a disk: boot code and an MBR partition table (as in the PC BIOS) with one active Linux partition
 * from {@link FIRST_PARTITION_OFFSET} to the end.
 */
export function bootSector(diskBytes: number, bootCode: Buffer = Buffer.alloc(0)): Buffer {
  const sector = Buffer.alloc(SECTOR);
  bootCode.copy(sector, 0, 0, BOOT_CODE_LENGTH);
  const entry = sector.subarray(PARTITION_TABLE_OFFSET);
  entry.writeUInt8(0x80, 0);
  // Cylinders, heads and sectors say "too far for us": everybody reads the sector numbers below.
  entry.writeUIntBE(0xfeffff, 1, 3);
  entry.writeUInt8(LINUX_PARTITION, 4);
  entry.writeUIntBE(0xfeffff, 5, 3);
  entry.writeUInt32LE(FIRST_PARTITION_OFFSET / SECTOR, 8);
  entry.writeUInt32LE((diskBytes - FIRST_PARTITION_OFFSET) / SECTOR, 12);
  sector.writeUInt16BE(0x55aa, SECTOR - 2);
  return sector;
}

/** Where a boot loader is to be on a disk, and what it starts from there. */
export interface BootLoaderPlace {
  readonly table: "msdos" | "gpt";
  readonly root: { readonly number: number; readonly kind: RootFileSystem };
  /** A partition of its own, as a GPT needs; absent: behind the first sector. */
  readonly partition?: Partition;
}

/** What reads the grub.cfg of an image that is made here. */
const MODULES = ["normal", "linux16", "test", "setpci"];
const ROOT_MODULES: Readonly<Record<RootFileSystem, string>> = { ext: "ext2", xfs: "xfs", btrfs: "btrfs" };
/** What reads one that a distribution has written. */
const MODULES_OF_OTHERS = [
  "linux",
  "configfile",
  "search",
  "search_fs_uuid",
  "search_label",
  "echo",
  "loadenv",
  "gzio",
];
/** Bytes in GRUB's own sectors (its include/grub/i386/pc/boot.h): where the first says which to load, and that one the rest. */
const [NEXT_OF_FIRST, NEXT_OF_CORE] = [0x5c, SECTOR - 12];

const OWN: BootLoaderPlace = { table: "msdos", root: { number: 1, kind: "ext" } };

/**
 * Writes GRUB (for the PC BIOS) to a RAW disk whose root file system holds a kernel and a `grub.cfg`: before the first
 * partition, or into one that a GPT has for it. The host's own boot is not touched.
 * @param other the folder of a distribution's grub.cfg, or of one for any disk; default: `/boot/grub`, of an image made here
 * @throws SiteFailure where GRUB's files aren't installed here
 */
export async function installBootLoader(
  disk: string,
  other?: { readonly place: BootLoaderPlace; readonly folder: string },
): Promise<void> {
  const { place, folder } = other ?? { place: OWN, folder: "/boot/grub" };
  const { root, table, partition } = place;
  const modules = [
    "biosdisk",
    `part_${table}`,
    ROOT_MODULES[root.kind],
    ...MODULES,
    ...(other ? MODULES_OF_OTHERS : []),
  ];
  const prefix = `(hd0,${table === "gpt" ? "gpt" : "msdos"}${root.number})${folder}`;
  const [start, room] = partition ? [partition.start, partition.length] : [SECTOR, FIRST_PARTITION_OFFSET - SECTOR];
  const [bootCode, core] = await Promise.all([bootImage(), coreImage(prefix, modules, room)]);
  bootCode.writeBigUInt64LE(BigInt(start / SECTOR), NEXT_OF_FIRST);
  core.writeBigUInt64LE(BigInt(start / SECTOR + 1), NEXT_OF_CORE);
  const file = await open(disk, "r+");
  try {
    await file.write(bootCode, 0, BOOT_CODE_LENGTH, 0);
    await file.write(core, 0, core.length, start);
  } finally {
    await file.close();
  }
}

async function bootImage(): Promise<Buffer> {
  return readFile(join(GRUB_FOLDER, "boot.img")).catch(() => {
    throw new SiteFailure(
      "writing a boot loader",
      `there is no GRUB for the PC BIOS in ${GRUB_FOLDER}`,
      "Install grub-common and grub-pc-bin here",
    );
  });
}

/** @param room for it, bytes */
async function coreImage(prefix: string, modules: readonly string[], room: number): Promise<Buffer> {
  return inTemporaryFolder(async (workspace) => {
    const core = join(workspace, "core.img");
    await execa("grub-mkimage", ["-O", "i386-pc", "-p", prefix, "-o", core, ...modules]);
    const image = await readFile(core);
    if (image.length > room) {
      throw new SiteFailure("writing a boot loader", "GRUB does not fit where it is to be");
    }
    return image;
  });
}
