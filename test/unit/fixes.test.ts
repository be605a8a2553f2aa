import { cp, mkdir, mkdtemp, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { hashOf } from "../../provider/src/images/disk/digests";
import { withDisk } from "../../provider/src/images/examine";
import { BOOT_FILES, bootEntry, CONSOLE, fixBootFile } from "../../provider/src/images/fixes/boot-files";
import type { DiskNames } from "../../provider/src/images/fixes/disk-names";
import { copyFixed } from "../../provider/src/images/fixes/fixed-disk";
import { type Fixes, findFixes } from "../../provider/src/images/fixes/fixes";
import { fixFstab } from "../../provider/src/images/fixes/fstab";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";

const ROOT_UUID = "0b1d2f3a-1111-4222-8333-444455556666";
const DISK: DiskNames = {
  root: `UUID=${ROOT_UUID}`,
  rootDevice: "/dev/vda1",
  byNumber: new Map([
    [1, `UUID=${ROOT_UUID}`],
    [2, "UUID=swap"],
  ]),
  devices: new Set(["/dev/vda1", "/dev/vda2"]),
  tags: new Set([`uuid=${ROOT_UUID}`, "uuid=swap", "label=root"]),
};

describe("an fstab of another machine", () => {
  it("names its partitions by UUID, and has what is on no disk of ours commented out", () => {
    const { text, said } = fixFstab(
      [
        "# <file system> <mount point>",
        "/dev/xvde1\t/\text4 defaults 0 1",
        "/dev/xvde2 none swap sw 0 0",
        "/dev/sdb1 /scratch ext4 defaults 0 2",
        "UUID=cafe /data xfs defaults 0 0",
        "tmpfs /tmp tmpfs defaults 0 0",
        "server:/home /home nfs defaults 0 0",
        "",
      ].join("\n"),
      DISK,
    );
    expect(text.split("\n")).to.deep.equal([
      "# <file system> <mount point>",
      `UUID=${ROOT_UUID}\t/\text4 defaults 0 1`,
      "UUID=swap none swap sw 0 0",
      "# Not on this disk: /dev/sdb1 /scratch ext4 defaults 0 2",
      "# Not on this disk: UUID=cafe /data xfs defaults 0 0",
      "tmpfs /tmp tmpfs defaults 0 0",
      "server:/home /home nfs defaults 0 0",
      "",
    ]);
    expect(said).to.have.length(4);
  });

  for (const line of [
    "/dev/vda1 / ext4 defaults 0 1",
    `UUID=${ROOT_UUID.toUpperCase()} / ext4 defaults 0 1`,
    'LABEL="root" / ext4 defaults 0 1',
    "/dev/mapper/x /x ext4 defaults 0 0",
    "/dev/sdb1 /data ext4 defaults,nofail 0 0",
    "UUID=cafe /data ext4 noauto 0 0",
    "",
  ]) {
    it(`is left alone where it says ${JSON.stringify(line)}`, () => {
      expect(fixFstab(line, DISK)).to.deep.equal({ text: line, said: [] });
    });
  }
});

describe("a boot loader's file of another machine", () => {
  const fixed = (path: string, text: string, hasInitrd = true) => {
    const file = BOOT_FILES.find((one) => one.path === path);
    expect(file, path).to.not.equal(undefined);
    return file && fixBootFile(text, file, DISK, hasInitrd).text;
  };
  const cases: ReadonlyArray<readonly [path: string, before: string, after: string]> = [
    [
      "/boot/grub/menu.lst",
      "kernel /boot/vmlinuz-2.6.32 ro root=/dev/xvda1 console=hvc0",
      `kernel /boot/vmlinuz-2.6.32 ro root=UUID=${ROOT_UUID} ${CONSOLE}`,
    ],
    ["/boot/grub/menu.lst", "kernel /boot/xen-4.1.gz dom0_mem=512M", "kernel /boot/xen-4.1.gz dom0_mem=512M"],
    ["/boot/grub/menu.lst", "title kernel root=/dev/xvda1", "title kernel root=/dev/xvda1"],
    [
      "/boot/grub2/grub.cfg",
      "\tlinux16 /boot/vmlinuz root=UUID=gone ro quiet",
      `\tlinux16 /boot/vmlinuz root=UUID=${ROOT_UUID} ro quiet ${CONSOLE}`,
    ],
    [
      "/boot/extlinux/extlinux.conf",
      "  APPEND root=LABEL=root ro console=ttyS0",
      "  APPEND root=LABEL=root ro console=ttyS0",
    ],
    ["/etc/default/grub", 'GRUB_CMDLINE_LINUX="quiet"', `GRUB_CMDLINE_LINUX="quiet ${CONSOLE}"`],
    ["/etc/default/grub", 'GRUB_CMDLINE_LINUX=""', `GRUB_CMDLINE_LINUX="${CONSOLE}"`],
  ];
  for (const [path, before, after] of cases) {
    it(`${path}: ${before.trim()}`, () => {
      expect(fixed(path, before)).to.equal(after);
    });
  }

  const BLS: ReadonlyArray<readonly [path: string, before: string, after: string]> = [
    [
      "/boot/grub2/grub.cfg",
      '  set kernelopts="root=/dev/xvda1 ro quiet "',
      `  set kernelopts="root=UUID=${ROOT_UUID} ro quiet ${CONSOLE} "`,
    ],
    [
      "/boot/grub2/grub.cfg",
      'set default_kernelopts="root=LABEL=root"',
      `set default_kernelopts="root=LABEL=root ${CONSOLE}"`,
    ],
    ["/etc/kernel/cmdline", "root=UUID=gone ro", `root=UUID=${ROOT_UUID} ro ${CONSOLE}`],
    ["/boot/extlinux.conf", "append root=/dev/sda1 console=ttyS0", `append root=UUID=${ROOT_UUID} console=ttyS0`],
  ];
  for (const [path, before, after] of BLS) {
    it(`${path}: ${before.trim()}`, () => {
      expect(fixed(path, before)).to.equal(after);
    });
  }

  it("keeps an environment block of GRUB as long as it was, and leaves entries alone that take their arguments from there", () => {
    const header = "# GRUB Environment Block\nsaved_entry=x\n";
    const block = `${header}kernelopts=root=/dev/hda1 ro \n`.padEnd(1024, "#");
    const after = fixed("/boot/grub2/grubenv", block) ?? "";
    expect(after).to.have.length(1024);
    expect(after).to.match(new RegExp(`^${header}kernelopts=root=UUID=${ROOT_UUID} ro ${CONSOLE} \n#+$`));
    const entry = "linux /vmlinuz-4.18\noptions $kernelopts $tuned_params\n";
    expect(fixBootFile(entry, bootEntry("a.conf"), DISK, true).said).to.deep.equal([]);
  });

  it("names the device where the kernel has no initrd to look for a UUID", () => {
    expect(fixed("/boot/grub/menu.lst", `kernel /vmlinuz root=UUID=${ROOT_UUID} console=ttyS0`, false)).to.equal(
      "kernel /vmlinuz root=/dev/vda1 console=ttyS0",
    );
  });
});

describe("a disk that would not boot here", () => {
  const MIB = 1024 * 1024;
  let folder: string;
  let disk: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-fixes-"));
    disk = join(folder, "disk.raw");
  });

  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  /** A root file system in the first partition of a disk without boot code. */
  const makeDisk = async (
    files: Readonly<Record<string, string | Buffer>>,
    table = "label: dos\nstart=2048, type=83\n",
  ) => {
    const tree = join(folder, "tree");
    for (const [path, content] of Object.entries(files)) {
      await mkdir(join(tree, dirname(path)), { recursive: true });
      await writeFile(join(tree, path), content, { mode: 0o640 });
    }
    await writeFile(disk, "");
    await truncate(disk, 32 * MIB);
    await execa("sfdisk", ["--quiet", disk], { input: table });
    await execa("mke2fs", ["-q", "-t", "ext4", "-U", ROOT_UUID, "-d", tree, "-E", `offset=${MIB}`, disk, "16m"]);
    return disk;
  };
  const fixesOf = (file: string): Promise<Fixes> => withDisk(file, findFixes);
  const KERNEL = { "boot/vmlinuz-6.1.0-9": "", "boot/vmlinuz-6.1.0-10": "", "boot/initrd.img-6.1.0-10": "" };
  const XEN = {
    "etc/fstab": "/dev/xvda1 / ext4 defaults 0 1\n",
    "lib/modules/6.1.0-10/modules.builtin": "kernel/drivers/block/virtio_blk.ko\nkernel/drivers/net/virtio_net.ko\n",
  };

  it("boots from a copy, which needs nothing more and is the same each time; the disk itself stays", async () => {
    await makeDisk({ ...KERNEL, ...XEN });
    const before = await hashOf(disk);
    const fixes = await fixesOf(disk);
    expect(fixes.said).to.deep.equal([
      `/etc/fstab has / on /dev/xvda1: now UUID=${ROOT_UUID}`,
      "it has no boot loader: GRUB is written into its first MiB",
    ]);
    const copies = [join(folder, "one.raw"), join(folder, "other.raw")];
    for (const copy of copies) {
      await copyFixed(disk, copy, fixes);
    }
    const [one = "", other = ""] = copies;
    expect(await hashOf(one))
      .to.equal(await hashOf(other))
      .and.not.to.equal(before);
    expect(await hashOf(disk)).to.equal(before);
    expect(await fixesOf(one)).to.deep.include({ said: [], changes: [] });
    const root = new ExtFileSystem(one, MIB);
    expect(await root.read("/etc/fstab")).to.equal(`UUID=${ROOT_UUID} / ext4 defaults 0 1\n`);
    expect((await root.list("/etc")).find(({ name }) => name === "fstab")?.mode).to.equal(0o640);
    expect(await root.read("/boot/grub/grub.cfg")).to.include(
      `linux /boot/vmlinuz-6.1.0-10 root=UUID=${ROOT_UUID} ro ${CONSOLE}\ninitrd /boot/initrd.img-6.1.0-10\n`,
    );
    expect((await stat(one)).blocks * 512).to.be.lessThan(8 * MIB);
  });

  it("keeps a menu for GRUB that it has, to the last byte", async () => {
    const menu = `menuentry für {\n\tlinux /boot/vmlinuz-6.1.0-10 root=/dev/hda1 ${CONSOLE}\n}\n`;
    await makeDisk({ ...KERNEL, ...XEN, "boot/grub2/grub.cfg": Buffer.from(menu, "latin1") });
    const fixes = await fixesOf(disk);
    expect(fixes.bootLoader?.folder).to.equal("/boot/grub2");
    const copy = join(folder, "copy.raw");
    await copyFixed(disk, copy, fixes);
    expect(await new ExtFileSystem(copy, MIB).readBytes("/boot/grub2/grub.cfg")).to.deep.equal(
      Buffer.from(menu.replace("/dev/hda1", `UUID=${ROOT_UUID}`), "latin1"),
    );
  });

  it("is hopeless without a kernel, and without room for a boot loader", async () => {
    await makeDisk(XEN);
    expect((await fixesOf(disk)).hopeless).to.match(/no kernel/);
    await rm(join(folder, "tree"), { recursive: true });
    await makeDisk({ ...KERNEL, ...XEN }, "label: gpt\nstart=2048, type=linux\n");
    expect((await fixesOf(disk)).hopeless).to.equal("its GPT has no BIOS boot partition for one");
    const esp = "label: gpt\n1: start=2048, size=40960, type=linux\n15: start=43008, size=4096, type=uefi\n";
    await makeDisk({ ...KERNEL, ...XEN }, esp);
    expect((await fixesOf(disk)).hopeless).to.match(/no BIOS boot partition for one: it starts by UEFI/);
  });

  it("gets its boot loader into the partition that a GPT has for it", async () => {
    const type = "21686148-6449-6E6F-744E-656564454649";
    await makeDisk(
      { ...KERNEL, ...XEN },
      `label: gpt\n1: start=2048, size=40960, type=linux\n14: start=45056, size=4096, type=${type}\n`,
    );
    const fixes = await fixesOf(disk);
    expect(fixes.said.at(-1)).to.equal("it has no boot loader: GRUB is written into its partition 14");
    const copy = join(folder, "copy.raw");
    await copyFixed(disk, copy, fixes);
    const bytes = await readFile(copy);
    expect(bytes.readBigUInt64LE(0x5c)).to.equal(45056n);
    const core = bytes.subarray(45056 * 512);
    expect(core.readBigUInt64LE(512 - 12)).to.equal(45057n);
    await execa("sgdisk", ["--verify", copy]).then(({ stdout }) => expect(stdout).to.match(/No problems found/));
    expect(await fixesOf(copy)).to.deep.include({ said: [], changes: [] });
  });

  it("gets a menu of its own where its GRUB alone reads entries of the Boot Loader Specification", async () => {
    await makeDisk({ ...KERNEL, ...XEN, "etc/fstab": "", "boot/grub2/grub.cfg": "insmod blscfg\nblscfg\n" });
    const fixes = await fixesOf(disk);
    expect(fixes.bootLoader?.folder).to.equal("/boot/grub");
    const [menu] = fixes.changes.filter(({ path }) => path === "/boot/grub/grub.cfg");
    // Nothing in it would mount the root to be written into.
    expect(menu && "content" in menu ? menu.content : "").to.match(/ root=UUID=\S+ rw console/);
  });

  it("keeps a root by its UUID where kernels and initramfs are in a partition of their own", async () => {
    const cmdline = `root=UUID=${ROOT_UUID} ro console=ttyS0\n`;
    await makeDisk({
      ...XEN,
      "etc/fstab": `UUID=${ROOT_UUID} / ext4 defaults 0 1\nLABEL=boot /boot ext4 nofail 0 2\n`,
      "etc/kernel/cmdline": cmdline,
    });
    const { said, hopeless } = await fixesOf(disk);
    expect(said).to.deep.equal([]);
    expect(hopeless).to.match(/no kernel in the \/boot of its root file system/);
  });

  it("follows no link that the disk has in the place of a file", async () => {
    await makeDisk({ ...KERNEL, ...XEN });
    await cp(disk, join(folder, "linked.raw"));
    const commands = ["rm /etc/fstab", "symlink /etc/fstab ../boot/vmlinuz-6.1.0-9"].join("\n");
    await execa("debugfs", ["-w", "-f", "-", `${disk}?offset=${MIB}`], { input: commands });
    expect((await fixesOf(disk)).said.filter((line) => line.includes("fstab"))).to.deep.equal([]);
  });
});
