import { join } from "node:path";
import type { ClusterArgs } from "@virtual-cluster/pulumi";
import { expect } from "chai";
import { execa } from "execa";
import { home } from "../../provider/src/home";
import { BOOT_ID, Life } from "../acceptance/life";
import type { Shell } from "../acceptance/shell";
import { ROOT, World } from "../acceptance/world";
import { eventually } from "../eventually";

const REPOSITORY = home("test-images");

describe("examples/slurm: a scheduler that follows its cluster", function () {
  this.timeout(1_500_000);
  let life: Life;
  let frontend: Shell;
  let bootId: string;

  before(async () => {
    await execa(process.execPath, [join(ROOT, "examples", "slurm", "build-image.mjs"), REPOSITORY]);
    const world = await World.create();
    life = new Life(world, "slurm");
    await world.quickstart("--start-site");
    await life.change(cluster(2));
    frontend = await life.shell();
    bootId = await frontend.run(BOOT_ID);
  });

  after(async () => {
    await frontend?.close();
    await life?.world.dispose();
  });

  it("runs a job of the frontend on both computes", async () => {
    await runsOn(["compute-0", "compute-1"]);
  });

  it("keeps munge's key to the cluster: no image has it, and all nodes have the same, which only munge can read", async () => {
    const said = await frontend.runOnAll(["compute-0", "compute-1"], "cd /etc/munge && sha256sum * && stat -c %a:%U *");
    expect(said["compute-0"]).to.match(/^[0-9a-f]{64} {2}munge.key\n400:munge$/);
    expect(new Set(Object.values(said))).to.have.lengthOf(1);
    const image = join(REPOSITORY, "slurm", "frontend.raw?offset=1048576");
    const { stderr } = await execa("debugfs", ["-R", "stat /etc/munge/munge.key", image]);
    expect(stderr).to.contain("File not found");
  });

  it("takes a third one, without a reboot of the frontend and without a job noticing", async () => {
    const wait = "while [ ! -e /root/go ]; do sleep 1; done; echo went on";
    const job = await frontend.run(`cd /root && sbatch --parsable -w compute-0 -o running.out --wrap "${wait}"`);
    await eventually(async () => expect(await stateOf(job)).to.equal("RUNNING"), 120);
    await life.change(cluster(3));
    expect(await frontend.run(BOOT_ID)).to.equal(bootId);
    await eventually(async () => expect(await nodes()).to.deep.equal(["compute-0", "compute-1", "compute-2"]), 120);
    expect(await stateOf(job)).to.equal("RUNNING");
    await frontend.run("ssh compute-0 touch /root/go");
    await eventually(async () => expect(await stateOf(job)).to.equal("COMPLETED"), 120);
    expect(await frontend.run("ssh compute-0 cat /root/running.out")).to.equal("went on");
  });

  it("then runs a job on all three", async () => {
    await runsOn(["compute-0", "compute-1", "compute-2"]);
  });

  it("runs a batch job on all current computes", async () => {
    await frontend.run('cd /root && sbatch --wait -N "$(sinfo -ho %D)" -o batch.out --wrap "srun hostname -s"');
    const output = await frontend.run("ssh compute-0 sort /root/batch.out");
    expect(output).to.equal("compute-0\ncompute-1\ncompute-2");
  });

  it("knows one compute after the others have left, ends their jobs, and runs nothing that needs two", async () => {
    const job = await frontend.run('cd /root && sbatch --parsable -w compute-2 --wrap "sleep 3600"');
    await eventually(async () => expect(await stateOf(job)).to.equal("RUNNING"), 120);
    await life.change(cluster(1));
    expect(await frontend.run(BOOT_ID)).to.equal(bootId);
    await eventually(async () => expect(await nodes()).to.deep.equal(["compute-0"]), 120);
    expect(await stateOf(job)).to.equal("NODE_FAIL");
    await runsOn(["compute-0"]);
    expect(await frontend.run("srun --immediate=20 -N2 hostname -s || :")).to.match(/Unable to allocate resources/);
  });

  it("keeps a job while there are no computes, and runs it on the one that is back", async () => {
    await life.change(cluster(0));
    await eventually(async () => expect(await frontend.run("sinfo -ho %P:%D")).to.equal("all*:0"), 120);
    const job = await frontend.run("cd /root && sbatch --parsable --wrap hostname");
    await life.change(cluster(1));
    await eventually(async () => expect(await stateOf(job)).to.equal("COMPLETED"), 180);
    expect(await frontend.run(BOOT_ID)).to.equal(bootId);
  });

  it("works with a compute again that was rebooted", async () => {
    const before = await frontend.run(`ssh compute-0 ${BOOT_ID}`);
    await frontend.run("ssh compute-0 reboot || :");
    await eventually(async () => {
      expect(await frontend.run(`ssh -o ConnectTimeout=10 compute-0 ${BOOT_ID}`)).to.not.equal(before);
    }, 600);
    await runsOn(["compute-0"]);
  });

  it("leaves nothing behind", async () => {
    await frontend.close();
    await life.world.pulumi(["destroy", "--yes", "--skip-preview"]);
    expect(await life.world.leftovers()).to.deep.equal([]);
  });

  /** Tried again for a while, because a compute that is ready has yet to be told of the others and to start its daemon. */
  async function runsOn(computes: readonly string[]): Promise<void> {
    await eventually(async () => {
      const output = await frontend.run(`timeout 150 srun -N${computes.length} hostname -s`);
      expect(output.split("\n").sort()).to.include.members(computes);
    }, 180);
  }

  async function nodes(): Promise<string[]> {
    return (await frontend.run("sinfo -hNo %N")).split("\n");
  }

  async function stateOf(job: string): Promise<string> {
    return frontend.run(`scontrol show job ${job} | sed -n "s/ *JobState=\\([A-Z_]*\\).*/\\1/p"`);
  }
});

function cluster(numCpus: number): ClusterArgs {
  return {
    image: "slurm",
    repository: REPOSITORY,
    numCpus,
    memoryPerNode: 256,
    frontend: { memory: 256 },
    timeouts: { create: 900, update: 900 },
  };
}
