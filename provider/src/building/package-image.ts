import { join } from "node:path";
import { GUEST_FOLDER } from "../guest-folder";
import { buildDebianImage, type DebianRecipe, type ImageBuildOptions } from "./debian-image";

/** A machine that starts as Debian's do, with what a cluster needs of it. */
const BASE = [
  ...["linux-image-cloud-amd64", "kmod", "busybox-static", "systemd-sysv", "udev", "dbus", "e2fsprogs", "fdisk"],
  ...["iproute2", "iputils-ping", "nftables", "openssh-client", "openssh-server", "qemu-guest-agent"],
];

/** What is added to a Debian. */
export interface PackageRecipe extends Pick<DebianRecipe, "vcName" | "packages" | "script" | "diskSize"> {}

/** An image of Debian with these packages, with systemd, systemd-networkd and the guest program. */
export function buildPackageImage(recipe: PackageRecipe, options: ImageBuildOptions): Promise<boolean> {
  const customize = join(GUEST_FOLDER, "image", "packages", "customize");
  return buildDebianImage({ ...recipe, packages: [...new Set([...BASE, ...recipe.packages])], customize }, options);
}
