// What the tests need beyond what the quickstart installs: an sshd for a site of their own on "another host", sfdisk
// for disks of other kinds, xmllint for schemas, and the shells and awks that the guest program must run under.
import { existsSync } from "node:fs";
import { createRequire } from "node:module";

const { installSystemPackages } = createRequire(import.meta.url)("../provider/dist/setup/system-packages.js");

// In a package of either name, which exclude each other.
const busybox = ["/bin/busybox", "/usr/bin/busybox"].some((path) => existsSync(path)) ? [] : ["busybox"];

await installSystemPackages(
  (line) => process.stdout.write(`${line}\n`),
  ["openssh-server", "fdisk", "libxml2-utils", "gawk", "original-awk", ...busybox],
).catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
