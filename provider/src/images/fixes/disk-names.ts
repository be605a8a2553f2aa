import { type Bytes, partOf } from "../disk/bytes";
import type { DiskLayout } from "../disk/layout";
import { signaturesOf } from "../disk/signatures";

/** By which names a machine of ours finds the partitions of its disk. */
export interface DiskNames {
  /** The root file system: `UUID=…`, or its device where it has none. */
  readonly root: string;
  /** The root file system's device, which a kernel without an initrd needs. */
  readonly rootDevice: string;
  /** Each partition by its number: `UUID=…`, or its device. */
  readonly byNumber: ReadonlyMap<number, string>;
  readonly devices: ReadonlySet<string>;
  /** `UUID=…` and `LABEL=…` of all file systems. */
  readonly tags: ReadonlySet<string>;
}

const NO_UUID = /^[0-]*$/;

/** @param device what the whole disk is called, `/dev/vda` for instance */
export async function namesOn(disk: Bytes, { table, first }: DiskLayout, device: string): Promise<DiskNames> {
  const byNumber = new Map<number, string>();
  const tags = new Set<string>();
  for (const { number, start, length } of table?.partitions ?? []) {
    const [held] = await signaturesOf(partOf(disk, start, length));
    const isNamed = held?.uuid !== undefined && !NO_UUID.test(held.uuid);
    byNumber.set(number, isNamed ? `UUID=${held.uuid}` : `${device}${number}`);
    if (isNamed) {
      tags.add(`UUID=${held.uuid}`);
    }
    if (held?.label) {
      tags.add(`LABEL=${held.label}`);
    }
  }
  const rootDevice = `${device}${first?.number ?? 1}`;
  return {
    root: byNumber.get(first?.number ?? 1) ?? rootDevice,
    rootDevice,
    byNumber,
    devices: new Set([...byNumber.keys()].map((number) => `${device}${number}`)),
    tags,
  };
}
