import { cp, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { execa } from "execa";
import { digestOf } from "../../provider/src/images/disk/digests";
import { examineDisk } from "../../provider/src/images/examine";
import { debugfsTarget } from "../../provider/src/images/root/file-system";
import { BOOT_ID, expectListedOnAll, Life } from "../acceptance/life";
import { World } from "../acceptance/world";

const COMPUTES = ["compute-0", "compute-1"];
const DATA = "cat /root/data";

describe("a cluster of booted guests, in the long run", () => {
  let world: World;
  let life: Life;
  let args: { image: string; repository: string; numCpus: number; memoryPerNode: number; frontend: { memory: number } };

  /** What each node says. */
  const ask = async (computes: readonly string[], command: string): Promise<Record<string, string>> => {
    const shell = await life.shell();
    try {
      return await shell.runOnAll(computes, command);
    } finally {
      await shell.close();
    }
  };
  const expectPreviewWithoutChanges = async () => {
    expect((await world.pulumi(["preview", "--refresh"])).stdout).to.match(/7 unchanged/);
  };

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    const repository = join(world.home, "colours");
    await makeColours(join(world.home, "images", "demo"), repository, ["blue", "green"]);
    args = { image: "blue", repository, numCpus: 2, memoryPerNode: 256, frontend: { memory: 256 } };
    life = new Life(world, "long");
    await life.change(args);
    await ask(COMPUTES, "hostname >/root/data; sync");
  });

  after(async () => {
    await world.dispose();
  });

  it("restarts what can't change while it runs, says so before, and keeps its data", async () => {
    await life.change({ ...args, frontend: { ...args.frontend, cpus: 2 } });
    const booted = await ask(COMPUTES, BOOT_ID);
    const { announced, done, preview } = await life.change({ ...args, memoryPerNode: 320 });
    expect(announced).to.deep.equal([
      ...["update demo", "update demo-compute-0", "update demo-compute-1", "update demo-frontend"],
    ]);
    expect(done).to.deep.equal(announced);
    expect(preview)
      .to.match(/frontend: cpus 2 → 1: needs a restart of the machine/)
      .and.to.match(/compute-1: memory 256 → 320: needs a restart of the machine/);
    const [now, data, cpus] = [await ask(COMPUTES, BOOT_ID), await ask(COMPUTES, DATA), await ask(COMPUTES, "nproc")];
    for (const node of ["frontend", ...COMPUTES]) {
      expect(now[node], `boot id of ${node}`).not.to.equal(booted[node]);
      expect(data[node], `data of ${node}`).to.match(/long-demo|compute-/);
      expect(cpus[node], `cpus of ${node}`).to.equal("1");
    }
    await life.change(args);
    await expectPreviewWithoutChanges();
  });

  it("is turned off, computes first, and on again with all that it had", async () => {
    const machines = await life.machines();
    const events = execa("virsh", ["-c", world.uri, "event", "--event", "lifecycle", "--loop"], { reject: false });
    const off = await life.change({ ...args, power: "off" });
    events.kill("SIGINT");
    const stopped = [...(await events).stdout.matchAll(/domain '?([\w-]+)'?: Stopped/g)];
    expect(stopped.map(([, domain = ""]) => life.nodeOf(domain))).to.have.members(["frontend", ...COMPUTES]);
    expect(life.nodeOf(stopped.at(-1)?.[1] ?? "")).to.equal("frontend");
    expect(off.done).to.have.lengthOf(4);
    expect(await world.virsh("list", "--name")).to.equal("");
    expect((await life.up()).announced).to.deep.equal([]);

    expect((await life.change({ ...args, power: "on" })).done).to.have.lengthOf(4);
    expect(await life.machines()).to.deep.equal(machines);
    expect(Object.values(await ask(COMPUTES, DATA)).join()).to.match(/long-demo.*,compute-0.*,compute-1/);
    await expectPreviewWithoutChanges();
  });

  it("gets a killed compute started and a lost one made again, and nothing else touched", async () => {
    const booted = await ask([], BOOT_ID);
    await world.virsh("destroy", `${life.cluster}-compute-0`);
    await world.virsh("destroy", `${life.cluster}-compute-1`);
    await world.virsh("undefine", `${life.cluster}-compute-1`);
    await world.virsh("vol-delete", "--pool", "virtual-cluster", `${life.cluster}-compute-1.qcow2`);
    const refreshed = await world.pulumi(["refresh", "--yes", "--diff"]);
    expect(refreshed.all)
      .to.match(/state +: "running" => "off"/)
      .and.to.match(/ComputeNode: \(delete\)\s+\[id=\S+\/compute-1\]/);
    const { announced, done } = await life.up();
    expect(announced).to.deep.equal(["create demo-compute-1", "update demo-compute-0"]);
    expect(done).to.deep.equal(announced);
    expect(await ask([], BOOT_ID)).to.deep.equal(booted);
    expect((await ask(["compute-0"], DATA))["compute-0"]).to.match(/compute-0/);
    await expectPreviewWithoutChanges();
  });

  for (const option of ["--replace", "--target-replace"]) {
    it(`has one bad compute made anew alone, by ${option}`, async () => {
      const { "compute-1": bad, ...others } = await life.machines();
      const booted = await ask(["compute-0"], BOOT_ID);
      const urn = (await world.state()).find((one) => one.urn.endsWith("::demo-compute-1"))?.urn ?? "";
      const { announced, done } = await life.up(option, urn);
      expect(announced).to.deep.equal(["replace demo-compute-1"]);
      expect(done).to.deep.equal(announced);
      const now = await life.machines();
      expect(now).to.include(others).and.to.have.property("compute-1").that.is.not.equal(bad);
      expect(await ask(["compute-0"], BOOT_ID)).to.deep.equal(booted);
      expect(await ask(["compute-1"], "test -e /root/data && echo old || echo new")).to.include({ "compute-1": "new" });
      await expectPreviewWithoutChanges();
    });
  }

  it("rolls its computes to another image while the frontend goes on", async () => {
    const shell = await life.shell();
    const { frontend, ...former } = await life.machines();
    const booted = await shell.run(BOOT_ID);
    await life.configure({ ...args, image: "green" });
    const refused = await world.pulumi(["preview"], { reject: false });
    expect(refused.all).to.match(/image can't change: .* With allowReplace: "computes"/);

    const { announced, done } = await life.change({ ...args, image: "green", allowReplace: "computes" });
    expect(announced).to.deep.equal(["replace demo-compute-0", "replace demo-compute-1", "update demo"]);
    expect(done).to.deep.equal(announced);
    expect(await shell.run(BOOT_ID)).to.equal(booted);
    const now = await life.machines();
    expect(now.frontend).to.equal(frontend);
    expect(COMPUTES.filter((node) => now[node] === undefined || now[node] === former[node])).to.deep.equal([]);
    expect(await shell.run("ssh -n compute-0 cat /etc/vc-colour; ssh -n compute-1 cat /etc/vc-colour")).to.equal(
      "green\ngreen",
    );
    const bases = (await world.leftovers()).filter((name) => /^vc-base-.*\.raw$/.test(name)).sort();
    const disks = [join(args.repository, "blue", "frontend.raw"), join(args.repository, "green", "compute.raw")];
    const digests = await Promise.all(disks.map((disk) => digestOf(disk)));
    expect(bases).to.deep.equal(digests.map((digest) => `vc-base-${digest}.raw`).sort());
    args = { ...args, image: "green" };
    await life.change(args);
    await expectPreviewWithoutChanges();
    await shell.close();
  });

  it("keeps a new vc-out.xml for the next start of a guest that nobody can ask, and writes it into its disk", async () => {
    const shell = await life.shell();
    // Neither agent nor sshd nor an answer to the power button until its next boot.
    await shell.run("(sleep 2; telinit 3; sleep 1; killall sshd) >/dev/null 2>&1 &");
    await shell.run("echo written just before >/root/data; sync /root/data");
    await setTimeout(8000);
    await shell.close();

    const shrunk = await life.change({ ...args, numCpus: 1 });
    expect(shrunk.preview).to.match(/frontend: its new vc-out\.xml waits for its next start/);
    expect(shrunk.all).to.match(
      /its guest offers no channel: it gets its new vc-out\.xml when its power is turned off/,
    );
    expect(shrunk.done).to.deep.equal(["delete demo-compute-1", "update demo", "update demo-frontend"]);
    expect((await life.up()).announced).to.deep.equal([]);

    const started = Date.now();
    await life.change({ ...args, numCpus: 1, power: "off" });
    expect(Date.now() - started, "ms that the guest was given").to.be.above(60_000);
    await life.change({ ...args, numCpus: 1 });
    const again = await life.shell();
    expect(await again.run(DATA)).to.equal("written just before");
    expect(await again.run("cat /root/vc-out.xml"))
      .to.include("compute-0")
      .and.not.to.include("compute-1");
    await expectListedOnAll(again, ["compute-0"]);
    await again.close();
    expect((await world.pulumi(["preview", "--refresh"])).stdout).to.match(/6 unchanged/);
  });
});

/** Images with the demo's frontend, and computes that say their name in `/etc/vc-colour`. */
async function makeColours(demo: string, repository: string, colours: readonly string[]): Promise<void> {
  for (const colour of colours) {
    const folder = join(repository, colour);
    await mkdir(folder, { recursive: true });
    await cp(join(demo, "vc-in.xml"), join(folder, "vc-in.xml"));
    for (const disk of ["frontend.raw", "compute.raw"]) {
      await execa("cp", ["--sparse=always", join(demo, disk), join(folder, disk)]);
    }
    await writeFile(join(folder, "colour"), `${colour}\n`);
    const compute = join(folder, "compute.raw");
    const target = debugfsTarget(compute, (await examineDisk(compute)).rootOffset);
    await execa("debugfs", ["-w", "-R", `write ${join(folder, "colour")} /etc/vc-colour`, target]);
  }
  await writeFile(join(repository, "vcdb.txt"), colours.map((colour) => `${colour},${colour}/vc-in.xml\n`).join(""));
}
