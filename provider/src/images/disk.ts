import { open, stat } from "node:fs/promises";
import type { ExaminedDisk } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { ExtFileSystem, type GuestFileSystem } from "./file-system";
import { findNetworkReader } from "./network-reader";

const SECTOR = 512;
const EXT_MAGIC_OFFSET = 1024 + 56;
const EXT_MAGIC = 0xef53;
const MAGICS: ReadonlyArray<readonly [string, Buffer]> = [
  ["qcow2", Buffer.from("QFI\xfb", "latin1")],
  ["VMDK", Buffer.from("KDMV", "latin1")],
  ["VHDX", Buffer.from("vhdxfile", "latin1")],
  ["gzip", Buffer.from([0x1f, 0x8b])],
];
const MBR_TYPES_REFUSED: ReadonlyMap<number, string> = new Map([
  [0x05, "an extended partition"],
  [0x0f, "an extended partition"],
  [0x8e, "a Linux LVM volume"],
  [0xfd, "a Linux RAID member"],
]);
const MBR_GPT_PROTECTIVE = 0xee;

/**
 * Looks whether a file is a disk that can be run: RAW, with a boot loader, its first partition an ext2/3/4 root; and what
 * it needs. Reads a few sectors and, through debugfs, the kernels' module lists and what starts in it; nothing is mounted.
 * @throws InvalidImage with the reason
 */
export async function examineDisk(file: string): Promise<ExaminedDisk> {
  const invalid = (detail: string, hint = "") => new InvalidImage(`disk ${file}`, detail, hint);
  const found = await stat(file);
  if (!found.isFile()) {
    throw invalid("is not a file", "Name the disk's file in the vc-in.xml");
  }
  const { size } = found;
  const handle = await open(file, "r");
  try {
    const head = Buffer.alloc(64 * SECTOR);
    await handle.read(head, 0, head.length, 0);
    const container = MAGICS.find(([, magic]) => head.subarray(0, magic.length).equals(magic));
    if (container) {
      throw invalid(`is ${container[0]}, not RAW`, "Convert it with qemu-img convert -O raw");
    }
    if (head.readUInt16LE(510) !== 0xaa55) {
      throw invalid("has no partition table", "The standard wants one, with the root file system first");
    }
    if (head.subarray(0, 440).every((byte) => byte === 0)) {
      throw invalid("has no boot loader in its first sector", "Install one (GRUB for BIOS) into the image");
    }
    const rootOffset = firstPartition(head, size, invalid);
    const magic = Buffer.alloc(2);
    await handle.read(magic, 0, 2, rootOffset + EXT_MAGIC_OFFSET);
    if (magic.readUInt16LE(0) !== EXT_MAGIC) {
      throw invalid("its first partition holds no ext2, ext3 or ext4 file system", "Only these can be prepared");
    }
    const root = new ExtFileSystem(file, rootOffset);
    const [virtio, reader] = await Promise.all([hasVirtio(root), findNetworkReader(root)]);
    return { size, rootOffset, devices: virtio ? "virtio" : "sata", ...reader };
  } finally {
    await handle.close();
  }
}

function firstPartition(head: Buffer, size: number, invalid: (detail: string, hint?: string) => Error): number {
  const type = head.readUInt8(446 + 4);
  const [start, end] = type === MBR_GPT_PROTECTIVE ? firstGptEntry(head, invalid) : firstMbrEntry(head, type, invalid);
  if (start < SECTOR || end <= start || end > size) {
    throw invalid(`its first partition (bytes ${start} to ${end}) doesn't lie inside the disk of ${size} bytes`);
  }
  return start;
}

function firstMbrEntry(head: Buffer, type: number, invalid: (detail: string) => Error): [number, number] {
  if (type === 0) {
    throw invalid("has no first partition");
  }
  const refused = MBR_TYPES_REFUSED.get(type);
  if (refused) {
    throw invalid(`its first partition is ${refused}, not a root file system`);
  }
  const start = head.readUInt32LE(446 + 8) * SECTOR;
  return [start, start + head.readUInt32LE(446 + 12) * SECTOR];
}

function firstGptEntry(head: Buffer, invalid: (detail: string) => Error): [number, number] {
  if (head.toString("latin1", SECTOR, SECTOR + 8) !== "EFI PART") {
    throw invalid("has a protective MBR without a GPT");
  }
  const entries = Number(head.readBigUInt64LE(SECTOR + 72)) * SECTOR;
  if (entries + 128 > head.length) {
    throw invalid("its GPT keeps its entries in an unusual place");
  }
  return [
    Number(head.readBigUInt64LE(entries + 32)) * SECTOR,
    (Number(head.readBigUInt64LE(entries + 40)) + 1) * SECTOR,
  ];
}

/** Whether some kernel inside has drivers for virtio disks and NICs, built in or as modules. */
async function hasVirtio(root: GuestFileSystem): Promise<boolean> {
  const kernels = (await root.list("/lib/modules")).map(({ name }) => name).filter((name) => /^\d/.test(name));
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
