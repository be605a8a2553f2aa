import { type Bytes, partOf } from "../disk/bytes";
import type { DiskLayout } from "../disk/layout";
import { signaturesOf } from "../disk/signatures";
import { tagsOf } from "../disk/tags";

/** By which names a machine of ours finds the partitions of its disk. */
export interface DiskNames {
  /** The root file system: `UUID=…`, or its device where it has none. */
  readonly root: string;
  /** The root file system's device, which a kernel without an initrd needs. */
  readonly rootDevice: string;
  /** Each partition by its number: `UUID=…`, or its device. */
  readonly byNumber: ReadonlyMap<number, string>;
  readonly devices: ReadonlySet<string>;
  /** As {@link tagsOf} gives them. */
  readonly tags: ReadonlySet<string>;
}

const NO_UUID = /^[0-]*$/;

/** @param device what the whole disk is called, `/dev/vda` for instance */
export async function namesOn(disk: Bytes, layout: DiskLayout, device: string): Promise<DiskNames> {
  const { table, first } = layout;
  const byNumber = new Map<number, string>();
  for (const { number, start, length } of table?.partitions ?? []) {
    const [held] = await signaturesOf(partOf(disk, start, length));
    const isNamed = held?.uuid !== undefined && !NO_UUID.test(held.uuid);
    byNumber.set(number, isNamed ? `UUID=${held.uuid}` : `${device}${number}`);
  }
  const rootDevice = `${device}${first?.number ?? 1}`;
  return {
    root: byNumber.get(first?.number ?? 1) ?? rootDevice,
    rootDevice,
    byNumber,
    devices: new Set([...byNumber.keys()].map((number) => `${device}${number}`)),
    tags: await tagsOf(disk, layout),
  };
}
