import { setImmediate, setTimeout } from "node:timers/promises";
import { overlap, subnet } from "../../plan/addresses";
import { type ClusterPlan, macsOf, refuseOversize, SITE_DECIDES, withMacs } from "../../plan/plan";
import { sha256 } from "../../vc-out/digest";
import { allDigestsOf, digestsOf, formerBases, withFormerBases } from "../bases";
import { Batcher } from "../batcher";
import type {
  BootRequest,
  Capabilities,
  Channel,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  FoundCluster,
  Holder,
  NodeRef,
  ObservedNode,
  Progress,
  Range,
  ReleaseOptions,
  RemoveOptions,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import { AddressTaken, ForeignOwner, Locked, NotFound, NotReady } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import type { MemorySettings } from "../settings";
import { SharedLocks } from "../shared-locks";
import { type MemoryMachine, type MemorySite, memorySite } from "./site";

const CAPABILITIES: Capabilities = {
  macs: "fromAddress",
  liveReconfigure: true,
  liveResize: true,
  mergesNodes: false,
  readiness: true,
  autostart: true,
  reserves: "running",
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
  readonly capabilities: Capabilities;
  private readonly site: MemorySite;
  private readonly locks = new SharedLocks();
  private readonly clustersRead: Batcher<string, ReadonlyMap<string, ObservedNode>>;

  constructor(settings: MemorySettings) {
    this.site = memorySite(settings.name);
    this.capabilities = { ...CAPABILITIES, macs: settings.macs ?? CAPABILITIES.macs };
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

  async inspect(record: ClusterRecord): Promise<readonly string[]> {
    this.site.ask();
    const { networks, stoppedNetworks, leases, keys, bases } = this.site;
    const ip = record.plan.frontend.publicIp;
    return [
      ...(networks.has(record.name) ? [] : ["its private network is gone"]),
      ...(stoppedNetworks.has(record.name) ? ["its private network is stopped"] : []),
      ...(leases.get(ip)?.cluster === record.name ? [] : [`the lease of its public address ${ip} is gone`]),
      ...(keys.has(record.name) ? [] : ["its keys are gone"]),
      ...(digestsOf(record).every((digest) => bases.get(digest) === "whole") ? [] : ["its base image is gone"]),
    ];
  }

  async survey(): Promise<readonly FoundCluster[]> {
    this.site.ask();
    const { machines, leases, locks, keptDisks } = this.site;
    const marks = new Map<string, ClusterRef["mark"]>([
      ...keptDisks,
      ...[...locks].map(([name, { mark }]) => [name, mark] as const),
      ...[...leases.values()].map(({ cluster, mark }) => [cluster, mark] as const),
      ...[...machines].flatMap(([key, { mark }]) => (mark ? [[clusterIn(key), mark] as const] : [])),
      ...this.records().map(({ name, mark }) => [name, mark] as const),
    ]);
    return [...marks].map(([name, mark]) => {
      const record = this.records().find((one) => one.name === name);
      return {
        name,
        mark,
        ...(record && { record: structuredClone(record) }),
        machines: [...machines.keys()]
          .filter((key) => clusterIn(key) === name)
          .map(nodeIn)
          .sort(),
        ...(keptDisks.has(name) && !machines.has(`${name}/frontend`) && { hasKeptDisk: true }),
        publicAddresses: [...leases].flatMap(([ip, { cluster }]) => (cluster === name ? [ip] : [])),
      };
    });
  }

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.locks.lock(cluster.name, async () => {
      const { locks } = this.site;
      for (const end = Date.now() + limits.seconds * 1000; locks.has(cluster.name); await setTimeout(LOCK_POLL_MS)) {
        this.site.ask();
        if (Date.now() > end) {
          const whose = locks.get(cluster.name)?.mark.owner ?? "nobody";
          throw new Locked(`cluster ${cluster.name}`, `another process of ${whose} is changing it`, "Wait for its end");
        }
      }
      this.site.ask();
      locks.set(cluster.name, { mark: cluster.mark, holder: this });
      return {
        [Symbol.asyncDispose]: async () => {
          if (locks.get(cluster.name)?.holder === this) {
            locks.delete(cluster.name);
          }
        },
      };
    });
  }

  async diagnose(node: NodeRef): Promise<string> {
    this.site.ask();
    return this.site.machines.get(keyOf(node))?.console ?? "";
  }

  async allocate(wished: ClusterRecord): Promise<ClusterKeys> {
    if (wished.power !== "off") {
      const own = [...(await this.read(wished.name)).values()].filter(({ state }) => state === "running");
      refuseOversize(wished.plan, await this.describe(), own);
    }

    // The network comes first: what follows belongs to the cluster that it records.
    await this.step("define network");
    const present = this.recordOf(wished.name);
    if (present) {
      refuseForeign(`cluster ${wished.name}`, present.mark, wished);
    }
    const record = { ...wished, plan: this.decided(wished.plan, present?.plan) };
    this.refuseTakenSubnet(record);
    const ip = record.plan.frontend.publicIp;
    const formerIp = present?.plan.frontend.publicIp;
    if (formerIp !== undefined && formerIp !== ip) {
      this.releaseAddress(formerIp, record);
    }
    this.site.networks.set(record.name, structuredClone(withFormerBases(record, formerBases(present, record))));

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
    const former = formerBases(present, record).filter((digest) => this.site.bases.has(digest));
    this.site.networks.set(record.name, structuredClone(withFormerBases({ ...record, keys }, former)));
    this.site.stoppedNetworks.delete(record.name);
    await this.removeUnusedBases(former);
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

  async release(cluster: ClusterRef | ClusterRecord, options: ReleaseOptions): Promise<void> {
    this.site.ask();
    const { name } = cluster;
    const present = this.recordOf(name);
    if (present) {
      refuseForeign(`cluster ${name}`, present.mark, cluster);
    }
    const left = [...this.site.disks.keys()].filter((key) => clusterIn(key) === name && !this.site.machines.has(key));
    for (const key of options.keepDisks ? [] : left) {
      await this.step("delete leftover disk");
      this.deleteDisk(key);
    }
    await this.step("release address");
    for (const ip of [...this.site.leases.keys()]) {
      this.releaseAddress(ip, cluster);
    }
    if (!(options.keepDisks && left.length > 0)) {
      await this.step("delete keys");
      this.site.keys.delete(name);
    }
    // The record goes last, so that an interrupted release can be taken up again.
    await this.step("delete network");
    this.site.networks.delete(name);
    this.site.stoppedNetworks.delete(name);
    if (!options.keepBaseImage) {
      const known = [present, "image" in cluster ? cluster : undefined].filter((record) => record !== undefined);
      await this.removeUnusedBases(known.flatMap(allDigestsOf));
    }
  }

  async boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    this.site.ask();
    const machine = this.machineOf(node);
    if (!machine || machine.filling) {
      await this.create(node, request);
      return "created";
    }
    await this.step("sync machine");
    machine.autostart = request.power === "on";
    if (request.power === "off") {
      const stopped = machine.state !== "off";
      machine.state = "off";
      await this.resize(node, request.plan, request.stop);
      return stopped ? "stopped" : "kept";
    }
    const { state, boots } = machine;
    if (!this.site.disks.has(keyOf(node)) && state !== "running") {
      if (request.role === "frontend" && request.keepDisk) {
        throw new NotFound(`node ${node.node}: its disk`, "is gone", "See whether it can be brought back");
      }
      await this.step("make disk");
      this.site.disks.set(keyOf(node), this.site.nextId("disk"));
      machine.vcOut = request.vcOut;
    }
    await this.resize(node, request.plan, request.stop);
    if (state === "running") {
      if (machine.takesVcOut) {
        machine.vcOut = request.vcOut;
        machine.vcOutWaits = false;
      } else if (machine.vcOut !== request.vcOut) {
        machine.vcOutWaits = true;
      }
      return machine.boots === boots ? "kept" : "started";
    }
    await this.step("start machine");
    if (machine.vcOutWaits) {
      Object.assign(machine, { vcOut: request.vcOut, vcOutWaits: false });
    }
    start(machine);
    return "started";
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

  async channel(node: NodeRef<ClusterRecord>): Promise<Channel> {
    this.site.ask();
    const machine = this.existing(node);
    return machine.state === "running" && machine.takesVcOut ? "agent" : "nextBoot";
  }

  async reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    this.site.ask();
    const machine = this.existing(node);
    await this.step("reconfigure");
    if (machine.state !== "running" || !machine.takesVcOut) {
      machine.vcOutWaits = true;
      return "nextBoot";
    }
    Object.assign(machine, { vcOut, vcOutWaits: false });
    return "live";
  }

  async resize(node: NodeRef, shape: Shape, _limits: StopLimits): Promise<"live" | "restarted"> {
    this.site.ask();
    const machine = this.existing(node);
    const key = keyOf(node);
    if (shape.diskSize !== undefined && shape.diskSize > (this.site.diskSizes.get(key) ?? IMAGE_MIB)) {
      await this.step("grow disk");
      this.site.diskSizes.set(key, shape.diskSize);
    }
    const { cpus, memory } = shape;
    if (machine.nextStart) {
      await this.step("resize");
      delete machine.nextStart;
    }
    if (machine.shape.cpus === cpus && machine.shape.memory === memory) {
      return "live";
    }
    await this.step("resize");
    machine.shape = { cpus, memory };
    if (machine.state !== "running" || (within(machine.live.cpus, cpus) && within(machine.live.memory, memory))) {
      return "live";
    }
    start(machine);
    return "restarted";
  }

  async shutdown(node: NodeRef, _limits: StopLimits): Promise<void> {
    this.site.ask();
    const machine = this.existing(node);
    await this.step("shut down");
    machine.state = "off";
  }

  async remove(node: NodeRef, { keepDisk = false }: RemoveOptions): Promise<void> {
    this.site.ask();
    const record = this.recordOf(node.cluster.name);
    const machine = this.machineOf(node);
    if (machine?.state === "running") {
      await this.step("stop machine");
      machine.state = "off";
    } else if (!machine && record) {
      // A disk without a machine says by its name alone whose it is.
      refuseForeign(`cluster ${record.name}`, record.mark, node.cluster);
    }
    const takeDisk = async () => {
      await this.step("delete disk");
      this.deleteDisk(keyOf(node));
    };
    // What `read` shows goes last: then a compute that no state knows is seen until all of it is gone. A frontend's disk
    // goes last, since with it a machine can be made again.
    if (node.node !== "frontend") {
      await takeDisk();
    }
    if (machine) {
      await this.step("delete machine");
      this.site.machines.delete(keyOf(node));
    }
    if (node.node === "frontend") {
      await (keepDisk ? this.keepDisk(node) : takeDisk());
    }
    await this.removeUnusedBases(record?.formerBases ?? []);
  }

  private async keepDisk(node: NodeRef): Promise<void> {
    if (this.site.disks.has(keyOf(node))) {
      await this.step("mark kept disk");
      this.site.keptDisks.set(node.cluster.name, node.cluster.mark);
    }
  }

  private async create(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const key = keyOf(node);
    if (!this.site.keys.has(node.cluster.name)) {
      throw new NotFound(`the keys of cluster ${node.cluster.name}`, "it isn't allocated here", "Run `pulumi up`");
    }
    const { cpus, memory, diskSize, privateIp } = request.plan;
    const macs = macsOf(this.recordOf(node.cluster.name)?.plan ?? node.cluster.plan);
    const macOf = (ip: string) => macs.get(ip) ?? "";
    const isData = this.site.disks.has(key) && this.site.machines.get(key)?.filling !== true;
    if (isData && request.role === "frontend" && !request.keepDisk) {
      throw new ForeignOwner(`disk ${key}`, "is there without a machine, and may hold data", "Set adopt: true");
    }
    // The machine comes before its disk: it says whether that is whole.
    await this.step("define machine");
    const machine: MemoryMachine = {
      shape: { cpus, memory },
      state: "off",
      macs: [privateIp, ...(request.role === "frontend" ? [node.cluster.plan.frontend.publicIp] : [])].map(macOf),
      autostart: request.power === "on",
      // Which vc-out.xml a kept disk has nobody knows.
      vcOut: isData && request.keepDisk ? "" : request.vcOut,
      takesVcOut: true,
      vcOutWaits: false,
      filling: !(isData && request.keepDisk),
      boots: 0,
      live: liveOf({ cpus, memory }),
      healthy: true,
      console: "",
      machineId: this.site.nextId("machine"),
      base: node.cluster.image[request.role].digest,
      mark: node.cluster.mark,
    };
    this.site.machines.set(key, machine);
    if (machine.filling) {
      await this.step("make disk");
      this.deleteDisk(key);
      this.site.disks.set(key, this.site.nextId("disk"));
      if (diskSize !== undefined) {
        this.site.diskSizes.set(key, diskSize);
      }
      machine.filling = false;
    }
    if (request.power === "on") {
      await this.step("start machine");
      start(machine);
    }
  }

  private async loadClusters(names: readonly string[]): Promise<Map<string, ReadonlyMap<string, ObservedNode>>> {
    this.site.ask();
    const clusters = new Map<string, Map<string, ObservedNode>>(names.map((name) => [name, new Map()]));
    for (const [key, machine] of this.site.machines) {
      const { shape, state, machineId, macs, autostart, vcOut, vcOutWaits, live, nextStart, mark } = machine;
      clusters.get(clusterIn(key))?.set(nodeIn(key), {
        ...shape,
        ...{ state, machineId, macs, autostart, live, vcOutWaits, vcOutDigest: sha256(vcOut) },
        ...(this.site.disks.has(key) && { diskSize: this.site.diskSizes.get(key) ?? IMAGE_MIB }),
        ...(nextStart && { nextStart }),
        ...(mark && { mark }),
      });
    }
    return clusters;
  }

  /** The plan with a MAC wherever that is left to this site: the one it has decided on before, else a new one. */
  private decided(plan: ClusterPlan, present: ClusterPlan | undefined): ClusterPlan {
    const before = present ? macsOf(present) : new Map<string, string>();
    const macs = [...macsOf(plan)].map(
      ([ip, mac]) => [ip, mac === SITE_DECIDES ? (before.get(ip) ?? this.site.nextMac()) : mac] as const,
    );
    return withMacs(plan, new Map(macs));
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

  private releaseAddress(ip: string, cluster: ClusterRef): void {
    const lease = this.site.leases.get(ip);
    if (lease?.cluster === cluster.name && isOurs(lease.mark, cluster)) {
      this.site.leases.delete(ip);
    }
  }

  private deleteDisk(key: string): void {
    this.site.disks.delete(key);
    this.site.diskSizes.delete(key);
    if (nodeIn(key) === "frontend") {
      this.site.keptDisks.delete(clusterIn(key));
    }
  }

  private async removeUnusedBases(digests: readonly string[]): Promise<void> {
    for (const digest of digests) {
      const named = this.records().some((record) => digestsOf(record).includes(digest));
      const used = [...this.site.machines.values()].some(({ base }) => base === digest);
      if (!named && !used) {
        await this.step("delete base");
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

const LOCK_POLL_MS = 10;
/** How large every image's disk is taken to be, MiB. */
const IMAGE_MIB = 16;
const MOST_CPUS = 16;
const LEAST_MEMORY_MIB = 64;

/** As at a real site: cpus can be added, and memory taken and given back, while the machine runs. */
function liveOf({ cpus, memory }: Pick<Shape, "cpus" | "memory">): MemoryMachine["live"] {
  return { cpus: { min: cpus, max: MOST_CPUS }, memory: { min: LEAST_MEMORY_MIB, max: memory } };
}

function within({ min, max }: Range, value: number): boolean {
  return min <= value && value <= max;
}

function start(machine: MemoryMachine): void {
  machine.state = "running";
  machine.boots += 1;
  machine.live = liveOf(machine.shape);
}

const PLAN_ANEW = "Run `pulumi up` again: it plans anew";

function holder(cluster: string): Holder {
  return { cluster, description: `cluster ${cluster}` };
}

function keyOf({ cluster, node }: NodeRef): string {
  return `${cluster.name}/${node}`;
}

function clusterIn(key: string): string {
  return key.split("/")[0] ?? "";
}

function nodeIn(key: string): string {
  return key.split("/")[1] ?? "";
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
