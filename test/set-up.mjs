// What the tests need beyond what the quickstart installs: an sshd for a site of their own on "another host", sfdisk
// for disks of other kinds, and xmllint for schemas.
import { createRequire } from "node:module";

const { installSystemPackages } = createRequire(import.meta.url)("../provider/dist/setup/system-packages.js");

await installSystemPackages(
  (line) => process.stdout.write(`${line}\n`),
  ["openssh-server", "fdisk", "libxml2-utils"],
).catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
