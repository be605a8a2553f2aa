import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";

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
export function bootSector(bootCode: Buffer, diskBytes: number): Buffer {
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

/**
 * Writes a partition table and GRUB (for the PC BIOS) to a RAW disk whose file system, from
 * {@link FIRST_PARTITION_OFFSET} on, holds a kernel and `/boot/grub/grub.cfg`. The host's own boot is not touched.
 */
export async function installBootLoader(disk: string): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "boot-loader-"));
  try {
    const core = join(folder, "core.img");
    const modules = ["biosdisk", "part_msdos", "ext2", "normal", "linux16", "test", "setpci"];
    await execa("grub-mkimage", ["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-o", core, ...modules]);
    const [bootCode, coreImage] = await Promise.all([readFile(join(GRUB_FOLDER, "boot.img")), readFile(core)]);
    if (SECTOR + coreImage.length > FIRST_PARTITION_OFFSET) throw new Error("GRUB does not fit before the partition.");
    const file = await open(disk, "r+");
    try {
      const { size } = await file.stat();
      await file.write(bootSector(bootCode, size), 0, SECTOR, 0);
      await file.write(coreImage, 0, coreImage.length, SECTOR);
    } finally {
      await file.close();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
