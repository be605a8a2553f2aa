import { setImmediate } from "node:timers/promises";
import { overlap, subnet } from "../../plan/addresses";
import { sha256 } from "../../vc-out/digest";
import type {
  BootRequest,
  Capabilities,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  Holder,
  NodeRef,
  NodeState,
  ObservedNode,
  Progress,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import { AddressTaken, NoCapacity, NotFound, NotReady } from "../errors";
import { refuseForeign } from "../ownership";
import type { MemorySettings } from "../settings";

/** A machine of the in-memory site. */
export interface MemoryMachine {
  shape: Shape;
  state: NodeState;
  macs: readonly string[];
  autostart: boolean;
  vcOut: string;
  /** Whether it gets ready when it is waited for. */
  healthy: boolean;
  readonly machineId: string;
  readonly cluster: ClusterRef;
}

/** All that an in-memory site holds. Tests look into it, and change it behind our back. */
export class MemorySite {
  readonly clusters = new Map<string, ClusterRecord>();
  readonly leases = new Map<string, string>();
  readonly bases = new Set<string>();
  /** Keyed by `cluster/node`. */
  readonly disks = new Set<string>();
  readonly machines = new Map<string, MemoryMachine>();
  siteId = "memory-site";
  cpus = 64;
  memory = 262_144;
  /** Called before every change; a test that throws here interrupts the operation at that step. */
  beforeStep: (step: string) => void = () => undefined;
  private serial = 0;

  nextMachineId(): string {
    this.serial += 1;
    return `machine-${this.serial}`;
  }
}

const sites = new Map<string, MemorySite>();

/** The site of that name in this process. */
export function memorySite(name: string): MemorySite {
  const site = sites.get(name) ?? new MemorySite();
  sites.set(name, site);
  return site;
}

const CAPABILITIES: Capabilities = {
  macs: "fromAddress",
  liveReconfigure: true,
  liveResize: true,
  mergesNodes: false,
  readiness: true,
  parallelNodes: 8,
};

/** A site that lives in this process: for tests, and for trying a program without any machine. */
export class MemoryDriver implements Driver {
  readonly capabilities = CAPABILITIES;
  private readonly site: MemorySite;

  constructor(settings: MemorySettings) {
    this.site = memorySite(settings.name);
  }

  async siteId(): Promise<string> {
    return this.site.siteId;
  }

  async describe(): Promise<SiteDescription> {
    const running = [...this.site.machines.values()]
      .filter(({ state }) => state === "running")
      .map(({ shape }) => shape);
    const gateway: Holder = { description: "the network's gateway" };
    return {
      siteId: this.site.siteId,
      cpus: { total: this.site.cpus, free: this.site.cpus - sum(running.map(({ cpus }) => cpus)), perNode: 16 },
      memory: { total: this.site.memory, free: this.site.memory - sum(running.map(({ memory }) => memory)) },
      publicNetwork: {
        name: "public",
        cidr: "198.51.100.0/24",
        gateway: "198.51.100.1",
        dns: ["198.51.100.1"],
        domain: "local",
      },
      publicAddresses: Array.from({ length: 40 }, (_, index) => `198.51.100.${index + 10}`),
      takenAddresses: new Map([
        ["198.51.100.1", gateway],
        ...[...this.site.leases].map(([ip, cluster]): [string, Holder] => [
          ip,
          { cluster, description: `cluster ${cluster}` },
        ]),
      ]),
      privateRange: "10.84.0.0/16",
      takenSubnets: new Map(
        [...this.site.clusters.values()].map(({ name, plan }): [string, Holder] => [
          plan.privateNetwork.cidr,
          { cluster: name, description: `cluster ${name}` },
        ]),
      ),
    };
  }

  async find(clusterName: string): Promise<ClusterRecord | undefined> {
    const record = this.site.clusters.get(clusterName);
    return record && structuredClone(record);
  }

  async read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    const nodes = new Map<string, ObservedNode>();
    for (const [key, machine] of this.site.machines) {
      const [cluster, node = ""] = key.split("/");
      if (cluster === clusterName) {
        nodes.set(node, {
          ...machine.shape,
          state: machine.state,
          machineId: machine.machineId,
          macs: machine.macs,
          autostart: machine.autostart,
          vcOutDigest: sha256(machine.vcOut),
          mark: { version: 1, createdAt: "", ...machine.cluster.mark },
        });
      }
    }
    return nodes;
  }

  async diagnose(node: NodeRef): Promise<string> {
    return this.site.machines.get(keyOf(node))?.healthy === false ? "console: no root file system" : "";
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    const present = this.site.clusters.get(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
    }
    const ip = record.plan.frontend.publicIp;
    const holder = this.site.leases.get(ip);
    if (holder !== undefined && holder !== record.name) {
      throw new AddressTaken(
        `public address ${ip}`,
        `cluster ${holder} has it`,
        "Run `pulumi up` again: it plans anew",
      );
    }
    const wanted = subnet(record.plan.privateNetwork.cidr);
    const neighbour = [...this.site.clusters.values()].find(
      (other) => other.name !== record.name && overlap(wanted, subnet(other.plan.privateNetwork.cidr)),
    );
    if (neighbour) {
      throw new AddressTaken(
        `subnet ${wanted.cidr}`,
        `cluster ${neighbour.name} has it`,
        "Run `pulumi up` again: it plans anew",
      );
    }
    const keys = { hostKey: `ssh-ed25519 host-of-${record.name}`, rootKey: `ssh-ed25519 root-of-${record.name}` };
    await this.step("allocate");
    this.site.clusters.set(record.name, structuredClone({ ...record, keys }));
    await this.step("lease");
    this.site.leases.set(ip, record.name);
    return keys;
  }

  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    for (const { digest } of [record.image.frontend, record.image.compute]) {
      if (!this.site.bases.has(digest)) {
        progress("copying the base image to the site");
        await this.step("base");
        this.site.bases.add(digest);
      }
    }
  }

  async release(record: ClusterRecord, options: { readonly keepBaseImage: boolean }): Promise<void> {
    const present = this.site.clusters.get(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
      await this.step("release lease");
      this.site.leases.delete(present.plan.frontend.publicIp);
      await this.step("release cluster");
      this.site.clusters.delete(record.name);
    }
    const others = [...this.site.clusters.values()].flatMap(({ image }) => [
      image.frontend.digest,
      image.compute.digest,
    ]);
    for (const { digest } of [record.image.frontend, record.image.compute]) {
      if (!options.keepBaseImage && !others.includes(digest)) {
        await this.step("release base");
        this.site.bases.delete(digest);
      }
    }
  }

  async boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const key = keyOf(node);
    const { cpus, memory, privateMac } = request.plan;
    const machine = this.machineOf(node);
    if (machine) {
      await this.step("sync");
      Object.assign(machine, { shape: { cpus, memory }, state: "running", autostart: true, vcOut: request.vcOut });
      return;
    }
    const running = sum([...this.site.machines.values()].map(({ shape }) => shape.cpus));
    if (running + cpus > this.site.cpus) {
      throw new NoCapacity(`node ${node.node}`, `the site has ${this.site.cpus - running} cpus left`);
    }
    await this.step("disk");
    this.site.disks.add(key);
    await this.step("machine");
    this.site.machines.set(key, {
      shape: { cpus, memory },
      state: "running",
      macs: "publicMac" in request.plan ? [privateMac, String(request.plan.publicMac)] : [privateMac],
      autostart: true,
      vcOut: request.vcOut,
      healthy: true,
      machineId: this.site.nextMachineId(),
      cluster: { name: node.cluster.name, mark: node.cluster.mark },
    });
  }

  async waitFor(node: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    const machine = this.existing(node);
    if (machine.state !== "running" || (goal === "ready" && !machine.healthy)) {
      throw new NotReady(
        `node ${node.node}`,
        `not ready after ${limits.seconds} s`,
        "Run `pulumi up` again",
        await this.diagnose(node),
      );
    }
  }

  async reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const machine = this.existing(node);
    if (machine.state !== "running") {
      return "nextBoot";
    }
    await this.step("reconfigure");
    machine.vcOut = vcOut;
    return "live";
  }

  async resize(node: NodeRef, shape: Shape, _limits: StopLimits): Promise<"live" | "restarted"> {
    const machine = this.existing(node);
    await this.step("resize");
    machine.shape = { cpus: shape.cpus, memory: shape.memory };
    return "live";
  }

  async shutdown(node: NodeRef, _limits: StopLimits): Promise<void> {
    const machine = this.existing(node);
    await this.step("shutdown");
    machine.state = "off";
  }

  async remove(node: NodeRef, _limits: StopLimits): Promise<void> {
    if (this.machineOf(node)) {
      await this.step("remove machine");
      this.site.machines.delete(keyOf(node));
    }
    await this.step("remove disk");
    this.site.disks.delete(keyOf(node));
  }

  /** Gives others their turn, as every real site does, and lets tests interrupt. */
  private async step(name: string): Promise<void> {
    await setImmediate();
    this.site.beforeStep(name);
  }

  private machineOf(node: NodeRef): MemoryMachine | undefined {
    const machine = this.site.machines.get(keyOf(node));
    if (machine) {
      refuseForeign(`machine ${keyOf(node)}`, { version: 1, createdAt: "", ...machine.cluster.mark }, node.cluster);
    }
    return machine;
  }

  private existing(node: NodeRef): MemoryMachine {
    const machine = this.machineOf(node);
    if (!machine) {
      throw new NotFound(`node ${node.node} of cluster ${node.cluster.name}`, "its machine is gone", "Run `pulumi up`");
    }
    return machine;
  }
}

function keyOf({ cluster, node }: NodeRef): string {
  return `${cluster.name}/${node}`;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
