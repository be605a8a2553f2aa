import type { DiskImage } from "../../drivers/driver";
import type { GuestFileSystem } from "../root/file-system";
import { initramfsAt } from "./initramfs";
import { hasVirtioDrivers, kernelsOf } from "./kernels";

/** More than any image has that one kernel starts. */
const MOST_FILES = 4;
const SATA = ["ahci", "ata_piix"];

/** What a machine must offer so that this system finds its disk and its network. */
export async function devicesFor(root: GuestFileSystem): Promise<DiskImage["devices"]> {
  const kernels = await kernelsOf(root);
  if (!kernels.some(hasVirtioDrivers)) {
    return "sata";
  }
  const finds = kernels.some(({ disk }) => disk === "builtin") || !(await startsFromSataAlone(root));
  return finds ? "virtio" : "sata";
}

/** Whether an initramfs was made for a machine with SATA, and nothing in /boot is known to start from virtio. */
async function startsFromSataAlone(root: GuestFileSystem): Promise<boolean> {
  const files = (await root.list("/boot")).filter(({ name, kind }) => kind === "file" && /^initr(d|amfs)\b/.test(name));
  let hasSata = false;
  for (const { name } of files.slice(0, MOST_FILES)) {
    const { modules, problem } = await initramfsAt(root, `/boot/${name}`);
    if (problem !== undefined || modules.has("virtio_blk")) {
      return false;
    }
    hasSata ||= hasSataDrivers(modules);
  }
  return hasSata;
}

/** Whether an initramfs with these modules finds a SATA disk. */
export function hasSataDrivers(modules: ReadonlySet<string>): boolean {
  return modules.has("sd_mod") && SATA.some((driver) => modules.has(driver));
}
