import { open } from "node:fs/promises";

/** What is needed of a qcow2 header; where it is: the format's own specification. */
export interface Qcow2Header {
  /** Of the disk inside, bytes. */
  readonly size: bigint;
  /** Whether it names another file for its data: incompatible feature 2. */
  readonly hasDataFile: boolean;
}

export async function readQcow2Header(file: string): Promise<Qcow2Header> {
  const handle = await open(file, "r");
  try {
    const header = Buffer.alloc(80);
    await handle.read(header, 0, header.length, 0);
    return { size: header.readBigUInt64BE(24), hasDataFile: (header.readBigUInt64BE(72) & 4n) !== 0n };
  } finally {
    await handle.close();
  }
}
