import type { DiskImage, ImageRecord, Progress } from "../drivers/driver";
import { digestOf } from "./digests";
import { examineDisk } from "./disk";
import type { LocalImage } from "./fetch";

/** What a cluster writes down of its image, and where its disks are on this machine. */
export interface PreparedImage {
  readonly record: ImageRecord;
  /** Absolute paths. */
  readonly disks: { readonly frontend: string; readonly compute: string };
}

/**
 * Makes an image's disks ready for machines of ours.
 * @throws InvalidImage for what can't be run
 */
export async function prepareImage(image: LocalImage, _progress: Progress): Promise<PreparedImage> {
  const { reads, vcOutDialect } = image.manifest;
  const disk = async (file: string): Promise<DiskImage> => ({
    ...(await examineDisk(file)),
    ...(reads && { reads }),
    ...(vcOutDialect && { vcOutDialect }),
    digest: await digestOf(file),
  });
  const frontend = await disk(image.frontendDisk);
  const compute = image.computeDisk === image.frontendDisk ? frontend : await disk(image.computeDisk);
  return {
    record: { vcName: image.vcName, frontend, compute },
    disks: { frontend: image.frontendDisk, compute: image.computeDisk },
  };
}
