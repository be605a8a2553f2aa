import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { expect } from "chai";
import { World } from "./world";

/** By which a line takes the place of the one that was shown last. */
const IN_PLACE = "\r\u001b[K";

describe("pragma_boot", () => {
  let world: World;
  let project: string;
  let wish: string[];

  const machines = async () => (await world.virsh("list", "--name")).split("\n").filter(Boolean).sort();

  before(async () => {
    world = await World.create();
    project = join(world.home, "pragma_boot");
    wish = ["-vcname", "fake", "-base_path", world.fakeImages, "-memory", "64", "-wait_for", "none"];
    await world.quickstart("--start-site");
  });

  after(async () => {
    await world.dispose();
  });

  it("shows with -d what it would make, and makes nothing", async () => {
    const { exitCode, all } = await world.pragmaBoot(...wish, "-num_cpus", "2", "-d");
    expect(all)
      .to.match(/clusterName *: "fake"/)
      .and.to.match(/publicIp *: "198\.51\.100\.\d+"/)
      .and.to.match(/ComputeNode::fake-compute-1\]/);
    expect(exitCode).to.equal(0);
    expect(await world.leftovers()).to.deep.equal([]);
    expect(existsSync(join(project, "Pulumi.fake.yaml"))).to.equal(false);
    expect(await world.pragmaBoot("list", "cluster")).to.include({ exitCode: 0, all: "There are no clusters." });
  });

  it("brings up a cluster, and says so in plain lines", async () => {
    const { exitCode, all } = await world.pragmaBoot(...wish, "-num_cpus", "2");
    expect(all)
      .to.match(/^fake-frontend: creating$/m)
      .and.to.match(/^fake-compute-1: created \(\d+\.\d s\)$/m)
      .and.to.match(/^NODE +CPUS +MEMORY/m)
      .and.to.match(/^Log in: ssh /m)
      .and.not.to.include("\r")
      .and.not.to.include("\u001b");
    expect(exitCode).to.equal(0);
    expect(await machines()).to.deep.equal(["fake-compute-0", "fake-compute-1", "fake-frontend"]);
  });

  it("leaves a stack on which plain pulumi works", async () => {
    const { stdout } = await world.pulumi(["preview", "--stack", "fake"], { cwd: project });
    expect(stdout).to.match(/7 unchanged/);
  });

  it("stops after what is under way when it is interrupted, and goes on from there", async () => {
    const running = world.startPragmaBoot("-vcname", "fake", "-num_cpus", "3");
    for await (const line of running) {
      if (line === "fake: updating") {
        running.kill("SIGINT");
      }
    }
    const { exitCode, stderr } = await running;
    expect(stderr).to.equal("pragma_boot: interrupted; run it again to go on from here.");
    expect(exitCode).to.equal(130);
    expect((await world.pragmaBoot("list", "cluster")).stdout).to.match(/^fake +fake +incomplete /m);
  });

  it("makes it smaller by another call, and shows on a terminal what it is at work on", async () => {
    const frontend = await world.virsh("domuuid", "fake-frontend");
    const { exitCode, all } = await world.pragmaBootOnTerminal("--vcname=fake", "--num_cpus=1");
    expect(all?.split(IN_PLACE).join("\n"))
      .to.match(/^fake: \d done, at work on fake-frontend \(/m)
      .and.to.match(/^fake-compute-1: deleted \(/m);
    expect(exitCode).to.equal(0);
    expect(await machines()).to.deep.equal(["fake-compute-0", "fake-frontend"]);
    expect(await world.virsh("domuuid", "fake-frontend")).to.equal(frontend);
  });

  it("changes nothing while somebody else does, and says how to go on", async () => {
    const settings = await readFile(join(project, "Pulumi.fake.yaml"), "utf8");
    // What a killed run leaves, as Pulumi writes it.
    const locks = join(world.home, "pulumi", ".pulumi", "locks", "organization", "pragma_boot", "fake");
    await mkdir(locks, { recursive: true });
    const lock = { pid: 1, username: "somebody", hostname: hostname(), timestamp: new Date().toISOString() };
    await writeFile(join(locks, "0b4b9d1e-3b1a-4a53-9f3b-3d2f6f3a0f10.json"), JSON.stringify(lock));

    const { exitCode, stderr } = await world.pragmaBoot("-vcname", "fake", "-num_cpus", "3");
    expect(stderr).to.match(/^pragma_boot: cluster fake: another pragma_boot or pulumi is changing it\. [^\n]*$/);
    expect(exitCode).to.equal(1);
    expect(await readFile(join(project, "Pulumi.fake.yaml"), "utf8")).to.equal(settings);

    const [, advice = ""] = /`npx pulumi (.*)`/.exec(stderr) ?? [];
    await world.pulumi(advice.split(" "));
    expect((await world.pragmaBoot("list", "cluster")).stdout).to.match(/^fake +fake +up +198\.51\.100\.\d+ +1 +1$/m);
  });

  it("refuses what the site hasn't, in one sentence, and leaves the cluster as it is", async () => {
    const { exitCode, stderr } = await world.pragmaBoot("-vcname", "fake", "-num_cpus", "200");
    expect(stderr).to.match(/^pragma_boot: [^\n]*cpus[^\n]*$/);
    expect(exitCode).to.equal(1);
    expect(await machines()).to.deep.equal(["fake-compute-0", "fake-frontend"]);
  });

  it("turns a cluster off, and keeps it", async () => {
    const { exitCode } = await world.pragmaBoot("shutdown", "fake");
    expect(exitCode).to.equal(0);
    expect(await machines()).to.deep.equal([]);
    expect((await world.pragmaBoot("list", "cluster", "fake")).stdout).to.match(/^fake +fake +off /m);
  });

  it("gives everything back", async () => {
    expect((await world.pragmaBoot("clean", "fakes")).stderr).to.match(/cluster fakes: .*Did you mean fake\?$/);
    expect(await world.pragmaBoot("clean", "fake")).to.include({ exitCode: 0, stderr: "" });
    expect(await world.leftovers()).to.deep.equal([]);
    expect(existsSync(join(project, "Pulumi.fake.yaml"))).to.equal(false);
    expect(await world.pragmaBoot("list", "cluster")).to.include({ all: "There are no clusters." });
  });
});
