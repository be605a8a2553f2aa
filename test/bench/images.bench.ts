// What one more node costs: overlays with a node's files in them, as nodes are prepared here, against sparse and full copies
// of the same base, whatever its size. Bases are sparse, with the same data in each. Read the ratios: seconds differ from
// host to host.
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import pLimit from "p-limit";
import { withOverlay } from "../../provider/src/images/disk/overlay";
import { row, seconds } from "./measure";

const GIB = 1024 ** 3;
const MIB = 1024 ** 2;
const SIZES = [1, 4, 16];
const NODES = 16;
const AT_ONCE = 4;
const DATA_MIB = 128;
const FILES = [
  { path: "/root/vc-out.xml", content: "<vc/>".repeat(400), mode: 0o644 },
  { path: "/etc/vc/id_ed25519", content: "key".repeat(130), mode: 0o600 },
  { path: "/etc/vc/ssh_host_ed25519_key", content: "key".repeat(130), mode: 0o600 },
];

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "vc-bench-"));
  try {
    row(`per node, of ${NODES}, ${AT_ONCE} at a time`, "overlay", "sparse", "full", "overlay", "sparse", "full");
    row(`base, with ${DATA_MIB} MiB of data in it`, "s", "s", "s", "MiB", "MiB", "MiB");
    for (const size of SIZES) {
      const base = await makeBase(folder, size);
      const overlays = await measure(folder, NODES, (node) =>
        withOverlay(
          {
            ...{ base, baseAtSite: base, size: size * GIB, root: { offset: MIB, kind: "ext" } },
            changes: async () => FILES,
          },
          async (overlay) => void (await execa("cp", [overlay, node])),
        ),
      );
      const copy = (how: string) => async (node: string) =>
        void (await execa("cp", [`--sparse=${how}`, "--reflink=never", base, node]));
      const sparse = await measure(folder, NODES, copy("always"));
      // One is enough to know: all of them would write hundreds of GiB.
      const full = await measure(folder, 1, copy("never"));
      const all = [overlays, sparse, full];
      row(`${size} GiB`, ...all.map((one) => one.seconds), ...all.map((one) => one.bytes / MIB));
      await rm(base);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A root file system in the first partition. */
async function makeBase(folder: string, gib: number): Promise<string> {
  const base = join(folder, `base-${gib}.raw`);
  const tree = join(folder, "tree");
  await mkdir(join(tree, "etc"), { recursive: true });
  await writeFile(join(tree, "data"), randomBytes(DATA_MIB * MIB));
  await writeFile(base, "");
  await truncate(base, gib * GIB);
  await execa("sfdisk", ["--quiet", base], { input: "label: dos\nstart=2048, type=83\n" });
  const blocks = `${gib * 1024 - 1}m`;
  await execa("mke2fs", ["-q", "-t", "ext4", "-d", tree, "-E", `offset=${MIB}`, base, blocks]);
  return base;
}

/** What a node takes, on average. */
async function measure(
  folder: string,
  count: number,
  make: (file: string) => Promise<void>,
): Promise<{ seconds: number; bytes: number }> {
  const nodes = Array.from({ length: count }, (_, index) => join(folder, `node-${index}`));
  const some = pLimit(AT_ONCE);
  const taken = await seconds(async () => {
    await Promise.all(nodes.map((node) => some(() => make(node))));
    await execa("sync", ["--file-system", folder]);
  });
  const sizes = await Promise.all(nodes.map(async (node) => (await stat(node)).blocks * 512));
  await Promise.all(nodes.map((node) => rm(node)));
  return { seconds: taken / count, bytes: sizes.reduce((sum, bytes) => sum + bytes, 0) / count };
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
