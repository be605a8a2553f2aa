import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open, rename, stat } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { gzip } from "node:zlib";
import { execa } from "execa";
import type { Content } from "./manifest";
import { isZero } from "./sparse-file";
import type { PackedDisk } from "./vc-in";

const compress = promisify(gzip);

/** Compressed on its own, as a gzip member: gunzip takes members one after the other. Bytes. */
const BLOCK = 4 * 1024 * 1024;
/** How many are compressed at a time. */
const AT_ONCE = 4;
/** Half as much time as gzip's own 6, for some percent more. */
const LEVEL = 4;

export interface PackedFiles {
  readonly disk: PackedDisk;
  /** Of the disk unpacked. */
  readonly content: Content;
  readonly files: Readonly<Record<string, Content>>;
}

/**
 * Packs a RAW disk into gzip files of a folder. What the disk's file has as holes isn't read. The same disk gives the same
 * bytes, whatever its holes.
 * @param name the disk's in the image
 * @param split the most that a file may have, bytes; one file where it is left out
 * @param took is told how far it has got in the disk, bytes
 */
export async function packDisk(
  file: string,
  { name, into, split }: { name: string; into: string; split: number | undefined },
  took: (bytes: number) => void,
): Promise<PackedFiles> {
  const { size } = await stat(file);
  const holes = await holesIn(file);
  const hash = createHash("sha256");
  const parts = new PartFiles(into, name, split);
  const handle = await open(file, "r");
  try {
    let zeros: Promise<Buffer> | undefined;
    const underWay: Promise<Buffer>[] = [];
    let hole = 0;
    for (let start = 0; start < size; start += BLOCK) {
      const end = Math.min(start + BLOCK, size);
      while (hole < holes.length && (holes[hole] as Range).end < end) {
        hole += 1;
      }
      const isHole = hole < holes.length && (holes[hole] as Range).start <= start;
      const block = isHole ? Buffer.alloc(end - start) : await readBlock(handle, start, end - start);
      hash.update(block);
      if (block.length === BLOCK && isZero(block)) {
        zeros ??= compress(block, { level: LEVEL });
        underWay.push(zeros);
      } else {
        underWay.push(compress(block, { level: LEVEL }));
      }
      if (underWay.length >= AT_ONCE) {
        await parts.append((await underWay.shift()) as Buffer);
      }
      took(end);
    }
    for (const member of underWay) {
      await parts.append(await member);
    }
  } finally {
    await handle.close();
  }
  const files = await parts.close();
  return {
    disk: { name, parts: files.map(([part]) => part), isGzip: true },
    content: { size, sha256: hash.digest("hex") },
    files: Object.fromEntries(files),
  };
}

interface Range {
  readonly start: number;
  readonly end: number;
}

/** Where a file reads as zeros without being read, as `qemu-img map` tells of a RAW file. */
async function holesIn(file: string): Promise<readonly Range[]> {
  const image = { driver: "raw", file: { driver: "file", filename: file } };
  const { stdout } = await execa("qemu-img", ["map", "--output=json", `json:${JSON.stringify(image)}`]);
  const extents = JSON.parse(stdout) as { start: number; length: number; zero: boolean }[];
  return extents.filter(({ zero }) => zero).map(({ start, length }) => ({ start, end: start + length }));
}

async function readBlock(handle: FileHandle, start: number, length: number): Promise<Buffer> {
  const block = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; ) {
    const { bytesRead } = await handle.read(block, at, length - at, start + at);
    if (bytesRead === 0) {
      throw new Error(`the disk became shorter while it was read: it ends at byte ${start + at}`);
    }
    at += bytesRead;
  }
  return block;
}

/** A stream of bytes in one file, or in several that are concatenated in the order of their names. */
class PartFiles {
  private readonly contents: Content[] = [];
  private current: { handle: FileHandle; hash: Hash; size: number } | undefined;

  constructor(
    private readonly folder: string,
    private readonly name: string,
    private readonly most: number | undefined,
  ) {}

  async append(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      this.current ??= {
        handle: await open(this.fileOf(this.contents.length), "wx"),
        hash: createHash("sha256"),
        size: 0,
      };
      const left = (this.most ?? Number.POSITIVE_INFINITY) - this.current.size;
      const piece = bytes.subarray(at, at + Math.min(left, bytes.length - at));
      await this.current.handle.write(piece);
      this.current.hash.update(piece);
      this.current.size += piece.length;
      at += piece.length;
      if (this.current.size === this.most) {
        await this.end();
      }
    }
  }

  /** @returns the files by their final names */
  async close(): Promise<[name: string, content: Content][]> {
    await this.end();
    const suffixes =
      this.most === undefined ? [""] : partSuffixes(this.contents.length).map((letters) => `.${letters}`);
    return Promise.all(
      this.contents.map(async (content, index): Promise<[string, Content]> => {
        const name = `${this.name}.gz${suffixes[index]}`;
        await rename(this.fileOf(index), join(this.folder, name));
        return [name, content];
      }),
    );
  }

  private async end(): Promise<void> {
    if (this.current) {
      const { handle, hash, size } = this.current;
      this.current = undefined;
      await handle.sync().finally(() => handle.close());
      this.contents.push({ size, sha256: hash.digest("hex") });
    }
  }

  /** How many letters names take is known at the end. */
  private fileOf(index: number): string {
    return join(this.folder, `${this.name}.gz.${index}.part`);
  }
}

/** `a` … `z`, or `aa` … `zz` and so on where these don't suffice: they sort as they are counted. */
export function partSuffixes(count: number): string[] {
  const letters = Math.max(1, Math.ceil(Math.log(count) / Math.log(26) - 1e-9));
  return Array.from({ length: count }, (_, index) =>
    Array.from({ length: letters }, (_, at) =>
      String.fromCharCode(97 + (Math.floor(index / 26 ** (letters - 1 - at)) % 26)),
    ).join(""),
  );
}
