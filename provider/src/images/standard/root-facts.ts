import { posix } from "node:path";
import { BOOT_CONFIGURATIONS, BOOT_ENTRIES, GRUB_ENVIRONMENTS } from "../disk/boot-configuration";
import type { Bytes } from "../disk/bytes";
import { devicesFor } from "../disk/devices";
import { type Kernel, kernelsOf } from "../disk/kernels";
import { type DiskLayout, rootSignature } from "../disk/layout";
import type { Signature } from "../disk/signatures";
import { tagsOf } from "../disk/tags";
import type { GuestFileSystem } from "../root/file-system";
import { type FoundReader, findProgram } from "../root/network-reader";

/** What is known of a root file system before its rules are asked. */
export interface RootFacts {
  readonly root: GuestFileSystem;
  readonly fileSystem: Signature;
  /** As {@link tagsOf} gives them. */
  readonly tags: ReadonlySet<string>;
  /** Numbers of the disk's partitions. */
  readonly partitions: ReadonlySet<number>;
  readonly kernels: readonly Kernel[];
  /** How the disk is called on the machine that it gets here: `vda`, or `sda` for one that doesn't start from virtio. */
  readonly diskName: "vda" | "sda";
  readonly fstab: readonly FstabEntry[];
  readonly boot: BootFolder;
  readonly reader: FoundReader;
}

/** A line of /etc/fstab. */
export interface FstabEntry {
  readonly source: string;
  readonly target: string;
  readonly options: readonly string[];
}

export interface BootFolder {
  /** Whether the kernels lie in a partition of their own, which isn't looked into. */
  readonly isElsewhere: boolean;
  /** Files in it that look like kernels, and like their initramfs; absolute paths. */
  readonly kernels: readonly string[];
  readonly initramfs: readonly string[];
  /** Configuration files of boot loaders, with their text. */
  readonly configurations: ReadonlyMap<string, string>;
}

/** More than are of any use. */
const MOST_FILES = 16;
const MOST_LINES = 200;

export async function rootFacts(disk: Bytes, layout: DiskLayout, root: GuestFileSystem): Promise<RootFacts> {
  const [kernels, devices, fstab, reader, tags] = await Promise.all([
    kernelsOf(root),
    devicesFor(root),
    readFstab(root),
    findProgram(root),
    tagsOf(disk, layout),
  ]);
  return {
    root,
    fileSystem: rootSignature(layout) as Signature,
    tags,
    partitions: new Set(layout.table?.partitions.map(({ number }) => number)),
    kernels,
    diskName: devices === "virtio" ? "vda" : "sda",
    fstab,
    boot: await readBoot(root, fstab),
    reader,
  };
}

async function readFstab(root: GuestFileSystem): Promise<FstabEntry[]> {
  return (await root.read("/etc/fstab"))
    .split("\n")
    .slice(0, MOST_LINES)
    .map((line) => line.trim().split(/\s+/))
    .filter(([source = "", target]) => source !== "" && !source.startsWith("#") && target !== undefined)
    .map(([source = "", target = "", , options = ""]) => ({ source, target, options: options.split(",") }));
}

async function readBoot(root: GuestFileSystem, fstab: readonly FstabEntry[]): Promise<BootFolder> {
  const listed = await Promise.all(
    ["/boot", ""].map(async (folder) =>
      (await root.list(folder || "/"))
        .filter(({ kind }) => kind === "file" || kind === "link")
        .map(({ name }) => `${folder}/${name}`),
    ),
  );
  const files = listed.flat();
  const named = (pattern: RegExp) => files.filter((path) => pattern.test(posix.basename(path)));
  const entries = (await root.list(BOOT_ENTRIES)).filter(({ kind, name }) => kind === "file" && name.endsWith(".conf"));
  const paths = [
    ...Object.values(BOOT_CONFIGURATIONS).flat(),
    ...GRUB_ENVIRONMENTS,
    ...entries.slice(0, MOST_FILES).map(({ name }) => `${BOOT_ENTRIES}/${name}`),
  ];
  const texts = await Promise.all(
    paths.map(async (path) => [path, await root.read(await throughLinks(root, path))] as const),
  );
  return {
    isElsewhere: fstab.some(({ target }) => target === "/boot"),
    kernels: named(/^(vmlinuz|vmlinux|bzImage|kernel|linux)\b/).filter((path) => !path.endsWith(".sig")),
    initramfs: named(/^initr(d|amfs)\b/).slice(0, MOST_FILES),
    configurations: new Map(texts.filter(([, text]) => text !== "")),
  };
}

/** What a link leads to, through more of them; bounded, for links may lead in a circle. */
export async function throughLinks(root: GuestFileSystem, path: string): Promise<string> {
  let at = path;
  for (let hops = 0; hops < 8; hops++) {
    const target = await root.linkTarget(at);
    if (!target) {
      return at;
    }
    at = posix.resolve(posix.dirname(at), target);
  }
  return at;
}
