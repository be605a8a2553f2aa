import { copyFile, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { InvalidImage } from "../../provider/src/drivers/errors";
import { withBytes } from "../../provider/src/images/disk/bytes";
import { containerOf } from "../../provider/src/images/disk/container";
import { layoutOf } from "../../provider/src/images/disk/layout";
import { lastOnDisk, type PartitionTable, readPartitions } from "../../provider/src/images/disk/partitions";
import { signaturesOf } from "../../provider/src/images/disk/signatures";
import { examineDisk } from "../../provider/src/images/examine";
import { MIB, makeDisk, partition, patch, run, sparse, u32 } from "./disk-corpus";

describe("what a disk's bytes say", () => {
  let folder: string;
  const at = (name: string) => join(folder, name);

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "layout-"));
  });

  after(() => rm(folder, { recursive: true }));

  const container = (file: string) => withBytes(file, containerOf);
  const table = async (file: string) => (await withBytes(file, readPartitions)) as PartitionTable;
  const signatures = (file: string) => withBytes(file, signaturesOf);

  describe("a container", () => {
    const formats: Record<string, string> = {
      qcow2: "qcow2",
      qed: "QED",
      vmdk: "VMDK",
      vdi: "VDI",
      vpc: "VHD",
      vhdx: "VHDX",
    };
    for (const [format, name] of Object.entries(formats)) {
      it(`is ${name}, written by qemu-img`, async () => {
        await run("qemu-img", ["create", "-q", "-f", format, at("image"), "16M"]);
        expect((await container(at("image")))?.name).to.equal(name);
      });
    }

    it("is VHD by its footer alone, when it is a fixed one", async () => {
      await run("qemu-img", ["create", "-q", "-f", "vpc", "-o", "subformat=fixed", at("image"), "16M"]);
      expect((await container(at("image")))?.name).to.equal("VHD");
    });

    const packers: Record<string, readonly string[]> = {
      gzip: ["gzip", "-kf"],
      xz: ["xz", "-kf0"],
      bzip2: ["bzip2", "-kf"],
      zstd: ["zstd", "-qkf"],
      lz4: ["lz4", "-qkf"],
    };
    for (const [name, [program = "", ...args]] of Object.entries(packers)) {
      it(`is ${name}, whatever the file is called`, async () => {
        await writeFile(at("disk.raw"), "disk".repeat(1000));
        const suffix = { gzip: "gz", xz: "xz", bzip2: "bz2", zstd: "zst", lz4: "lz4" }[name];
        await run(program, [...args, at("disk.raw"), ...(name === "lz4" ? [at("disk.raw.lz4")] : [])]);
        expect((await container(at(`disk.raw.${suffix}`)))?.name).to.equal(name);
      });
    }

    it("is tar, or LUKS over the whole disk", async () => {
      await run("tar", ["-cf", at("disk.tar"), "-C", folder, "disk.raw"]);
      expect((await container(at("disk.tar")))?.name).to.equal("tar");
      await luks(at("luks"), "luks1");
      expect((await container(at("luks")))?.name).to.equal("LUKS");
    });

    it("is an ISO 9660 disc", async () => {
      // By hand: ECMA-119, 8.1; no program here writes one.
      await sparse(at("iso"), MIB);
      await patch(at("iso"), 32_768, Buffer.from("\x01CD001\x01", "latin1"));
      expect((await container(at("iso")))?.name).to.equal("an ISO 9660 disc");
    });

    it("names the backing file that a qcow2 would have read, and examining it says so", async () => {
      await run("qemu-img", [
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        "/etc/shadow",
        at("backed.raw"),
        "16M",
      ]);
      expect((await container(at("backed.raw")))?.reads).to.deep.equal({ what: "backing file", name: "/etc/shadow" });
      const error = await examineDisk(at("backed.raw")).catch((reason: unknown) => reason);
      expect(error).to.be.instanceOf(InvalidImage);
      expect((error as Error).message).to.match(/is qcow2, not RAW, and has its backing file "\/etc\/shadow"/);
    });

    it("names the data file of a qcow2 that keeps its data elsewhere", async () => {
      const options = `data_file=${at("data")},data_file_raw=on`;
      await run("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, at("split.raw"), "16M"]);
      expect((await container(at("split.raw")))?.reads).to.deep.equal({ what: "data file", name: at("data") });
    });

    it("is none for a RAW disk", async () => {
      await makeDisk(at("good.raw"));
      expect(await container(at("good.raw"))).to.equal(undefined);
    });
  });

  describe("an MBR", () => {
    it("has primary and logical partitions where sfdisk put them", async () => {
      await sparse(at("disk"), 64 * MIB);
      await partition(at("disk"), [
        "label: dos",
        "label-id: 0x1234abcd",
        "start=2048, size=20480, type=83, bootable",
        "start=22528, type=5",
        "start=24576, size=10240, type=82",
        "start=36864, size=8192, type=83",
      ]);
      const found = await table(at("disk"));
      expect(found.kind).to.equal("mbr");
      expect(found.problems).to.deep.equal([]);
      expect(
        found.partitions.map(({ number, start, length, type }) => [number, start / 512, length / 512, type]),
      ).to.deep.equal([
        [1, 2048, 20_480, "83"],
        [2, 22_528, 131_072 - 22_528, "05"],
        [5, 24_576, 10_240, "82"],
        [6, 36_864, 8192, "83"],
      ]);
      expect(found.partitions.map(({ uuid }) => uuid)).to.include("1234abcd-01");
      expect(lastOnDisk(found)?.number, "an extended one doesn't count").to.equal(6);
    });

    it("isn't found in a file system's own boot sector, nor in nothing", async () => {
      await sparse(at("fat"), 8 * MIB);
      await run("mkfs.vfat", ["--mbr=n", at("fat")]);
      const layout = await withBytes(at("fat"), layoutOf);
      expect(layout.table).to.equal(undefined);
      expect(layout.wholeDisk.map(({ what }) => what)).to.deep.equal(["FAT"]);
      await sparse(at("nothing"), 8 * MIB);
      expect(await table(at("nothing"))).to.equal(undefined);
    });

    const chained = async (): Promise<string> => {
      await sparse(at("chain"), 64 * MIB);
      const logical = ["start=24576, size=2048, type=83", "start=28672, size=2048, type=83"];
      await partition(at("chain"), [
        "label: dos",
        "start=2048, size=20480, type=83",
        "start=22528, type=5",
        ...logical,
      ]);
      return at("chain");
    };
    const problems = async (file: string) => (await table(file)).problems.map(({ text }) => text).join("; ");
    /** Where its chain begins, and the entry in it that leads on. */
    const CHAIN = 22_528;
    const NEXT = CHAIN * 512 + 446 + 16;

    it("with an extended partition that leads back to itself comes to an end", async () => {
      const file = await chained();
      await patch(file, NEXT + 8, u32(0));
      expect(await problems(file)).to.match(/leads back to itself/);
    });

    it("with a chain that leads out of the extended partition, or to no table, isn't followed there", async () => {
      const file = await chained();
      await patch(file, NEXT + 8, u32(0xfffffff0));
      expect(await problems(file)).to.match(/outside itself/);
      await patch(file, NEXT + 8, u32(9));
      expect(await problems(file)).to.match(/has no table in sector/);
    });

    it("with a chain without end is read up to 128 partitions", async () => {
      const file = await chained();
      // Each sector of it leads to the next one.
      for (let index = 0; index < 200; index++) {
        const sector = Buffer.alloc(66);
        sector.writeUInt8(0x83, 4);
        sector.writeUInt32LE(1, 8);
        sector.writeUInt32LE(1, 12);
        sector.writeUInt8(5, 20);
        sector.writeUInt32LE(index + 1, 24);
        sector.writeUInt32LE(1, 28);
        sector.writeUInt16BE(0x55aa, 64);
        await patch(file, (CHAIN + index) * 512 + 446, sector);
      }
      expect(await problems(file)).to.match(/more than 128 partitions/);
    });

    it("says which partitions overlap, have no length or lie beyond the end, and gives only sound ones", async () => {
      const file = at("good.raw");
      await makeDisk(file);
      const entry = (number: number, start: number, count: number) => {
        const bytes = Buffer.alloc(16);
        bytes.writeUInt8(0x83, 4);
        bytes.writeUInt32LE(start, 8);
        bytes.writeUInt32LE(count, 12);
        return patch(file, 446 + 16 * (number - 1), bytes);
      };
      await entry(2, 4096, 2048);
      await entry(3, 8192, 0);
      await entry(4, 4096, 0xffffffff);
      const found = await table(file);
      expect(found.partitions.map(({ number }) => number)).to.deep.equal([1, 2]);
      expect(found.problems.map(({ partitions }) => partitions)).to.deep.equal([[3], [4], [1, 2]]);
      const error = await examineDisk(file).catch((reason: unknown) => reason);
      expect((error as Error).message).to.match(/partition 3 \(without length\) doesn't lie inside/);
    });
  });

  describe("a GPT", () => {
    const gpt = async (file: string, ...args: string[]): Promise<string> => {
      await sparse(file, 64 * MIB);
      await run("sgdisk", [...args, file]);
      return file;
    };
    // sgdisk takes a second.
    before(() => gpt(at("two"), "-n1:2048:+20M", "-t1:8300", "-c1:root ☃", "-n14:43008:+4M", "-t14:ef02"));

    const two = async () => {
      await copyFile(at("two"), at("gpt"));
      return at("gpt");
    };

    it("has its partitions with names and GUIDs where sgdisk put them", async () => {
      const found = await table(await two());
      expect(found.kind).to.equal("gpt");
      expect(found.problems).to.deep.equal([]);
      const [root, boot] = found.partitions;
      expect(root).to.include({ number: 1, start: MIB, length: 20 * MIB, name: "root ☃" });
      expect(root?.type).to.equal("0fc63daf-8483-4772-8e79-3d69d8477de4");
      expect(boot).to.include({ number: 14, start: 43_008 * 512 });
      expect(found.gpt).to.deep.equal({
        backupHeader: 64 * MIB - 512,
        usable: [34 * 512, 64 * MIB - 33 * 512],
        isBackupInPlace: true,
      });
    });

    it("may keep more entries than usual", async () => {
      const found = await table(await gpt(at("gpt"), "-S", "512", "-n300:2048:+1M"));
      expect(found.problems).to.deep.equal([]);
      expect(found.partitions.map(({ number }) => number)).to.deep.equal([300]);
    });

    const spoilt: Record<string, [offset: number, bytes: Buffer, message: RegExp]> = {
      "a header whose checksum is wrong": [512 + 40, u32(35), /header whose checksum is wrong; the backup/],
      "entries whose checksum is wrong": [1024 + 60, Buffer.from("x"), /entries whose checksum is wrong; the backup/],
    };
    for (const [what, [offset, bytes, message]] of Object.entries(spoilt)) {
      it(`with ${what} is read from its backup, and is an error`, async () => {
        const file = await two();
        await patch(file, offset, bytes);
        const found = await table(file);
        expect(found.problems.map(({ text }) => text).join()).to.match(message);
        expect(found.problems[0]?.severity).to.equal("error");
        expect(found.partitions).to.have.length(2);
      });
    }

    it("with both headers gone has no partitions", async () => {
      const file = await two();
      await patch(file, 512, Buffer.alloc(512));
      await patch(file, 64 * MIB - 512, Buffer.alloc(512));
      const found = await table(file);
      expect(found.partitions).to.deep.equal([]);
      expect(found.problems.map(({ text }) => text)).to.deep.equal(["has a protective MBR without a GPT"]);
    });

    it("without its protective MBR is an error of its own, and has no partitions", async () => {
      const file = await makeDisk(at("disk"), { table: "gpt" });
      await patch(file, 510, Buffer.alloc(2));
      const { partitions, problems } = await table(file);
      expect(partitions).to.deep.equal([]);
      expect(problems.map(({ text }) => text)).to.deep.equal(["has a GPT without the protective MBR before it"]);
    });

    it("with absurdly many entries, or absurdly large ones, is refused before they are read", async () => {
      for (const [at80, at84] of [
        [0xffffffff, 128],
        [128, 0x80000000],
        [0, 128],
        [128, 0],
      ] as const) {
        const file = await two();
        await patch(file, 64 * MIB - 512, Buffer.alloc(512));
        await withHeader(file, (header) => {
          header.writeUInt32LE(at80, 80);
          header.writeUInt32LE(at84, 84);
        });
        expect((await table(file)).problems.map(({ text }) => text).join()).to.match(/absurd/);
      }
    });

    it("with its entries outside the disk is refused", async () => {
      const file = await two();
      await withHeader(file, (header) => header.writeBigUInt64LE(0x7fffffffffffffn, 72));
      expect((await table(file)).problems.map(({ text }) => text).join()).to.match(/entries outside the disk/);
    });

    it("of a disk that was made larger has its backup in the wrong place, which is a warning", async () => {
      const file = await two();
      await truncate(file, 80 * MIB);
      const found = await table(file);
      expect(found.problems.map(({ severity, text }) => `${severity}: ${text}`)).to.deep.equal([
        "warning: the backup of its GPT isn't in its last sector",
      ]);
      expect(found.gpt?.isBackupInPlace).to.equal(false);
    });

    it("of a disk that was cut off lacks its backup", async () => {
      const file = await two();
      await truncate(file, 40 * MIB);
      expect((await table(file)).problems.map(({ text }) => text)).to.deep.equal(["the backup of its GPT is missing"]);
    });
  });

  describe("a partition's content", () => {
    const fresh = (bytes = 64 * MIB) => sparse(at("part"), bytes);
    const whats = async (file: string) => (await signatures(file)).map(({ what }) => what);

    for (const version of ["ext2", "ext3", "ext4"]) {
      it(`is ${version}, by mke2fs`, async () => {
        await run("mke2fs", ["-q", "-F", "-t", version, "-L", "label", await fresh()]);
        expect(await signatures(at("part"))).to.have.length(1);
        expect((await signatures(at("part")))[0]).to.include({ kind: "ext", what: version, label: "label" });
      });
    }

    it("is sound with other block sizes, bigalloc and 64 bits", async () => {
      for (const options of [
        ["-b", "1024"],
        ["-b", "4096", "-O", "64bit"],
        ["-O", "bigalloc"],
        ["-I", "128", "-O", "^64bit"],
      ]) {
        await run("mke2fs", ["-q", "-F", "-t", "ext4", ...options, await fresh()]);
        expect((await signatures(at("part")))[0], options.join(" ")).to.not.have.property("problem");
      }
    });

    it("is XFS, by mkfs.xfs", async () => {
      await run("mkfs.xfs", ["-q", "-L", "label", await fresh(320 * MIB)]);
      expect((await signatures(at("part")))[0]).to.include({ kind: "xfs", what: "XFS", label: "label" });
      expect((await signatures(at("part")))[0]).to.not.have.property("problem");
      await truncate(at("part"), 200 * MIB);
      expect((await signatures(at("part")))[0]?.problem).to.match(/in a partition of 209715200 bytes/);
    });

    it("is btrfs, by mkfs.btrfs, and part of one when it is spread over two", async () => {
      await run("mkfs.btrfs", ["-q", "-L", "label", await fresh(128 * MIB)]);
      expect((await signatures(at("part")))[0]).to.include({ kind: "btrfs", what: "btrfs", label: "label" });
      expect((await signatures(at("part")))[0]).to.not.have.property("problem");
      await sparse(at("second"), 128 * MIB);
      await run("mkfs.btrfs", ["-q", "-f", await fresh(128 * MIB), at("second")]);
      expect((await signatures(at("part")))[0]?.problem).to.equal("is spread over 2 devices");
    });

    it("is a LUKS partition, by cryptsetup", async () => {
      for (const version of ["luks1", "luks2"] as const) {
        await luks(at("luks"), version);
        expect(await whats(at("luks"))).to.deep.equal([`a ${version.toUpperCase()} encrypted partition`]);
      }
    });

    it("is a bcache device, by make-bcache", async () => {
      await run("make-bcache", ["-B", await fresh()]);
      expect(await whats(at("part"))).to.deep.equal(["a bcache device"]);
    });

    it("is swap, FAT", async () => {
      await run("mkswap", ["-L", "label", await fresh()]);
      expect((await signatures(at("part")))[0]).to.include({ kind: "other", what: "Linux swap", label: "label" });
      await run("mkfs.vfat", ["-i", "1234abcd", "-n", "EFI", await fresh()]);
      expect((await signatures(at("part")))[0]).to.include({ what: "FAT", uuid: "1234-abcd", label: "EFI" });
    });

    // By hand, as pvcreate and mdadm want devices: LVM2's lib/format_text/layout.h and lib/label/label.h.
    it("is an LVM2 physical volume", async () => {
      await fresh();
      await patch(at("part"), 512, Buffer.from("LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001", "latin1"));
      expect(await whats(at("part"))).to.deep.equal(["an LVM2 physical volume"]);
    });

    // Linux' include/uapi/linux/raid/md_p.h.
    const md: Record<string, (size: number) => number> = {
      "1.1": () => 0,
      "1.2": () => 4096,
      "1.0": (size) => Math.floor((size / 512 - 16) / 8) * 8 * 512,
    };
    for (const [version, place] of Object.entries(md)) {
      it(`is a RAID member with metadata ${version}, also with a file system before it`, async () => {
        await fresh();
        await run("mke2fs", ["-q", "-F", "-t", "ext4", at("part"), "32M"]);
        const offset = place(64 * MIB);
        const block = Buffer.alloc(256);
        block.writeUInt32LE(0xa92b4efc, 0);
        block.writeUInt32LE(1, 4);
        block.writeBigUInt64LE(BigInt(offset / 512), 144);
        await patch(at("part"), offset, block);
        expect(await whats(at("part"))).to.include(`a Linux RAID member (md ${version})`);
      });
    }

    it("is a RAID member with metadata 0.90 at its end", async () => {
      for (const size of [64 * MIB, 64 * MIB + 12_288]) {
        await fresh(size);
        await patch(
          at("part"),
          Math.floor(size / 65_536) * 65_536 - 65_536,
          Buffer.concat([u32(0xa92b4efc), u32(0), u32(90)]),
        );
        expect(await whats(at("part"))).to.deep.equal(["a Linux RAID member (md 0.90)"]);
      }
    });

    // OpenZFS' on-disk format, chapter 1.
    it("is a ZFS member", async () => {
      await fresh();
      await patch(at("part"), 128 * 1024 + 4096, Buffer.from("0cb1ba0000000000", "hex"));
      expect(await whats(at("part"))).to.deep.equal(["a ZFS member"]);
    });

    it("is nothing that is known in an empty one", async () => {
      expect(await whats(await fresh())).to.deep.equal([]);
      expect(await whats(await fresh(700))).to.deep.equal([]);
    });

    const absurd: Record<string, [offset: number, bytes: Buffer, message: RegExp]> = {
      "blocks of 2^60 bytes": [24, u32(50), /blocks have 2\^60 bytes/],
      "blocks of more bytes than numbers have": [24, u32(0xffffffff), /blocks have 2\^4294967305 bytes/],
      "more blocks than the partition": [4, u32(0xffffffff), /4294967295 blocks/],
      "2^63 blocks": [336, u32(0x7fffffff), /blocks of 1024 bytes, in a partition/],
      "no blocks in a group": [32, u32(0), /0 blocks a group/],
      "no inodes in a group": [40, u32(0), /0 a group/],
      "2^32 inodes": [0, u32(0xffffffff), /4294967295 inodes/],
      "inodes of 3 bytes": [88, Buffer.from([3, 0]), /inodes have 3 bytes/],
      "descriptors of 7 bytes": [254, Buffer.from([7, 0]), /descriptors have 7 bytes/],
      "a beginning beyond its end": [20, u32(0x7fffffff), /begins at block/],
    };
    for (const [what, [offset, bytes, message]] of Object.entries(absurd)) {
      it(`is no file system with ${what}`, async () => {
        await run("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "64bit", await fresh(16 * MIB)]);
        await patch(at("part"), 1024 + offset, bytes);
        expect((await signatures(at("part")))[0]?.problem).to.match(message);
      });
    }
  });

  describe("a file that is no disk", () => {
    const refusal = async (file: string) =>
      ((await examineDisk(file).catch((reason: unknown) => reason)) as Error).message;

    it("is refused without being opened: a named pipe, a device", async () => {
      await run("mkfifo", [at("pipe")]);
      expect(await refusal(at("pipe"))).to.match(/is not a file/);
      expect(await refusal("/dev/zero")).to.match(/is not a file/);
      expect(await refusal(at("nowhere"))).to.match(/can't be read \(ENOENT\)/);
    });

    it("may be as large as the file system takes it, and costs nothing", async () => {
      await copyFile(at("good.raw"), at("huge"));
      await makeDisk(at("huge"));
      await truncate(at("huge"), 15 * 1024 ** 4);
      expect((await withBytes(at("huge"), layoutOf)).holds.map(({ what }) => what)).to.deep.equal(["ext4"]);
      await sparse(at("empty"), 15 * 1024 ** 4);
      expect(await refusal(at("empty"))).to.match(/no partition table/);
    });

    it("is refused with 7 EiB, which file systems in memory hold", async function () {
      const file = `/dev/shm/virtual-cluster-test-${process.pid}`;
      const isMade = await run("truncate", ["-s", "7E", file]).then(
        () => true,
        () => false,
      );
      try {
        if (!isMade) {
          this.skip();
        }
        expect(await refusal(file)).to.match(/has 8\d+ bytes/);
      } finally {
        await rm(file, { force: true });
      }
    });
  });

  async function luks(file: string, version: "luks1" | "luks2"): Promise<void> {
    await sparse(file, 32 * MIB);
    const quick = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
    await run("cryptsetup", ["luksFormat", "-q", "--type", version, ...quick, file, "-"], "passphrase");
  }

  /** Changes a primary header, and makes its checksum right again. */
  async function withHeader(file: string, change: (header: Buffer) => void): Promise<void> {
    const { crc32 } = await import("node:zlib");
    const header = await withBytes(file, (disk) => disk.read(512, 512));
    change(header);
    header.writeUInt32LE(0, 16);
    header.writeUInt32LE(crc32(header.subarray(0, 92)), 16);
    await patch(file, 512, header);
  }
});
