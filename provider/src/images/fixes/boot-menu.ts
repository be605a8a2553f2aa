import type { GuestFileSystem } from "../root/file-system";
import { CONSOLE } from "./boot-files";
import type { DiskNames } from "./disk-names";

const KERNEL = /^vmlinuz-(.+)$/;
const ROOT_ENTRY = /^\s*[^#\s]\S*\s+\/\s/m;

/** What an initrd of a kernel is called: Debian's, Red Hat's, SUSE's. */
const initrdsOf = (version: string) => [`initrd.img-${version}`, `initramfs-${version}.img`, `initrd-${version}`];

/**
 * A configuration for GRUB 2 that starts the newest kernel in /boot; undefined where there is none. It takes nothing over
 * from the menu of another boot loader, Xen's for instance, as the arguments there are for another machine.
 */
export async function bootMenu(root: GuestFileSystem, disk: DiskNames): Promise<string | undefined> {
  const names = (await root.list("/boot")).map(({ name }) => name);
  const versions = names.flatMap((name) => KERNEL.exec(name)?.[1] ?? []).sort(newestFirst);
  const [version] = versions;
  if (version === undefined) {
    return undefined;
  }
  const initrd = initrdsOf(version).find((name) => names.includes(name));
  // Who has no line for it in fstab never makes it writable later.
  const access = ROOT_ENTRY.test(await root.read("/etc/fstab")) ? "ro" : "rw";
  return [
    `linux /boot/vmlinuz-${version} root=${initrd ? disk.root : disk.rootDevice} ${access} ${CONSOLE}`,
    ...(initrd ? [`initrd /boot/${initrd}`] : []),
    "boot",
    "",
  ].join("\n");
}

function newestFirst(one: string, other: string): number {
  return other.localeCompare(one, "en", { numeric: true });
}
