import { chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { execa } from "execa";

const OVERLAY = { base: "/dev/zero", baseAtSite: "/no/base", size: 1048576, rootOffset: 0 };
const PROGRAM = `
require(${JSON.stringify(require.resolve("../../provider/dist/images/overlay.js"))})
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
    await setTimeout(200);
    // Whoever reaps orphans may take its time.
    const state = await readFile(`/proc/${await pid()}/status`, "utf8").catch(() => "State:\tgone");
    expect(state).to.match(/^State:\s+(gone|Z)/m);
  });
});
