import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord } from "../../provider/src/drivers/driver";
import { contextOf } from "../../provider/src/drivers/opennebula/context";

const KEYS = {
  hostKey: { private: "-----BEGIN host\nline\n-----END\n", public: "ssh-ed25519 HHHH" },
  rootKey: { private: "-----BEGIN root\nline\n-----END\n", public: "ssh-ed25519 RRRR" },
};
const CLUSTER = {
  plan: { frontend: { fqdn: "demo.example.org" } },
  publicKeys: ["ssh-ed25519 AAAA it's mine"],
} as unknown as ClusterRecord;

/**
 * one-context itself isn't in Debian. What it does with a start script its documentation says: decoded into a file that is
 * executed as root, with the variables of the context exported.
 */
describe("the start script of a context disc, run as one-context runs it", () => {
  let tree: string;

  before(async function () {
    const tried = await execa("unshare", ["--mount", "true"], { reject: false });
    const hasSshFolder = await stat("/etc/ssh").catch(() => undefined);
    if (process.getuid?.() !== 0 || tried.failed || !hasSshFolder) {
      console.log("    The start script isn't run: that takes root, unshare and a folder /etc/ssh.");
      this.skip();
    }
  });

  beforeEach(async () => {
    tree = await mkdtemp(join(tmpdir(), "one-context-"));
    for (const folder of ["root", "ssh", "bin"]) {
      await mkdir(join(tree, folder));
    }
    await program("systemctl", `echo "$*" >>"${tree}/systemctl"`);
  });

  afterEach(() => rm(tree, { recursive: true, force: true }));

  async function program(name: string, line: string): Promise<void> {
    await writeFile(join(tree, "bin", name), `#!/bin/sh\n${line}\n`);
    await chmod(join(tree, "bin", name), 0o755);
  }

  /** In a mount namespace of its own, where `/root` and `/etc/ssh` are the tree's. */
  async function runScript(vcOut: string, leaveOut: readonly string[] = []) {
    const context = Object.entries(contextOf("frontend", CLUSTER, KEYS, vcOut, { reportsReady: false }));
    const variables = Object.fromEntries(
      context.filter(([name]) => !leaveOut.includes(name)).map(([name, value]) => [name, String(value)]),
    );
    const script = join(tree, "start-script");
    await writeFile(script, Buffer.from(variables.START_SCRIPT_BASE64 ?? "", "base64"), { mode: 0o755 });
    const enter = 'mount --bind "$1/root" /root && mount --bind "$1/ssh" /etc/ssh && exec "$1/start-script"';
    return execa("unshare", ["--mount", "sh", "-c", enter, "sh", tree], {
      env: { ...variables, PATH: `${tree}/bin:/usr/bin:/bin` },
      extendEnv: false,
      all: true,
      reject: false,
    });
  }

  const read = (path: string) => readFile(join(tree, path), "utf8");
  const mode = async (path: string) => ((await stat(join(tree, path))).mode & 0o777).toString(8);

  it("puts vc-out.xml and the keys where they belong, the private ones for root alone", async () => {
    const { exitCode, all } = await runScript("<vc>ü & 'first'</vc>\n");
    expect({ exitCode, all }).to.deep.equal({ exitCode: 0, all: "" });
    expect(await read("root/vc-out.xml")).to.equal("<vc>ü & 'first'</vc>\n");
    expect(await read("root/.ssh/id_ed25519")).to.equal(KEYS.rootKey.private);
    expect(await read("root/.ssh/id_ed25519.pub")).to.equal(`${KEYS.rootKey.public}\n`);
    expect(await read("ssh/ssh_host_ed25519_key")).to.equal(KEYS.hostKey.private);
    expect(await read("ssh/ssh_host_ed25519_key.pub")).to.equal(`${KEYS.hostKey.public}\n`);
    expect(await read("root/.ssh/authorized_keys")).to.equal(`${KEYS.rootKey.public}\n`);
    for (const path of ["root/.ssh/id_ed25519", "ssh/ssh_host_ed25519_key", "root/vc-out.xml"]) {
      expect(await mode(path), path).to.equal("600");
    }
    expect(await mode("root/.ssh")).to.equal("700");
    // A running sshd goes on with its former key otherwise.
    expect(await read("systemctl")).to.include("ssh");
  });

  it("has sshd take its new key where there is no systemd", async () => {
    await program("systemctl", "exit 127");
    await program("service", `echo "$*" >>"${tree}/service"; [ "$1" = sshd ]`);
    expect((await runScript("<vc/>")).exitCode).to.equal(0);
    expect(await read("service")).to.equal("ssh reload\nsshd reload\n");
  });

  it("takes what is new when it runs again, and adds no key twice", async () => {
    await mkdir(join(tree, "root", ".ssh"));
    await writeFile(join(tree, "root", ".ssh", "authorized_keys"), "ssh-ed25519 AAAA it's mine\n");
    await runScript("<vc>first</vc>");
    await runScript("<vc>second</vc>");
    expect(await read("root/vc-out.xml")).to.equal("<vc>second</vc>");
    expect(await read("root/.ssh/authorized_keys")).to.equal(`ssh-ed25519 AAAA it's mine\n${KEYS.rootKey.public}\n`);
  });

  it("adds to authorized_keys on a line of its own", async () => {
    await mkdir(join(tree, "root", ".ssh"));
    await writeFile(join(tree, "root", ".ssh", "authorized_keys"), "ssh-ed25519 AAAA no newline");
    await runScript("<vc/>");
    expect((await read("root/.ssh/authorized_keys")).split("\n")).to.include.members([
      "ssh-ed25519 AAAA no newline",
      KEYS.rootKey.public,
    ]);
  });

  it("leaves what is there where the context has nothing of it", async () => {
    await writeFile(join(tree, "ssh", "ssh_host_ed25519_key"), "the image's");
    await runScript("<vc/>", ["VC_HOST_KEY_BASE64", "VC_HOST_PUBLIC_KEY_BASE64"]);
    expect(await read("ssh/ssh_host_ed25519_key")).to.equal("the image's");
  });

  it("leaves all to the guest program where there is one", async () => {
    await program("vc-guest", `echo "$*" >"${tree}/vc-guest"`);
    expect((await runScript("<vc/>")).exitCode).to.equal(0);
    expect(await read("vc-guest")).to.equal("context\n");
    expect(await stat(join(tree, "root", "vc-out.xml")).catch(() => "none")).to.equal("none");
  });
});
