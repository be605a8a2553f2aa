import { tagIn } from "../disk/tags";
import type { DiskNames } from "./disk-names";
import type { FixedText } from "./fstab";

/** A file that may hold kernels' arguments. */
export interface BootFile {
  readonly path: string;
  /** The part of a line before a kernel's arguments. */
  readonly before: RegExp;
}

const GRUB = /^\s*linux(?:16|efi)?\s+/;
const GRUB_LEGACY = /^\s*kernel\s+/;
const SYSLINUX = /^\s*append\s+/i;

/** Where boot loaders keep what they start; of each, `grub.cfg` and others, what is there. */
export const BOOT_FILES: readonly BootFile[] = [
  ...["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg"].map((path) => ({ path, before: GRUB })),
  ...["/boot/grub/menu.lst", "/boot/grub/grub.conf"].map((path) => ({ path, before: GRUB_LEGACY })),
  ...["/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/extlinux.conf"].map((path) => ({
    path,
    before: SYSLINUX,
  })),
  // What the next installation of a kernel takes.
  { path: "/etc/default/grub", before: /^GRUB_CMDLINE_LINUX="/ },
];
/** Entries of the Boot Loader Specification. */
export const BOOT_ENTRIES = { folder: "/boot/loader/entries", before: /^options\s+/ };

/** Xen's own line names the hypervisor, not a kernel. */
const HYPERVISOR = /\/xen[^\s/]*\.gz/;
const ROOT = /(^|\s)root=(\/dev\/(?:xvd|sd|hd|vd)[a-z]+\d*|(?:UUID|LABEL)=[^\s"]+)/;
const FOREIGN_CONSOLE = /(^|\s+)console=(?:hvc|xvc)\d*\S*/g;
/** The last one is where a kernel says what goes wrong. */
export const CONSOLE = "console=tty0 console=ttyS0,115200n8";

/**
 * A boot loader's file by which kernels find the root file system here and speak on the serial console.
 * @param hasInitrd whether kernels have one; without, only a device's name says where the root is
 */
export function fixBootFile(text: string, { path, before }: BootFile, disk: DiskNames, hasInitrd: boolean): FixedText {
  const said = new Set<string>();
  const lines = text.split("\n").map((line) => {
    const [start] = before.exec(line) ?? [];
    if (start === undefined || HYPERVISOR.test(line)) {
      return line;
    }
    const [, given = "", rest = ""] = /^(.*?)("?\s*)$/.exec(line.slice(start.length)) ?? [];
    let args = given;
    const root = ROOT.exec(args)?.[2];
    const wanted = hasInitrd ? disk.root : disk.rootDevice;
    if (root !== undefined && root !== disk.rootDevice && !(hasInitrd && disk.tags.has(tagIn(root) ?? ""))) {
      args = args.replace(ROOT, (_, space: string) => `${space}root=${wanted}`);
      said.add(`${path} gives the kernel root=${root}: now ${wanted}`);
    }
    if (!/\bconsole=ttyS\d/.test(args)) {
      args = `${args.replace(FOREIGN_CONSOLE, "")} ${CONSOLE}`.trim();
      said.add(`${path} gives the kernel no serial console: now ${CONSOLE}`);
    }
    return `${start}${args}${rest}`;
  });
  return { text: lines.join("\n"), said: [...said] };
}
