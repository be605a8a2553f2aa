// What the tests need beyond what the quickstart installs: an sshd for a site of their own on "another host", programs that
// make disks and initramfs of other kinds, setfacl for a Rocks site, xmllint for schemas, and the shells and awks that the
// guest program must run under. Network stacks, whose own programs judge what the guest program writes for them, are only
// unpacked: this machine has its own. With --long also libguestfs, and a kernel for its machine.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(import.meta.url);
const { installSystemPackages } = require("../provider/dist/setup/system-packages.js");
const { home } = require("../provider/dist/home.js");

// In a package of either name, which exclude each other.
const busybox = ["/bin/busybox", "/usr/bin/busybox"].some((path) => existsSync(path)) ? [] : ["busybox"];
const disks = ["fdisk", "gdisk", "xfsprogs", "btrfs-progs", "dosfstools", "cryptsetup-bin", "bcache-tools"];
const packers = ["xz-utils", "bzip2", "zstd", "lz4"];
const others = process.argv.includes("--long") ? ["guestfish", "libguestfs-xfs", "linux-image-cloud-amd64"] : [];
const stacks = ["ifupdown", "netplan.io", "libnetplan0", "network-manager", "libnm0"];

await installSystemPackages(
  (line) => process.stdout.write(`${line}\n`),
  ["acl", "openssh-server", "libxml2-utils", "gawk", "original-awk", ...busybox, ...disks, ...packers, ...others],
).catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});

unpack(stacks, home("test-stacks"));

/** The content of Debian packages in a folder. Tests that would use it skip where they can't be had. */
function unpack(packages, folder) {
  if (existsSync(folder)) {
    return;
  }
  mkdirSync(home(), { recursive: true });
  const workspace = mkdtempSync(`${folder}.`);
  const run = (program, ...args) => spawnSync(program, args, { cwd: workspace, stdio: "ignore" }).status === 0;
  const whole =
    run("apt-get", "-q", "download", ...packages) &&
    readdirSync(workspace)
      .filter((name) => name.endsWith(".deb"))
      .every((name) => run("dpkg-deb", "--extract", name, join(workspace, "root")));
  if (whole) {
    renameSync(join(workspace, "root"), folder);
  } else {
    process.stdout.write(`could not be downloaded, tests that use them are skipped: ${packages.join(" ")}\n`);
  }
  rmSync(workspace, { recursive: true });
}
