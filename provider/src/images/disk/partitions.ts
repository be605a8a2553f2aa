import { crc32 } from "node:zlib";
import { type Bytes, textIn } from "./bytes";
import { isExtended } from "./partition-types";

/** Bytes. RAW files have no other. */
export const SECTOR = 512;

const MBR_ENTRIES = 446;
const MBR_SIGNATURE = 0xaa55;
const GPT_PROTECTIVE = 0xee;
/** More logical partitions than any system here names, and an end for chains without one. */
const MOST_LOGICAL = 128;
const GPT_MAGIC = "EFI PART";
const GPT_HEADER = 92;
/** UEFI's least is 128 entries of 128 bytes; this is sixteen times as much. Bytes. */
const MOST_GPT_ENTRIES = 256 * 1024;
const UNUSED = "00000000-0000-0000-0000-000000000000";

export interface Partition {
  /** As Linux counts: 1 … 4 of an MBR, 5 … for its logical ones, the entry of a GPT from 1 on. */
  readonly number: number;
  /** Bytes from the start of the disk. */
  readonly start: number;
  /** Bytes. */
  readonly length: number;
  /** Of an MBR two hex digits, of a GPT a GUID in lower case: {@link partitionType} says it in words. */
  readonly type: string;
  /** What Linux calls its PARTUUID: a GUID, or the MBR's own number and the partition's. Lower case. */
  readonly uuid: string;
  /** Only a GPT has names. */
  readonly name?: string;
  /** A logical one, inside an extended one. */
  readonly logical?: true;
}

/** What is wrong with a partition table. */
export interface PartitionProblem {
  /** Whether it can be lived with. */
  readonly severity: "error" | "warning";
  /** Numbers of those that it is about; empty: the table as a whole. */
  readonly partitions: readonly number[];
  /** For people: the rest of a sentence that the disk begins. */
  readonly text: string;
}

export interface PartitionTable {
  readonly kind: "mbr" | "gpt";
  /** Those that lie inside the disk and have a length, by number; an extended one is among them. */
  readonly partitions: readonly Partition[];
  readonly problems: readonly PartitionProblem[];
  /** Of a GPT: what growing has to move. */
  readonly gpt?: GptPlaces;
}

/** Where the parts of a GPT are, bytes from the start of the disk. */
export interface GptPlaces {
  readonly backupHeader: number;
  /** First byte that a partition may have, and the first behind the last one. */
  readonly usable: readonly [start: number, end: number];
  /** Whether the backup lies where it should, in the last sector, and is whole. */
  readonly isBackupInPlace: boolean;
}

/** The partition that lies furthest behind, if there is one: only that can grow where it is. */
export function lastOnDisk({ partitions }: PartitionTable): Partition | undefined {
  return partitions
    .filter((partition) => !isFrame(partition))
    .reduce<Partition | undefined>((last, next) => (last && endOf(last) >= endOf(next) ? last : next), undefined);
}

/** Whether it is an extended partition, which holds logical ones and nothing else. */
function isFrame({ type, logical }: Partition): boolean {
  return !logical && type.length === 2 && isExtended(Number.parseInt(type, 16));
}

/** The first byte behind a partition. */
export function endOf({ start, length }: Partition): number {
  return start + length;
}

/** What a table says so far, while it is read. */
interface Draft {
  readonly partitions: Partition[];
  readonly problems: PartitionProblem[];
}

/**
 * Reads a disk's partition table: an MBR (as in the PC BIOS, logical partitions as DOS chained them) or a GPT (UEFI's
 * specification, chapter 5). Whatever it says, a bounded number of sectors is read, and each partition given lies inside
 * the disk.
 * @returns undefined where there is none
 */
export async function readPartitions(disk: Bytes): Promise<PartitionTable | undefined> {
  const sector = await disk.read(0, SECTOR);
  if (sector.length < SECTOR || sector.readUInt16LE(510) !== MBR_SIGNATURE) {
    return withoutMbr(disk);
  }
  const entries = [0, 1, 2, 3].map((index) => mbrEntry(sector, index));
  // A file system's own boot sector ends in the same two bytes.
  if (entries.some(({ status }) => status !== 0 && status !== 0x80)) {
    return undefined;
  }
  const table = entries.some(({ type }) => type === GPT_PROTECTIVE)
    ? await readGpt(disk, entries)
    : { kind: "mbr" as const, ...(await readMbr(disk, sector, entries)) };
  return { ...table, problems: [...table.problems, ...overlaps(table.partitions)] };
}

/** A GPT alone: neither a BIOS nor Linux looks for it then. */
async function withoutMbr(disk: Bytes): Promise<PartitionTable | undefined> {
  const text = "has a GPT without the protective MBR before it";
  return (await gptHeader(disk, 1)) === MISSING
    ? undefined
    : { kind: "gpt", partitions: [], problems: [{ severity: "error", partitions: [], text }] };
}

// ── MBR ────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface MbrEntry {
  readonly status: number;
  readonly type: number;
  /** Sectors. */
  readonly start: number;
  readonly count: number;
}

function mbrEntry(sector: Buffer, index: number): MbrEntry {
  const at = MBR_ENTRIES + 16 * index;
  return {
    status: sector.readUInt8(at),
    type: sector.readUInt8(at + 4),
    start: sector.readUInt32LE(at + 8),
    count: sector.readUInt32LE(at + 12),
  };
}

async function readMbr(disk: Bytes, sector: Buffer, entries: readonly MbrEntry[]): Promise<Draft> {
  const draft: Draft = { partitions: [], problems: [] };
  const uuid = (number: number) => `${hex(sector.readUInt32LE(440), 8)}-${hex(number)}`;
  const used = entries.map((entry, index) => ({ ...entry, number: index + 1 })).filter(({ type }) => type !== 0);
  for (const { number, type, start, count } of used) {
    add(draft, disk, { number, start: start * SECTOR, length: count * SECTOR, type: hex(type), uuid: uuid(number) });
  }
  const [extended, ...more] = used.filter(({ type }) => isExtended(type));
  if (more.length > 0) {
    draft.problems.push({
      severity: "error",
      partitions: more.map(({ number }) => number),
      text: "has more than one extended partition",
    });
  }
  if (extended && draft.partitions.some(({ number }) => number === extended.number)) {
    await readLogical(disk, extended, draft, uuid);
  }
  return draft;
}

/** The chain of sectors inside an extended partition, each with a logical partition and the place of the next one. */
async function readLogical(
  disk: Bytes,
  extended: MbrEntry & { readonly number: number },
  draft: Draft,
  uuid: (number: number) => string,
): Promise<void> {
  const broken = (text: string) =>
    draft.problems.push({ severity: "error", partitions: [extended.number], text: `its extended partition ${text}` });
  const seen = new Set<number>();
  let at = extended.start;
  for (let number = 5; seen.size < MOST_LOGICAL; number++) {
    if (seen.has(at)) {
      broken("leads back to itself");
      return;
    }
    seen.add(at);
    const sector = await disk.read(at * SECTOR, SECTOR);
    if (sector.length < SECTOR || sector.readUInt16LE(510) !== MBR_SIGNATURE) {
      broken(`has no table in sector ${at}`);
      return;
    }
    const [logical, next] = [mbrEntry(sector, 0), mbrEntry(sector, 1)];
    if (logical.type !== 0) {
      const start = at + logical.start;
      add(draft, disk, {
        number,
        start: start * SECTOR,
        length: logical.count * SECTOR,
        type: hex(logical.type),
        uuid: uuid(number),
        logical: true,
      });
      if (start + logical.count > extended.start + extended.count) {
        broken(`has partition ${number} beyond its own end`);
      }
    }
    if (!isExtended(next.type) || next.count === 0) {
      return;
    }
    at = extended.start + next.start;
    if (next.start >= extended.count) {
      broken("leads to a place outside itself");
      return;
    }
  }
  broken(`has more than ${MOST_LOGICAL} partitions`);
}

function hex(number: number, digits = 2): string {
  return number.toString(16).padStart(digits, "0");
}

// ── GPT ────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface GptHeader {
  /** Sector that it says it is in. */
  readonly self: number;
  readonly other: number;
  readonly firstUsable: number;
  readonly lastUsable: number;
  readonly entries: Buffer;
  readonly entrySize: number;
}

async function readGpt(disk: Bytes, mbr: readonly MbrEntry[]): Promise<PartitionTable> {
  const draft: Draft = { partitions: [], problems: [] };
  const lastSector = Math.floor(disk.size / SECTOR) - 1;
  const primary = await gptHeader(disk, 1);
  const backupAt = typeof primary === "string" ? lastSector : primary.other;
  const backup = await gptHeader(disk, backupAt);
  const isBackupInPlace = typeof backup !== "string" && backupAt === lastSector;
  if (typeof primary === "string" && typeof backup === "string") {
    const text = primary === MISSING ? "has a protective MBR without a GPT" : `its GPT ${primary}`;
    draft.problems.push({ severity: "error", partitions: [], text });
    return { kind: "gpt", ...draft };
  }
  if (typeof primary === "string") {
    // GRUB and Linux start from the primary one.
    draft.problems.push({
      severity: "error",
      partitions: [],
      text: `its GPT ${primary}; the backup at the end of the disk is whole`,
    });
  } else if (typeof backup === "string") {
    draft.problems.push({ severity: "warning", partitions: [], text: `the backup of its GPT ${backup}` });
  } else if (backupAt !== lastSector) {
    draft.problems.push({
      severity: "warning",
      partitions: [],
      text: "the backup of its GPT isn't in its last sector",
    });
  } else if (!primary.entries.equals(backup.entries)) {
    draft.problems.push({ severity: "warning", partitions: [], text: "the backup of its GPT says something else" });
  }
  if (mbr.filter(({ type }) => type !== 0).length > 1) {
    draft.problems.push({ severity: "warning", partitions: [], text: "has partitions in its MBR beside the GPT" });
  }
  const header = typeof primary === "string" ? (backup as GptHeader) : primary;
  const usable = [header.firstUsable * SECTOR, (header.lastUsable + 1) * SECTOR] as const;
  for (const partition of gptEntries(header)) {
    add(draft, disk, partition);
    if (partition.length > 0 && (partition.start < usable[0] || endOf(partition) > usable[1])) {
      const text = `its partition ${partition.number} lies where the GPT allows none`;
      draft.problems.push({ severity: "error", partitions: [partition.number], text });
    }
  }
  return { kind: "gpt", ...draft, gpt: { backupHeader: backupAt * SECTOR, usable, isBackupInPlace } };
}

const MISSING = "is missing";

/** One of the two, with its entries; in words, what is wrong with it. */
async function gptHeader(disk: Bytes, sector: number): Promise<GptHeader | string> {
  const header = await disk.read(sector * SECTOR, SECTOR);
  if (header.length < SECTOR || header.toString("latin1", 0, 8) !== GPT_MAGIC) {
    return MISSING;
  }
  const size = header.readUInt32LE(12);
  if (size < GPT_HEADER || size > SECTOR) {
    return `has a header of ${size} bytes`;
  }
  const blanked = Buffer.from(header.subarray(0, size));
  blanked.writeUInt32LE(0, 16);
  if (crc32(blanked) !== header.readUInt32LE(16)) {
    return "has a header whose checksum is wrong";
  }
  const [self, other, firstUsable, lastUsable] = [24, 32, 40, 48].map((at) => u64(header, at));
  const [entriesAt, count, entrySize] = [u64(header, 72), header.readUInt32LE(80), header.readUInt32LE(84)];
  if (self !== sector) {
    return `has a header that says it is in sector ${self}, and is in sector ${sector}`;
  }
  if (entrySize < 128 || entrySize % 128 !== 0 || count === 0 || count * entrySize > MOST_GPT_ENTRIES) {
    return `says it has ${count} entries of ${entrySize} bytes, which is absurd`;
  }
  const entries = await disk.read(entriesAt * SECTOR, count * entrySize);
  if (entries.length < count * entrySize) {
    return "keeps its entries outside the disk";
  }
  if (crc32(entries) !== header.readUInt32LE(88)) {
    return "has entries whose checksum is wrong";
  }
  return { self, other: other ?? 0, firstUsable: firstUsable ?? 0, lastUsable: lastUsable ?? 0, entries, entrySize };
}

function gptEntries({ entries, entrySize }: GptHeader): Partition[] {
  return Array.from({ length: entries.length / entrySize }, (_, index) => {
    const entry = entries.subarray(index * entrySize, (index + 1) * entrySize);
    const [first, last] = [u64(entry, 32), u64(entry, 40)];
    return {
      number: index + 1,
      start: first * SECTOR,
      length: (last + 1 - first) * SECTOR,
      type: guid(entry, 0),
      uuid: guid(entry, 16),
      name: textIn(entry.subarray(56, 128), "utf16le"),
    };
  }).filter(({ type }) => type !== UNUSED);
}

/** Numbers beyond 2⁵³ lose digits, and lie outside of any disk anyway. */
function u64(buffer: Buffer, at: number): number {
  return Number(buffer.readBigUInt64LE(at));
}

/** The first three parts are little-endian. */
function guid(buffer: Buffer, at: number): string {
  const parts = [
    hex(buffer.readUInt32LE(at), 8),
    hex(buffer.readUInt16LE(at + 4), 4),
    hex(buffer.readUInt16LE(at + 6), 4),
    buffer.toString("hex", at + 8, at + 10),
    buffer.toString("hex", at + 10, at + 16),
  ];
  return parts.join("-");
}

// ── Both ───────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Takes a partition that lies inside the disk, and says of any other what is wrong. */
function add(draft: Draft, disk: Bytes, partition: Partition): void {
  const { number, start, length } = partition;
  const subject = number === 1 ? "its first partition" : `its partition ${number}`;
  if (start >= SECTOR && length > 0 && endOf(partition) <= disk.size) {
    draft.partitions.push(partition);
    return;
  }
  const extent = length > 0 ? `(bytes ${start} to ${endOf(partition)})` : "(without length)";
  draft.problems.push({
    severity: "error",
    partitions: [number],
    text: `${subject} ${extent} doesn't lie inside the disk of ${disk.size} bytes`,
  });
}

/** Partitions that share bytes. An extended one shares its with the logical ones, and with nobody else. */
function overlaps(partitions: readonly Partition[]): PartitionProblem[] {
  const sorted = [...partitions].sort((a, b) => a.start - b.start);
  const found: PartitionProblem[] = [];
  for (const [index, one] of sorted.entries()) {
    for (const other of sorted.slice(index + 1)) {
      if (other.start >= endOf(one)) {
        break;
      }
      if (!(isFrame(one) && other.logical) && !(isFrame(other) && one.logical)) {
        const numbers = [one.number, other.number].sort((a, b) => a - b);
        const text = `its partitions ${numbers.join(" and ")} overlap`;
        found.push({ severity: "error", partitions: numbers, text });
      }
    }
  }
  return found;
}
