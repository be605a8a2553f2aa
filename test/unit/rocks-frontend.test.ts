import { access, chmod, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { expect } from "chai";
import {
  Denied,
  NotFound,
  SiteFailure,
  Unreachable,
  type VirtualClusterError,
} from "../../provider/src/drivers/errors";
import { RocksFrontend } from "../../provider/src/drivers/rocks/frontend";
import { Locks } from "../../provider/src/drivers/rocks/locks";
import { Store } from "../../provider/src/drivers/rocks/store";
import type { RocksSettings } from "../../provider/src/drivers/settings";
import { eventually } from "../eventually";
import { failure } from "../failure";
import { writeSudo } from "../stand-ins/rocks/sudo";

type Sudo = Pick<RocksSettings, "sudo">;

describe("the rocks command", () => {
  const path = process.env.PATH;
  let folder: string;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "rocks-frontend-"));
    process.env.PATH = `${folder}:${path}`;
  });

  afterEach(async () => {
    process.env.PATH = path;
    await rm(folder, { recursive: true });
  });

  async function program(name: string, script: string): Promise<string> {
    const file = join(folder, name);
    await writeFile(file, `#!/bin/bash\n${script}\n`);
    await chmod(file, 0o755);
    return file;
  }

  /** A program of ours in its place. */
  async function frontendOf(script: string, settings: Sudo = { sudo: false }): Promise<RocksFrontend> {
    return frontendAt(await program("rocks", script), settings);
  }

  function frontendAt(rocks: string, settings: Sudo): RocksFrontend {
    return new RocksFrontend({ driver: "rocks", rocks, publicAddresses: ["198.51.100.20"], ...settings });
  }

  it("takes a file of ours that goes while all are read for gone, not for broken", async () => {
    const store = new Store(await frontendOf("exit 0"), join(folder, "disks"));
    const mark = {
      version: 1,
      owner: "o",
      organization: "o",
      project: "p",
      stack: "s",
      cluster: "c",
      createdAt: "",
    } as const;
    const file = { cluster: "dock", mark, machineId: "m", host: "rocks", base: "b", vcOutDigest: "d" };
    for (const node of ["compute-0", "compute-1"]) {
      await store.writeNode({ ...file, node });
    }
    await program("cat", `[ "$1" != dock.compute-0.node.json ] || rm -f "$1"; exec /bin/cat "$@"`);
    expect((await store.read()).nodes.map(({ node }) => node)).to.deep.equal(["compute-1"]);
  });

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
    "what is wrong without the word, as plugins do": [
      `echo 'bootaction "os" for host "x" is invalid'; exit 255`,
      SiteFailure,
      'bootaction "os"',
    ],
    "that DNS knows the host of elsewhere": [
      `echo 'Error: host "x.example.edu" is not in cluster'; exit 1`,
      NotFound,
      "is not in cluster",
    ],
    "that a container's libvirt went meanwhile": [
      `${TRACEBACK} "libvirt.libvirtError: End of file while reading data: Input/output error" >&2; exit 1`,
      Unreachable,
      "End of file",
    ],
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
      const error = await failure((await frontendOf(script)).list(["set", "host", "boot", "x"]));
      expect(error).to.be.instanceOf(errorClass);
      expect(error.message).to.include(words);
    });
  }

  it("begins several listings at a time, and the answers keep their order", async () => {
    const meet = `touch ${folder}/$1; for other in a b c d; do until [ -e ${folder}/$other ]; do sleep 0.02; done; done`;
    const frontend = await frontendOf(`${meet}; [ "$1" != a ] || sleep 0.1; echo "$1"`);
    const answers = await frontend.lists([["a"], ["b"], ["c"], ["d"], ["a"]]);
    expect(answers.map(({ stdout }) => stdout)).to.deep.equal(["a\n", "b\n", "c\n", "d\n", "a\n"]);
  });

  it("is asked again for a listing that died of a machine which stopped meanwhile", async () => {
    const died = `${TRACEBACK} "libvirt.libvirtError: Domain not found: no domain with matching id 7" >&2; exit 1`;
    const once = (times: number) =>
      `echo >>${folder}/calls; [ "$(wc -l <${folder}/calls)" -gt ${times} ] || { ${died}; }; echo fine`;
    expect(await (await frontendOf(once(2))).list(["list", "host", "vm"])).to.equal("fine\n");
    const error = await failure((await frontendOf(died)).list(["list", "host", "vm"]));
    expect(error.message).to.include("Domain not found");
  });

  it("that goes on when who asked for a change has gone holds up the next one", async () => {
    const frontend = await frontendOf(
      `touch ${folder}/begun; until [ -e ${folder}/go ]; do sleep 0.05; done; sleep 0.3; touch ${folder}/ended`,
    );
    const there = (file: string) => access(join(folder, file));
    const change = frontend.change([["add", "cluster"]]);
    await eventually(() => there("begun"));
    const mark = { owner: "o", organization: "o", project: "p", stack: "s", cluster: "c" };
    const locks = new Locks(frontend, join(folder, "disks"));
    const next = locks.withSite({ name: "dock", mark }, () => there("ended"));
    await eventually(() => there("disks/site.lock-of-all"));
    await writeFile(join(folder, "go"), "");
    await Promise.all([next, change]);
  });

  describe("where log-ins print something", () => {
    const answering = async (ssh: string) => {
      await program("ssh", ssh);
      const rocks = await program("rocks", `printf '%s\\n' "$*"`);
      return new RocksFrontend({
        ...{ driver: "rocks", rocks, publicAddresses: ["198.51.100.20"], sudo: false, ssh: "root@frontend" },
      });
    };
    const NOISY = `echo "Warning: Permanently added 'frontend'." >&2; printf 'Welcome\\nto Rocks'; exec bash -c "\${@: -1}"`;

    it("gives what was asked for and nothing else", async () => {
      const frontend = await answering(NOISY);
      await frontend.refuseWithoutRights(folder);
      expect(await frontend.list(["list", "host"])).to.equal("list host\n");
      const mark = { owner: "o", organization: "o", project: "p", stack: "s", cluster: "c" };
      expect(await new Locks(frontend, folder).withSite({ name: "dock", mark }, async () => "locked")).to.equal(
        "locked",
      );
      expect(await frontend.script("echo one; echo; echo two")).to.equal("one\n\ntwo\n");
      expect((await frontend.scriptOn("vm-container-0-0", "cat; exit 3", [], { input: "given" })).stdout).to.equal(
        "given",
      );
      for (const container of [undefined, "vm-container-0-0"]) {
        const placed = { container, script: `head -c 300000 /dev/zero; printf '%s' "$1"`, args: ["end"] };
        const chunks: Buffer[] = [];
        await frontend.stream(
          placed,
          new PassThrough().on("data", (chunk) => chunks.push(chunk)),
          10,
        );
        const streamed = Buffer.concat(chunks);
        expect(streamed.length).to.equal(300_003);
        expect(streamed.subarray(-3).toString()).to.equal("end");
        const to = { container, script: `cat >"$1"`, args: [join(folder, "piped")] };
        expect((await frontend.pipe(placed, to, {})).exitCode).to.equal(0);
        expect((await readFile(join(folder, "piped"))).equals(streamed)).to.equal(true);
      }
    });

    it("says what the account's shell has said where it runs nothing", async () => {
      const frontend = await answering("echo 'This account is currently not available.'; exit 1");
      const error = await failure(frontend.list(["list", "host"]));
      expect(error).to.be.instanceOf(Unreachable);
      expect(error.message).to.include("not available");
    });
  });

  it("that isn't there is an answer about the site, not about what was asked for", async () => {
    await writeSudo(join(folder, "sudo"), join(folder, "none"));
    for (const sudo of [false, true]) {
      const frontend = frontendAt(join(folder, "none"), { sudo });
      expect(await failure(frontend.list(["list", "host"]))).to.be.instanceOf(Unreachable);
    }
  });

  for (const sudo of [false, true]) {
    it(`gets every argument as it is, and none of a script's input, ${sudo ? "by sudo" : "as root"}`, async () => {
      const frontend = await frontendOf(`printf '<%s>' "$@"; cat`, { sudo });
      await writeSudo(join(folder, "sudo"), join(folder, "rocks"));
      const words = ["container-hosts=a b", "it's", 'a "b"', "$(id)", "`id`", "\\", "*", "x' or '1'='1"];
      expect(await frontend.list(words)).to.equal(words.map((word) => `<${word}>`).join(""));
    });
  }

  const byWhom: ReadonlyArray<readonly [string, number, Sudo, boolean]> = [
    ["root", 0, {}, false],
    ["root, whose site says sudo", 0, { sudo: true }, true],
    ["an account", 1000, {}, true],
    ["an account, whose site says no sudo", 1000, { sudo: false }, false],
  ];
  for (const [who, uid, settings, bySudo] of byWhom) {
    it(`${bySudo ? "is all that runs by sudo" : "isn't run by sudo, nor is anything else"} for ${who}`, async () => {
      const say = `[ -n "$SUDO_COMMAND" ] || SUDO_COMMAND=itself; echo "$0 $* by $SUDO_COMMAND"`;
      const frontend = await frontendOf(say, settings);
      const rocks = join(folder, "rocks");
      await program("id", `echo ${uid}`);
      await writeSudo(join(folder, "sudo"), rocks);
      await frontend.refuseWithoutRights(folder);
      const expected = [["list", "host"], ["list"]].map((words) => {
        const command = [rocks, ...words].join(" ");
        return `${command} by ${bySudo ? command : "itself"}\n`;
      });
      const answers = await frontend.lists([["list", "host"], ["list"]]);
      expect(answers.map(({ stdout }) => stdout)).to.deep.equal(expected);
      expect(await frontend.script(say)).to.equal("virtual-cluster  by itself\n");
      expect((await frontend.scriptOn(undefined, say)).stdout).to.equal("virtual-cluster  by itself\n");
    });
  }

  it("is refused by sudo: the error has the line that is missing", async () => {
    const frontend = await frontendOf("echo never", { sudo: true });
    const refusals: ReadonlyArray<readonly [string, string]> = [
      [
        `[ "$2" != -l ] || exit 1; echo "Sorry, user vc is not allowed to execute 'rocks' as root on x." >&2`,
        "may not",
      ],
      ["echo 'sudo: a password is required' >&2", "a password is required"],
      ["echo 'sudo: sorry, you must have a tty to run sudo' >&2", "must have a tty"],
      ["echo 'vc is not in the sudoers file.  This incident will be reported.' >&2", "not in the sudoers file"],
    ];
    for (const [script, words] of refusals) {
      await program("sudo", `${script}; exit 1`);
      const errors = [frontend.refuseWithoutRights(folder), frontend.list(["list", "host"])];
      const [error, other] = await Promise.all(errors.map((work) => failure<VirtualClusterError>(work)));
      for (const one of [error, other]) {
        expect(one).to.be.instanceOf(Denied);
        expect(one?.hint).to.include(`account ALL=(root) NOPASSWD: ${join(folder, "rocks")}`);
      }
      expect(error?.message).to.include(words);
    }
  });

  it("fails by itself where sudo only warns", async () => {
    const frontend = await frontendOf(`[ $# = 0 ] || echo 'Error: cannot resolve host "x"'; exit 1`, { sudo: true });
    await program("sudo", `echo 'sudo: unable to resolve host rocks: Name or service not known' >&2; shift; "$@"`);
    expect(await failure(frontend.list(["list", "host", "x"]))).to.be.instanceOf(NotFound);
    expect(await failure(frontend.list([]))).to.be.instanceOf(SiteFailure);
  });

  it("is no use to an account that may not write the folder", async () => {
    const frontend = await frontendOf("echo fine");
    await frontend.refuseWithoutRights(join(folder, "to", "be", "made"));
    const error = await failure(frontend.refuseWithoutRights(join(folder, "rocks", "disks")));
    expect(error).to.be.instanceOf(Denied);
    expect(error.message).to.include(`may not write ${join(folder, "rocks")}`);
    const refused = await failure(
      frontend.script("echo 'mkdir: cannot create directory x: Permission denied' >&2; exit 1"),
    );
    expect(refused).to.be.instanceOf(Denied);
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
    const [first, second, ...lists] = log.trimEnd().split("\n");
    expect([first, second, ...lists.sort()]).to.deep.equal(["one", "bad", "bad", "one", "two"]);
  });
});
