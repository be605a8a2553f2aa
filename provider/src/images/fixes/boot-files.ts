import { BOOT_CONFIGURATIONS, BOOT_ENTRIES, GRUB_ENVIRONMENTS } from "../disk/boot-configuration";
import { tagIn } from "../disk/tags";
import type { DiskNames } from "./disk-names";
import type { FixedText } from "./fstab";

/** A file that may hold kernels' arguments. */
export interface BootFile {
  readonly path: string;
  /** The part of a line before a kernel's arguments. */
  readonly before: RegExp;
}

/** A kernel's line, and the arguments that entries of the Boot Loader Specification take. */
const GRUB = /^\s*(?:linux(?:16|efi)?\s+|set (?:default_)?kernelopts=")/;
const GRUB_LEGACY = /^\s*kernel\s+/;
const SYSLINUX = /^\s*append\s+/i;
const ENTRY = /^options\s+/;
const ENVIRONMENT = /^kernelopts=/;

const readBy = (paths: readonly string[], before: RegExp): BootFile[] => paths.map((path) => ({ path, before }));

/** What may be there of boot loaders' files. */
export const BOOT_FILES: readonly BootFile[] = [
  ...readBy(BOOT_CONFIGURATIONS.grub, GRUB),
  ...readBy(BOOT_CONFIGURATIONS.grubLegacy, GRUB_LEGACY),
  ...readBy(BOOT_CONFIGURATIONS.syslinux, SYSLINUX),
  ...readBy(GRUB_ENVIRONMENTS, ENVIRONMENT),
  // What the next installation of a kernel takes.
  { path: "/etc/default/grub", before: /^GRUB_CMDLINE_LINUX="/ },
  { path: "/etc/kernel/cmdline", before: /^(?=.)/ },
];

/** One more for each entry of the Boot Loader Specification. */
export function bootEntry(name: string): BootFile {
  return { path: `${BOOT_ENTRIES}/${name}`, before: ENTRY };
}

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
    const [, given = "", rest = ""] = /^(.*?)(\s*"?\s*)$/.exec(line.slice(start.length)) ?? [];
    let args = given;
    const root = ROOT.exec(args)?.[2];
    const wanted = hasInitrd ? disk.root : disk.rootDevice;
    if (root !== undefined && root !== disk.rootDevice && !(hasInitrd && disk.tags.has(tagIn(root) ?? ""))) {
      args = args.replace(ROOT, (_, space: string) => `${space}root=${wanted}`);
      said.add(`${path} gives the kernel root=${root}: now ${wanted}`);
    }
    if (!/\bconsole=ttyS\d|\$\{?(?:default_)?kernelopts\b/.test(args)) {
      args = `${args.replace(FOREIGN_CONSOLE, "")} ${CONSOLE}`.trim();
      said.add(`${path} gives the kernel no serial console: now ${CONSOLE}`);
    }
    return `${start}${args}${rest}`;
  });
  const fixed = lines.join("\n");
  return { text: before === ENVIRONMENT ? ofFixedLength(fixed, text.length) : fixed, said: [...said] };
}

/** GRUB reads its environment from blocks that it doesn't look for anew: what is behind the last line fills them. */
function ofFixedLength(text: string, length: number): string {
  return text.replace(/#*$/, "").padEnd(length, "#");
}
