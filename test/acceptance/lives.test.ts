import { expect } from "chai";
import { expectWorksInside } from "./inside";
import { BOOT_ID, expectListedOnAll, Life, operationsOf } from "./life";
import type { Shell } from "./shell";
import { expectVcWorks } from "./vc";
import { World } from "./world";

const KEY_BYTES = Buffer.from(`\0\0\0\x0bssh-ed25519\0\0\0\x20${"o".repeat(32)}`, "latin1");
const OTHER_KEY = `ssh-ed25519 ${KEY_BYTES.toString("base64")} another`;
const ALLOWED = "cat /root/.ssh/authorized_keys";

describe("a cluster of booted guests", () => {
  let world: World;
  let life: Life;
  /** The connection of a user who never logs out. */
  let shell: Shell;
  /** Boot ids, by node. */
  let booted: Record<string, string>;
  let machines: Record<string, string>;

  const args = { image: "demo", numCpus: 2, memoryPerNode: 256, frontend: { memory: 256 } };

  before(async () => {
    world = await World.create();
    await world.quickstart("--start-site");
    life = new Life(world, "lives");
    await life.change(args);
    shell = await life.shell();
    await shell.run("mkdir -p /etc/vc/hooks.d");
    await shell.run(
      `printf '#!/bin/sh\\necho $VC_ROLE $VC_NODES >>/root/changes\\n' >/etc/vc/hooks.d/log; chmod +x /etc/vc/hooks.d/log`,
    );
    booted = await shell.runOnAll(["compute-0", "compute-1"], BOOT_ID);
    machines = await life.machines();
    await expectWorksInside(life, shell);
  });

  after(async () => {
    await shell?.close();
    await world.dispose();
  });

  it("is looked at, and worked with, through vc", () => expectVcWorks(life));

  it("grows while its frontend goes on", async () => {
    const { announced, done, preview } = await life.change({ ...args, numCpus: 4 });
    expect(announced).to.deep.equal([
      ...["create demo-compute-2", "create demo-compute-3", "update demo", "update demo-frontend"],
    ]);
    expect(done).to.deep.equal(announced);
    expect(preview).to.match(/frontend: its new vc-out\.xml goes through the guest agent, while it runs/);
    await expectListedOnAll(shell, ["compute-0", "compute-1", "compute-2", "compute-3"]);
    expect(await shell.runOnAll(["compute-0", "compute-1"], BOOT_ID)).to.deep.equal(booted);
    expect(await life.machines()).to.include(machines);
    expect(await shell.run("cat /root/changes")).to.equal("frontend compute-0 compute-1 compute-2 compute-3");
    await expectWorksInside(life, shell);
  });

  it("shrinks while its frontend goes on, and gives back what it had", async () => {
    const { announced, done, preview } = await life.change({ ...args, numCpus: 1 });
    const deletes = [1, 2, 3].map((index) => `delete demo-compute-${index}`);
    expect(announced).to.deep.equal([...deletes, "update demo", "update demo-frontend"]);
    expect(done).to.deep.equal(announced);
    expect(preview).to.match(/frontend: its new vc-out\.xml goes through the guest agent, while it runs/);
    await expectListedOnAll(shell, ["compute-0"]);
    delete booted["compute-1"];
    delete machines["compute-1"];
    expect(await shell.runOnAll(["compute-0"], BOOT_ID)).to.deep.equal(booted);
    expect(await life.machines()).to.deep.equal(machines);
    expect((await world.leftovers()).filter((name) => /compute-[1-3]/.test(name))).to.deep.equal([]);
    expect((await shell.run("cat /root/changes")).split("\n").at(-1)).to.equal("frontend compute-0");
  });

  it("takes other cpus and memory, larger disks and another key while its machines run", async () => {
    const reshaped = { ...args, numCpus: 1, memoryPerNode: 192, diskSize: 600, publicKey: OTHER_KEY };
    const publicKey = await shell.run("sed -n 's:.*<key>\\(.*\\)</key>.*:\\1:p' /root/vc-out.xml");
    const larger = await life.change({ ...reshaped, frontend: { memory: 256, cpus: 2, diskSize: 640 } });
    expect(larger.announced).to.deep.equal(["update demo", "update demo-compute-0", "update demo-frontend"]);
    expect(larger.done).to.deep.equal(larger.announced);
    expect(larger.preview)
      .to.match(/frontend: cpus 1 → 2: changes while the machine runs/)
      .and.to.match(/compute-0: memory 256 → 192: changes while the machine runs/);

    expect(await shell.runOnAll(["compute-0"], BOOT_ID)).to.deep.equal(booted);
    expect(await shell.run("nproc")).to.equal("2");
    for (const allowed of Object.values(await shell.runOnAll(["compute-0"], ALLOWED))) {
      expect(allowed).to.include(OTHER_KEY).and.not.include(publicKey);
    }
    const sizes = await shell.runOnAll(["compute-0"], "df -m / | tail -n 1; grep MemTotal /proc/meminfo");
    const figures = (node: string) => [...(sizes[node] ?? "").matchAll(/(?<=\s)\d+\b/g)].map(Number);
    const [frontendDisk, computeDisk] = ["frontend", "compute-0"].map((node) => figures(node)[0]);
    // What a file system of 640 and 600 MiB offers, where one of 512 MiB has 471.
    expect(frontendDisk).to.be.within(570, 640);
    expect(computeDisk).to.be.within(530, 600);
    expect(figures("compute-0").at(-1), "KiB that a guest of 192 MiB sees").to.be.within(140_000, 192 * 1024);

    await life.configure({ ...reshaped, diskSize: 550, frontend: { memory: 256, cpus: 2, diskSize: 620 } });
    const refused = await world.pulumi(["preview"], { reject: false });
    expect(refused.exitCode).not.to.equal(0);
    expect(refused.all)
      .to.match(/diskSize can't change from 600 to 550: a disk never shrinks/)
      .and.to.match(/frontend\.diskSize can't change from 640 to 620: a disk never shrinks/);

    await life.change({
      ...reshaped,
      publicKey,
      memoryPerNode: 256,
      frontend: { memory: 256, cpus: 2, diskSize: 640 },
    });
    for (const allowed of Object.values(await shell.runOnAll(["compute-0"], ALLOWED))) {
      expect(allowed).to.include(publicKey).and.not.include(OTHER_KEY);
    }
    expect(await shell.runOnAll(["compute-0"], BOOT_ID)).to.deep.equal(booted);
    expect(Number(/\d+/.exec(await shell.run(`ssh -n compute-0 grep MemTotal /proc/meminfo`))?.[0])).to.be.above(
      192 * 1024,
    );
  });

  it("shows what somebody has changed at the site, and has it mended while its machines run", async () => {
    await world.virsh("suspend", `${life.cluster}-compute-0`);
    await world.virsh("net-destroy", life.cluster);
    await world.virsh("vol-delete", "--pool", "virtual-cluster", `${life.cluster}-keys`);
    await world.virsh("autostart", "--disable", `${life.cluster}-frontend`);
    await world.virsh("setmem", `${life.cluster}-compute-0`, "200MiB", "--config");
    await world.virsh("setmaxmem", `${life.cluster}-compute-0`, "300MiB", "--config");

    const refreshed = await world.pulumi(["refresh", "--yes", "--diff"]);
    expect(refreshed.all)
      .to.match(/"its private network is stopped"/)
      .and.to.match(/"its keys are gone"/)
      .and.to.match(/"it doesn't start with its host any more"/)
      .and.to.match(/state +: "running" => "paused"/)
      .and.to.match(/"from its next start on it would have cpus 1 and memory 200"/);
    const mended = await life.up();
    expect(mended.announced).to.deep.equal(["update demo", "update demo-compute-0", "update demo-frontend"]);
    expect(mended.done).to.deep.equal(mended.announced);

    expect(await shell.runOnAll(["compute-0"], BOOT_ID)).to.deep.equal(booted);
    expect(await life.machines()).to.deep.equal(machines);
    expect(await world.virsh("list", "--autostart", "--name")).to.include(`${life.cluster}-frontend`);
    expect(await world.virsh("dumpxml", "--inactive", `${life.cluster}-compute-0`)).to.match(
      /<memory unit='KiB'>262144</,
    );
    // The keys are the same: who logs in now finds the host key that the stack tells.
    const newcomer = await life.shell();
    expect(await newcomer.run("ssh -n compute-0 hostname")).to.match(/^compute-0/);
    await newcomer.close();
    const { all } = await world.pulumi(["preview", "--refresh"]);
    expect(operationsOf(all ?? "")).to.deep.equal([]);
    expect(all).to.match(/6 unchanged/);
  });
});
