import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { convertImage } from "../../provider/src/building/converted-image";
import { withOverlay } from "../../provider/src/images/disk/overlay";
import { examineDisk } from "../../provider/src/images/examine";
import { ExtFileSystem, type GuestFileSystem } from "../../provider/src/images/root/file-system";
import { rootOf } from "../../provider/src/images/root/root";
import { labelsOf } from "../../provider/src/images/root/selinux";
import { checkImage } from "../../provider/src/images/standard/check";
import { initramfs, MIB, makeDisk, ROOT_UUID, type Tree } from "./disk-corpus";

const KERNEL = "4.18.0-553.el8_10.x86_64";
const POLICY = "etc/selinux/targeted/contexts/files";
const LABEL = (type: string) => `system_u:object_r:${type}:s0`;
const CONTEXTS = [
  `/.*\t${LABEL("default_t")}`,
  `/etc(/.*)?\t${LABEL("etc_t")}`,
  `/usr/(.*/)?sbin(/.*)?\t${LABEL("bin_t")}`,
  `/usr/lib/systemd/system(/.*)?\t${LABEL("systemd_unit_file_t")}`,
  `/root(/.*)?\t${LABEL("admin_home_t")}`,
  `/etc/machine-id\t--\t${LABEL("machineid_t")}`,
  `/etc/fstab\t-d\t${LABEL("nonsense_t")}`,
  `/etc/vc/none\t<<none>>`,
];

/** What a machine of Red Hat's family has that others haven't: dracut's initramfs, boot entries, ifcfg files, SELinux. */
async function tree(): Promise<Tree> {
  return {
    "etc/redhat-release": "Rocky Linux release 8.10 (Green Obsidian)\n",
    "etc/selinux/config": "# SELINUX= can take one of these\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
    [`${POLICY}/file_contexts`]: `${CONTEXTS.join("\n")}\n`,
    [`${POLICY}/file_contexts.subs_dist`]: "/etc/systemd/system /usr/lib/systemd/system\n",
    "etc/sysconfig/network": "NETWORKING=yes\n",
    "etc/sysconfig/network-scripts/ifcfg-eth0": "DEVICE=eth0\nBOOTPROTO=dhcp\n",
    "etc/NetworkManager/NetworkManager.conf": "[main]\n",
    "usr/sbin/NetworkManager": "",
    "usr/sbin/vc-guest": undefined,
    "usr/lib/systemd/system/sshd.service": "",
    "etc/ssh/ssh_host_rsa_key": "secret",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "boot/grub/grub.cfg": undefined,
    "boot/vmlinuz-6.1.0-test": undefined,
    "boot/initrd.img-6.1.0-test": undefined,
    "boot/grub2/grub.cfg": "insmod blscfg\nblscfg\n",
    "boot/grub2/grubenv": `# GRUB Environment Block\nkernelopts=root=UUID=${ROOT_UUID} ro \n`.padEnd(1024, "#"),
    [`boot/loader/entries/x-${KERNEL}.conf`]: `title Rocky\nlinux /boot/vmlinuz-${KERNEL}\ninitrd /boot/initramfs-${KERNEL}.img\noptions $kernelopts $tuned_params\n`,
    [`boot/vmlinuz-${KERNEL}`]: "kernel",
    [`boot/initramfs-${KERNEL}.img`]: await initramfs({ modules: ["block/virtio_blk.ko"], compress: ["gzip", "-c"] }),
  };
}

describe("a disk of Red Hat's family", () => {
  let folder: string;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "red-hat-"));
  });

  after(() => rm(folder, { recursive: true }));

  const labelOf = async (file: string, path: string) => {
    const { stdout } = await execa("debugfs", ["-R", `ea_get ${path} security.selinux`, `${file}?offset=${MIB}`]);
    return /security\.selinux \(\d+\) = "?([^"\n]*?)"?$/m.exec(stdout)?.[1] ?? "";
  };

  it("becomes an image that conforms, whose new files have the labels of its SELinux, as those of its nodes", async () => {
    const from = await makeDisk(join(folder, "rocky.raw"), { files: await tree() });
    const into = join(folder, "images");
    const said: string[] = [];
    const made = await convertImage(
      { vcName: "rocky", from, into, shape: { cpus: 1, memory: 512 }, isReplacing: false },
      (line) => said.push(line),
    );
    const disk = join(made, "disk.raw");
    const report = await checkImage({ frontend: disk });
    expect(report.parts.flatMap(({ findings }) => findings)).to.deep.equal([]);
    expect(said.join("\n")).to.match(/\/boot\/grub2\/grubenv gives the kernel no serial console/);
    const root = new ExtFileSystem(disk, MIB);
    expect(await root.readBytes("/boot/grub2/grubenv")).to.have.length(1024);
    for (const [path, type] of Object.entries({
      "/usr/sbin/vc-guest": "bin_t",
      "/etc/systemd/system/vc-guest.service": "systemd_unit_file_t",
      "/etc/systemd/system/multi-user.target.wants": "systemd_unit_file_t",
      "/etc/machine-id": "machineid_t",
      "/boot/grub2/grubenv": "default_t",
    })) {
      expect(await labelOf(disk, path), path).to.equal(LABEL(type));
    }
    const examined = await examineDisk(disk);
    expect(examined.isLabelled).to.equal(true);
    await withOverlay(
      {
        ...{ base: disk, baseAtSite: disk, size: examined.size, root: rootOf({ ...examined, digest: "" }) },
        changes: async () => [
          { path: "/root/vc-out.xml", content: "<vc/>", mode: 0o600 },
          { path: "/etc/vc/deep/key", content: "", mode: 0o600 },
          { path: "/etc/vc/none", content: "", mode: 0o600 },
          { path: "/etc/fstab", content: "", mode: 0o644 },
        ],
      },
      async (overlay) => {
        const all = join(folder, "node.raw");
        await execa("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", overlay, all]);
        expect(await labelOf(all, "/root/vc-out.xml")).to.equal(LABEL("admin_home_t"));
        expect(await labelOf(all, "/etc/vc/deep")).to.equal(LABEL("etc_t"));
        expect(await labelOf(all, "/etc/vc/deep/key")).to.equal(LABEL("etc_t"));
        expect(await labelOf(all, "/etc/vc/none")).to.equal("");
        expect(await labelOf(all, "/etc/fstab")).to.equal(LABEL("etc_t"));
      },
    );
  });

  it("with SELinux switched off gets none", async () => {
    const files = { ...(await tree()), "etc/selinux/config": "SELINUX=disabled\nSELINUXTYPE=targeted\n" };
    expect(await examineDisk(await makeDisk(join(folder, "off.raw"), { files }))).not.to.have.property("isLabelled");
  });

  it("can't keep anybody busy with its policy, nor say what is no label", async () => {
    const contexts = [
      `/root/(a+)+b\t${LABEL("slow_t")}`,
      `/root/${".*".repeat(20)}b\t${LABEL("slow_t")}`,
      `/root/[\t${LABEL("broken_t")}`,
      "/root/x\tx; write /etc/passwd\t",
      "/root/y\tsystem_u:object_r:a\x1b[2J:s0",
    ];
    const texts: Readonly<Record<string, string>> = {
      "/etc/selinux/config": "SELINUX=permissive\nSELINUXTYPE=targeted\n",
      [`/${POLICY}/file_contexts`]: [...contexts, ...Array(20_000).fill(`/ro[o]t/.*.*.*.*.*b\t${LABEL("x_t")}`)].join(
        "\n",
      ),
    };
    const root = { read: async (path: string) => texts[path] ?? "" } as unknown as GuestFileSystem;
    const labels = await labelsOf(root);
    expect(labels(`/root/${"a".repeat(60)}`, "file")).to.equal(undefined);
    expect(labels("/root/x", "file")).to.equal(undefined);
    expect(labels("/root/y", "file")).to.equal(undefined);
  });
});
