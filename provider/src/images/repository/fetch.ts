import { rename } from "node:fs/promises";
import { join } from "node:path";
import type { Progress } from "../../drivers/driver";
import { InvalidImage, Unreachable } from "../../drivers/errors";
import { reporting } from "../../drivers/transfer";
import { isSameFile } from "../disk/bytes";
import { digestOf, rememberDigest } from "../disk/digests";
import { cachedFile, cachedFileIfThere, inWorkFolder, remember, remembered } from "./cache";
import { download } from "./download";
import type { HttpLimits } from "./http-client";
import type { Manifest } from "./manifest";
import type { FoundDisk, FoundImage, FoundPart } from "./repository";
import { type PackedPart, unpack } from "./unpack";

/** An image whose RAW disks are on this machine. */
export interface LocalImage {
  readonly vcName: string;
  /** Absolute paths. */
  readonly frontendDisk: string;
  /** The same path where both have one disk. */
  readonly computeDisk: string;
  /** What these are called for people: a file in the cache says nothing to them. */
  readonly names: { readonly frontend: string; readonly compute: string };
  readonly manifest: Manifest;
}

/** By what is fetched: several clusters of a program want the same. */
const underWay = new Map<string, Promise<string>>();

/**
 * Brings an image's disks to this machine. A RAW disk in a folder stays where it is; what is packed or elsewhere goes into
 * the cache, once for its content, and isn't fetched again as long as its repository has the same.
 * @throws Unreachable, NotFound, Denied, InvalidImage for what isn't as its manifest says, NoCapacity
 */
export async function fetchImage(found: FoundImage, progress: Progress, limits?: HttpLimits): Promise<LocalImage> {
  const { vcName, frontend, compute, manifest } = found;
  const frontendDisk = await fetchDisk(frontend, vcName, progress, limits);
  const isShared = await sharesDisk(found);
  return {
    vcName,
    frontendDisk,
    computeDisk: isShared ? frontendDisk : await fetchDisk(compute, vcName, progress, limits),
    names: { frontend: nameOf(frontend), compute: nameOf(compute) },
    manifest,
  };
}

/** Its file, or what it was unpacked from. */
function nameOf(disk: FoundDisk): string {
  return rawFileOf(disk) ?? `${disk.name} from ${disk.parts[0]?.at}`;
}

/** Whether frontend and computes have one disk, which may be one file under two names. */
export async function sharesDisk({ frontend, compute }: FoundImage): Promise<boolean> {
  const [one, other] = [rawFileOf(frontend), rawFileOf(compute)];
  const isOneFile = one !== undefined && other !== undefined && (await isSameFile(one, other));
  return compute === frontend || (isOneFile && frontend.digest === compute.digest);
}

async function fetchDisk(disk: FoundDisk, vcName: string, progress: Progress, limits?: HttpLimits): Promise<string> {
  const raw = rawFileOf(disk);
  if (raw !== undefined) {
    await refuseOther(disk, raw, vcName);
    return raw;
  }
  const source = JSON.stringify([disk.isGzip, ...disk.parts.map(({ at }) => at)]);
  const fetching = underWay.get(source) ?? fetchOnce(source, disk, vcName, progress, limits);
  underWay.set(source, fetching);
  return fetching.finally(() => underWay.delete(source));
}

/** The file of a RAW disk that is on this machine already. */
export function rawFileOf({ parts, isGzip }: FoundDisk): string | undefined {
  const [part] = parts;
  return part?.isHere && parts.length === 1 && !isGzip ? part.at : undefined;
}

async function refuseOther({ name, digest }: FoundDisk, file: string, vcName: string): Promise<void> {
  if (digest !== undefined && (await digestOf(file)) !== digest) {
    throw new InvalidImage(
      `image ${vcName}`,
      `${name} isn't what its manifest says: its SHA-256 differs`,
      "Get the image anew from who made it, or pack it anew",
    );
  }
}

async function fetchOnce(
  source: string,
  disk: FoundDisk,
  vcName: string,
  progress: Progress,
  limits: HttpLimits | undefined,
): Promise<string> {
  const present = await presentDisk(disk, progress);
  if (present) {
    return present;
  }
  const about = `image ${vcName}: ${nameOf(disk)}`;
  const isInVain = (error: unknown) => !(error instanceof Unreachable);
  return inWorkFolder({ key: source, about, isInVain }, progress, async (folder) => {
    // Another process may have fetched it while this one waited.
    const fetched = await presentDisk(disk, progress);
    if (fetched) {
      return fetched;
    }
    const { parts, versions } = await fetchParts(disk, vcName, folder, progress, limits);
    const raw = join(folder, "disk");
    const digest = await unpackDisk(disk, parts, vcName, raw, progress);
    const file = await cachedFile(keyOf(digest), (made) => rename(raw, made), about, progress);
    await rememberDigest(file, digest);
    const identity = identityOf(disk, versions);
    if (identity !== undefined) {
      await remember(identity, digest);
    }
    return file;
  });
}

/** The disk in the cache, by its manifest's digest, or by that of what the repository had the last time. */
async function presentDisk(disk: FoundDisk, progress: Progress): Promise<string | undefined> {
  const versions = disk.parts.map(({ version }) => version);
  const identity = identityOf(disk, versions);
  const digest = disk.digest ?? (identity && (await remembered(identity)));
  return digest === undefined ? undefined : cachedFileIfThere(keyOf(digest), progress);
}

async function fetchParts(
  { parts }: FoundDisk,
  vcName: string,
  folder: string,
  progress: Progress,
  limits: HttpLimits | undefined,
): Promise<{ parts: PackedPart[]; versions: (string | undefined)[] }> {
  const arrived = parts.map(() => 0);
  const sizes = parts.map(({ size }) => size);
  const bytes = sizes.includes(undefined) ? undefined : sizes.reduce<number>((sum, size = 0) => sum + size, 0);
  const total = async () => arrived.reduce((sum, size) => sum + size, 0);
  return reporting({ what: `image ${vcName}`, bytes, arrived: total }, progress, async () => {
    const files: PackedPart[] = [];
    const versions: (string | undefined)[] = [];
    for (const [index, part] of parts.entries()) {
      const has = (count: number) => {
        arrived[index] = count;
      };
      const file = part.isHere ? part.at : join(folder, `part-${index}`);
      versions.push(part.isHere ? part.version : await downloadPart(part, file, vcName, progress, has, limits));
      files.push({ name: part.name, file, ...(part.told && { digest: part.told.sha256 }) });
    }
    return { parts: files, versions };
  });
}

function downloadPart(
  { at, told, version }: FoundPart,
  into: string,
  vcName: string,
  progress: Progress,
  has: (bytes: number) => void,
  limits: HttpLimits | undefined,
): Promise<string | undefined> {
  const wanted = { url: new URL(at), what: `image ${vcName}`, ...(told && { size: told.size }) };
  return download(wanted, into, { version, progress, has }, limits);
}

async function unpackDisk(
  { name, isGzip, size, digest }: FoundDisk,
  parts: readonly PackedPart[],
  vcName: string,
  into: string,
  progress: Progress,
): Promise<string> {
  let read = 0;
  const packed = {
    what: `image ${vcName}`,
    name,
    isGzip,
    parts,
    ...(digest !== undefined && { digest, size }),
  };
  const what = `image ${vcName}: unpacking ${name}`;
  return reporting({ what, bytes: undefined, arrived: async () => read }, progress, () =>
    unpack(packed, into, (count) => {
      read += count;
    }),
  );
}

/** What stands for a disk's content without its digest: where its parts are, and which versions. */
function identityOf({ isGzip, parts }: FoundDisk, versions: readonly (string | undefined)[]): string | undefined {
  return versions.includes(undefined)
    ? undefined
    : JSON.stringify([isGzip, ...parts.map(({ at }, index) => [at, versions[index]])]);
}

function keyOf(digest: string): string {
  return `disk ${digest}`;
}
