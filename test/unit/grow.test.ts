import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { injectInto, withOverlay } from "../../provider/src/images/disk/overlay";
import { ExtFileSystem } from "../../provider/src/images/root/file-system";
import type { RootPlace } from "../../provider/src/images/root/root";
import { failure } from "../failure";

const MIB = 1024 * 1024;
const BASE_MIB = 32;
const ROOT: RootPlace = { offset: MIB, kind: "ext" };

interface Table {
  readonly partitions: Array<{ readonly start: number; readonly size: number }>;
}

describe("a node's disk that is larger than its image", () => {
  let folder: string;
  let base: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-grow-"));
    base = join(folder, "base.raw");
  });

  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  /** A root file system of 16 MiB in the first partition, holding one file. */
  const makeBase = async (table: string, rootOptions: readonly string[] = []) => {
    await writeFile(base, "");
    await truncate(base, BASE_MIB * MIB);
    await execa("sfdisk", ["--quiet", base], { input: table });
    await execa("mke2fs", ["-q", "-t", "ext4", ...rootOptions, "-E", `offset=${MIB}`, base, "16m"]);
    await execa("debugfs", ["-w", "-f", "-", `${base}?offset=${MIB}`], { input: "write /etc/hostname kept\n" });
  };

  /** What the disk looks like after both an overlay of `size` MiB was made and a file was put into it twice. */
  const grown = async (size: number): Promise<{ table: Table; blocks: number; root: ExtFileSystem; file: string }> => {
    const put = async () => [{ path: "/root/vc-out.xml", content: "<vc/>", mode: 0o644 }];
    const file = join(folder, "disk.raw");
    await withOverlay({ base, baseAtSite: base, size: size * MIB, root: ROOT, changes: put }, async (overlay) => {
      await injectInto({ file: overlay, base, root: ROOT, changes: put });
      await execa("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", overlay, file]);
    });
    await execa("dd", [`if=${file}`, `of=${join(folder, "root")}`, "bs=1M", "skip=1", "conv=sparse"]);
    const { stdout: header } = await execa("dumpe2fs", ["-h", join(folder, "root")]);
    const number = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(header)?.[1]);
    const blocks = (number("Block count") * number("Block size")) / MIB;
    await truncate(join(folder, "root"), blocks * MIB);
    await execa("e2fsck", ["-fn", join(folder, "root")]);
    await execa("sfdisk", ["--verify", file]).then(({ stdout, stderr }) =>
      expect(`${stdout}${stderr}`).to.match(/No errors detected/),
    );
    const { stdout } = await execa("sfdisk", ["--json", file]);
    return { table: JSON.parse(stdout).partitiontable, blocks, root: new ExtFileSystem(file, MIB), file };
  };

  for (const label of ["dos", "gpt"]) {
    it(`has a root file system that fills it, in a ${label} partition table`, async () => {
      await makeBase(`label: ${label}\nstart=2048, type=${label === "gpt" ? "linux" : "83"}\n`);
      const { table, blocks, root } = await grown(256);
      const { start, size } = table.partitions[0] ?? { start: 0, size: 0 };
      expect(start).to.equal(2048);
      expect(size / 2048).to.be.within(254, 255);
      expect(blocks).to.be.within(253, 255);
      expect(await root.has("/kept")).to.equal(true);
      expect(await root.read("/root/vc-out.xml")).to.equal("<vc/>");
    });
  }

  it("is left as it is where another partition lies behind the root", async () => {
    await makeBase("label: dos\nstart=2048, size=16MiB, type=83\nstart=40960, type=82\n");
    const { table, blocks, root } = await grown(256);
    expect(table.partitions.map(({ start, size }) => [start, size])).to.deep.equal([
      [2048, 32768],
      [40960, BASE_MIB * 2048 - 40960],
    ]);
    expect(blocks).to.equal(16);
    expect(await root.read("/root/vc-out.xml")).to.equal("<vc/>");
  });

  it("grows its file system where only the partition had grown, as after an interruption", async () => {
    await makeBase("label: dos\nstart=2048, type=83\n");
    // The partition has 31 MiB, the file system 16.
    await truncate(base, (BASE_MIB + 1) * MIB);
    const { blocks } = await grown(BASE_MIB + 2);
    expect(blocks).to.be.within(32, 33);
  });

  it("is refused where its file system can't be grown, in words", async () => {
    await makeBase("label: dos\nstart=2048, type=83\n", ["-O", "bigalloc", "-C", "65536"]);
    expect((await failure(grown(64))).message).to.match(
      /^growing the file system of the node's disk: Resizing bigalloc file systems has not.* Leave the disk's size out/,
    );
  });
});
