import { type Bytes, partOf } from "./bytes";
import type { DiskLayout } from "./layout";
import { signaturesOf } from "./signatures";

/**
 * By which a machine finds the file systems of a disk wherever it is plugged in: `uuid=…`, `partuuid=…` in lower case,
 * `label=…` and `partlabel=…` as they are.
 */
export async function tagsOf(disk: Bytes, { table }: DiskLayout): Promise<ReadonlySet<string>> {
  const tags = new Set<string>();
  for (const { start, length, uuid, name } of table?.partitions ?? []) {
    const holds = await signaturesOf(partOf(disk, start, length));
    tags.add(`partuuid=${uuid}`);
    if (name) {
      tags.add(`partlabel=${name}`);
    }
    for (const signature of holds) {
      if (signature.uuid) {
        tags.add(`uuid=${signature.uuid}`);
      }
      if (signature.label) {
        tags.add(`label=${signature.label}`);
      }
    }
  }
  return tags;
}

/** The tag that fstab(5) or a kernel's `root=` names, in that form, also where udev has it as a link; undefined for another name. */
export function tagIn(source: string): string | undefined {
  const [, name = "", value = ""] =
    /^(UUID|LABEL|PARTUUID|PARTLABEL)="?([^"]*)"?$/i.exec(source) ??
    /^\/dev\/disk\/by-(uuid|label|partuuid|partlabel)\/(.*)$/.exec(source) ??
    [];
  const kind = name.toLowerCase();
  return (
    (kind && `${kind}=${kind.endsWith("uuid") ? value.toLowerCase() : value}`.replaceAll("\\x20", " ")) || undefined
  );
}
