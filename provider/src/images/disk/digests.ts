import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readdir, readFile, rename, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Progress } from "../../drivers/driver";
import { reporting } from "../../drivers/transfer";
import { home } from "../../home";

interface KnownDigest {
  readonly file: string;
  readonly size: number;
  readonly mtimeMs: number;
  readonly digest: string;
}

/** A note for each disk, so that nobody overwrites what another has just found out. */
const KNOWN_DIGESTS = () => home("cache", "digests");

const underWay = new Map<string, Promise<string>>();

/**
 * The SHA-256 of a disk, hex. Computed once for a file that keeps its size and time of change.
 * @param what the disk, for whoever waits
 */
export function digestOf(file: string, what?: string, progress?: Progress): Promise<string> {
  const digest = underWay.get(file) ?? computeDigest(file, what, progress).finally(() => underWay.delete(file));
  underWay.set(file, digest);
  return digest;
}

async function computeDigest(file: string, what = file, progress: Progress = () => undefined): Promise<string> {
  const { size, mtimeMs } = await stat(file);
  const note = noteOf(file);
  const known = await readKnownDigest(note);
  if (known?.file === file && known.size === size && known.mtimeMs === mtimeMs) {
    return known.digest;
  }
  const digest = await hashOf(file, what, progress);
  await writeKnownDigest(note, { file, size, mtimeMs, digest });
  return digest;
}

/** Writes down what somebody has computed while the file was written, so that nobody reads it again for that. */
export async function rememberDigest(file: string, digest: string): Promise<void> {
  const { size, mtimeMs } = await stat(file);
  await writeKnownDigest(noteOf(file), { file, size, mtimeMs, digest });
}

/** The SHA-256 of a file that nobody is to find by it, hex. */
export async function hashOf(file: string, what = file, progress: Progress = () => undefined): Promise<string> {
  const { size } = await stat(file);
  let done = 0;
  return reporting({ what: `${what}: its checksum`, bytes: size, arrived: async () => done }, progress, async () => {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(file, { highWaterMark: 4 * 1024 * 1024 })) {
      hash.update(chunk as Buffer);
      done += (chunk as Buffer).length;
    }
    return hash.digest("hex");
  });
}

/** A file of this machine that holds exactly the disk of this digest, if one is known. */
export async function locateDisk(digest: string): Promise<string | undefined> {
  const notes = (await readdir(KNOWN_DIGESTS()).catch(() => [])).filter((name) => name.endsWith(".json"));
  for (const note of notes) {
    const known = await readKnownDigest(join(KNOWN_DIGESTS(), note));
    if (known?.digest === digest) {
      const now = await stat(known.file).catch(() => undefined);
      if (now?.size === known.size && now.mtimeMs === known.mtimeMs) {
        return known.file;
      }
    }
  }
  return undefined;
}

function noteOf(file: string): string {
  return join(KNOWN_DIGESTS(), `${createHash("sha256").update(file).digest("hex")}.json`);
}

async function readKnownDigest(note: string): Promise<KnownDigest | undefined> {
  try {
    return JSON.parse(await readFile(note, "utf8")) as KnownDigest;
  } catch {
    return undefined; // A cache: without it the digest is computed again.
  }
}

async function writeKnownDigest(note: string, known: KnownDigest): Promise<void> {
  await mkdir(dirname(note), { recursive: true });
  const part = `${note}.${randomUUID()}.part`;
  await writeFile(part, JSON.stringify(known, null, 2));
  await rename(part, note);
}
