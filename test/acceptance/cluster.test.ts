import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { type Counts, World } from "./world";

/** Nobody waits for guests here: what is tested is what we do at the site. */
const small = (numCpus: number) => ({
  image: "demo",
  numCpus,
  memoryPerNode: 64,
  frontend: { memory: 64 },
  waitFor: "none",
});

describe("a cluster on a real libvirt", function () {
  this.timeout(180_000);
  let world: World;

  const up = (options = {}) => world.pulumi(["up", "--yes", "--skip-preview"], options);
  const destroy = (options = {}) => world.pulumi(["destroy", "--yes", "--skip-preview"], options);

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  afterEach(async () => {
    await world.pulumi(["cancel", "--yes"], { reject: false });
    await destroy({ reject: false });
  });

  describe("what may not grow silently", () => {
    it("keeps little in the state for a compute", async () => {
      await world.configure("size", { demo: small(2) });
      await up();
      const resources = await world.state();
      const bytes = (type: string) =>
        resources.filter((one) => one.type.endsWith(type)).map((one) => Buffer.byteLength(JSON.stringify(one)));
      const [compute = Number.NaN] = bytes(":ComputeNode").sort((a, b) => b - a);
      const [component = Number.NaN] = bytes(":Cluster");
      const shim = resources.find(({ type }) => type.endsWith(":ComputeNode"))?.inputs?.__provider;
      // An empty resource of a shim like ours: the component's own entry, and the shim twice.
      const empty = component + 2 * JSON.stringify(shim).length;
      expect(compute).to.be.at.most(empty + 1200);
    });

    it("runs a bounded number of programs a node, and one for all where one will do", async () => {
      const countOf = async (numCpus: number): Promise<Record<string, Counts>> => {
        await world.configure(`count-${numCpus}`, { demo: small(numCpus) });
        await up({ count: true });
        const made = await world.takeCounts();
        await world.pulumi(["refresh", "--yes"], { count: true });
        const refreshed = await world.takeCounts();
        await destroy({ count: true });
        return { made, refreshed, destroyed: await world.takeCounts() };
      };
      const [two, eight] = [await countOf(2), await countOf(8)];
      expect(two.made).to.include({ "qemu-img": 3, "qemu-storage-daemon": 3 });
      expect(eight.made).to.include({ "qemu-img": 9, "qemu-storage-daemon": 9 });
      const perNode = (step: "made" | "refreshed" | "destroyed", program: keyof Counts) =>
        ((eight[step]?.[program] ?? 0) - (two[step]?.[program] ?? 0)) / 6;
      expect(perNode("made", "debugfs")).to.equal(1);
      expect(perNode("made", "virsh"), "virsh to make a node").to.be.at.most(10);
      expect(perNode("destroyed", "virsh"), "virsh to remove a node").to.be.at.most(6);
      expect(perNode("refreshed", "virsh"), "virsh to look at a node").to.be.at.most(1);
      expect(eight.refreshed?.debugfs).to.equal(0);
    });
  });

  it("gives two clusters of one program different names, addresses and subnets, and shares their base", async () => {
    await world.configure("two", { one: small(1), other: small(1) });
    await up();
    const outputs = await world.outputs<{ outputs: Record<string, { publicIp: string; nodes: { mac: string }[] }> }>();
    const all = Object.values(outputs.outputs);
    expect(new Set(all.map(({ publicIp }) => publicIp))).to.have.lengthOf(2);
    expect(new Set(all.flatMap(({ nodes }) => nodes.map(({ mac }) => mac)))).to.have.lengthOf(4);
    const bases = (await world.leftovers()).filter((name) => /^vc-base-.*\.raw$/.test(name));
    expect(bases).to.have.lengthOf(1);
    await destroy();
    expect(await world.leftovers()).to.deep.equal([]);
  });

  it("destroys what is already gone, and with its image repository gone", async () => {
    await world.configure("gone", { demo: { ...small(2), repository: `${world.home}/images` } });
    await up();
    const cluster = "acceptance-gone-demo";
    await world.virsh("destroy", `${cluster}-compute-0`);
    await world.virsh("undefine", `${cluster}-compute-0`);
    await world.virsh("destroy", `${cluster}-compute-1`);
    await world.virsh("vol-delete", "--pool", "virtual-cluster", `${cluster}-compute-1.qcow2`);
    await world.virsh("net-destroy", cluster);
    await world.hideImages(async () => {
      await destroy();
    });
    expect(await world.leftovers()).to.deep.equal([]);
  });

  it("destroys a cluster whose record at the site is gone", async () => {
    await world.configure("lost", { demo: small(1) });
    await up();
    await world.virsh("net-destroy", "acceptance-lost-demo");
    await world.virsh("net-undefine", "acceptance-lost-demo");
    await destroy();
    expect(await world.leftovers()).to.deep.equal([]);
  });

  for (const step of [/are reserved/, /frontend: started/, /compute-\d: started/]) {
    it(`goes on after engine and all were killed at "${step.source}", and destroys from there`, async () => {
      await world.configure("killed", { demo: small(4) });
      const running = world.startPulumi(["up", "--yes", "--skip-preview"]);
      await new Promise<void>((resolve) => {
        running.all?.on("data", (chunk: Buffer) => step.test(chunk.toString()) && resolve());
      });
      process.kill(-(running.pid ?? Number.NaN), "SIGKILL");
      await running;
      // A provider without its engine stops by itself.
      for (let waited = 0; (await world.providers()).length > 0; waited += 500) {
        expect(waited, "ms until the provider stopped").to.be.lessThan(5000);
        await setTimeout(500);
      }
      await world.endOrphans();
      await world.pulumi(["cancel", "--yes"], { reject: false });
      await up();
      expect((await world.pulumi(["preview"])).stdout).to.match(/8 unchanged/);
      const machines = (await world.virsh("list", "--name")).split("\n").filter(Boolean);
      expect(machines).to.have.lengthOf(5);
      await destroy();
      expect(await world.leftovers()).to.deep.equal([]);
    });
  }

  it("never touches a namesake that isn't ours", async () => {
    await world.configure("mine", { demo: { ...small(1), clusterName: "shared-name" } });
    await up();
    const before = await world.leftovers();
    await world.configure("theirs", { other: { ...small(1), clusterName: "shared-name" } });
    const refused = await up({ reject: false });
    expect(refused.exitCode).not.to.equal(0);
    expect(refused.all).to.match(/shared-name: belongs to .*cluster demo of stack organization\/acceptance\/mine/);
    await destroy();
    expect(await world.leftovers()).to.deep.equal(before);
    await world.pulumi(["stack", "select", "mine"]);
    await destroy();
    expect(await world.leftovers()).to.deep.equal([]);
  });

  it("reports bad input in the preview, in one sentence each with the property's name", async () => {
    const socket = "qemu:///system?socket=/no/such/socket";
    // What one preview can report together stands in one row.
    const cases: ReadonlyArray<readonly [object, readonly RegExp[]]> = [
      [
        { numCpus: -1, clusterName: "Not_A_Name", publicIp: "here" },
        [/numCpus must not be negative/, /clusterName must begin with a letter/, /publicIp must be an IPv4 address/],
      ],
      [{ numCpus: 1.5 }, [/numCpus must be a whole number/]],
      [
        { image: "dock6", numCpus: 200, publicKey: "-----BEGIN OPENSSH PRIVATE KEY-----" },
        [
          /image "dock6": is not in the repository .*Known there: demo/,
          /the cluster asks for 201 cpus: the site has \d+ of \d+ free/,
          /publicKey: is a private key/,
        ],
      ],
      [
        { repository: "/no/such/folder", memoryPerNode: 9_999_999, publicKey: "ssh-ed25519 AAAA" },
        [
          /repository \/no\/such\/folder: there is no file .*vcdb\.txt/,
          /MiB of memory: the site has \d+ of \d+ MiB free/,
          /publicKey: is not a public ssh key/,
        ],
      ],
      [{ publicIp: "203.0.113.9" }, [/publicIp 203\.0\.113\.9: is not among the addresses/]],
      [{ site: { uri: socket } }, [/libvirt at qemu:\/\/\/system\?socket=\/no\/such\/socket can't be reached/]],
    ];
    for (const [args, expected] of cases) {
      await world.configure("bad", { demo: { ...small(1), ...args } });
      const { all, exitCode } = await world.pulumi(["preview"], { reject: false });
      expect(exitCode, JSON.stringify(args)).not.to.equal(0);
      for (const sentence of expected) {
        expect(all).to.match(sentence);
      }
      expect(all, "no stack trace").not.to.match(/^\s+at .*\(.*:\d+:\d+\)/m);
    }
  });
});
