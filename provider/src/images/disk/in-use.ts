import { readFile, stat } from "node:fs/promises";
import { InvalidImage } from "../../drivers/errors";

/** The byte of a file that a QEMU which writes into it keeps locked (its block/file-posix.c: 100, and 1 for writing). */
const WRITER_BYTE = 101;

/**
 * A copy of what a machine writes into meanwhile is half of one state and half of another.
 * @throws InvalidImage for a disk that a QEMU of this host has open to be written
 */
export async function refuseInUse(file: string): Promise<void> {
  const { dev, ino } = await stat(file);
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const locks = await readFile("/proc/locks", "utf8").catch(() => "");
  const isWritten = [...locks.matchAll(/ ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$/gm)].some(
    ([, itsMajor = "", itsMinor = "", itsInode, from, to]) =>
      Number.parseInt(itsMajor, 16) === major &&
      Number.parseInt(itsMinor, 16) === minor &&
      Number(itsInode) === ino &&
      Number(from) <= WRITER_BYTE &&
      (to === "EOF" || Number(to) >= WRITER_BYTE),
  );
  if (isWritten) {
    throw new InvalidImage(
      `disk ${file}`,
      "is in use: a machine that runs writes into it",
      "Shut the machine down first, so that its disk is whole",
    );
  }
}
