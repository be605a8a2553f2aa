import { mkdir, mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { injectInto, withOverlay } from "../../provider/src/images/disk/overlay";
import { examineDisk } from "../../provider/src/images/examine";
import { rootOf, withRoot } from "../../provider/src/images/root/root";

const MIB = 1024 * 1024;
const DISK_MIB = 352;

/** How a file system is made of a folder's content, or of none. */
const MAKERS = {
  xfs: async (file: string) => execa("mkfs.xfs", ["-q", "-f", file]),
  btrfs: async (file: string, tree: string) => execa("mkfs.btrfs", ["-q", "--rootdir", tree, file]),
} as const;

describe("an image whose root is neither ext2, ext3 nor ext4, through libguestfs", () => {
  let folder: string;

  before(async function () {
    const { failed } = await execa("guestfish", ["--version"], { reject: false });
    if (failed) {
      console.log("      guestfish isn't installed");
      this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), "vc-xfs-"));
  });

  after(() => folder && rm(folder, { recursive: true }));

  for (const kind of ["xfs", "btrfs"] as const) {
    it(`is looked into, changed and grown: ${kind}`, async () => {
      const base = join(folder, `${kind}.raw`);
      await makeDisk(base, kind);
      const changes = async () => [
        { path: "/root/vc-out.xml", content: "<vc/>", mode: 0o600 },
        { path: "/etc/vc/a b", content: Buffer.from([0, 255, 10]), mode: 0o640 },
        { path: "/etc/link", target: "../usr/bin/tool" },
        { path: "/etc/old", removed: true } as const,
      ];
      await withOverlay(
        {
          ...{ base, baseAtSite: base, size: (DISK_MIB + 200) * MIB, root: { offset: MIB, kind } },
          changes: async () => [
            ...(await changes()),
            { path: "/usr/sbin/vc-guest", content: "#!/bin/sh\n", mode: 0o755 },
            { path: "/etc/old", content: "old", mode: 0o644 },
            // Leads out of the guest, if anything followed it there.
            { path: "/tmp/there", content: "", mode: 0o644 },
            { path: "/escape", target: "/tmp" },
          ],
        },
        async (overlay) => {
          await injectInto({
            ...{ file: overlay, base, root: { offset: MIB, kind } },
            changes: async () => [...(await changes()), { path: "/escape/vc-xfs-escaped", content: "", mode: 0o644 }],
          });
          const all = join(folder, `${kind}-all.raw`);
          await execa("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", overlay, all]);
          const examined = await examineDisk(all);
          expect(examined).to.deep.include({ rootOffset: MIB, rootFileSystem: kind });
          expect(examined).not.to.have.property("reads");
          await withRoot(all, rootOf({ ...examined, digest: "" }), async (root) => {
            expect(await root.read("/root/vc-out.xml")).to.equal("<vc/>");
            expect(await root.readBytes("/etc/vc/a b")).to.deep.equal(Buffer.from([0, 255, 10]));
            expect(await root.list("/etc/vc")).to.deep.equal([{ name: "a b", kind: "file", mode: 0o640, size: 3 }]);
            expect(await root.linkTarget("/etc/link")).to.equal("../usr/bin/tool");
            expect(await root.read("/etc/link")).to.equal("");
            expect(await root.has("/etc/old")).to.equal(false);
            expect(await root.has("/tmp/vc-xfs-escaped")).to.equal(true);
            expect(await root.list("/nowhere")).to.deep.equal([]);
          });
          const { stdout } = await execa("sfdisk", ["--json", all]);
          expect(JSON.parse(stdout).partitiontable.partitions[0].size).to.equal((DISK_MIB + 199) * 2048);
        },
      );
    });
  }

  it("is refused where libguestfs can't open it", async () => {
    const base = join(folder, "broken.raw");
    await makeDisk(base, "xfs");
    const { stdout: blocks } = await execa("xfs_db", ["-r", "-c", "sb 0", "-c", "p agblocks", `${base}.fs`]);
    expect(blocks).to.match(/agblocks/);
    await execa("dd", ["if=/dev/urandom", `of=${base}`, "bs=4k", "seek=257", "count=16", "conv=notrunc"]);
    const error: Error = await examineDisk(base).then(
      () => new Error("it was taken"),
      (reason: Error) => reason,
    );
    expect(error.message).to.match(/libguestfs can't work on its root file system/);
  });

  async function makeDisk(file: string, kind: keyof typeof MAKERS): Promise<void> {
    const tree = join(folder, "tree");
    await mkdir(join(tree, "etc"), { recursive: true });
    const part = `${file}.fs`;
    for (const [path, mebibytes] of [
      [file, DISK_MIB],
      [part, DISK_MIB - 1],
    ] as const) {
      await writeFile(path, "");
      await truncate(path, mebibytes * MIB);
    }
    await MAKERS[kind](part, tree);
    await execa("sfdisk", ["--quiet", file], { input: "label: dos\nstart=2048, type=83\n" });
    await execa("dd", [`if=${part}`, `of=${file}`, "bs=1M", "seek=1", "conv=notrunc,sparse"]);
    // Boot code, as far as one looks from here.
    await execa("dd", ["if=/dev/urandom", `of=${file}`, "bs=440", "count=1", "conv=notrunc"]);
  }
});
