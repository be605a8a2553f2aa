import { createHash } from "node:crypto";
import { copyFile, mkdir, mkdtemp, open, readFile, rm, truncate, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { InvalidImage } from "../../provider/src/drivers/errors";
import { digestOf, locateDisk } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";
import { makeFakeDisk } from "../conformance/fake-guest";
import { initramfs } from "./disk-corpus";

const MIB = 1024 * 1024;
const SBIN = { PATH: `${process.env.PATH}:/usr/sbin:/sbin` };

describe("a disk", () => {
  let folder: string;
  let good: string;
  const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "disk-"));
    process.env.VIRTUAL_CLUSTER_HOME = join(folder, "home");
    good = join(folder, "good.raw");
    await makeFakeDisk(good, { virtio: true, heedsPowerButton: false });
  });

  after(async () => {
    if (homeBefore === undefined) {
      delete process.env.VIRTUAL_CLUSTER_HOME;
    } else {
      process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
    }
    await rm(folder, { recursive: true });
  });

  async function changed(change: (file: string) => Promise<unknown>): Promise<string> {
    const file = join(folder, "changed.raw");
    await copyFile(good, file);
    await change(file);
    return file;
  }

  const write = (bytes: Buffer, offset: number) => async (file: string) => {
    const handle = await open(file, "r+");
    await handle.write(bytes, 0, bytes.length, offset);
    await handle.close();
  };

  /** The good one with a GPT instead of its MBR, and room for its backup behind the file system. */
  const gptDisk = () =>
    changed(async (file) => {
      await execa("sfdisk", ["--quiet", "--no-reread", file], {
        input: "label: gpt\nstart=2048, size=28672, type=linux\n",
        env: SBIN,
      });
      await execa("mke2fs", ["-q", "-F", "-t", "ext4", "-E", `offset=${MIB}`, file, "14336k"], { env: SBIN });
    });

  it("whose file system keeps small files in their inodes gives them without what there is room for", async () => {
    const file = await changed(async (disk) => {
      const options = ["-q", "-F", "-t", "ext4", "-I", "512", "-O", "inline_data", "-E", `offset=${MIB}`];
      await execa("mke2fs", [...options, disk, "14336k"], { env: SBIN });
      const commands = [join(folder, "short"), join(folder, "zeros")].map((from) => `write ${from} ${basename(from)}`);
      await writeFile(join(folder, "short"), "/dev/vda1 /\n");
      await writeFile(join(folder, "zeros"), Buffer.alloc(3));
      await execa("debugfs", ["-w", "-f", "-", `${disk}?offset=${MIB}`], { input: commands.join("\n"), env: SBIN });
    });
    const root = new ExtFileSystem(file, MIB);
    expect(await root.read("/short")).to.equal("/dev/vda1 /\n");
    expect(await root.readBytes("/zeros")).to.deep.equal(Buffer.alloc(3));
  });

  it("that is a folder is refused", async () => {
    const refusal = await examineDisk(folder).catch((error: unknown) => error);
    expect(refusal).to.be.instanceOf(InvalidImage);
    expect((refusal as Error).message).to.match(/is not a file/);
  });

  describe("that follows the standard", () => {
    it("is taken with its size and the place of its root", async () => {
      expect(await examineDisk(good)).to.deep.equal({ size: 16 * MIB, rootOffset: MIB, devices: "virtio" });
    });

    it("may have a GPT", async () => {
      expect(await examineDisk(await gptDisk())).to.deep.include({ rootOffset: MIB });
    });

    it("gets SATA and e1000 when no kernel in it has virtio drivers", async () => {
      const plain = join(folder, "plain.raw");
      await makeFakeDisk(plain, { virtio: false, heedsPowerButton: false });
      expect((await examineDisk(plain)).devices).to.equal("sata");
    });

    it("gets SATA where only one of disk and NIC has a driver", async () => {
      const tree = join(folder, "tree");
      await mkdir(join(tree, "lib", "modules", "6.1.0"), { recursive: true });
      await writeFile(join(tree, "lib", "modules", "6.1.0", "modules.dep"), "kernel/drivers/block/virtio_blk.ko.xz:\n");
      const file = await changed((name) =>
        execa("mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, "-E", `offset=${MIB}`, name, "15360k"], { env: SBIN }),
      );
      expect((await examineDisk(file)).devices).to.equal("sata");
    });

    for (const [what, modules, devices] of [
      ["SATA alone", ["ata/ata_piix.ko", "scsi/sd_mod.ko"], "sata"],
      ["SATA and virtio", ["ata/ahci.ko", "scsi/sd_mod.ko", "block/virtio_blk.ko"], "virtio"],
      ["neither", [], "virtio"],
    ] as const) {
      it(`gets ${devices} where its initramfs was made for ${what}`, async () => {
        const tree = join(folder, `tree of ${what}`);
        const lists = join(tree, "lib", "modules", "6.1.0");
        await mkdir(lists, { recursive: true });
        await mkdir(join(tree, "boot"));
        const drivers = ["block/virtio_blk", "net/virtio_net"].map((name) => `kernel/drivers/${name}.ko.xz:\n`);
        await writeFile(join(lists, "modules.dep"), drivers.join(""));
        await writeFile(join(tree, "boot", "initrd.img-6.1.0"), await initramfs({ modules, compress: ["gzip"] }));
        const file = await changed((name) =>
          execa("mke2fs", ["-q", "-F", "-t", "ext4", "-d", tree, "-E", `offset=${MIB}`, name, "15360k"], { env: SBIN }),
        );
        expect((await examineDisk(file)).devices).to.equal(devices);
      });
    }

    it("gets SATA when it holds no kernel modules at all", async () => {
      const file = await changed((name) =>
        execa("mke2fs", ["-q", "-F", "-t", "ext2", "-E", `offset=${MIB}`, name, "15360k"], { env: SBIN }),
      );
      expect((await examineDisk(file)).devices).to.equal("sata");
    });
  });

  describe("is refused", () => {
    const wrong: Record<string, [(file: string) => Promise<unknown>, RegExp]> = {
      "that is qcow2 under the name of a RAW one": [
        async (file) => {
          await rm(file);
          await execa("qemu-img", ["create", "-q", "-f", "qcow2", file, "16M"]);
        },
        /is qcow2, not RAW.*qemu-img convert/,
      ],
      "with a qcow2 header and a partition table, made to be probed": [
        write(Buffer.from("QFI\xfb", "latin1"), 0),
        /is qcow2/,
      ],
      "that is compressed": [write(Buffer.from([0x1f, 0x8b, 8]), 0), /is gzip/],
      "without a partition table": [write(Buffer.alloc(2), 510), /no partition table/],
      "that is empty": [(file) => truncate(file, 0), /no partition table/],
      "without a boot loader": [write(Buffer.alloc(440), 0), /no boot loader/],
      "without a first partition": [write(Buffer.alloc(64), 446), /no first partition/],
      "with LVM": [write(Buffer.from([0x8e]), 450), /Linux LVM/],
      "with RAID": [write(Buffer.from([0xfd]), 450), /RAID/],
      "with a partition that goes on beyond its end": [
        (file) => truncate(file, 8 * MIB),
        /doesn't lie inside the disk/,
      ],
      "with a partition that begins before itself": [
        write(Buffer.from([0, 0, 0, 0]), 454),
        /doesn't lie inside the disk/,
      ],
      "with a partition without length": [write(Buffer.alloc(4), 458), /doesn't lie inside the disk/],
      "with another file system": [write(Buffer.from([0, 0]), MIB + 1024 + 56), /no ext2, ext3 or ext4/],
      "with a protective MBR and no GPT": [write(Buffer.from([0xee]), 450), /without a GPT/],
    };
    for (const [what, [change, message]] of Object.entries(wrong)) {
      it(what, async () => {
        const file = await changed(change);
        const error = await examineDisk(file).catch((reason: unknown) => reason);
        expect(error).to.be.instanceOf(InvalidImage);
        expect((error as Error).message)
          .to.include(file)
          .and.match(message);
      });
    }

    it("with a GPT that points beyond everything", async () => {
      const file = await gptDisk();
      await write(Buffer.from("ffffffffffffff7f", "hex"), 512 + 72)(file);
      expect(await examineDisk(file).catch((reason: unknown) => reason)).to.be.instanceOf(InvalidImage);
    });
  });

  describe("has a digest", () => {
    const sha256 = async (file: string) =>
      createHash("sha256")
        .update(await readFile(file))
        .digest("hex");

    it("that is found out once, and again when the disk changes", async () => {
      const file = join(folder, "digest.raw");
      await writeFile(file, "one");
      await utimes(file, 1, 1);
      const digest = await digestOf(file);
      expect(digest).to.equal(await sha256(file));

      await writeFile(file, "two");
      await utimes(file, 1, 1);
      expect(await digestOf(file), "size and time are the same").to.equal(digest);
      await utimes(file, 1, 2);
      expect(await digestOf(file)).to.equal(await sha256(file));
    });

    it("by which it is found again while it is unchanged", async () => {
      const file = join(folder, "located.raw");
      await writeFile(file, "located");
      const digest = await digestOf(file);
      expect(await locateDisk(digest)).to.equal(file);
      await writeFile(file, "changed meanwhile");
      expect(await locateDisk(digest)).to.equal(undefined);
      expect(await locateDisk("0".repeat(64))).to.equal(undefined);
    });

    it("which no other disk's makes forgotten, looked at side by side", async () => {
      const files = Array.from({ length: 8 }, (_, index) => join(folder, `parallel-${index}.raw`));
      await Promise.all(files.map((file) => writeFile(file, file)));
      const digests = await Promise.all(files.map((file) => digestOf(file)));
      expect(await Promise.all(digests.map(locateDisk))).to.deep.equal(files);
    });
  });
});
