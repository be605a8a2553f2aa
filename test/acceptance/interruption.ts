import { setTimeout } from "node:timers/promises";
import { expect } from "chai";
import { eventually } from "../eventually";
import type { World } from "./world";

/** What can happen to a running `up` or `destroy`. */
export const BLOWS = [
  "Ctrl-C",
  "Ctrl-C twice",
  "kill -9 of the engine",
  "kill -9 of the provider",
  "kill -9 of libvirtd",
] as const;

export interface Interruption {
  readonly command: "up" | "destroy";
  /** The step that it is in: what it has printed, or the program that it has run, with its arguments. */
  readonly at: RegExp;
  readonly by: (typeof BLOWS)[number];
}

const YES = ["--yes", "--skip-preview"] as const;
const STOP_LIMIT_SECONDS = 5;

/** Interrupts a command, and sees to it that nothing of it runs on and that the stack isn't locked afterwards. */
export async function interrupt(world: World, { command, at, by }: Interruption): Promise<void> {
  await world.takeCounts();
  const running = world.startPulumi([command, ...YES]);
  let printed = "";
  let ended = false;
  running.all?.on("data", (chunk: Buffer) => {
    printed += chunk.toString();
  });
  const end = running.finally(() => {
    ended = true;
  });
  const sees = async (step: RegExp) => {
    while (!step.test(printed) && !step.test(await world.runs())) {
      expect(ended, `${command} ended without ${step}:\n${printed}`).to.equal(false);
      await setTimeout(10);
    }
  };
  const foreground = -(running.pid ?? Number.NaN);

  await sees(at);
  switch (by) {
    case "Ctrl-C":
      process.kill(foreground, "SIGINT");
      break;
    case "Ctrl-C twice":
      process.kill(foreground, "SIGINT");
      await sees(/press \^C again/);
      process.kill(foreground, "SIGINT");
      break;
    case "kill -9 of the engine":
      process.kill(foreground, "SIGKILL");
      break;
    case "kill -9 of the provider":
      for (const pid of await world.providers()) {
        process.kill(Number(pid), "SIGKILL");
      }
      break;
    case "kill -9 of libvirtd":
      await world.killLibvirtd();
  }
  await end;

  await eventually(async () => expect(await world.providers(), "providers").to.deep.equal([]), STOP_LIMIT_SECONDS);
  await eventually(async () => expect(await world.diskDaemons(), "daemons").to.deep.equal([]), STOP_LIMIT_SECONDS);
  expect(printed, "no stack trace").not.to.match(/^\s+at .*:\d+:\d+\)?$/m);
  if (by === "Ctrl-C") {
    expect(printed).to.match(/\^C received; cancelling/);
    expect(printed, "steps that were running finish").not.to.match(/\(interrupted\)/);
  }
  if (by === "kill -9 of the engine") {
    await world.endOrphans();
    const refused = await world.pulumi([command, ...YES], { reject: false });
    expect(refused.all).to.match(/the stack is currently locked/);
    await world.pulumi(["cancel", "--yes"]);
  }
  if (by === "kill -9 of libvirtd") {
    await eventually(() => world.virsh("list"));
  }
}

/** One `up` brings the cluster to what the program says, with nothing of it missing and nothing twice or left over. */
export async function upConverges(world: World, numCpus: number): Promise<void> {
  await world.pulumi(["up", ...YES]);
  const preview = (await world.pulumi(["preview", "--diff"])).stdout;
  expect(preview, preview).to.match(new RegExp(`${numCpus + 5} unchanged`));
  const nodes = ["frontend", ...Array.from({ length: numCpus }, (_, index) => `compute-${index}`)];
  const machines = (await world.virsh("list", "--name")).split("\n").filter(Boolean);
  expect(machines.map((name) => name.replace(/^.*?-(?=frontend|compute)/, ""))).to.have.members(nodes);
  const there = await world.leftovers();
  // The network, its lease, the keys, the base and its mark; of each node a machine, a disk and a console.
  expect(there, there.join(" ")).to.have.lengthOf(5 + 3 * nodes.length);
}

export async function destroyConverges(world: World): Promise<void> {
  await world.pulumi(["destroy", ...YES]);
  expect(await world.leftovers()).to.deep.equal([]);
}
