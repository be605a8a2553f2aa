import { readdir, stat } from "node:fs/promises";
import { hostname, userInfo } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { destroyConverges, type Interruption, interrupt, upConverges } from "./interruption";
import { type Counts, World } from "./world";

const sorted = (lines: string) => lines.split("\n").filter(Boolean).sort();

describe("a cluster on a real libvirt", () => {
  let world: World;

  /** Nobody waits for guests here: what is tested is what we do at the site. */
  const small = (numCpus: number) => ({
    image: "fake",
    repository: world.fakeImages,
    numCpus,
    memoryPerNode: 64,
    frontend: { memory: 64 },
    waitFor: "none",
  });
  const up = (options = {}) => world.pulumi(["up", "--yes", "--skip-preview"], options);
  const destroy = (options = {}) => world.pulumi(["destroy", "--yes", "--skip-preview"], options);

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  // So that one failure doesn't make others.
  afterEach(async function () {
    if (this.currentTest?.state === "failed") {
      await world.pulumi(["cancel", "--yes"], { reject: false });
      await destroy({ reject: false });
      await world.vc("sweep", "--yes");
    }
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
      await destroy();
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

  it("gives two clusters of one program different addresses and one base, and destroys them when half of it is gone", async () => {
    await world.configure("two", { gone: small(2), lost: small(1) });
    await up();
    const outputs = await world.outputs<{ outputs: Record<string, { publicIp: string; nodes: { mac: string }[] }> }>();
    const all = Object.values(outputs.outputs);
    expect(new Set(all.map(({ publicIp }) => publicIp))).to.have.lengthOf(2);
    expect(new Set(all.flatMap(({ nodes }) => nodes.map(({ mac }) => mac)))).to.have.lengthOf(5);
    expect((await world.leftovers()).filter((name) => /^vc-base-.*\.raw$/.test(name))).to.have.lengthOf(1);

    await world.virsh("destroy", "acceptance-two-gone-compute-0");
    await world.virsh("undefine", "acceptance-two-gone-compute-0");
    await world.virsh("destroy", "acceptance-two-gone-compute-1");
    await world.virsh("vol-delete", "--pool", "virtual-cluster", "acceptance-two-gone-compute-1.qcow2");
    await world.virsh("net-destroy", "acceptance-two-gone");
    // The other cluster's record.
    await world.virsh("net-destroy", "acceptance-two-lost");
    await world.virsh("net-undefine", "acceptance-two-lost");
    await world.hideImages(async () => {
      await destroy();
    });
    expect(await world.leftovers()).to.deep.equal([]);
  });

  it("has the machine that a user replaces go before its successor comes", async () => {
    await world.configure("replaced", { demo: small(1) });
    await up();
    const uuid = () => world.virsh("domuuid", "acceptance-replaced-demo-compute-0");
    const bad = await uuid();
    const urn = (await world.state()).find((one) => one.urn.endsWith("::demo-compute-0"))?.urn ?? "";
    await world.pulumi(["up", "--yes", "--skip-preview", "--replace", urn]);
    expect(await uuid()).not.to.equal(bad);
    await destroy();
  });

  describe("interrupted", () => {
    const resize = (numCpus: number) => world.configure("cut-off", { demo: small(numCpus) });
    const struck = (command: Interruption["command"], at: RegExp, by: Interruption["by"]) =>
      interrupt(world, { command, at, by });

    // One cluster's life: each begins with what the one before has left.
    it("up, by kill -9 of the engine: the next one makes the rest", async () => {
      await resize(1);
      await struck("up", /frontend: started/, "kill -9 of the engine");
      await upConverges(world, 1);
    });

    it("growth, by Ctrl-C: what was running finishes, the next up makes the rest", async () => {
      await resize(3);
      await struck("up", /virsh .* define /, "Ctrl-C");
      await upConverges(world, 3);
    });

    it("reduction, by kill -9 of libvirtd: it comes back with its machines, the next up removes the rest", async () => {
      await resize(1);
      await struck("up", /virsh .* undefine /, "kill -9 of libvirtd");
      await upConverges(world, 1);
    });

    it("destroy, by Ctrl-C twice: the next one removes the rest", async () => {
      await struck("destroy", /virsh .* undefine /, "Ctrl-C twice");
      await destroyConverges(world);
    });
  });

  it("is as it was after the host was restarted and the site started", async () => {
    await world.configure("reboot", { demo: small(2) });
    await up();
    const outputs = async () =>
      Object.fromEntries((await world.state()).map((resource) => [resource.urn, resource.outputs]));
    const outputsBefore = await outputs();
    const identity = () => world.virsh("list", "--uuid", "--name");
    const disks = async () => {
      const folder = join(world.home, "site", "lib", "images");
      const names = (await readdir(folder)).filter((name) => name.endsWith(".qcow2"));
      return Promise.all(names.sort().map(async (name) => [name, (await stat(join(folder, name))).birthtimeMs]));
    };
    const [machinesBefore, disksBefore] = [await identity(), await disks()];
    await world.pullThePlug();
    await world.quickstart("--start-site");
    expect((await world.pulumi(["refresh", "--yes"])).stdout).to.match(/7 unchanged/);
    expect((await up()).stdout).to.match(/7 unchanged/);
    expect(sorted(await identity())).to.deep.equal(sorted(machinesBefore));
    expect(await disks()).to.deep.equal(disksBefore);
    expect(await outputs()).to.deep.equal(outputsBefore);
    await destroyConverges(world);
  });

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

  it("sweeps what no stack knows any more, unless a program takes it over with adopt, and leaves the rest alone", async () => {
    const clusters = { live: small(0), lost: small(0) };
    await world.configure("sweep", clusters);
    await up();
    const forget = async () => {
      const lost = (await world.state()).find(({ urn }) => urn.endsWith(":Cluster::lost"));
      await world.pulumi(["state", "delete", lost?.urn ?? "", "--target-dependents", "--yes"]);
    };
    const named = (names: readonly string[], part: string) => names.filter((name) => name.includes(part));
    await forget();
    const held = await world.leftovers();
    const uuid = await world.virsh("domuuid", "acceptance-sweep-lost-frontend");

    const refused = await up({ reject: false });
    expect(refused.exitCode).not.to.equal(0);
    expect(refused.all).to.match(/acceptance-sweep-lost.*this stack's state doesn't know it.*adopt: true.*vc sweep/s);
    await world.configure("sweep", { ...clusters, lost: { ...small(0), adopt: true } });
    await up();
    expect(await world.virsh("domuuid", "acceptance-sweep-lost-frontend")).to.equal(uuid);

    await forget();
    const owner = `${userInfo().username}@${hostname()}`;
    const mark = { owner, organization: "organization", project: "acceptance", stack: "killed", cluster: "demo" };
    await world.killHolderOfLock({ name: "killed", mark });
    await world.killHolderOfLock({ name: "theirs", mark: { ...mark, owner: "you@there" } });
    const listed = await world.vc("sweep");
    expect(listed.exitCode, listed.all).to.equal(0);
    expect(listed.stdout).to.match(
      /^acceptance-sweep-lost +organization\/acceptance\/sweep +1 +[\d.]+ +\S+Z +no stack/m,
    );
    expect(listed.stdout).to.match(
      /^killed +organization\/acceptance\/killed +0 +- +- +no stack .*only its lock is left$/m,
    );
    expect(listed.stdout).to.match(/^Not looked at: 1 cluster of you@there$/m);
    expect(listed.stdout).not.to.include("acceptance-sweep-live");
    expect(named(await world.leftovers(), "acceptance-sweep")).to.deep.equal(named(held, "acceptance-sweep"));

    const swept = await world.vc("sweep", "--yes");
    expect(swept.exitCode, swept.all).to.equal(0);
    expect(swept.stdout)
      .to.match(/^acceptance-sweep-lost: removed$/m)
      .and.to.match(/^killed: removed$/m);
    const left = await world.leftovers();
    expect(named(left, "acceptance-sweep")).to.deep.equal(named(held, "acceptance-sweep-live"));
    expect(named(left, "vc-lock-")).to.deep.equal(["vc-lock-theirs"]);
    await world.virsh("net-undefine", "vc-lock-theirs");
    await world.configure("sweep", { live: small(0) });
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
      [
        { image: "dock6", numCpus: 200, publicKey: "-----BEGIN OPENSSH PRIVATE KEY-----" },
        [
          /image "dock6": is not in the repository .*Known there: fake/,
          /the cluster asks for 201 cpus: the site has \d+ of \d+ free/,
          /publicKey: is a private key/,
        ],
      ],
      [
        { repository: "/no/such/folder", publicIp: "203.0.113.9", publicKey: "ssh-ed25519 AAAA" },
        [
          /repository \/no\/such\/folder: there is no file .*vcdb\.txt/,
          /publicIp 203\.0\.113\.9: is not among the addresses/,
          /publicKey: is not a public ssh key/,
        ],
      ],
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
