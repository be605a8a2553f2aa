import { execa } from "execa";
import { installBootLoader } from "../disk/boot-loader";
import { inject } from "../disk/inject";
import type { Fixes } from "./fixes";

/** A change here means other copies from the same disk. */
export const FIXES_VERSION = 1;
/** When fixed files were written, as the copy says it: so that it doesn't depend on the day. */
const DATED = new Date("2000-01-01T00:00:00Z");

/**
 * Makes a copy of a disk with its fixes: sparse, or sharing blocks with the disk where the file system can. The same disk
 * always gives the same copy.
 */
export async function copyFixed(disk: string, copy: string, fixes: Fixes): Promise<void> {
  const { root, isDirty, changes, bootLoader } = fixes;
  await execa("cp", ["--sparse=always", "--reflink=auto", disk, copy]);
  await inject({ file: copy }, { root, changes: async () => changes, recovers: isDirty, grows: false, dated: DATED });
  if (bootLoader !== undefined) {
    await installBootLoader(copy, bootLoader);
  }
}
