import { tagIn } from "../disk/tags";
import type { DiskNames } from "./disk-names";

/** A file after a fix, with what was done to it, for people. */
export interface FixedText {
  readonly text: string;
  readonly said: readonly string[];
}

/** By what fstab(5) names a file system: a disk's partition, or what the file system says of itself. */
const DEVICE = /^(\/dev\/(?:xvd|sd|hd|vd)[a-z]+)(\d*)$/;
const FIRST_DISK = /^\/dev\/[a-z]+a$/;
const ENTRY = /^\s*([^\s#]\S*)\s+(\S+)(?:\s+\S+\s+(\S+))?/;
/** What nobody waits for. */
const OPTIONAL = /(?:^|,)(?:nofail|noauto)(?:,|$)/;
const TAG = /^(?:UUID|LABEL)=/;

/**
 * An fstab that names only what is there: partitions by their UUID where they had names of another machine (Xen's, IDE's),
 * and what lies on no disk of ours commented out, as a machine would wait for it.
 */
export function fixFstab(text: string, disk: DiskNames): FixedText {
  const said: string[] = [];
  const entries = text.split("\n").map((line) => ENTRY.exec(line) ?? []);
  const rootSpec = entries.find(([, , place]) => place === "/")?.[1] ?? "";
  const oldDisk = DEVICE.exec(rootSpec)?.[1];
  const lines = text.split("\n").map((line, index) => {
    const [, spec = "", place = "", options = ""] = entries[index] ?? [];
    if (isPresent(spec, disk) || OPTIONAL.test(options)) {
      return line;
    }
    const name = place === "/" ? disk.root : nameOf(spec, oldDisk, disk);
    if (name === undefined) {
      said.push(`/etc/fstab has ${place} on ${spec}, which is not on the disk: commented out`);
      return `# Not on this disk: ${line}`;
    }
    said.push(`/etc/fstab has ${place} on ${spec}: now ${name}`);
    return line.replace(spec, () => name);
  });
  return { text: lines.join("\n"), said };
}

/** Whether it names something that a machine of ours finds, or that we know nothing of. */
function isPresent(spec: string, { devices, tags }: DiskNames): boolean {
  const tag = TAG.test(spec) ? tagIn(spec) : undefined;
  return tag === undefined ? !DEVICE.test(spec) || devices.has(spec) : tags.has(tag);
}

/**
 * What another machine's name of a partition is here.
 * @param oldDisk what the disk was called there, where that is known
 */
function nameOf(spec: string, oldDisk: string | undefined, { byNumber }: DiskNames): string | undefined {
  const [, disk = "", number] = DEVICE.exec(spec) ?? [];
  const isOurs = oldDisk === undefined ? FIRST_DISK.test(disk) : disk === oldDisk;
  return isOurs && number ? byNumber.get(Number(number)) : undefined;
}
