import { type Bytes, textIn } from "./bytes";

/** What can be a root file system here. */
export type RootFileSystem = "ext" | "xfs" | "btrfs";

/** What a partition, or a whole disk, holds. */
export interface Signature {
  readonly kind: RootFileSystem | "volume" | "other";
  /** For people: `ext4`, `an LVM2 physical volume` …. */
  readonly what: string;
  /** Lower case. */
  readonly uuid?: string;
  readonly label?: string;
  /** Why it can't be used, as the rest of a sentence that it begins itself. */
  readonly problem?: string;
  /** Whether it was in use when it was copied, so that its journal still has to be read. */
  readonly isDirty?: true;
}

const SECTOR = 512;
const KIB = 1024;

/**
 * Looks what a partition holds, by the signatures at its start and end; empty for one with none that is known here.
 * What makes a file system a part of something else (LVM, RAID …) comes before the file system. Offsets and magic numbers
 * are those of the formats' own documents and headers (Linux' ext4, xfs, btrfs, bcache and md superblocks, LVM2's label,
 * OpenZFS' on-disk format, LUKS 1 and 2, Microsoft's FAT).
 */
export async function signaturesOf(part: Bytes): Promise<readonly Signature[]> {
  const head = await part.read(0, 256 * KIB);
  const volumes = [...lvm(head), ...(await raid(part, head)), ...bcache(head), ...luks(head)];
  const systems = [...ext(head, part.size), ...xfs(head, part.size), ...btrfs(head, part.size)];
  // A file system made over a former pool leaves labels of it where they are.
  const others = systems.length > 0 ? [] : [...zfs(head), ...swap(head), ...fat(head)];
  return [...volumes, ...systems, ...others];
}

// ── Volumes ────────────────────────────────────────────────────────────────────────────────────────────────────────

/** In one of the first four sectors. */
function lvm(head: Buffer): Signature[] {
  const isThere = [0, 1, 2, 3].some(
    (sector) => text(head, sector * SECTOR, 8) === "LABELONE" && text(head, sector * SECTOR + 24, 8) === "LVM2 001",
  );
  return isThere ? [{ kind: "volume", what: "an LVM2 physical volume" }] : [];
}

/** Version 0.90 and 1.0 are at the end, 1.1 at the start, 1.2 4 KiB behind it. */
async function raid(part: Bytes, head: Buffer): Promise<Signature[]> {
  const MAGIC = 0xa92b4efc;
  const found = (version: string): Signature => ({ kind: "volume", what: `a Linux RAID member (md ${version})` });
  const isVersion1 = (at: Buffer, sector: number) =>
    at.length >= 256 &&
    at.readUInt32LE(0) === MAGIC &&
    at.readUInt32LE(4) === 1 &&
    at.readBigUInt64LE(144) === BigInt(sector);
  const result: Signature[] = [];
  if (isVersion1(head.subarray(0, 256), 0)) {
    result.push(found("1.1"));
  }
  if (isVersion1(head.subarray(8 * SECTOR, 8 * SECTOR + 256), 8)) {
    result.push(found("1.2"));
  }
  const sectors = Math.floor(part.size / SECTOR);
  const at10 = Math.floor((sectors - 16) / 8) * 8;
  if (at10 > 0 && isVersion1(await part.read(at10 * SECTOR, 256), at10)) {
    result.push(found("1.0"));
  }
  const at90 = Math.floor(part.size / (64 * KIB)) * 64 * KIB - 64 * KIB;
  const old = at90 >= 0 ? await part.read(at90, 12) : Buffer.alloc(0);
  if (old.length === 12) {
    const isOld = [old.readUInt32LE(0), old.readUInt32BE(0)].includes(MAGIC);
    const [major, minor] = [4, 8].map((at) => Math.max(old.readUInt8(at), old.readUInt8(at + 3)));
    if (isOld && major === 0 && minor === 90) {
      result.push(found("0.90"));
    }
  }
  return result;
}

function bcache(head: Buffer): Signature[] {
  const magic = head.toString("hex", 4096 + 24, 4096 + 40);
  const names: Readonly<Record<string, string>> = {
    c68573f64e1a45ca8265f57f48ba6d81: "a bcache device",
    c68573f666ce90a9d96a60cf803df7ef: "a bcachefs member",
  };
  const what = names[magic];
  return what ? [{ kind: "volume", what }] : [];
}

function luks(head: Buffer): Signature[] {
  if (text(head, 0, 6) !== "LUKS\xba\xbe") {
    return [];
  }
  return [{ kind: "volume", what: `a LUKS${u16be(head, 6)} encrypted partition` }];
}

/** Uberblocks fill the second half of each label of 256 KiB, in either byte order. */
function zfs(head: Buffer): Signature[] {
  const MAGIC = 0x00bab10c;
  for (let at = 128 * KIB; at + 8 <= head.length; at += KIB) {
    if (head.readBigUInt64LE(at) === BigInt(MAGIC) || head.readBigUInt64BE(at) === BigInt(MAGIC)) {
      return [{ kind: "volume", what: "a ZFS member" }];
    }
  }
  return [];
}

// ── File systems ───────────────────────────────────────────────────────────────────────────────────────────────────

function ext(head: Buffer, size: number): Signature[] {
  const block = head.subarray(KIB, 2 * KIB);
  if (block.length < KIB || block.readUInt16LE(56) !== 0xef53) {
    return [];
  }
  const [compatible, incompatible, readOnly] = [92, 96, 100].map((at) => block.readUInt32LE(at)) as Three;
  const [JOURNAL_DEVICE, RECOVER, HAS_JOURNAL] = [0x8, 0x4, 0x4];
  const [EXT4_INCOMPATIBLE, EXT4_READ_ONLY] = [0x1_f7c0, 0x7_fff8];
  const isExt4 = (incompatible & EXT4_INCOMPATIBLE) !== 0 || (readOnly & EXT4_READ_ONLY) !== 0;
  const what = isExt4 ? "ext4" : (compatible & HAS_JOURNAL) !== 0 ? "ext3" : "ext2";
  if ((incompatible & JOURNAL_DEVICE) !== 0) {
    return [{ kind: "other", what: "the journal of another ext file system" }];
  }
  const problem = extProblem(block, size, incompatible);
  const hasForeignJournal = (compatible & HAS_JOURNAL) !== 0 && block.readUInt32LE(224) === 0;
  return [
    {
      kind: "ext",
      what,
      ...named(uuidOf(block.subarray(104, 120)), block.subarray(120, 136)),
      ...((incompatible & RECOVER) !== 0 && { isDirty: true as const }),
      ...(problem ? { problem } : hasForeignJournal && { problem: "keeps its journal on another device" }),
    },
  ];
}

type Three = [number, number, number];

/** What no honest superblock says (its fields: Linux' Documentation/filesystems/ext4/super.rst). */
function extProblem(block: Buffer, size: number, incompatible: number): string | undefined {
  const [IS_64BIT, BIGALLOC] = [0x80, 0x200];
  const logBlockSize = block.readUInt32LE(24);
  if (logBlockSize > 6) {
    return `says that its blocks have 2^${logBlockSize + 10} bytes`;
  }
  const blockSize = KIB << logBlockSize;
  const blocks = block.readUInt32LE(4) + ((incompatible & IS_64BIT) !== 0 ? block.readUInt32LE(336) * 2 ** 32 : 0);
  if (blocks === 0 || blocks * blockSize > size) {
    return `says that it has ${blocks} blocks of ${blockSize} bytes, in a partition of ${size} bytes`;
  }
  const perGroup = block.readUInt32LE(32);
  const isBigalloc = (block.readUInt32LE(100) & BIGALLOC) !== 0;
  // A block is the bitmap of a group's blocks, or clusters.
  if (perGroup === 0 || (!isBigalloc && perGroup > 8 * blockSize)) {
    return `says that it has ${perGroup} blocks a group`;
  }
  const firstBlock = block.readUInt32LE(20);
  if (firstBlock > 1 || firstBlock >= blocks) {
    return `says that it begins at block ${firstBlock}`;
  }
  const [inodes, inodesPerGroup] = [block.readUInt32LE(0), block.readUInt32LE(40)];
  const groups = Math.ceil((blocks - firstBlock) / perGroup);
  if (inodesPerGroup === 0 || inodesPerGroup > 8 * blockSize || inodes === 0 || inodes > groups * inodesPerGroup) {
    return `says that it has ${inodes} inodes, ${inodesPerGroup} a group, in ${groups} groups`;
  }
  const isOld = block.readUInt32LE(76) === 0;
  const inodeSize = isOld ? 128 : block.readUInt16LE(88);
  if (inodeSize < 128 || inodeSize > blockSize || (inodeSize & (inodeSize - 1)) !== 0) {
    return `says that its inodes have ${inodeSize} bytes`;
  }
  const descriptor = (incompatible & IS_64BIT) !== 0 ? block.readUInt16LE(254) : 32;
  if (descriptor < 32 || descriptor > blockSize || (descriptor & (descriptor - 1)) !== 0) {
    return `says that its group descriptors have ${descriptor} bytes`;
  }
  return undefined;
}

function xfs(head: Buffer, size: number): Signature[] {
  if (text(head, 0, 4) !== "XFSB" || head.length < SECTOR) {
    return [];
  }
  const [blockSize, blocks] = [head.readUInt32BE(4), Number(head.readBigUInt64BE(8))];
  const [groupBlocks, groups] = [head.readUInt32BE(84), head.readUInt32BE(88)];
  const isSane =
    blockSize >= 512 &&
    blockSize <= 64 * KIB &&
    (blockSize & (blockSize - 1)) === 0 &&
    blocks > (groups - 1) * groupBlocks &&
    blocks <= groups * groupBlocks;
  const problem = !isSane
    ? `says that it has ${blocks} blocks of ${blockSize} bytes, in ${groups} groups of ${groupBlocks}`
    : blocks * blockSize > size
      ? `says that it has ${blocks} blocks of ${blockSize} bytes, in a partition of ${size} bytes`
      : undefined;
  const external = head.readBigUInt64BE(48) === 0n ? "keeps its journal on another device" : undefined;
  return [
    {
      kind: "xfs",
      what: "XFS",
      ...named(uuidOf(head.subarray(32, 48)), head.subarray(108, 120)),
      ...((problem ?? external) && { problem: (problem ?? external) as string }),
    },
  ];
}

function btrfs(head: Buffer, size: number): Signature[] {
  const block = head.subarray(64 * KIB, 68 * KIB);
  if (text(block, 64, 8) !== "_BHRfS_M" || block.length < 4 * KIB) {
    return [];
  }
  const [devices, onThis] = [Number(block.readBigUInt64LE(136)), Number(block.readBigUInt64LE(0xc9 + 8))];
  const [sector, node] = [block.readUInt32LE(144), block.readUInt32LE(148)];
  const isPower = (bytes: number) => bytes >= 512 && bytes <= 64 * KIB && (bytes & (bytes - 1)) === 0;
  const problem =
    devices !== 1
      ? `is spread over ${devices} devices`
      : !isPower(sector) || !isPower(node)
        ? `says that its sectors have ${sector} bytes, and its nodes ${node}`
        : onThis > size
          ? `says that it has ${onThis} bytes, in a partition of ${size} bytes`
          : undefined;
  return [
    {
      kind: "btrfs",
      what: "btrfs",
      ...named(uuidOf(block.subarray(32, 48)), block.subarray(0x12b, 0x12b + 256)),
      ...(problem && { problem }),
    },
  ];
}

/** The last bytes of the first page, whose size depends on the processor. */
function swap(head: Buffer): Signature[] {
  const isThere = [4, 8, 16, 32, 64].some((page) =>
    ["SWAPSPACE2", "SWAP-SPACE", "S1SUSPEND\0", "LINHIB0001"].includes(text(head, page * KIB - 10, 10, false)),
  );
  const header = head.subarray(KIB, KIB + 44);
  return isThere
    ? [{ kind: "other", what: "Linux swap", ...named(uuidOf(header.subarray(12, 28)), header.subarray(28, 44)) }]
    : [];
}

function fat(head: Buffer): Signature[] {
  const oem = text(head, 3, 8);
  const names: Readonly<Record<string, string>> = { "NTFS    ": "NTFS", "EXFAT   ": "exFAT" };
  if (names[oem]) {
    return [{ kind: "other", what: names[oem] }];
  }
  const isLarge = text(head, 82, 5) === "FAT32";
  const isFat = isLarge || text(head, 54, 3) === "FAT";
  if (!isFat || head.length < SECTOR || head.readUInt16LE(510) !== 0xaa55) {
    return [];
  }
  const at = isLarge ? 67 : 39;
  const uuid = head.readUInt32LE(at).toString(16).padStart(8, "0").replace(/^.{4}/, "$&-");
  const label = textIn(head.subarray(at + 4, at + 15)).trim();
  return [{ kind: "other", what: "FAT", uuid, ...(label && { label }) }];
}

// ── Fields ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function named(uuid: string, bytes: Buffer): Pick<Signature, "uuid" | "label"> {
  const label = textIn(bytes);
  return { uuid, ...(label && { label }) };
}

function uuidOf(bytes: Buffer): string {
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Up to the first zero byte, unless told otherwise. */
function text(buffer: Buffer, at: number, length: number, isCString = true): string {
  const all = buffer.toString("latin1", Math.min(at, buffer.length), Math.min(at + length, buffer.length));
  return isCString ? all.replace(/\0.*$/s, "") : all;
}

function u16be(buffer: Buffer, at: number): number {
  return at + 2 <= buffer.length ? buffer.readUInt16BE(at) : 0;
}
