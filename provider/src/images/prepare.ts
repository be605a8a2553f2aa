import { stat } from "node:fs/promises";
import type { DiskImage, ImageRecord, Progress } from "../drivers/driver";
import { InvalidImage } from "../drivers/errors";
import { digestOf } from "./disk/digests";
import { examine, examineDisk, refuseUnrunnable, withDisk } from "./examine";
import { copyFixed, FIXES_VERSION, refuseHopeless } from "./fixes/fixed-disk";
import { findFixes } from "./fixes/fixes";
import { cachedFile } from "./repository/cache";
import type { LocalImage } from "./repository/fetch";

/** What a cluster writes down of its image, and where its disks are on this machine. */
export interface PreparedImage {
  readonly record: ImageRecord;
  /** Absolute paths. */
  readonly disks: { readonly frontend: string; readonly compute: string };
}

/**
 * Makes an image's disks ready for machines of ours: what keeps them from running is put right in copies of them, which are
 * kept.
 * @param progress is told what was put right
 * @throws InvalidImage for what can't be run
 */
export async function prepareImage(image: LocalImage, progress: Progress): Promise<PreparedImage> {
  const { names, manifest } = image;
  const { reads, vcOutDialect } = manifest;
  const prepare = async (file: string, whose: string, name: string) => {
    const what = `image ${image.vcName}: ${whose} disk`;
    const { disk, ...prepared } = await prepareOnce(file, what, progress).catch((error: unknown) => {
      throw error instanceof InvalidImage ? new InvalidImage(`${what} ${name}`, error.detail, error.hint) : error;
    });
    return { ...prepared, disk: { ...disk, ...(reads && { reads }), ...(vcOutDialect && { vcOutDialect }) } };
  };
  const frontend = await prepare(image.frontendDisk, "its frontend's", names.frontend);
  const compute =
    image.computeDisk === image.frontendDisk
      ? frontend
      : await prepare(image.computeDisk, "its computes'", names.compute);
  return {
    record: { vcName: image.vcName, frontend: frontend.disk, compute: compute.disk },
    disks: { frontend: frontend.file, compute: compute.file },
  };
}

interface PreparedDisk {
  readonly file: string;
  readonly disk: DiskImage;
}

/** By what is prepared: clusters of a program have the same images. */
const prepared = new Map<string, Promise<PreparedDisk>>();

async function prepareOnce(file: string, what: string, progress: Progress): Promise<PreparedDisk> {
  const { size, mtimeMs } = await stat(file);
  const key = `${file} ${size} ${mtimeMs}`;
  const known = prepared.get(key) ?? prepareDisk(file, what, progress);
  prepared.set(key, known);
  known.catch(() => prepared.delete(key));
  return known;
}

async function prepareDisk(file: string, what: string, progress: Progress): Promise<PreparedDisk> {
  const found = await withDisk(file, async (disk) => {
    await refuseUnrunnable(file, disk.layout, "boot-code");
    const fixes = await findFixes(disk);
    return fixes.said.length > 0 || fixes.hopeless !== undefined ? { fixes } : { examined: await examine(disk) };
  });
  if (found.examined) {
    return { file, disk: { ...found.examined, digest: await digestOf(file, what, progress) } };
  }
  const { fixes } = found;
  refuseHopeless(file, fixes);
  progress(`${what} is put right in a copy:`);
  for (const line of fixes.said) {
    progress(`  ${line}`);
  }
  const key = `fixed ${FIXES_VERSION} ${await digestOf(file, what, progress)}`;
  const copy = await cachedFile(key, (made) => copyFixed(file, made, fixes), `${what}, put right`, progress);
  return { file: copy, disk: { ...(await examineDisk(copy)), digest: await digestOf(copy, what, progress) } };
}
