import { once } from "node:events";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";

/** Makes a temporary folder in a process of its own, says that it is there, and stays in it for as long as asked. */
const PROGRAM = `
const { inTemporaryFolder } = require(${JSON.stringify(require.resolve("../../provider/dist/temporary-folder.js"))});
inTemporaryFolder(() => new Promise((resolve) => { console.log("there"); setTimeout(resolve, Number(process.argv[1])); }));
`;

describe("a temporary folder", () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "vc-temporary-"));
  });

  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  const start = (stayMs: number) =>
    execa(process.execPath, ["-e", PROGRAM, String(stayMs)], { env: { TMPDIR: folder }, reject: false });

  it("of a process that was killed is removed by the next one, and that of one that runs isn't", async () => {
    const killed = start(60_000);
    const runs = start(60_000);
    await Promise.all([killed, runs].map((running) => once(running.stdout, "data")));
    killed.kill("SIGKILL");
    await killed;
    await start(0);
    expect(await readdir(folder)).to.have.lengthOf(1);
    runs.kill("SIGKILL");
    await runs;
    await start(0);
    expect(await readdir(folder)).to.deep.equal([]);
  });
});
