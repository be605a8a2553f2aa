import { stat } from "node:fs/promises";
import { join } from "node:path";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";
import { inTemporaryFolder } from "../../temporary-folder";
import type { RootPlace } from "../root/root";
import { partOf, withBytes } from "./bytes";
import { type GuestChanges, inject } from "./inject";
import { readQcow2Header } from "./qcow2";
import { signaturesOf } from "./signatures";

export interface Overlay {
  /** The RAW base as a file on this machine, to read the guest's file system from. */
  readonly base: string;
  /** Where the base lies at the site: what the overlay's header says. */
  readonly baseAtSite: string;
  /** Bytes. */
  readonly size: number;
  readonly root: RootPlace;
  readonly changes: GuestChanges;
}

/**
 * Makes a qcow2 overlay of a RAW base with changes in its root, hands its path to `use`, and removes it. Where the
 * overlay is larger than its base, the root partition and its file system fill it.
 */
export async function withOverlay<T>(overlay: Overlay, use: (file: string, bytes: number) => Promise<T>): Promise<T> {
  return inTemporaryFolder(async (folder) => {
    const file = join(folder, "overlay.qcow2");
    const { base, baseAtSite, size, root, changes } = overlay;
    await execa("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", baseAtSite, file, String(size)], {
      timeout: 120_000,
    });
    const recovers = await needsRecovery(base, root);
    await inject({ file, base }, { root, changes, recovers, grows: size > (await stat(base)).size });
    return use(file, (await stat(file)).size);
  });
}

/** An overlay that is there, as a file on this machine. */
export type PresentOverlay = Pick<Overlay, "base" | "root" | "changes"> & { readonly file: string };

/**
 * Changes the root file system of an overlay that nobody uses now. What its journal holds, after a machine lost
 * its power, is brought in order first.
 */
export async function injectInto(overlay: PresentOverlay): Promise<void> {
  const { file, base, root, changes } = overlay;
  const { size, hasDataFile } = await readQcow2Header(file);
  if (hasDataFile) {
    throw new SiteFailure("opening the node's disk", "it keeps its data in another file", "Copy it into one file");
  }
  await inject({ file, base }, { root, changes, recovers: true, grows: size > (await stat(base)).size });
}

/** Whether a file system was in use when its disk was copied. */
async function needsRecovery(disk: string, { offset }: RootPlace): Promise<boolean> {
  const held = await withBytes(disk, (bytes) => signaturesOf(partOf(bytes, offset, bytes.size)));
  return held.some(({ isDirty }) => isDirty === true);
}
