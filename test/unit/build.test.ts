import { mkdtemp, readdir, readFile, rm, stat, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { type Conversion, convertImage } from "../../provider/src/building/converted-image";
import { hashOf } from "../../provider/src/images/disk/digests";
import { fetchImage } from "../../provider/src/images/repository/fetch";
import { findImage } from "../../provider/src/images/repository/repository";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";
import { makeFakeDisk } from "../conformance/fake-guest";

const MIB = 1024 * 1024;

describe("a machine's disk", () => {
  let folder: string;
  let disk: string;
  let into: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-build-"));
    disk = join(folder, "machine.raw");
    await makeFakeDisk(disk, {
      virtio: true,
      heedsPowerButton: false,
      files: {
        "etc/ssh/ssh_host_rsa_key": "secret",
        "etc/ssh/ssh_host_rsa_key.pub": "public",
        "etc/ssh/sshd_config": "kept",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/udev/rules.d/70-persistent-net.rules": 'ATTR{address}=="52:54:00:12:34:56", NAME="eth0"',
        "etc/cloud/cloud.cfg": "kept",
        "usr/lib/systemd/system/ssh.service": "",
      },
    });
  });

  beforeEach(() => {
    into = join(folder, "repository");
  });

  afterEach(() => rm(into, { recursive: true, force: true }));
  after(() => rm(folder, { recursive: true }));

  const convert = (more: Partial<Conversion> & Pick<Conversion, "from">) =>
    convertImage(
      { vcName: "made", into, isReplacing: false, shape: { cpus: 2, memory: 1024 }, ...more },
      () => undefined,
    );

  for (const format of ["raw", "qcow2"]) {
    it(`becomes an image: ${format}`, async () => {
      const from = join(folder, `machine.${format}`);
      if (format === "qcow2") {
        await execa("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", disk, from]);
      }
      const before = await hashOf(from);
      await convert({ from, diskSize: 24 });
      expect(await hashOf(from)).to.equal(before);

      const image = await findImage(into, "made");
      expect(image.vcIn.frontend).to.deep.include({ nics: 2, shape: { cpus: 2, memory: 1024 } });
      // Its checksum is compared here.
      const { frontendDisk } = await fetchImage(image, () => undefined);
      expect((await stat(frontendDisk)).size).to.equal(24 * MIB);
      const root = new ExtFileSystem(frontendDisk, MIB);
      expect((await root.list("/etc/ssh")).map(({ name }) => name)).to.deep.equal(["sshd_config"]);
      expect(await root.read("/etc/machine-id")).to.equal("");
      expect(await root.list("/etc/udev/rules.d")).to.deep.equal([]);
      expect(await root.has("/etc/cloud/cloud-init.disabled")).to.equal(true);
      expect(await root.read("/usr/sbin/vc-guest")).to.match(/^#!/);
      expect(await root.linkTarget("/etc/systemd/system/multi-user.target.wants/vc-guest.service")).to.match(
        /vc-guest\.service$/,
      );
    });
  }

  const refused: Record<string, [make: (file: string) => Promise<unknown>, RegExp]> = {
    "with a backing file": [
      (file) => execa("qemu-img", ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, file]),
      /is qcow2, and has its backing file ".*machine\.raw"/,
    ],
    "that claims to be huge": [
      (file) => execa("qemu-img", ["create", "-q", "-f", "qcow2", file, "300G"]),
      /says that it has 322122547200 bytes/,
    ],
    "of another format": [
      (file) => execa("qemu-img", ["convert", "-f", "raw", "-O", "vmdk", disk, file]),
      /is VMDK: neither RAW nor qcow2/,
    ],
    "with nothing on it": [
      async (file) => {
        await execa("touch", [file]);
        await truncate(file, MIB);
      },
      /has no partition table/,
    ],
  };
  for (const [what, [make, message]] of Object.entries(refused)) {
    it(`is refused ${what}, and nothing is left`, async () => {
      const from = join(folder, "refused");
      await make(from);
      const error: Error = await convert({ from }).then(
        () => new Error("it was taken"),
        (reason: Error) => reason,
      );
      expect(error.message).to.match(message).and.to.include(from);
      expect(await readdir(into)).to.deep.equal([]);
      await rm(from);
    });
  }

  it("is refused where the image would be smaller, and takes nobody's place unasked", async () => {
    const refusal = (more: Partial<Conversion>) =>
      convert({ from: disk, ...more }).then(
        () => "it was taken",
        (error: Error) => error.message,
      );
    expect(await refusal({ diskSize: 8 })).to.match(/has 16 MiB already/);
    await convert({ from: disk });
    expect(await refusal({})).to.match(/is in the repository .* already/);
    expect(await readFile(join(into, "vcdb.txt"), "utf8")).to.equal("made,made/vc-in.xml\n");
    await convert({ from: disk, isReplacing: true });
    expect(await readFile(join(into, "vcdb.txt"), "utf8")).to.equal("made,made-2/vc-in.xml\n");
    expect(await readdir(into)).to.have.members(["vcdb.txt", "made-2"]);
  });
});
