import { join } from "node:path";
import { GUEST_FOLDER } from "../guest-folder";
import { buildDebianImage, type DebianRecipe, type ImageBuildOptions } from "./debian-image";

/** Few processes and little to read: its machines may run emulated. */
const DEMO: DebianRecipe = {
  vcName: "demo",
  packages: [
    "linux-image-cloud-amd64",
    "linux-image-amd64",
    "kmod",
    "busybox-static",
    "sysvinit-core",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "iputils-ping",
    "nftables",
    "openssh-client",
    "openssh-server",
    "qemu-guest-agent",
  ],
  customize: join(GUEST_FOLDER, "image", "demo", "customize"),
  diskSize: 512,
};

/** The image of the quickstart: RAW disks of 512 MiB with two kernels, one of them for machines without virtio. */
export function buildDemoImage(options: ImageBuildOptions): Promise<boolean> {
  return buildDebianImage(DEMO, options);
}
