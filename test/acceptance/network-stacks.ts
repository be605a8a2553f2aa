import { expect } from "chai";
import { eventually } from "../eventually";
import { testImages } from "../images/recipes";
import { expectWorksInside } from "./inside";
import { BOOT_ID, Life } from "./life";
import type { Shell } from "./shell";
import { World } from "./world";

/** A cluster whose image has its own way to configure a network is configured that way. */
export function describeNetworkStack(image: "networkd" | "ifupdown", vcOutDialect: "A" | "B"): void {
  describe(`a cluster of Debians with ${image}, told in dialect ${vcOutDialect}`, function () {
    this.timeout(1_200_000);
    let world: World;
    let life: Life;
    let shell: Shell;
    let args: Parameters<Life["change"]>[0];

    before(async () => {
      const repository = await testImages(image);
      world = await World.create();
      await world.quickstart("--start-site");
      life = new Life(world, image);
      // systemd takes its time where processors are emulated and busy.
      const timeouts = { create: 600, update: 600 };
      args = { image, repository, vcOutDialect, numCpus: 2, memoryPerNode: 256, frontend: { memory: 256 }, timeouts };
    });

    after(async () => {
      await shell?.close();
      await world?.dispose();
    });

    it("gets ready, and works inside", async () => {
      await life.change(args);
      shell = await life.shell();
      await expectWorksInside(life, shell);
    });

    it("works inside after a resize, without a restart", async () => {
      const booted = await shell.runOnAll(["compute-0"], BOOT_ID);
      await life.change({ ...args, numCpus: 3 });
      expect(await shell.runOnAll(["compute-0"], BOOT_ID)).to.deep.equal(booted);
      await expectWorksInside(life, shell);
    });

    it("works inside after a compute was restarted from inside", async () => {
      const before = await shell.run(`ssh -n compute-0 "${BOOT_ID}"`);
      await shell.run(`ssh -n compute-0 "systemctl reboot" || true`);
      await bootedSince(before);
      await expectWorksInside(life, shell);
    });

    async function bootedSince(before: string): Promise<void> {
      await eventually(async () => {
        const now = await shell.run(`ssh -n -o ConnectTimeout=5 compute-0 "${BOOT_ID}" 2>/dev/null || true`);
        expect([before, ""], "compute-0's boot").to.not.include(now);
      }, 240);
    }
  });
}
