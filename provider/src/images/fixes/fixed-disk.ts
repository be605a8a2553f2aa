import { dirname } from "node:path";
import { execa } from "execa";
import { InvalidImage, SiteFailure } from "../../drivers/errors";
import { installBootLoader } from "../disk/boot-loader";
import { type GuestChange, inject } from "../disk/inject";
import type { Fixes } from "./fixes";

/** A change here means other copies from the same disk. */
export const FIXES_VERSION = 2;
/** When fixed files were written, as the copy says it: so that it doesn't depend on the day. */
const DATED = new Date("2000-01-01T00:00:00Z");

/** @throws InvalidImage for a disk that nothing helps */
export function refuseHopeless(disk: string, { hopeless }: Fixes): void {
  if (hopeless !== undefined) {
    throw new InvalidImage(
      `disk ${disk}`,
      `has no boot loader in its first sector, and none can be put there: ${hopeless}`,
      "Install one into the image: GRUB for BIOS, which in a GPT needs a BIOS boot partition of 1 MiB",
    );
  }
}

/** Makes a copy of a disk with its fixes. The same disk always gives the same copy. */
export async function copyFixed(disk: string, copy: string, fixes: Fixes): Promise<void> {
  await copySparsely(disk, copy);
  await applyFixes(copy, fixes, { grows: false, dated: DATED });
}

/** Sparse, or sharing blocks with the original where the file system can. */
export async function copySparsely(disk: string, copy: string): Promise<void> {
  const { failed, stderr } = await execa("cp", ["--sparse=always", "--reflink=auto", disk, copy], { reject: false });
  if (failed) {
    throw new SiteFailure(
      `copying the disk ${disk}`,
      stderr.trim().split("\n").at(-1) || "cp was ended",
      `Make room, or see whether ${dirname(copy)} can be written`,
    );
  }
}

/** What is done to a disk together with its fixes. */
export interface FurtherChanges {
  readonly grows: boolean;
  readonly changes?: readonly GuestChange[];
  readonly dated?: Date;
}

/** Puts a disk of ours right. */
export async function applyFixes(
  file: string,
  fixes: Fixes,
  { changes = [], ...further }: FurtherChanges,
): Promise<void> {
  const all = [...fixes.changes, ...changes];
  await inject({ file }, { root: fixes.root, changes: async () => all, recovers: fixes.isDirty, ...further });
  if (fixes.bootLoader !== undefined) {
    await installBootLoader(file, fixes.bootLoader);
  }
}
