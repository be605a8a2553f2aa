#!/usr/bin/env node
// `npm run image:slurm [-- REPOSITORY]`: builds the image "slurm" into a repository, by default the one that the
// quickstart keeps its images in.
import { fileURLToPath } from "node:url";
import { buildDebianImage } from "@virtual-cluster/provider/dist/building/debian-image.js";
import { home } from "@virtual-cluster/provider/dist/home.js";

const SLURM = {
  vcName: "slurm",
  packages: [
    ...["linux-image-cloud-amd64", "kmod", "busybox-static", "systemd-sysv", "udev", "dbus", "e2fsprogs", "fdisk"],
    ...["iproute2", "iputils-ping", "nftables", "openssh-client", "openssh-server", "qemu-guest-agent"],
    ...["munge", "slurm-client", "slurmctld", "slurmd"],
  ],
  customize: fileURLToPath(new URL("image/customize", import.meta.url)),
  diskSize: 1024,
};

const [folder = home("images")] = process.argv.slice(2);
await buildDebianImage(SLURM, { folder, progress: (line) => process.stdout.write(`${line}\n`) });
