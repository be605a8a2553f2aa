import { setImmediate } from "node:timers/promises";
import { overlap, subnet } from "../../plan/addresses";
import { refuseOversize } from "../../plan/plan";
import { sha256 } from "../../vc-out/digest";
import { Batcher } from "../batcher";
import type {
  BootRequest,
  Capabilities,
  ClusterKeys,
  ClusterRecord,
  Driver,
  Holder,
  NodeRef,
  ObservedNode,
  Progress,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import { AddressTaken, ForeignOwner, NotFound, NotReady } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import type { MemorySettings } from "../settings";
import { type MemoryMachine, type MemorySite, memorySite } from "./site";

const CAPABILITIES: Capabilities = {
  macs: "fromAddress",
  liveReconfigure: true,
  liveResize: true,
  mergesNodes: false,
  readiness: true,
  parallelNodes: 8,
};

const PUBLIC_NETWORK = {
  name: "public",
  cidr: "198.51.100.0/24",
  gateway: "198.51.100.1",
  dns: ["198.51.100.1"],
  domain: "local",
} as const;

/** A site that lives in this process: for tests, and for trying a program without any machine. */
export class MemoryDriver implements Driver {
  readonly capabilities = CAPABILITIES;
  private readonly site: MemorySite;
  private readonly clustersRead: Batcher<string, ReadonlyMap<string, ObservedNode>>;

  constructor(settings: MemorySettings) {
    this.site = memorySite(settings.name);
    this.clustersRead = new Batcher((names) => this.loadClusters(names), 0);
  }

  async siteId(): Promise<string> {
    this.site.ask();
    return this.site.siteId;
  }

  async describe(): Promise<SiteDescription> {
    this.site.ask();
    const shapes = this.runningShapes();
    return {
      siteId: this.site.siteId,
      cpus: { total: this.site.cpus, free: this.site.cpus - sum(shapes, ({ cpus }) => cpus), perNode: 16 },
      memory: { total: this.site.memory, free: this.site.memory - sum(shapes, ({ memory }) => memory) },
      publicNetwork: PUBLIC_NETWORK,
      publicAddresses: Array.from({ length: 40 }, (_, index) => `198.51.100.${index + 10}`),
      takenAddresses: new Map([
        [PUBLIC_NETWORK.gateway, { description: "the network's gateway" }],
        ...[...this.site.leases].map(([ip, { cluster }]): [string, Holder] => [ip, holder(cluster)]),
      ]),
      privateRange: "10.84.0.0/16",
      takenSubnets: new Map(
        this.records().map(({ name, plan }): [string, Holder] => [plan.privateNetwork.cidr, holder(name)]),
      ),
    };
  }

  async find(clusterName: string): Promise<ClusterRecord | undefined> {
    this.site.ask();
    return structuredClone(this.recordOf(clusterName));
  }

  async read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    return (await this.clustersRead.get(clusterName)) ?? new Map();
  }

  async diagnose(node: NodeRef): Promise<string> {
    this.site.ask();
    return this.site.machines.get(keyOf(node))?.console ?? "";
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    const own = [...(await this.read(record.name)).values()].filter(({ state }) => state === "running");
    refuseOversize(record.plan, await this.describe(), own);

    // The network comes first: what follows belongs to the cluster that it records.
    await this.step("define network");
    const present = this.recordOf(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
    }
    this.refuseTakenSubnet(record);
    const ip = record.plan.frontend.publicIp;
    const formerIp = present?.plan.frontend.publicIp;
    if (formerIp !== undefined && formerIp !== ip) {
      this.releaseAddress(formerIp, record);
    }
    this.site.networks.set(record.name, structuredClone(record));

    await this.step("lease address");
    const lease = this.site.leases.get(ip);
    if (lease && !(lease.cluster === record.name && isOurs(lease.mark, record))) {
      if (!present) {
        this.site.networks.delete(record.name);
      }
      throw new AddressTaken(`public address ${ip}`, `cluster ${lease.cluster} has it`, PLAN_ANEW);
    }
    this.site.leases.set(ip, { cluster: record.name, mark: record.mark });

    await this.step("make keys");
    const keys = this.site.keys.get(record.name) ?? this.site.newKeys();
    this.site.keys.set(record.name, keys);

    await this.step("record keys");
    this.site.networks.set(record.name, structuredClone({ ...record, keys }));
    if (present) {
      await this.removeUnusedBases(digestsOf(present).filter((digest) => !digestsOf(record).includes(digest)));
    }
    return keys;
  }

  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    this.site.ask();
    for (const { digest } of [record.image.frontend, record.image.compute]) {
      if (this.site.bases.get(digest) !== "whole") {
        progress("copying the base image to the site");
        await this.step("begin base");
        this.site.bases.set(digest, "partial");
        await this.step("complete base");
        this.site.bases.set(digest, "whole");
      }
    }
  }

  async release(record: ClusterRecord, options: { readonly keepBaseImage: boolean }): Promise<void> {
    this.site.ask();
    const present = this.recordOf(record.name);
    if (present) {
      refuseForeign(`cluster ${record.name}`, present.mark, record);
    }
    for (const key of [...this.site.disks.keys()]) {
      if (key.startsWith(`${record.name}/`) && !this.site.machines.has(key)) {
        await this.step("delete leftover disk");
        this.site.disks.delete(key);
      }
    }
    await this.step("release address");
    this.releaseAddress((present ?? record).plan.frontend.publicIp, record);
    await this.step("delete keys");
    this.site.keys.delete(record.name);
    // The record goes last, so that an interrupted release can be taken up again.
    await this.step("delete network");
    this.site.networks.delete(record.name);
    if (!options.keepBaseImage) {
      await this.removeUnusedBases(digestsOf(record));
    }
  }

  async boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "kept"> {
    this.site.ask();
    const machine = this.machineOf(node);
    if (!machine) {
      await this.create(node, request);
      return "created";
    }
    const running = machine.state === "running";
    await this.step("sync machine");
    const { cpus, memory } = request.plan;
    Object.assign(machine, { shape: { cpus, memory }, state: "running", autostart: true });
    if (running && machine.takesVcOut) {
      machine.vcOut = request.vcOut;
    }
    return running ? "kept" : "started";
  }

  async waitFor(node: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    this.site.ask();
    const machine = this.existing(node);
    if (machine.state !== "running" || (goal === "ready" && !machine.healthy)) {
      const detail =
        machine.state === "running" ? `not ready after ${limits.seconds} s` : `its machine is ${machine.state}`;
      throw new NotReady(`node ${node.node}`, detail, "Run `pulumi up` again", machine.console);
    }
  }

  async reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    this.site.ask();
    const machine = this.existing(node);
    if (machine.state !== "running" || !machine.takesVcOut) {
      return "nextBoot";
    }
    await this.step("reconfigure");
    machine.vcOut = vcOut;
    return "live";
  }

  async resize(node: NodeRef, shape: Shape, _limits: StopLimits): Promise<"live" | "restarted"> {
    this.site.ask();
    const machine = this.existing(node);
    await this.step("resize");
    machine.shape = { cpus: shape.cpus, memory: shape.memory };
    return "live";
  }

  async shutdown(node: NodeRef, _limits: StopLimits): Promise<void> {
    this.site.ask();
    const machine = this.existing(node);
    await this.step("shut down");
    machine.state = "off";
  }

  async remove(node: NodeRef, _limits: StopLimits): Promise<void> {
    this.site.ask();
    const record = this.recordOf(node.cluster.name);
    if (this.machineOf(node)) {
      await this.step("delete machine");
      this.site.machines.delete(keyOf(node));
    } else if (record) {
      // A disk without a machine says by its name alone whose it is.
      refuseForeign(`cluster ${record.name}`, record.mark, node.cluster);
    }
    await this.step("delete disk");
    this.site.disks.delete(keyOf(node));
  }

  private async create(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const key = keyOf(node);
    if (!this.site.keys.has(node.cluster.name)) {
      throw new NotFound(`the keys of cluster ${node.cluster.name}`, "it isn't allocated here", "Run `pulumi up`");
    }
    if (!request.keepDisk || !this.site.disks.has(key)) {
      await this.step("make disk");
      this.site.disks.set(key, this.site.nextId("disk"));
    }
    await this.step("define machine");
    const { cpus, memory, privateMac } = request.plan;
    const machine: MemoryMachine = {
      shape: { cpus, memory },
      state: "off",
      macs: "publicMac" in request.plan ? [privateMac, String(request.plan.publicMac)] : [privateMac],
      autostart: true,
      vcOut: request.vcOut,
      takesVcOut: true,
      healthy: true,
      console: "",
      machineId: this.site.nextId("machine"),
      mark: node.cluster.mark,
    };
    this.site.machines.set(key, machine);
    await this.step("start machine");
    machine.state = "running";
  }

  private async loadClusters(names: readonly string[]): Promise<Map<string, ReadonlyMap<string, ObservedNode>>> {
    this.site.ask();
    const clusters = new Map<string, Map<string, ObservedNode>>(names.map((name) => [name, new Map()]));
    for (const [key, { shape, state, machineId, macs, autostart, vcOut, mark }] of this.site.machines) {
      const [cluster = "", node = ""] = key.split("/");
      const vcOutDigest = sha256(vcOut);
      clusters.get(cluster)?.set(node, {
        ...shape,
        ...{ state, machineId, macs, autostart, vcOutDigest },
        ...(mark && { mark }),
      });
    }
    return clusters;
  }

  private refuseTakenSubnet(record: ClusterRecord): void {
    const wanted = subnet(record.plan.privateNetwork.cidr);
    const neighbour = this.records().find(
      (other) => other.name !== record.name && overlap(wanted, subnet(other.plan.privateNetwork.cidr)),
    );
    if (neighbour) {
      throw new AddressTaken(`subnet ${wanted.cidr}`, `cluster ${neighbour.name} has it`, PLAN_ANEW);
    }
  }

  private releaseAddress(ip: string, record: ClusterRecord): void {
    const lease = this.site.leases.get(ip);
    if (lease?.cluster === record.name && isOurs(lease.mark, record)) {
      this.site.leases.delete(ip);
    }
  }

  private async removeUnusedBases(digests: readonly string[]): Promise<void> {
    for (const digest of digests) {
      await this.step("delete base");
      if (!this.records().some((record) => digestsOf(record).includes(digest))) {
        this.site.bases.delete(digest);
      }
    }
  }

  private records(): ClusterRecord[] {
    return [...this.site.networks.values()].filter((record) => record !== "unmarked");
  }

  /** @throws ForeignOwner for a network that carries no mark */
  private recordOf(clusterName: string): ClusterRecord | undefined {
    const record = this.site.networks.get(clusterName);
    if (record === "unmarked") {
      throw new ForeignOwner(
        `network ${clusterName}`,
        "exists and carries no mark of a virtual cluster",
        "Give this cluster another clusterName",
      );
    }
    return record;
  }

  /** @throws ForeignOwner for a machine of that name that isn't this cluster's */
  private machineOf(node: NodeRef): MemoryMachine | undefined {
    const machine = this.site.machines.get(keyOf(node));
    if (machine) {
      refuseForeign(`machine ${keyOf(node)}`, machine.mark, node.cluster);
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

  private runningShapes(): Shape[] {
    return [...this.site.machines.values()].filter(({ state }) => state === "running").map(({ shape }) => shape);
  }

  /** Before every change: gives others their turn, as every real site does, and lets tests interrupt. */
  private async step(name: string): Promise<void> {
    await setImmediate();
    this.site.beforeStep(name);
  }
}

const PLAN_ANEW = "Run `pulumi up` again: it plans anew";

function holder(cluster: string): Holder {
  return { cluster, description: `cluster ${cluster}` };
}

function digestsOf({ image }: ClusterRecord): string[] {
  return [image.frontend.digest, image.compute.digest];
}

function keyOf({ cluster, node }: NodeRef): string {
  return `${cluster.name}/${node}`;
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
