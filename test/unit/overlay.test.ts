import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { execa } from "execa";
import { hashOf } from "../../provider/src/images/disk/digests";
import type { GuestChanges } from "../../provider/src/images/disk/inject";
import { injectInto, withOverlay } from "../../provider/src/images/disk/overlay";
import { debugfsTarget, ExtFileSystem } from "../../provider/src/images/root/file-system";
import type { RootPlace } from "../../provider/src/images/root/root";
import { statOf } from "../../provider/src/process-stat";
import { makeFakeDisk } from "../conformance/fake-guest";
import { eventually } from "../eventually";

const MIB = 1024 * 1024;
const ROOT: RootPlace = { offset: MIB, kind: "ext" };
const OVERLAY = { base: __filename, baseAtSite: "/no/base", size: 1048576, root: { offset: 0, kind: "ext" } };
const PROGRAM = `
require(${JSON.stringify(require.resolve("../../provider/dist/images/disk/overlay.js"))})
  .withOverlay({ ...${JSON.stringify(OVERLAY)}, changes: async () => [] }, async () => {});
`;

describe("an overlay that is being written", () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-overlay-"));
  });

  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  /** Puts a script in a program's place. */
  const fake = async (program: string, script: string) => {
    await writeFile(join(folder, program), `#!/bin/sh\n${script}\n`);
    await chmod(join(folder, program), 0o755);
  };

  it("has no daemon any more when the process that writes it was killed", async () => {
    const pidFile = join(folder, "pid");
    await fake("qemu-img", "exit 0");
    await fake("qemu-storage-daemon", `echo $$ > ${pidFile}; exec sleep 60`);
    const env = { PATH: `${folder}:${process.env.PATH}`, TMPDIR: folder };
    const writer = execa(process.execPath, ["-e", PROGRAM], { env, reject: false });
    const pid = async () => (await readFile(pidFile, "utf8").catch(() => "")).trim();
    while ((await pid()) === "") {
      await setTimeout(20);
    }
    writer.kill("SIGKILL");
    await writer;
    const daemon = Number(await pid());
    // Whoever reaps orphans may take its time.
    await eventually(() => expect(statOf(daemon)?.state ?? "Z").to.equal("Z"));
  });
});

describe("an overlay", () => {
  it("is changed as it is asked for, also where folders are links, and shows what is there before", async () => {
    const folder = await mkdtemp(join(tmpdir(), "vc-overlay-"));
    try {
      const base = join(folder, "base.raw");
      const files = { "usr/bin/tool": "old", "etc/old": "old", "etc/with space": "kept" };
      await makeFakeDisk(base, { virtio: true, heedsPowerButton: false, files });
      await execa("debugfs", ["-w", "-R", "symlink /sbin usr/bin", debugfsTarget(base, MIB)]);
      const before = await hashOf(base);

      const seen: string[] = [];
      const changes: GuestChanges = async (root) => {
        seen.push(await root.read("/sbin/tool"), await root.read("/etc/with space"));
        return [
          { path: "/sbin/tool", content: Buffer.from([0, 255, 10]), mode: 0o755 },
          { path: "/etc/a folder/of its own/file", content: "new\n", mode: 0o600 },
          { path: "/etc/link", target: "../usr/bin/tool" },
          { path: "/etc/old", removed: true },
          { path: "/etc/never there", removed: true },
        ];
      };
      const overlay = { base, baseAtSite: base, size: 16 * MIB, root: ROOT };
      await withOverlay({ ...overlay, changes }, async (file) => {
        expect(seen).to.deep.equal(["old", "kept"]);
        await injectInto({
          ...{ file, base, root: ROOT },
          changes: async (root) => {
            const entry = async (path: string, name: string) =>
              (await root.list(path)).find((one) => one.name === name);
            expect(await entry("/usr/bin", "tool")).to.deep.equal({ name: "tool", kind: "file", mode: 0o755, size: 3 });
            expect(await entry("/etc/a folder/of its own", "file")).to.include({ mode: 0o600, size: 4 });
            expect(await root.read("/etc/a folder/of its own/file")).to.equal("new\n");
            expect(await root.linkTarget("/etc/link")).to.equal("../usr/bin/tool");
            expect(await root.has("/etc/old")).to.equal(false);
            return [{ path: "/etc/link", content: "no link any more", mode: 0o644 }];
          },
        });
        const { stdout } = await execa("qemu-img", [
          "convert",
          "-f",
          "qcow2",
          "-O",
          "raw",
          file,
          join(folder, "all.raw"),
        ]);
        expect(stdout).to.equal("");
        const after = new ExtFileSystem(join(folder, "all.raw"), MIB);
        expect(await after.read("/etc/link")).to.equal("no link any more");
        expect((await after.read("/usr/bin/tool")).length).to.be.greaterThan(0);
        const { stdout: checked } = await execa("dd", [
          `if=${join(folder, "all.raw")}`,
          `of=${join(folder, "root")}`,
          "bs=1M",
          "skip=1",
        ]).then(() => execa("e2fsck", ["-fn", join(folder, "root")]));
        expect(checked).not.to.match(/errors/);
      });
      expect(await hashOf(base)).to.equal(before);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
