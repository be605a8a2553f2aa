import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { NotFound, SiteFailure, Unreachable, type VirtualClusterError } from "../../provider/src/drivers/errors";
import { RocksFrontend } from "../../provider/src/drivers/rocks/frontend";

describe("the rocks command", () => {
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "rocks-frontend-"));
  });

  afterEach(() => rm(folder, { recursive: true }));

  /** A program of ours in its place. */
  async function frontendOf(script: string): Promise<RocksFrontend> {
    const rocks = join(folder, "rocks");
    await writeFile(rocks, `#!/bin/bash\n${script}\n`);
    await chmod(rocks, 0o755);
    return new RocksFrontend({ driver: "rocks", rocks, sudo: false, publicAddresses: ["198.51.100.20"] });
  }

  async function failure(work: Promise<unknown>): Promise<VirtualClusterError> {
    return work.then(
      () => {
        throw new Error("it should have failed");
      },
      (error: VirtualClusterError) => error,
    );
  }

  const TRACEBACK = `echo 'Traceback (most recent call last):' >&2; echo`;
  const failing: Record<string, [string, new (...args: never[]) => VirtualClusterError, string]> = {
    "an error line and 0, as to who isn't root": [
      `echo 'Error: must supply host'; echo '{host}...'`,
      SiteFailure,
      "must supply host",
    ],
    "an error line of Rocks 6.1 and 255": [
      `echo 'error - no such'; echo '[host]...'; exit 255`,
      SiteFailure,
      "no such",
    ],
    "a traceback and 0": [`${TRACEBACK} 'ValueError: lots' >&2`, SiteFailure, "ValueError: lots"],
    "nothing and 1": ["exit 1", SiteFailure, "exit code 1"],
    "that there is no such host": [`echo 'Error: cannot resolve host "x"'; exit 1`, NotFound, "cannot resolve"],
    "that its database is down": [
      `echo 'Error: Dabase error: (OperationalError) (2002, "x")'; exit 1`,
      Unreachable,
      "its database doesn't answer",
    ],
    "that a container's libvirt is": [
      `${TRACEBACK} "libvirt.libvirtError: unable to connect to server at 'c:16514': No route to host" >&2; exit 1`,
      Unreachable,
      "No route to host",
    ],
  };
  for (const [what, [script, errorClass, words]] of Object.entries(failing)) {
    it(`has failed when it says ${what}`, async () => {
      const error = await failure((await frontendOf(script)).rocks(["set", "host", "boot", "x"]));
      expect(error).to.be.instanceOf(errorClass);
      expect(error.message).to.include(words);
    });
  }

  it("that isn't there is an answer about the site, not about what was asked for", async () => {
    const frontend = new RocksFrontend({
      ...{ driver: "rocks", rocks: join(folder, "none"), sudo: false, publicAddresses: ["198.51.100.20"] },
    });
    expect(await failure(frontend.rocks(["list", "host"]))).to.be.instanceOf(Unreachable);
  });

  it("gets every argument as it is, and none of a script's input", async () => {
    const frontend = await frontendOf(`printf '<%s>' "$@"; cat`);
    const words = ["container-hosts=a b", "it's", 'a "b"', "$(id)", "`id`", "\\", "*", "x' or '1'='1"];
    expect(await frontend.rocks(words)).to.equal(words.map((word) => `<${word}>`).join(""));
  });

  it("isn't run after one that failed, where it changes something; where it reads, it is", async () => {
    const frontend = await frontendOf(
      `echo "$1" >>${folder}/log; [ "$1" != bad ] || { echo 'Error: bad'; exit 1; }; echo "$1"`,
    );
    await failure(frontend.sequence([["one"], ["bad"], ["two"]]));
    const answers = await frontend.lists([["one"], ["bad"], ["two"]]);
    expect(answers.map(({ exitCode, stdout }) => [exitCode, stdout])).to.deep.equal([
      [0, "one\n"],
      [1, "Error: bad\n"],
      [0, "two\n"],
    ]);
    const log = await frontend.script('cat "$1/log"', [folder]);
    expect(log).to.equal("one\nbad\none\nbad\ntwo\n");
  });
});
