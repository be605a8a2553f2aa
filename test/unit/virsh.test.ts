import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import * as fc from "fast-check";
import {
  Denied,
  NotFound,
  SiteFailure,
  Unreachable,
  type VirtualClusterError,
} from "../../provider/src/drivers/errors";
import { AlreadyThere, Virsh } from "../../provider/src/drivers/libvirt/virsh";

const URI = "qemu:///system";

describe("Virsh", () => {
  let folder: string;
  const pathBefore = process.env.PATH;

  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), "virsh-"));
  });

  afterEach(async () => {
    process.env.PATH = pathBefore;
    await rm(folder, { recursive: true });
  });

  /** Puts a program of ours in virsh's place. */
  async function fakeVirsh(script: string): Promise<Virsh> {
    await writeFile(join(folder, "virsh"), `#!/bin/sh\n${script}\n`);
    await chmod(join(folder, "virsh"), 0o755);
    process.env.PATH = `${folder}:${pathBefore}`;
    return new Virsh(URI);
  }

  const failing = (stderr: string) => fakeVirsh(`cat >&2 <<'END'\n${stderr}\nEND\nexit 1`);
  const rejection = (work: Promise<unknown>) =>
    work.then(
      () => undefined,
      (error: VirtualClusterError) => error,
    );

  /** What virsh 9.0 says. */
  const said: Record<string, [string, new (...args: never[]) => VirtualClusterError]> = {
    "a domain that isn't there": ["error: failed to get domain 'nobody'", NotFound],
    "a network that isn't there": [
      "error: failed to get network 'nobody'\nerror: Network not found: no network with matching name 'nobody'",
      NotFound,
    ],
    "a volume that isn't there": [
      "error: failed to get vol 'x'\nerror: Storage volume not found: no storage vol with matching path 'x'",
      NotFound,
    ],
    "a volume that is there": [
      "error: Failed to create vol dock-keys\nerror: storage volume 'dock-keys' exists already",
      AlreadyThere,
    ],
    "a network of the same name": [
      "error: Failed to define network from n.xml\nerror: operation failed: network 'dock' already exists with uuid e986a5a7",
      AlreadyThere,
    ],
    "a network with the same bridge": [
      "error: Failed to define network from n.xml\nerror: internal error: bridge name 'vc-0a549a00' already in use.",
      AlreadyThere,
    ],
    "a libvirtd that doesn't run": [
      "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/s': No such file or directory",
      Unreachable,
    ],
    "a host that has no address": [
      "error: failed to connect to the hypervisor\nerror: Cannot recv data: ssh: Could not resolve hostname h: Connection reset by peer",
      Unreachable,
    ],
    "a libvirtd that ends meanwhile": [
      "error: Disconnected from qemu:///system due to end of file\nerror: End of file while reading data: Input/output error",
      Unreachable,
    ],
    "a socket that others own": [
      "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/s': Permission denied",
      Denied,
    ],
    "an ssh that doesn't know us": [
      "error: failed to connect to the hypervisor\nerror: Cannot recv data: me@h: Permission denied (publickey).: Connection reset by peer",
      Denied,
    ],
    "anything else": ["error: Requested operation is not valid: domain is already running", SiteFailure],
  };
  for (const [what, [stderr, errorClass]] of Object.entries(said)) {
    it(`tells ${what}`, async () => {
      const virsh = await failing(stderr);
      const error = await rejection(virsh.run(["some-command", "x"]));
      expect(error?.constructor).to.equal(errorClass);
      const last = stderr.split("\n").at(-1)?.replace("error: ", "");
      expect(error?.message)
        .to.include(last)
        .and.not.match(/: error: /);
    });
  }

  describe("over ssh", () => {
    const FAR = "qemu+ssh://me@far/system?socket=/run/s";

    async function fakeFarVirsh(script: string, uri = FAR): Promise<Virsh> {
      await fakeVirsh(script);
      return new Virsh(uri);
    }

    /** What ssh 9.2 says through virsh 9.0. */
    const hints: Record<string, [string, RegExp]> = {
      "a host key that nobody has looked at": ["Host key verification failed.", /log in once by hand/],
      "a host key that has changed": [
        "Host key for far has changed and you have requested strict checking.\nHost key verification failed.",
        /another key than it used to/,
      ],
      "a name without an address": ["ssh: Could not resolve hostname far: Name or service not known", /written right/],
      "a host where nobody listens": ["ssh: connect to host far port 22: Connection refused", /its sshd listens/],
      "a key that isn't let in": ["me@far: Permission denied (publickey).", /ssh-copy-id/],
      "a host without netcat": ["sh: 1: nc: not found", /virt-ssh-helper/],
      "anything else": ["no idea", /log in there by hand/],
    };
    for (const [what, [words, hint]] of Object.entries(hints)) {
      it(`says what to do about ${what}`, async () => {
        const virsh = await fakeFarVirsh(
          `cat >&2 <<'END'\nerror: failed to connect to the hypervisor\nerror: Cannot recv data: ${words}: Connection reset by peer\nEND\nexit 1`,
        );
        const error = await rejection(virsh.run(["list"]));
        expect(error?.hint).to.match(hint);
        expect(error?.message).to.include(FAR);
      });
    }

    it("asks nobody, and shares the connection", async () => {
      const virsh = await fakeFarVirsh(`printf %s "$3"`);
      expect(await virsh.run(["list"])).to.match(
        /^qemu\+ssh:\/\/me@far\/system\?socket=\/run\/s&no_tty=1&command=[^&]*%2Fshared-ssh$/,
      );
      expect(virsh.uri).to.equal(FAR);
    });

    it("leaves what the URI says itself, and other ways to connect", async () => {
      const own = "qemu+ssh://far/system?command=/own/ssh&no_tty=0";
      expect(await (await fakeFarVirsh(`printf %s "$3"`, own)).run(["list"])).to.equal(own);
      const other = "qemu+libssh2://far/system";
      expect(await (await fakeFarVirsh(`printf %s "$3"`, other)).run(["list"])).to.equal(other);
    });

    it("lets the first run open the connection before others use it", async () => {
      const virsh = await fakeFarVirsh(
        `date +%s%N; [ -e ${folder}/open ] || sleep 0.3; touch ${folder}/open; date +%s%N`,
      );
      const [first, ...others] = (await Promise.all([1, 2, 3].map(() => virsh.run(["list"])))).map((times) =>
        times.trim().split("\n").map(Number),
      );
      for (const [begin = 0] of others) {
        expect(begin).to.be.at.least(first?.[1] ?? Number.NaN);
      }
    });

    it("tries again where sshd has too many log-ins, and only there", async () => {
      const refuse = (words: string) =>
        fakeFarVirsh(`echo >>${folder}/calls; [ $(wc -l <${folder}/calls) -gt 1 ] || { echo "${words}" >&2; exit 1; }`);
      const busy = await refuse("error: Cannot recv data: kex_exchange_identification: read: Connection reset by peer");
      expect(await busy.run(["list"])).to.equal("");
      await rm(join(folder, "calls"));
      const refused = await refuse("error: Cannot recv data: me@far: Permission denied (publickey).");
      expect(await rejection(refused.run(["list"]))).to.be.instanceOf(Denied);
    });
  });

  it("says what to install where there is no virsh", async () => {
    process.env.PATH = folder;
    const error = await rejection(new Virsh(URI).run(["list"]));
    expect(error).to.be.instanceOf(Unreachable);
    expect(error?.message).to.include("libvirt-clients");
  });

  it("passes over what polkit's agent says on a terminal where no polkit runs", async () => {
    const virsh = await fakeVirsh(
      `echo 'Authorization not available. Check if polkit service is running or see debug message for more information.' >&2; echo done`,
    );
    await virsh.sequence([["net-list"]]);
    expect(await virsh.run(["net-list"])).to.equal("done\n");
  });

  it("takes silence for unreachable, never for absence", async () => {
    const virsh = await fakeVirsh("exec sleep 60");
    const error = await rejection(virsh.runIfThere(["net-dumpxml", "dock"], { timeoutSeconds: 0.2 }));
    expect(error).to.be.instanceOf(Unreachable);
  });

  it("waits for a libvirtd that is starting again, and not for one that isn't there", async () => {
    const refusing = (reason: string) =>
      fakeVirsh(`cd ${folder}; echo >> runs; [ $(wc -l < runs) -gt 2 ] && exec echo there
echo "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/s': ${reason}" >&2; exit 1`);
    expect(await (await refusing("Connection refused")).run(["list"])).to.equal("there\n");
    await rm(join(folder, "runs"));
    expect(await rejection((await refusing("No such file or directory")).run(["list"]))).to.be.instanceOf(Unreachable);
  });

  it("passes arguments on as they are", async () => {
    const virsh = await fakeVirsh(`for word; do printf '<%s>' "$word"; done`);
    const hostile = `a b; $(touch x) "q" 'q' \\ *`;
    expect(await virsh.run(["command", hostile])).to.equal(`<--quiet><--connect><${URI}><command><${hostile}>`);
  });

  it("keeps a file's content from other users and removes it", async () => {
    const virsh = await fakeVirsh(`for file; do :; done; stat -c %a "$file"; cat "$file"; printf '\\n%s' "$file"`);
    const [mode, content, file = ""] = (await virsh.runWithFile(["net-define"], "<network/>")).split("\n");
    expect([mode, content]).to.deep.equal(["600", "<network/>"]);
    expect((await execa("ls", [file], { reject: false })).failed).to.equal(true);
  });

  describe("batch", () => {
    it("gives each command's output, empty where it failed", async function () {
      await skipWithoutVirsh(this);
      const virsh = new Virsh("test:///default");
      const outputs = await virsh.batch([
        ["domstate", "test"],
        ["dumpxml", "nobody"],
        ["echo", "third"],
      ]);
      expect(outputs.map((text) => text.trim())).to.deep.equal(["running", "", "third"]);
      expect(await virsh.batch([])).to.deep.equal([]);
    });

    it("quotes so that virsh reads every word as it was", async function () {
      await skipWithoutVirsh(this);
      const word = fc.string({
        unit: fc.constantFrom(..."ab ;\"'\\$`#%{}[]()é&|<>*?~!="),
        minLength: 1,
        maxLength: 20,
      });
      const words = fc.sample(word, 200).map((text) => `w${text}w`);
      const outputs = await new Virsh("test:///default").batch(words.map((text) => ["echo", text]));
      expect(outputs.map((text) => text.replace(/^\n/, "").replace(/\n$/, ""))).to.deep.equal(words);
    });

    it("takes a lost connection for unreachable, not for absence", async () => {
      const virsh = await fakeVirsh(`echo "error: Failed to connect socket to '/run/s': No such file" >&2; exit 0`);
      expect(await rejection(virsh.batch([["dumpxml", "x"]]))).to.be.instanceOf(Unreachable);
    });
  });
});

async function skipWithoutVirsh(context: Mocha.Context): Promise<void> {
  if ((await execa("virsh", ["--version"], { reject: false })).failed) {
    context.skip();
  }
}
