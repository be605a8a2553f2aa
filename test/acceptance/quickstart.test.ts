import { join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import { sitePaths } from "../../provider/src/default-site/paths";
import { eventually } from "../eventually";
import { ROOT, World } from "./world";

const STACK = ["--stack", "quickstart-test"];

interface Node {
  readonly name: string;
  readonly role: string;
  readonly privateIp: string;
  readonly publicIp?: string;
}

describe("the quickstart", () => {
  let world: World;
  let nodes: readonly Node[];
  let ssh: string;

  const inRepository = (...args: string[]) => world.pulumi([...args, ...STACK], { cwd: ROOT });
  /** As a person would: the command in a shell. */
  const onFrontend = async (command: string) =>
    (await execa("sh", ["-c", `${ssh} -o ConnectTimeout=20 '${command}'`], { env: world.env })).stdout.trim();

  before(async () => {
    world = await World.create();
  });

  after(async () => {
    await world.quickstart("--destroy", ...STACK).catch(() => undefined);
    await world.dispose();
  });

  it("brings up a cluster of booted guests, with one command", async () => {
    const { all } = await world.quickstart(...STACK);
    expect(all).to.match(/frontend: ready/);
    expect(all)
      .to.match(/compute-0.*\n.* up /)
      .and.to.match(/compute-1.*\n.* up /);
    expect(all).to.match(/NODE +ROLE +CPUS +MEMORY/);
  });

  it("leaves a stack on which plain pulumi works: nothing to change", async () => {
    const outputs = JSON.parse((await inRepository("stack", "output", "--json")).stdout) as {
      nodes: Node[];
      ssh: string;
    };
    nodes = outputs.nodes;
    ssh = outputs.ssh;
    expect(nodes.map(({ role }) => role)).to.deep.equal(["frontend", "compute", "compute"]);
    expect((await inRepository("preview")).stdout).to.match(/7 unchanged/);
    expect((await inRepository("refresh", "--yes")).stdout).to.match(/7 unchanged/);
    expect((await inRepository("up", "--yes")).stdout).to.match(/7 unchanged/);
  });

  it("lets the user log in with the command that it shows, without a question", async () => {
    expect(await onFrontend("hostname")).to.match(/^virtual-cluster-quickstart-test-demo/);
  });

  it("lists its computes in hosts and machinefile", async () => {
    expect(await onFrontend("cat /etc/vc/machinefile")).to.equal("compute-0\ncompute-1");
    const hosts = await onFrontend("cat /etc/hosts");
    for (const { name, privateIp } of nodes) {
      expect(hosts).to.match(new RegExp(`^${privateIp}\\s.*\\b${name}\\b`, "m"));
    }
  });

  it("lets root on any node reach any other by name", async () => {
    const [frontend = "", one = "", other = ""] = nodes.map(({ name }) => name);
    const hop = (from: string, to: string) => `ssh -n ${from} ssh -n ${to} hostname`;
    const reached = await onFrontend([hop(one, other), hop(other, one), hop(one, frontend)].join(" && "));
    expect(reached.split("\n").map((name) => name.split(".")[0])).to.deep.equal([other, one, frontend]);
  });

  it("has the frontend forward and masquerade for its computes", async () => {
    // A listener outside, in the site's own network, sees the frontend's address.
    const listener = execa("ip", [
      ...["netns", "exec", sitePaths(world.home).namespace, process.execPath, "-e"],
      `require("net").createServer(s => { console.log(s.remoteAddress); s.end(); process.exit() }).listen(2222, "198.51.100.1")`,
    ]);
    await onFrontend("ssh -n compute-0 ssh -o BatchMode=yes -o ConnectTimeout=20 -p 2222 198.51.100.1 true || true");
    expect((await listener).stdout.replace("::ffff:", "")).to.equal(nodes[0]?.publicIp);
  });

  it("does no set-up twice", async () => {
    const started = Date.now();
    const { all } = await world.quickstart(...STACK);
    expect(all)
      .to.match(/7 unchanged/)
      .and.not.to.match(/ created|installing|building|downloading/i);
    expect(Date.now() - started).to.be.lessThan(60_000);
  });

  it("takes a stopped site for an error, not for an empty one, and starts it again with its clusters", async () => {
    await world.quickstart("--stop-site");
    const stopped = await world.pulumi(["refresh", "--yes", ...STACK], { cwd: ROOT, reject: false });
    expect(stopped.exitCode).not.to.equal(0);
    expect(stopped.all).to.match(/can't be reached/);
    expect((await inRepository("stack", "export")).stdout).to.match(/ComputeNode/);

    await world.quickstart("--start-site");
    expect((await inRepository("refresh", "--yes")).stdout).to.match(/7 unchanged/);
    // The guests are booting again; until sshd listens, each try fails at once.
    await eventually(async () => expect(await onFrontend("hostname")).to.match(/^virtual-cluster/), 120);
  });

  it("gives everything back", async () => {
    await world.quickstart("--destroy", ...STACK);
    expect(await world.leftovers()).to.deep.equal([]);
    await world.quickstart("--remove-site");
    const { exitCode } = await execa("test", ["-e", join(world.home, "site")], { reject: false });
    expect(exitCode).to.equal(1);
    const { stdout } = await execa("ip", ["netns", "list"]);
    expect(stdout).not.to.include(sitePaths(world.home).namespace);
  });
});
