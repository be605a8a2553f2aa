import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { rm } from "node:fs/promises";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";
import { InvalidImage } from "../../drivers/errors";
import { SparseFile } from "./sparse-file";

/** The largest disk that is unpacked where no manifest says how large it is, bytes. */
export const MOST_UNPACKED = 256 * 1024 ** 3;
const CHUNK = 1024 * 1024;

/** A disk as it is packed, in files of this machine. */
export interface Packed {
  /** For messages. */
  readonly what: string;
  readonly name: string;
  readonly isGzip: boolean;
  readonly parts: readonly PackedPart[];
  /** Bytes unpacked, and its SHA-256, where a manifest tells. */
  readonly size?: number;
  readonly digest?: string;
}

export interface PackedPart {
  readonly name: string;
  readonly file: string;
  /** Its SHA-256, where a manifest tells. */
  readonly digest?: string;
}

/**
 * Writes a disk from its parts, with holes where it has zeros. Its size is bounded: by its manifest, else by
 * `most` bytes, and by what is free.
 * @param into a file that isn't there yet; none is left after a failure
 * @param took is told how many bytes of the parts have been read
 * @returns its SHA-256
 * @throws InvalidImage, NoCapacity
 */
export async function unpack(
  packed: Packed,
  into: string,
  took: (bytes: number) => void,
  most = MOST_UNPACKED,
): Promise<string> {
  const disk = await SparseFile.create(into);
  let isWhole = false;
  try {
    const digest = await write(packed, disk, took, packed.size ?? most);
    isWhole = true;
    return digest;
  } finally {
    await disk.close();
    if (!isWhole) {
      await rm(into, { force: true });
    }
  }
}

async function write(packed: Packed, disk: SparseFile, took: (bytes: number) => void, most: number): Promise<string> {
  const { what, name, isGzip, parts, size } = packed;
  const invalid = (detail: string, hint: string) => new InvalidImage(what, detail, hint);
  const hash = createHash("sha256");
  let written = 0;
  const writeOut = async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) {
      written += chunk.length;
      if (written > most) {
        throw size === undefined
          ? invalid(
              `${name} unpacks to more than ${most / 1024 ** 2} MiB`,
              "Only a manifest.json that says its size allows more",
            )
          : invalid(`${name} has more than the ${size} bytes of its manifest`, AGAIN);
      }
      hash.update(chunk);
      await disk.append(chunk);
    }
  };
  let read = 0;
  const bytes = bytesOf(packed, (count) => {
    read += count;
    took(count);
  });
  if (isGzip) {
    const gunzip = createGunzip({ chunkSize: CHUNK });
    const damaged = (detail: string) => invalid(`${name} isn't whole: ${detail}`, AGAIN);
    await pipeline(bytes, gunzip, writeOut).catch((error: NodeJS.ErrnoException) => {
      if (error.code?.startsWith("Z_")) {
        throw damaged(`its ${parts.length > 1 ? "parts together are" : "file is"} no gzip stream (${error.message})`);
      }
      // The stream has ended, and its source had more.
      throw error.code === "ABORT_ERR" ? damaged(GARBAGE) : error;
    });
    if (gunzip.bytesWritten !== read) {
      throw damaged(GARBAGE);
    }
  } else {
    await pipeline(bytes, writeOut);
  }
  if (size !== undefined && written !== size) {
    throw invalid(`${name} has ${written} bytes, and ${size} in its manifest`, AGAIN);
  }
  const digest = hash.digest("hex");
  if (packed.digest !== undefined && digest !== packed.digest) {
    throw invalid(`${name} isn't what its manifest says: its SHA-256 is ${digest}`, AGAIN);
  }
  return digest;
}

const GARBAGE = "something follows after its end";
const AGAIN = "Get the image anew from who made it: a part may be damaged, missing or in the wrong place";

/** Those of all parts, each held against its checksum. */
async function* bytesOf({ what, parts }: Packed, took: (bytes: number) => void): AsyncGenerator<Buffer> {
  for (const { name, file, digest } of parts) {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(file, { highWaterMark: CHUNK }) as Readable & AsyncIterable<Buffer>) {
      took(chunk.length);
      if (digest !== undefined) {
        hash.update(chunk);
      }
      yield chunk;
    }
    if (digest !== undefined && hash.digest("hex") !== digest) {
      throw new InvalidImage(what, `${name} isn't what its manifest says: its SHA-256 differs`, AGAIN);
    }
  }
}
