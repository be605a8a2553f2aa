import { type FileHandle, open, statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { NoCapacity } from "../../drivers/errors";

/** What becomes a hole where it holds only zeros, bytes. */
const BLOCK = 64 * 1024;
const ZEROS = Buffer.alloc(BLOCK);
/** What stays free of a disk that others write to as well, bytes. */
const RESERVE = 256 * 1024 * 1024;
/** How much is written between two looks at what is free, bytes. */
const LOOK_EVERY = 64 * 1024 * 1024;

/** A new file that is written from its begin to its end; zeros take no place. */
export class SparseFile {
  private size = 0;
  private readonly room: Room;

  private constructor(
    private readonly handle: FileHandle,
    file: string,
  ) {
    this.room = new Room(dirname(file));
  }

  static async create(file: string): Promise<SparseFile> {
    return new SparseFile(await open(file, "wx"), file);
  }

  /** @throws NoCapacity before the disk is full */
  async append(chunk: Buffer): Promise<void> {
    for (const [start, end] of dataIn(chunk, this.size)) {
      await this.room.take(end - start);
      await this.handle.write(chunk, start, end - start, this.size + start);
    }
    this.size += chunk.length;
  }

  /** @returns how long it has become, bytes */
  async close(): Promise<number> {
    try {
      await this.handle.truncate(this.size);
      return this.size;
    } finally {
      await this.handle.close();
    }
  }
}

/** Whether a piece of a disk is all zeros. */
export function isZero(piece: Buffer): boolean {
  for (let at = 0; at < piece.length; at += BLOCK) {
    const block = piece.subarray(at, at + BLOCK);
    if (!block.equals(ZEROS.subarray(0, block.length))) {
      return false;
    }
  }
  return true;
}

/** Begins and ends of what isn't zero, by blocks of the file that the chunk is put into at `offset`. */
function dataIn(chunk: Buffer, offset: number): Array<[start: number, end: number]> {
  const ranges: Array<[number, number]> = [];
  for (let start = 0; start < chunk.length; ) {
    const end = Math.min(chunk.length, start + BLOCK - ((offset + start) % BLOCK));
    if (!isZero(chunk.subarray(start, end))) {
      const last = ranges.at(-1);
      if (last && last[1] === start) {
        last[1] = end;
      } else {
        ranges.push([start, end]);
      }
    }
    start = end;
  }
  return ranges;
}

/** What a folder's disk has left. */
export class Room {
  private untilLook = 0;

  constructor(private readonly folder: string) {}

  /** @throws NoCapacity when writing that much would leave next to nothing */
  async take(bytes: number): Promise<void> {
    this.untilLook -= bytes;
    if (this.untilLook > 0) {
      return;
    }
    const { bavail, bsize } = await statfs(this.folder);
    if (bavail * bsize < RESERVE + LOOK_EVERY) {
      throw new NoCapacity(
        `the disk of ${this.folder}`,
        `only ${Math.floor((bavail * bsize) / 1024 / 1024)} MiB are free`,
        "Make room, with `vc cache prune` for instance, or set VIRTUAL_CLUSTER_HOME to a folder elsewhere",
      );
    }
    this.untilLook = LOOK_EVERY;
  }
}
