import { open, readFile } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";
import { inTemporaryFolder } from "../../temporary-folder";

const GRUB_FOLDER = "/usr/lib/grub/i386-pc";
const SECTOR = 512;

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

/** What reads the grub.cfg of an image that is made here, from an ext2, ext3 or ext4 file system. */
const MODULES = ["biosdisk", "part_msdos", "ext2", "normal", "linux16", "test", "setpci"];
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

/**
 * Writes GRUB (for the PC BIOS) to a RAW disk with an MBR partition table, before its first partition, whose file system
 * holds a kernel and a `grub.cfg`. The host's own boot is not touched.
 * @param othersFolder of the grub.cfg, where that is a distribution's; default: `/boot/grub`, with one that is made here
 * @throws SiteFailure where GRUB's files aren't installed here
 */
export async function installBootLoader(disk: string, othersFolder?: string): Promise<void> {
  const core =
    othersFolder === undefined
      ? coreImage("/boot/grub", MODULES)
      : coreImage(othersFolder, [...MODULES, ...MODULES_OF_OTHERS]);
  const [bootCode, coreBytes] = await Promise.all([bootImage(), core]);
  const file = await open(disk, "r+");
  try {
    await file.write(bootCode, 0, BOOT_CODE_LENGTH, 0);
    await file.write(coreBytes, 0, coreBytes.length, SECTOR);
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

async function coreImage(folder: string, modules: readonly string[]): Promise<Buffer> {
  return inTemporaryFolder(async (workspace) => {
    const core = join(workspace, "core.img");
    await execa("grub-mkimage", ["-O", "i386-pc", "-p", `(hd0,msdos1)${folder}`, "-o", core, ...modules]);
    const image = await readFile(core);
    if (SECTOR + image.length > FIRST_PARTITION_OFFSET) {
      throw new SiteFailure("writing a boot loader", "GRUB does not fit before the first partition");
    }
    return image;
  });
}
