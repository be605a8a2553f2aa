import { copyFile, link, mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { main } from "../../provider/src/cli/vc";
import { InvalidImage } from "../../provider/src/drivers/errors";
import { withBytes } from "../../provider/src/images/disk/bytes";
import { readInitramfs } from "../../provider/src/images/disk/initramfs";
import { layoutOf } from "../../provider/src/images/disk/layout";
import { examineDisk } from "../../provider/src/images/examine";
import { checkImage, type Report, RULES } from "../../provider/src/images/standard/check";
import { LAYOUT_RULES } from "../../provider/src/images/standard/layout";
import {
  type DiskOptions,
  elf,
  initramfs,
  MIB,
  makeDisk,
  partition,
  patch,
  ROOT_UUID,
  run,
  sparse,
  type Tree,
  u32,
} from "./disk-corpus";

const MAC = "52:54:00:12:34:56";
const INITRD = "boot/initrd.img-6.1.0-test";
const GRUB = "boot/grub/grub.cfg";
const KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n";
const grub = (options: string, kernel = "/boot/vmlinuz-6.1.0-test") => ({
  [GRUB]: `linux ${kernel} ${options} console=ttyS0\n`,
});
const fstab = (line: string) => ({ "etc/fstab": `UUID=${ROOT_UUID} / ext4 defaults 0 1\n${line}\n` });

describe("vc image check", () => {
  let folder: string;
  const at = (name: string) => join(folder, name);
  const exercised = new Set<string>();

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "check-"));
  });

  after(() => rm(folder, { recursive: true }));

  const found = (report: Report) =>
    report.parts.flatMap(({ findings }) => findings.map(({ rule, level }) => `${level} ${rule}`));

  async function check(options: DiskOptions, change?: (file: string) => Promise<unknown>): Promise<Report> {
    const file = await makeDisk(at("disk.raw"), options);
    await change?.(file);
    const report = await checkImage({ frontend: file });
    for (const { findings } of report.parts) {
      for (const { rule, found: what, fix } of findings) {
        exercised.add(rule);
        expect(what, rule).to.match(/^\S.*[^.]$/s);
        expect(fix, rule).to.match(/^[A-Z]/);
      }
    }
    return report;
  }

  it("finds nothing at a disk that follows the standard, MBR or GPT", async () => {
    for (const table of ["mbr", "gpt"] as const) {
      const report = await check({ table });
      expect(report.parts.map(({ findings, notLookedAt }) => ({ findings, notLookedAt }))).to.deep.equal([
        { findings: [], notLookedAt: [] },
      ]);
      expect(report.conformant).to.equal(true);
    }
  });

  const disks: Record<string, [string, (file: string) => Promise<unknown>, RegExp?]> = {
    "is qcow2": ["error raw", (file) => run("qemu-img", ["create", "-q", "-f", "qcow2", file, "16M"])],
    "has no partition table": ["error partition-table", (file) => patch(file, 510, Buffer.alloc(2))],
    "is a file system as a whole": [
      "error partition-table",
      async (file) => {
        await sparse(file, 16 * MIB);
        await run("mke2fs", ["-q", "-F", "-t", "ext4", file]);
      },
      /is ext4 as a whole/,
    ],
    "has no boot code": ["error boot-code", (file) => patch(file, 0, Buffer.alloc(440))],
    "is cut off": ["error partition-places", (file) => truncate(file, 8 * MIB)],
    "has its root in the second partition": [
      "error first-partition",
      (file) => partition(file, ["label: dos", "2: start=2048, size=45056, type=83"]),
      /has no first partition \(but 2\)/,
    ],
    "says it is LVM": ["error partition-type", (file) => patch(file, 450, Buffer.from([0x8e]))],
    "holds an LVM2 volume": [
      "error no-volumes",
      (file) => patch(file, MIB, Buffer.from("LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001", "latin1")),
    ],
    "holds nothing": ["error root-file-system", (file) => patch(file, MIB + 1024, Buffer.alloc(1024))],
    "holds a file system larger than its partition": ["error root-file-system", (file) => patch(file, 458, u32(2048))],
    "has half a sector": ["warning whole-sectors", (file) => truncate(file, 24 * MIB + 100)],
  };
  for (const [what, [expected, change, words]] of Object.entries(disks)) {
    it(`says that a disk ${what}`, async () => {
      const report = await check({}, change);
      expect(found(report)).to.include(expected);
      expect(report.conformant).to.equal(expected.startsWith("warning"));
      if (words) {
        expect(JSON.stringify(report)).to.match(words);
      }
    });
  }

  it("says that a GPT's backup isn't where it should be", async () => {
    expect(found(await check({ table: "gpt" }, (file) => truncate(file, 32 * MIB)))).to.deep.equal([
      "warning table-backup",
    ]);
  });

  const trees: Record<string, [string, Tree, RegExp?]> = {
    "has no init": ["error root-tree", { "sbin/init": undefined, "lib/systemd/systemd": undefined }, /lacks an init/],
    "has an /etc that leads to itself": [
      "error root-tree",
      { "etc/fstab": undefined, "etc/shadow": undefined, etc: "→ etc" },
      /lacks \/etc with/,
    ],
    "is for another processor": ["error x86-64", { "lib/systemd/systemd": elf(183) }, /aarch64/],
    "mounts a disk that isn't there": ["error fstab-devices", fstab("/dev/vdb1 /data ext4 defaults 0 0"), /vdb1/],
    "mounts a partition that isn't there": ["error fstab-devices", fstab("/dev/vda7 /data ext4 defaults 0 0")],
    "mounts a UUID that nothing has": [
      "error fstab-devices",
      fstab("UUID=5eed5eed-0000-4000-8000-00000000ffff none swap sw"),
    ],
    "mounts a label that nothing has": ["error fstab-devices", fstab("LABEL=data /data ext4 defaults 0 0")],
    "mounts an LVM volume": ["error fstab-devices", fstab("/dev/mapper/vg-home /home ext4 defaults 0 0")],
    "mounts its root by a name of Xen": [
      "error fstab-names",
      { "etc/fstab": "/dev/xvda1 / ext4 defaults 0 1\n" },
      /calls \/dev\/vda1/,
    ],
    "mounts its root by a name of IDE": ["error fstab-names", { "etc/fstab": "/dev/hda1 / ext3 defaults 0 1\n" }],
    "has no boot loader's configuration": ["error boot-configuration", { [GRUB]: undefined }],
    "has no kernel": ["error boot-kernel", { "boot/vmlinuz-6.1.0-test": undefined }],
    "starts a kernel that isn't there": [
      "error boot-kernel",
      grub(`root=UUID=${ROOT_UUID}`, "/boot/vmlinuz-5.10"),
      /vmlinuz-5.10/,
    ],
    "starts from a root that isn't there": ["error boot-root", grub("root=UUID=5eed5eed-0000-4000-8000-00000000ffff")],
    "starts from a root with a name of Xen": ["error boot-root", grub("root=/dev/xvda1"), /calls \/dev\/vda1/],
    "says nothing on the serial port": [
      "warning serial-console",
      { [GRUB]: `linux /boot/vmlinuz-6.1.0-test root=UUID=${ROOT_UUID}\n` },
    ],
    "has no virtio drivers": ["warning virtio", { "lib/modules/6.1.0-test/modules.dep": "" }],
    "reads nothing": ["warning reads-vc-out", { "usr/sbin/vc-guest": undefined }, /writes its network/],
    "has cloud-init": ["warning reads-vc-out", { "usr/sbin/vc-guest": undefined, "usr/bin/cloud-init": "" }, /seed/],
    "takes one dialect": [
      "info both-dialects",
      { "usr/sbin/vc-guest": undefined, "opt/vc-out-parser/vc-out-parser.py": "public" },
      /dialect A/,
    ],
    "names its NICs by MAC": [
      "error udev-net-rules",
      { "etc/udev/rules.d/70-persistent-net.rules": `SUBSYSTEM=="net", ATTR{address}=="${MAC}", NAME="eth0"\n` },
    ],
    "has an ifcfg by MAC": [
      "warning network-files-by-mac",
      { "etc/sysconfig/network-scripts/ifcfg-eth0": `DEVICE=eth0\nHWADDR=${MAC}\n` },
    ],
    "has a netplan by MAC": [
      "warning network-files-by-mac",
      { "etc/netplan/50-cloud-init.yaml": `match:\n  macaddress: "${MAC}"\n` },
    ],
    "has a networkd file by MAC": [
      "warning network-files-by-mac",
      { "etc/systemd/network/10.network": `[Match]\nMACAddress=${MAC}\n` },
    ],
    "has ssh host keys": [
      "error ssh-host-keys",
      { "etc/ssh/ssh_host_rsa_key": KEY, "etc/ssh/ssh_host_rsa_key.pub": "x" },
      /ssh_host_rsa_key"/,
    ],
    "has root's private key": ["error private-keys", { "root/.ssh/id_ed25519": KEY }],
    "has a user's private key": ["error private-keys", { "home/alice/.ssh/id_rsa": KEY }, /home\/alice/],
    "has a cluster's keys": ["error private-keys", { "etc/vc/id_ed25519": KEY }],
    "lets somebody in": ["warning authorized-keys", { "root/.ssh/authorized_keys": "ssh-ed25519 AAAA me@here\n" }],
    "lets root in without a password": [
      "warning empty-passwords",
      { "etc/shadow": "root::19000:0:99999:7:::\nbin:*:::::::\n" },
      /root can log in/,
    ],
    "has a machine id": ["info machine-id", { "etc/machine-id": `${"0123456789abcdef".repeat(2)}\n` }],
    "has an initramfs that can't be looked into": ["info initramfs-readable", { [INITRD]: "garbage" }],
    "has an initramfs that leads nowhere": ["info initramfs-readable", { [INITRD]: "→ nowhere" }],
  };
  for (const [what, [expected, files, words]] of Object.entries(trees)) {
    it(`says that an image ${what}`, async () => {
      const report = await check({ files });
      expect(found(report)).to.deep.equal([expected]);
      expect(report.conformant).to.equal(!expected.startsWith("error"));
      if (words) {
        expect(JSON.stringify(report)).to.match(words);
      }
    });
  }

  it("says that an image has an initramfs without virtio, however many it has", async () => {
    const without = await initramfs({ modules: ["ata/ahci.ko"], compress: ["gzip", "-c"] });
    const files = { [INITRD]: without, "boot/initrd.img-5": without };
    expect(found(await check({ files }))).to.deep.equal(["error disk-initramfs"]);
    // From that it starts here, and calls its disk so.
    const sata = await initramfs({ modules: ["ata/ahci.ko", "scsi/sd_mod.ko"] });
    const named = { ...files, "boot/initrd.img-4": sata, "etc/fstab": "/dev/vda1 / ext4 defaults 0 1\n" };
    const report = await check({ files: named });
    expect(found(report)).to.deep.equal(["error fstab-names", "warning virtio-initramfs"]);
    expect(JSON.stringify(report)).to.match(/the machine calls \/dev\/sda1/);
    const withIt = await initramfs({ modules: ["block/virtio_blk.ko"] });
    expect(found(await check({ files: { ...files, "boot/initrd.img-6": withIt } }))).to.deep.equal([]);
  });

  it("says that a disk is larger than any node's, or a little smaller and sparse", async () => {
    const disk = await makeDisk(at("disk.raw"));
    const size = async (tib: number) =>
      withBytes(disk, async (bytes) => {
        const layout = await layoutOf({ size: tib * 1024 ** 4, read: bytes.read });
        return LAYOUT_RULES.find(({ id }) => id === "size")?.find(layout);
      });
    expect(await size(16)).to.deep.equal([]);
    expect(await size(17)).to.have.length(1);
    exercised.add("size");
  });

  it("says nothing of what is as well", async () => {
    const files = {
      ...{
        "etc/fstab": `/dev/disk/by-uuid/${ROOT_UUID} / ext4 defaults 0 1\nLABEL=vc-root /again ext4 noauto\n`,
      },
      "root/.ssh/authorized_keys": "# nobody\n\n",
      "root/.ssh/id_rsa.pub": "ssh-rsa AAAA",
      "etc/ssh/ssh_host_rsa_key": "",
      "etc/machine-id": "uninitialized\n",
      "etc/udev/rules.d/70-persistent-net.rules": `# ATTR{address}=="${MAC}"\nATTR{address}=="?*"\n`,
      "etc/sysconfig/network-scripts/ifcfg-eth0": `#HWADDR=${MAC}\nDEVICE=eth0\n`,
      [GRUB]: undefined,
      "boot/extlinux/extlinux.conf": `LABEL x\n KERNEL ../vmlinuz-6.1.0-test\n APPEND root=PARTUUID=deadbeef-01 console=ttyS0\n`,
    };
    const report = await check({ files }, (file) => patch(file, 440, Buffer.from("efbeadde", "hex")));
    expect(report.parts.flatMap(({ findings }) => findings)).to.deep.equal([]);
    const missing = fstab(
      "/dev/vdb1 /data ext4 nofail 0 0\n/dev/sr0 /cd iso9660 ro\nserver:/x /x nfs defaults\n/swapfile none swap sw",
    );
    expect(found(await check({ files: missing }))).to.deep.equal([]);
  });

  it("doesn't look for kernels where they are in a partition of their own", async () => {
    const files = {
      ...fstab("LABEL=vc-root /boot ext4 defaults 0 2"),
      [GRUB]: undefined,
      "boot/vmlinuz-6.1.0-test": undefined,
    };
    const report = await check({ files });
    expect(found(report)).to.deep.equal([]);
    expect(report.parts[0]?.notLookedAt).to.include("boot-kernel");
  });

  it("says that a file system was in use when it was copied", async () => {
    const recover = async (file: string) =>
      run("debugfs", ["-w", "-R", "feature needs_recovery", `${file}?offset=${MIB}`]);
    expect(found(await check({}, recover))).to.deep.equal(["info clean-journal"]);
  });

  it("says that a root of XFS can't be looked into where libguestfs isn't, or doesn't work", async () => {
    const path = process.env.PATH;
    await mkdir(at("bin"));
    await writeFile(at("bin/guestfish"), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
    process.env.PATH = `${at("bin")}:${path}`;
    try {
      const report = await check({}, async (file) => {
        await sparse(file, 402 * MIB);
        await partition(file, ["label: dos", "start=2048, type=83"]);
        await patch(file, 0, Buffer.alloc(440, 0x90));
        await sparse(at("xfs"), 400 * MIB);
        await run("mkfs.xfs", ["-q", at("xfs")]);
        await run("dd", [`if=${at("xfs")}`, `of=${file}`, "bs=1M", "seek=1", "conv=sparse,notrunc", "status=none"]);
      });
      expect(found(report)).to.deep.equal(["warning looked-into"]);
      expect(JSON.stringify(report)).to.match(/libguestfs/);
      expect(report.conformant).to.equal(true);
      expect(await examineDisk(at("disk.raw")).catch((error: unknown) => error)).to.be.instanceOf(InvalidImage);
    } finally {
      process.env.PATH = path;
    }
  });

  describe("with something hostile inside", () => {
    it("comes to an end with links in circles, pipes and devices in the place of files, and huge ones", async () => {
      const files = {
        "etc/fstab": undefined,
        "sbin/init": "→ /sbin/init",
        "lib/systemd/systemd": "→ ../systemd/systemd",
        [GRUB]: "→ ../../boot/grub/grub.cfg",
        "etc/netplan": "→ ../etc/netplan",
        "home/alice": "→ ..",
      };
      const report = await check({ files }, async (file) => {
        const target = `${file}?offset=${MIB}`;
        const commands = [
          ...["cd /etc", "mknod fstab p", "rm shadow", "mknod shadow c 1 5"],
          ...["write /dev/null big", "set_inode_field big size 0x7fffffffffff", "rm machine-id", "ln big machine-id"],
        ];
        await writeFile(at("commands"), commands.join("\n"));
        await run("debugfs", ["-w", "-f", at("commands"), target]);
      });
      expect(report.conformant).to.equal(false);
      expect(found(report)).to.include("error boot-configuration");
    });

    it("comes to an end with a folder that is its own parent", async () => {
      const report = await check({}, (file) =>
        run("debugfs", ["-w", "-R", "ln / /lib/modules/6.9", `${file}?offset=${MIB}`]),
      );
      expect(report.conformant).to.equal(true);
    });

    it("says what it can't read, and doesn't break, when the file system is garbage behind its superblock", async () => {
      const report = await check({}, (file) => patch(file, MIB + 4096, Buffer.alloc(2 * MIB, 0xa5)));
      expect(found(report)).to.include("error readable");
    });
  });

  describe("an initramfs", () => {
    const modules = ["block/virtio_blk.ko.xz", "virtio/virtio_pci.ko.xz", "char/virtio-rng.ko"];
    const packed: Record<string, readonly [string, ...string[]] | undefined> = {
      "not at all": undefined,
      gzip: ["gzip", "-c"],
      xz: ["xz", "-c0", "--check=crc32"],
      lzma: ["xz", "-c0", "--format=lzma"],
      zstd: ["zstd", "-cq"],
      "lz4 as the kernel wants it": ["lz4", "-clq"],
      bzip2: ["bzip2", "-c"],
    };
    for (const [how, compress] of Object.entries(packed)) {
      it(`is looked into, compressed ${how}, also behind microcode`, async () => {
        for (const microcode of [false, true]) {
          const image = await initramfs({ modules, microcode, ...(compress && { compress }) });
          const seen = await readInitramfs(image);
          expect([...seen.modules]).to.deep.equal(["virtio_blk", "virtio_pci", "virtio_rng"]);
          expect([...seen.kernels]).to.deep.equal(["6.1.0-test"]);
          expect(seen.problem).to.equal(undefined);
        }
      });
    }

    it("that isn't whole, or in no known form, says so", async () => {
      const gzip = await initramfs({ modules, compress: ["gzip", "-c"] });
      expect((await readInitramfs(gzip.subarray(0, -40))).problem).to.match(/can't unpack all/);
      expect((await readInitramfs(Buffer.alloc(4096, 0x42))).problem).to.match(/isn't known here/);
    });

    it("that unpacks to more than any has is given up", async () => {
      const bomb = Buffer.concat(await bombOf());
      const began = process.memoryUsage().rss;
      expect((await readInitramfs(bomb)).problem).to.match(/can't unpack all|isn't whole/);
      expect(process.memoryUsage().rss - began).to.be.below(300 * MIB);
    });

    /** 2 GiB of nothing, of which gzip makes some 2 MiB: many members, as one archive's file. */
    async function bombOf(): Promise<Buffer[]> {
      const { gzipSync } = await import("node:zlib");
      const field = (value: number) => value.toString(16).padStart(8, "0");
      const fields = [1, 0o100644, 0, 0, 1, 0, 0xfffffff0, 0, 0, 0, 0, 2, 0].map(field).join("");
      const zeros = gzipSync(Buffer.alloc(64 * MIB));
      return [gzipSync(Buffer.from(`070701${fields}x\0`, "latin1")), ...Array.from({ length: 32 }, () => zeros)];
    }
  });

  describe("as a command", () => {
    const DISK = (name: string, nics: number) =>
      `<domain><devices><disk><driver type="raw"/><source file="${name}"/></disk>${"<interface/>".repeat(nics)}</devices></domain>`;
    const vcIn = (frontend: number, compute: number, more = "") =>
      `<vc version="0.1"><virtualization engine="kvm" type="hvm" arch="x86_64"/><driver>x</driver>${more}
      <frontend>${DISK("frontend.raw", frontend)}</frontend><compute>${DISK("compute.raw", compute)}</compute></vc>`;
    let repository: string;

    before(async () => {
      repository = at("images");
      await mkdir(join(repository, "demo"), { recursive: true });
      await writeFile(join(repository, "vcdb.txt"), "demo,demo/vc-in.xml\n");
      await makeDisk(join(repository, "demo", "frontend.raw"));
      await link(join(repository, "demo", "frontend.raw"), join(repository, "demo", "compute.raw"));
    });

    beforeEach(() => writeFile(join(repository, "demo", "vc-in.xml"), vcIn(2, 1)));

    async function vc(...args: string[]): Promise<{ code: number; out: string; err: string }> {
      const [out, err]: [string[], string[]] = [[], []];
      const terminal = { out: (text: string) => void out.push(text), err: (text: string) => void err.push(text) };
      const code = await main(["image", "check", ...args], terminal);
      return { code, out: out.join("\n"), err: err.join("\n") };
    }

    it("takes a name, a vc-in.xml or disks, looks once at a disk that serves both, and exits with 0", async () => {
      const byName = await vc("demo", "--repository", repository);
      expect(byName.code).to.equal(0);
      expect(byName.out).to.match(/^vc-in\.xml: .*\n {2}3 rules hold/);
      expect(byName.out).to.match(/\nfrontend and compute: .*frontend\.raw\n {2}RAW, 24 MiB; MBR with 1 partition;/);
      expect(byName.out).to.match(/\nConforms to the image standard\.$/);
      expect((await vc(join(repository, "demo", "vc-in.xml"))).out).to.equal(byName.out);
      const disk = join(repository, "demo", "frontend.raw");
      const bare = await vc("--frontend", disk, "--compute", disk, "--json");
      expect(bare.code).to.equal(0);
      expect(JSON.parse(bare.out)).to.nested.include({
        conformant: true,
        "parts.length": 1,
        "parts[0].about": "frontend and compute",
      });
    });

    it("exits with 1 for an image that doesn't conform, and tells each disk apart", async () => {
      const compute = await makeDisk(at("compute.raw"), { files: { "etc/ssh/ssh_host_rsa_key": KEY } });
      const { code, out } = await vc("--frontend", join(repository, "demo", "frontend.raw"), "--compute", compute);
      expect(code).to.equal(1);
      expect(out).to.match(
        /\ncompute: .*\n.*\n {2}error {2}ssh-host-keys {2}ssh host keys .*\n +in \/etc\/ssh\/ssh_host_rsa_key\n +→ Remove/,
      );
      expect(out).to.match(/\nDoesn't conform to the image standard: 1 error\.$/);
    });

    it("holds the vc-in.xml against its rules: disks, NICs", async () => {
      const file = join(repository, "demo", "vc-in.xml");
      await writeFile(file, vcIn(1, 2));
      const nics = await vc(file, "--json");
      expect(nics.code).to.equal(0);
      expect(found(JSON.parse(nics.out) as Report)).to.deep.equal(["warning frontend-nics", "warning compute-nics"]);
      await writeFile(file, vcIn(2, 1).replace("<disk>", "<disk/><disk>"));
      for (const args of [[file], ["demo", "--repository", repository]]) {
        const { code, out } = await vc(...args, "--json");
        expect(code).to.equal(1);
        expect(out).to.match(/frontend has 2 disks/);
      }
      for (const rule of ["vc-in", "frontend-nics", "compute-nics"]) {
        exercised.add(rule);
      }
    });

    it("leads nowhere else: neither by a link nor upwards", async () => {
      const file = join(repository, "demo", "vc-in.xml");
      await writeFile(file, vcIn(2, 1).replace("frontend.raw", "../../disk.raw"));
      expect(await vc(file)).to.include({ code: 1, out: "" });
    });

    it("fetches what is packed into the cache, and looks at that", async () => {
      const homeBefore = process.env.VIRTUAL_CLUSTER_HOME;
      process.env.VIRTUAL_CLUSTER_HOME = at("home");
      try {
        const folder = join(repository, "packed");
        await mkdir(folder, { recursive: true });
        await copyFile(join(repository, "demo", "frontend.raw"), join(folder, "disk.raw"));
        await run("gzip", ["-1", join(folder, "disk.raw")]);
        await writeFile(join(folder, "vc-in.xml"), vcIn(2, 1).replaceAll(/(frontend|compute)\.raw/g, "disk.raw.gz"));
        const { code, out } = await vc(join(folder, "vc-in.xml"));
        expect(code).to.equal(0);
        expect(out).to.match(/\nfrontend and compute: disk\.raw\.gz from .*\/packed\/disk\.raw\.gz\n {2}RAW, 24 MiB/);
      } finally {
        if (homeBefore === undefined) {
          delete process.env.VIRTUAL_CLUSTER_HOME;
        } else {
          process.env.VIRTUAL_CLUSTER_HOME = homeBefore;
        }
      }
    });

    it("exits with 2 when it is called wrongly", async () => {
      for (const args of [
        [],
        ["demo", "--frontend", "x"],
        ["--compute", "x"],
        ["--nonsense"],
        ["demo", "--compute", "x"],
        ["--frontend", ""],
        [""],
        [join(repository, "demo", "frontend.raw")],
      ]) {
        const { code, err } = await vc(...args);
        expect(code, args.join(" ")).to.equal(2);
        expect(err).to.match(/^vc: .*see `vc --help`/);
      }
    });

    it("takes an image's folder for its vc-in.xml", async () => {
      const file = join(repository, "demo", "vc-in.xml");
      await writeFile(file, vcIn(2, 1));
      expect((await vc(join(repository, "demo"))).out).to.equal((await vc(file)).out);
    });

    it("says what isn't there", async () => {
      expect((await vc(at("nowhere/vc-in.xml"))).err).to.match(/is missing in/);
      expect((await vc("dmeo", "--repository", repository)).err).to.match(/Did you mean demo/);
      const { code, out } = await vc("--frontend", at("nowhere.raw"));
      expect(code).to.equal(1);
      expect(out).to.match(/error {2}readable {2}can't be read \(ENOENT\)/);
      exercised.add("readable");
    });
  });

  describe("in all", () => {
    it("has been seen to complain by each of its rules", () => {
      const all = Object.values(RULES).flatMap((rules) => rules.map(({ id }) => id));
      expect(new Set(all).size).to.equal(all.length);
      expect(all.filter((id) => !exercised.has(id))).to.deep.equal([]);
    });
  });
});
