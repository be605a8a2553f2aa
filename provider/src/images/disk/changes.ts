import { open } from "node:fs/promises";
import { execa } from "execa";
import { SiteFailure } from "../../drivers/errors";

/** qcow2's own unit, and so that of what an overlay has changed. Bytes. */
export const BLOCK = 65_536;

/** Blocks in a row that an overlay has changed. */
export interface Change {
  readonly block: number;
  readonly count: number;
}

/** What turns a copy of an overlay's base into the disk that the overlay shows. */
export interface Changes {
  readonly changes: readonly Change[];
  /** The blocks' content, one after the other. */
  readonly data: Buffer;
}

/** What `qemu-img map` says of a range (its manual, `--output=json`). */
interface Extent {
  readonly start: number;
  readonly length: number;
  readonly present: boolean;
  readonly zero: boolean;
  readonly offset?: number;
}

/** Reads out of a qcow2 overlay of our own what it holds beyond its base, which isn't needed for that. */
export async function changesIn(overlay: string): Promise<Changes> {
  const image = { driver: "qcow2", file: { driver: "file", filename: overlay }, backing: null };
  const { stdout } = await execa("qemu-img", ["map", "--output=json", `json:${JSON.stringify(image)}`]);
  const extents = (JSON.parse(stdout) as Extent[]).filter(
    ({ present, zero, offset }) => present && (zero || offset !== undefined),
  );
  const handle = await open(overlay, "r");
  try {
    const pieces: Buffer[] = [];
    const changes: Change[] = [];
    for (const { start, length, zero, offset = 0 } of extents) {
      if (start % BLOCK !== 0) {
        throw new SiteFailure("reading what a disk's overlay holds", `it begins at byte ${start}, inside a block`);
      }
      const count = Math.ceil(length / BLOCK);
      const piece = Buffer.alloc(count * BLOCK);
      if (!zero) {
        await handle.read(piece, 0, length, offset);
      }
      pieces.push(piece);
      changes.push({ block: start / BLOCK, count });
    }
    return { changes, data: Buffer.concat(pieces) };
  } finally {
    await handle.close();
  }
}
