import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import type { World } from "./world";

/**
 * Kills the engine and its children when `up` prints what is looked for; then `up` must finish the work, and `destroy`
 * leave nothing.
 */
export async function goOnAfterKill(world: World, args: { readonly numCpus: number }, step: RegExp): Promise<void> {
  await world.configure("killed", { demo: args });
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

  await world.pulumi(["up", "--yes", "--skip-preview"]);
  expect((await world.pulumi(["preview"])).stdout).to.match(new RegExp(`${args.numCpus + 4} unchanged`));
  const machines = (await world.virsh("list", "--name")).split("\n").filter(Boolean);
  expect(machines).to.have.lengthOf(args.numCpus + 1);
  await world.pulumi(["destroy", "--yes", "--skip-preview"]);
  expect(await world.leftovers()).to.deep.equal([]);
}
