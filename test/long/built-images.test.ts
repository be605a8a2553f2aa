import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { Shell } from "../acceptance/shell";
import { World } from "../acceptance/world";
import { testImages } from "../images/recipes";

const MIB = 1024 * 1024;
const ROOT = `?offset=${MIB}`;

interface Outputs {
  readonly outputs: { readonly demo: { readonly sshArguments: string[] } };
}

describe("images of one's own", function () {
  this.timeout(900_000);
  let world: World;
  let repository: string;
  let xen: string;

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    repository = join(world.home, "own");
    await mkdir(join(repository, "xen"), { recursive: true });
    xen = join(repository, "xen", "disk.raw");
    await makeXenDisk(join(await testImages("plain"), "plain", "frontend.raw"), xen);
  });

  after(async () => {
    await world?.pulumi(["destroy", "--yes", "--skip-preview", "--stack", "own"], { reject: false });
    await world?.dispose();
  });

  /** As it ran under Xen: no boot loader, no serial console, disks with other names. */
  async function makeXenDisk(from: string, to: string): Promise<void> {
    await execa("cp", ["--sparse=always", from, to]);
    await execa("chmod", ["u+w", to]);
    await execa("dd", ["if=/dev/zero", `of=${to}`, "bs=440", "count=1", "conv=notrunc"]);
    const { stdout: menu } = await execa("debugfs", ["-R", "cat /boot/grub/grub.cfg", `${to}${ROOT}`]);
    const files = {
      "/etc/fstab": "/dev/xvda1 / ext4 defaults 0 1\n/dev/xvdb1 /scratch ext4 defaults 0 2\n",
      "/boot/grub/grub.cfg": menu
        .replace(/root=UUID=\S+/, "root=/dev/xvda1")
        .replace(/console=\S+ /g, "")
        .concat("\n"),
    };
    const commands = [];
    for (const [index, [path, content]] of Object.entries(files).entries()) {
      await writeFile(join(world.home, `file-${index}`), content);
      commands.push(`rm ${path}`, `write ${join(world.home, `file-${index}`)} ${path}`);
    }
    await execa("debugfs", ["-w", "-f", "-", `${to}${ROOT}`], { input: `${commands.join("\n")}\n` });
  }

  async function up(
    image: string,
    more: Readonly<Record<string, unknown>> = {},
  ): Promise<{ all: string; shell: Shell }> {
    const settings = { image, repository, numCpus: 1, memoryPerNode: 384, frontend: { memory: 384 }, ...more };
    await world.configure("own", { demo: { ...settings, timeouts: { create: 600 } } });
    const { all } = await world.pulumi(["up", "--yes", "--skip-preview", "--stack", "own"]);
    const { demo } = (await world.outputs<Outputs>()).outputs;
    return { all, shell: Shell.open(world, demo.sshArguments) };
  }

  async function down(shell: Shell): Promise<void> {
    await shell.close();
    await world.pulumi(["destroy", "--yes", "--skip-preview", "--stack", "own"]);
  }

  it("start from a disk of Xen's that is put right in a copy, and fill a larger disk", async () => {
    const vcIn = await execa("cat", [join(await testImages("plain"), "plain", "vc-in.xml")]);
    await writeFile(join(repository, "xen", "vc-in.xml"), vcIn.stdout.replace(/(frontend|compute)\.raw/g, "disk.raw"));
    await writeFile(join(repository, "vcdb.txt"), "xen,xen/vc-in.xml\n");
    const { all, shell } = await up("xen", { frontend: { memory: 384, diskSize: 1536 } });
    expect(all).to.match(/its frontend's disk is put right in a copy/);
    expect(all).to.match(/\/etc\/fstab has \/ on \/dev\/xvda1: now UUID=/);
    expect(all).to.match(/GRUB is written/);
    expect(await shell.run("findmnt -n -o SOURCE / && cat /etc/fstab")).to.match(
      /^\/dev\/vda1\nUUID=.* \/ ext4 .*\n# Not on this disk: \/dev\/xvdb1/,
    );
    expect(Number(await shell.run("df --output=size -m / | tail -n 1"))).to.be.above(1300);
    // Its own tools would have said so in the journal.
    expect(await shell.run("journalctl -b | grep -c 'root partition grows' || true")).to.equal("0");
    await down(shell);
  });

  it("are made of a machine's qcow2 disk, with vc-guest in it", async () => {
    const qcow2 = join(world.home, "xen.qcow2");
    await execa("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", xen, qcow2]);
    const built = await world.vc(
      "image",
      "build",
      "converted",
      "--from",
      qcow2,
      "--size",
      "1200M",
      "--into",
      repository,
    );
    expect(built.all).to.match(/vc-guest \(dialects: A, B\)/);
    expect(built.all).to.match(/Conforms to the image standard\.$/m);
    const { all, shell } = await up("converted");
    expect(all).not.to.match(/put right/);
    expect(await shell.run("cat /etc/machine-id | wc -c; ssh -n compute-0 hostname -s")).to.equal("33\ncompute-0");
    await down(shell);
  });

  it("are made of packages, with a program that runs inside", async () => {
    const script = join(world.home, "set-up");
    await writeFile(script, "#!/bin/sh\necho made here >/etc/motd\n");
    const make = () =>
      world.vc(
        ...["image", "build", "made", "--packages", "bc", "--script", script],
        ...["--size", "1G", "--into", repository],
      );
    expect((await make()).all).to.match(/Conforms to the image standard/);
    expect((await make()).all).to.match(/made is of these packages already/);
    const { shell } = await up("made");
    expect(await shell.run("cat /etc/motd; ssh -n compute-0 'echo 6*7 | bc'")).to.equal("made here\n42");
    await down(shell);
  });
});
