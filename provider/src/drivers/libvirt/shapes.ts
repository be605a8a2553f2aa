import { setTimeout } from "node:timers/promises";
import type { Range, Shape } from "../driver";
import { SiteFailure } from "../errors";
import type { Guests } from "./guest";
import { BALLOON_TOLERANCE_MIB, diskVolume, type Machine } from "./machines";
import type { Virsh } from "./virsh";
import type { Volumes } from "./volumes";
import type { ObservedDomain } from "./xml";

const ONLINE_TRIES = 10;
const BALLOON_TRIES = 20;

/** How machines get other cpus, memory and disks: while they run where their guests take part, else by their definition. */
export class Shapes {
  constructor(
    private readonly virsh: Virsh,
    private readonly volumes: Volumes,
    private readonly guests: Guests,
  ) {}

  /** The definition alone, from which the next start is made. */
  async reshape({ name, mostCpus }: ObservedDomain, shape: Shape): Promise<void> {
    const memory = `${shape.memory}MiB`;
    const [cpus, most] = [String(shape.cpus), String(Math.max(shape.cpus, mostCpus))];
    await this.virsh.sequence([
      ["setmaxmem", name, memory, "--config"],
      ["setmem", name, memory, "--config"],
      ["setvcpus", name, most, "--config", "--maximum"],
      ["setvcpus", name, cpus, "--config"],
    ]);
  }

  async growDisk({ domain, state, diskSize }: Machine, shape: Shape): Promise<void> {
    if (shape.diskSize === undefined || diskSize === undefined || diskSize >= shape.diskSize) {
      return;
    }
    const size = `${shape.diskSize}MiB`;
    if (state === "off") {
      await this.virsh.run(["vol-resize", "--pool", this.volumes.pool, diskVolume(domain.name), size]);
    } else {
      await this.virsh.run(["blockresize", domain.name, domain.disk, size]);
      await this.guests.grow(domain.name);
    }
  }

  /**
   * @returns false for what takes a restart
   * @throws SiteFailure where the guest doesn't take part: nobody has announced a restart
   */
  async reshapeLive({ domain, cpus, memory, live }: Machine, shape: Shape): Promise<boolean> {
    if (!fits(live, shape)) {
      return false;
    }
    const { name } = domain;
    const isDone =
      (cpus === shape.cpus || (await this.addCpus(name, shape.cpus))) &&
      (memory === shape.memory || (await this.moveBalloon(name, shape.memory)));
    if (!isDone) {
      throw new SiteFailure(
        `machine ${name}: its guest doesn't take on ${shape.cpus} cpus and ${shape.memory} MiB while it runs`,
        "",
        'Run `pulumi up` again; with power: "off" and then "on" it starts in that shape',
      );
    }
    return true;
  }

  private async addCpus(name: string, cpus: number): Promise<boolean> {
    await this.virsh.run(["setvcpus", name, String(cpus), "--live", "--config"]);
    for (let tries = 0; tries < ONLINE_TRIES; tries++) {
      // The guest needs a moment to see them, and then has to be told to use them.
      await setTimeout(300);
      const [, count = ""] = await this.virsh.batch(
        [
          ["setvcpus", name, String(cpus), "--guest"],
          ["vcpucount", name, "--guest"],
        ],
        { tolerant: true },
      );
      if (Number(count.trim()) === cpus) {
        return true;
      }
    }
    return false;
  }

  private async moveBalloon(name: string, memory: number): Promise<boolean> {
    // The definition first, so that the next start is one in the same shape.
    await this.virsh.sequence([
      ["setmaxmem", name, `${memory}MiB`, "--config"],
      ["setmem", name, `${memory}MiB`, "--live", "--config"],
    ]);
    for (let tries = 0; tries < BALLOON_TRIES; tries++) {
      const stats = await this.virsh.run(["domstats", name, "--balloon"]);
      const current = Number(/balloon\.current=(\d+)/.exec(stats)?.[1] ?? 0) / 1024;
      if (Math.abs(current - memory) <= BALLOON_TOLERANCE_MIB) {
        return true;
      }
      await setTimeout(1000);
    }
    return false;
  }
}

function fits(live: Machine["live"], { cpus, memory }: Shape): boolean {
  const within = ({ min, max }: Range, value: number) => min <= value && value <= max;
  return within(live.cpus, cpus) && within(live.memory, memory);
}
