import type { DiskLayout } from "../disk/layout";
import { partitionType } from "../disk/partition-types";
import { type PartitionProblem, SECTOR } from "../disk/partitions";
import type { Signature } from "../disk/signatures";
import { type Finding, finding, type Rule } from "./rule";

const MIB = 1024 * 1024;
const TIB = 1024 * 1024 * MIB;
const MOST_BYTES = 16 * TIB;

/** What of a disk's layout is asked before anything runs from it, in this order. */
export const LAYOUT_RULES: readonly Rule<DiskLayout>[] = [
  {
    id: "raw",
    level: "error",
    asks: "The disk is RAW, by what it holds and not by its name.",
    find: ({ container }) => {
      if (!container) {
        return [];
      }
      const { name, reads, fix } = container;
      const more = reads ? `, and has its ${reads.what} ${reads.name ? JSON.stringify(reads.name) : "elsewhere"}` : "";
      return finding(true, `is ${name}, not RAW${more}`, fix);
    },
  },
  {
    id: "partition-table",
    level: "error",
    asks: "It has a partition table, MBR or GPT, whose header and entries are whole.",
    find: (disk) => {
      if (disk.container) {
        return undefined;
      }
      const { table } = disk;
      if (!table) {
        const [whole] = disk.wholeDisk;
        return finding(
          true,
          whole ? `has no partition table: it is ${whole.what} as a whole` : "has no partition table",
          "Copy its file system into the first partition of a disk with one: the standard wants that",
        );
      }
      return problemsOf(
        table.problems,
        "error",
        (numbers) => numbers.length === 0,
        "Write the table anew, or copy the disk again",
      );
    },
  },
  {
    id: "boot-code",
    level: "error",
    asks: "Its first sector has boot code for a BIOS.",
    find: ({ table, hasBootCode }) =>
      table &&
      finding(!hasBootCode, "has no boot loader in its first sector", "Install one (GRUB for BIOS) into the image"),
  },
  {
    id: "partition-places",
    level: "error",
    asks: "Each partition has a length, lies inside the disk, and shares nothing with another.",
    find: ({ table }) =>
      table &&
      problemsOf(
        table.problems,
        "error",
        (numbers) => numbers.length > 0,
        "Write the table anew, or copy the disk again: it may be cut off",
      ),
  },
  {
    id: "first-partition",
    level: "error",
    asks: "There is a first partition.",
    find: ({ table, first }) => {
      if (!table || isBroken(table.problems)) {
        return undefined;
      }
      const numbers = table.partitions.map(({ number }) => number).join(", ");
      return finding(
        !first && !table.problems.some(({ partitions }) => partitions.includes(1)),
        numbers ? `has no first partition (but ${numbers})` : "has no first partition",
        "Number the root partition 1: sfdisk --reorder, or sgdisk --transpose",
      );
    },
  },
  {
    id: "partition-type",
    level: "error",
    asks: "The first partition's type is that of a file system: not LVM, RAID, swap, an extended one, EFI ….",
    find: ({ first }) => {
      if (!first) {
        return undefined;
      }
      const { what, isNoRoot } = partitionType(first.type);
      const fix =
        "Copy the root file system into a plain first partition; where only the type is wrong: sfdisk --part-type";
      return finding(isNoRoot === true, `its first partition is ${what}, not a root file system`, fix);
    },
  },
  {
    id: "no-volumes",
    level: "error",
    asks: "What the first partition holds is no part of something else: LVM2, md RAID, bcache, LUKS, ZFS.",
    find: ({ first, holds }) =>
      first &&
      holds
        .filter(({ kind }) => kind === "volume")
        .flatMap(({ what }) =>
          finding(
            true,
            `its first partition holds ${what}`,
            "Copy the root file system into a plain first partition; an old signature that nobody needs goes with wipefs",
          ),
        ),
  },
  {
    id: "root-file-system",
    level: "error",
    asks: "The first partition holds an ext2, ext3, ext4, XFS or btrfs file system (on one device) that fits into it.",
    find: ({ first, holds }) => first && rootFinding(holds),
  },
  {
    id: "size",
    level: "error",
    asks: "The disk has at most 16 TiB.",
    find: ({ size }) =>
      finding(
        size > MOST_BYTES,
        `has ${Math.ceil(size / TIB)} TiB`,
        "Make it smaller: nodes' disks can be made larger than their image",
      ),
  },
  {
    id: "whole-sectors",
    level: "warning",
    asks: "The disk has whole sectors of 512 bytes.",
    find: ({ size }) =>
      finding(
        size % SECTOR !== 0,
        `has ${size} bytes, which isn't a whole number of sectors`,
        "Copy it again: it may be cut off",
      ),
  },
  {
    id: "table-backup",
    level: "warning",
    asks: "A GPT has its backup in the disk's last sector, saying the same, and the MBR beside it is only protective.",
    find: ({ table }) =>
      table && problemsOf(table.problems, "warning", () => true, "Let sgdisk --move-second-header bring it in order"),
  },
];

function rootFinding(holds: readonly Signature[]): readonly Finding[] | undefined {
  if (holds.some(({ kind }) => kind === "volume")) {
    return undefined;
  }
  const [found] = holds;
  if (!found || found.kind === "other") {
    const what = found ? found.what : "nothing that is known here";
    return finding(
      true,
      `its first partition holds ${what}: no ext2, ext3 or ext4 file system, and neither XFS nor btrfs`,
      "Put the root file system there",
    );
  }
  return finding(
    found.problem !== undefined,
    `its first partition holds ${found.what}, which ${found.problem}`,
    "Mend the file system (e2fsck, xfs_repair), make it fit with resize2fs, or copy the disk again",
  );
}

function isBroken(problems: readonly PartitionProblem[]): boolean {
  return problems.some(({ severity, partitions }) => severity === "error" && partitions.length === 0);
}

function problemsOf(
  problems: readonly PartitionProblem[],
  severity: PartitionProblem["severity"],
  isAbout: (numbers: readonly number[]) => boolean,
  fix: string,
): readonly Finding[] {
  return problems
    .filter((problem) => problem.severity === severity && isAbout(problem.partitions))
    .map(({ text }) => ({ found: text, fix }));
}
