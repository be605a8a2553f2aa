import { rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { asRoot, debianHere } from "../../provider/src/building/debian-image";
import { kvmUsable } from "../../provider/src/kvm";
import { Shell } from "../acceptance/shell";
import { World } from "../acceptance/world";

const MIB = 1024 * 1024;
const DISK_MIB = 1536;
const BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649";
/** As Debian's own installation makes it: with an initramfs that finds most disks and file systems. */
const PACKAGES = [
  ...[
    "linux-image-cloud-amd64",
    "initramfs-tools",
    "zstd",
    "systemd-sysv",
    "udev",
    "dbus",
    "kmod",
    "fdisk",
    "xfsprogs",
  ],
  ...["iproute2", "nftables", "openssh-client", "openssh-server", "qemu-guest-agent"],
];

interface Outputs {
  readonly outputs: { readonly demo: { readonly sshArguments: string[] } };
}

describe("a machine's disk that has lost its boot loader", function () {
  this.timeout(1_800_000);
  let world: World;
  let tree: string;
  let repository: string;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    repository = join(world.home, "own");
    tree = join(world.home, "tree");
    const { codename, sources, settings } = await debianHere();
    await execa(
      ...asRoot([
        ...["env", "TMPDIR=/var/tmp", "mmdebstrap", "--mode=root", "--variant=apt", "--format=tar"],
        ...[`--include=${PACKAGES.join(",")}`, ...settings.map((setting) => `--aptopt=${setting}`)],
        ...["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"],
        ...['--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*; echo "LABEL=root / auto defaults 0 1" >"$1"/etc/fstab'],
        ...[codename, `${tree}.tar`, ...sources],
      ]),
    );
  });

  after(async () => {
    await world?.pulumi(["destroy", "--yes", "--skip-preview", "--stack", "put-back"], { reject: false });
    await execa(...asRoot(["rm", "-rf", tree, `${tree}.tar`]));
    await world?.dispose();
  });

  /** As Debian's cloud images are divided: the root is the first by number, and lies behind the others. */
  async function gptDisk(file: string): Promise<void> {
    await empty(file, [
      "label: gpt",
      "1: start=264192, type=linux",
      `14: start=2048, size=6144, type=${BIOS_BOOT}`,
      "15: start=8192, size=253952, type=uefi",
    ]);
    await execa(...asRoot(["mkdir", tree]));
    await execa(...asRoot(["tar", "-xf", `${tree}.tar`, "-C", tree]));
    const system = ["-q", "-F", "-t", "ext4", "-L", "root", "-d", tree, "-E", `offset=${264192 * 512}`, file];
    await execa(...asRoot(["mke2fs", ...system, `${DISK_MIB - 130}m`]));
  }

  async function xfsDisk(file: string): Promise<void> {
    await empty(file, ["label: dos", "start=2048, type=83"]);
    const input = `run\nmkfs xfs /dev/sda1 label:root\nmount /dev/sda1 /\ntar-in ${tree}.tar /\n`;
    const settings = kvmUsable() ? "" : "force_tcg";
    const env = { LIBGUESTFS_BACKEND: "direct", LIBGUESTFS_BACKEND_SETTINGS: settings };
    await execa("guestfish", ["--format=raw", "-a", file], { input, env });
  }

  async function empty(file: string, table: readonly string[]): Promise<void> {
    await writeFile(file, "");
    await truncate(file, DISK_MIB * MIB);
    await execa("sfdisk", ["--quiet", file], { input: `${table.join("\n")}\n` });
  }

  const disks = {
    gpt: { make: gptDisk, said: /GRUB is written into its partition 14/, root: /^\/dev\/vda1 ext4$/ },
    xfs: { make: xfsDisk, said: /GRUB is written into its first MiB/, root: /^\/dev\/vda1 xfs$/ },
  } as const;
  for (const [kind, { make, said, root }] of Object.entries(disks)) {
    it(`starts again as an image: ${kind}`, async () => {
      const disk = join(world.home, `${kind}.raw`);
      await make(disk);
      const built = await world.vc("image", "build", kind, "--from", disk, "--into", repository);
      await rm(disk);
      expect(built.all).to.match(said);
      expect(built.all).to.match(/Conforms to the image standard(: \d+ .*)?\.$/m);
      const settings = { image: kind, repository, numCpus: 1, memoryPerNode: 640, frontend: { memory: 640 } };
      await world.configure("put-back", { demo: { ...settings, timeouts: { create: 900 } } });
      await world.pulumi(["up", "--yes", "--skip-preview", "--stack", "put-back"]);
      const { demo } = (await world.outputs<Outputs>()).outputs;
      const shell = Shell.open(world, demo.sshArguments);
      expect(await shell.run("findmnt -n -o SOURCE,FSTYPE / | tr -s ' '")).to.match(root);
      expect(await shell.run("ssh -n compute-0 hostname -s")).to.equal("compute-0");
      await shell.close();
      await world.pulumi(["destroy", "--yes", "--skip-preview", "--stack", "put-back"]);
    });
  }
});
