import { constants } from "node:fs";
import { type FileHandle, open, stat } from "node:fs/promises";
import { InvalidImage } from "../../drivers/errors";

/** What a disk, or a part of one, holds. */
export interface Bytes {
  /** Bytes. */
  readonly size: number;
  /** As much of a range as there is: nothing of what lies before its start or beyond its end. */
  read(offset: number, length: number): Promise<Buffer>;
}

/** More than any parser here asks for at once, bytes. */
const MOST_AT_ONCE = 4 * 1024 * 1024;
/** 8 PiB: sizes and places on a disk stay exact numbers. */
const MOST_BYTES = 2 ** 53;

/**
 * Opens a disk's file to be read, for as long as `use` takes.
 * @throws InvalidImage for what isn't a file, such as a device or a named pipe, which is never opened
 */
export async function withBytes<T>(file: string, use: (bytes: Bytes) => Promise<T>): Promise<T> {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    throw new InvalidImage(
      `disk ${file}`,
      `can't be read (${error.code})`,
      "Name a disk that is there and may be read",
    );
  });
  if (!found.isFile()) {
    throw new InvalidImage(`disk ${file}`, "is not a file", "Name a file that holds a whole disk");
  }
  if (found.size >= MOST_BYTES) {
    throw new InvalidImage(`disk ${file}`, `has ${found.size} bytes`, "No honest disk is that large: make it anew");
  }
  // It may have become something else since.
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    throw new InvalidImage(
      `disk ${file}`,
      `can't be read (${error.code})`,
      "Name a disk that is there and may be read",
    );
  });
  try {
    return await use(bytesOf(handle, found.size));
  } finally {
    await handle.close();
  }
}

function bytesOf(handle: FileHandle, size: number): Bytes {
  return {
    size,
    read: async (offset, length) => {
      const [from, count] = clipped(size, offset, length);
      const buffer = Buffer.alloc(count);
      const { bytesRead } = count > 0 ? await handle.read(buffer, 0, count, from) : { bytesRead: 0 };
      return buffer.subarray(0, bytesRead);
    },
  };
}

/** Whether two names are of one file. */
export async function isSameFile(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([one, other].map((file) => stat(file).catch(() => undefined)));
  return one === other || (a !== undefined && a.ino === b?.ino && a.dev === b.dev);
}

/** The same of a buffer. */
export function bytesIn(buffer: Buffer): Bytes {
  return {
    size: buffer.length,
    read: async (offset, length) => {
      const [from, count] = clipped(buffer.length, offset, length);
      return buffer.subarray(from, from + count);
    },
  };
}

/** A part of a disk, such as a partition, as if it were one. */
export function partOf(bytes: Bytes, start: number, length: number): Bytes {
  const size = Math.max(0, Math.min(length, bytes.size - start));
  return {
    size,
    read: async (offset, count) => {
      const [from, clippedCount] = clipped(size, offset, count);
      return bytes.read(start + from, clippedCount);
    },
  };
}

function clipped(size: number, offset: number, length: number): [from: number, count: number] {
  const isInside = Number.isSafeInteger(offset) && offset >= 0 && offset < size;
  return isInside ? [offset, Math.max(0, Math.min(length, size - offset, MOST_AT_ONCE))] : [0, 0];
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
const CONTROL = /[\x00-\x1f\x7f-\x9f]/g;

/** Text as formats keep it, up to its first zero; for people, so without control characters. */
export function textIn(bytes: Buffer, encoding: "utf8" | "utf16le" = "utf8"): string {
  return bytes.toString(encoding).replace(/\0.*$/s, "").replaceAll(CONTROL, "");
}
