import { refuseOversize } from "../../plan/plan";
import { BeatLocks } from "../beat-locks";
import type {
  BootRequest,
  Capabilities,
  Channel,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  ForeseenImages,
  FoundCluster,
  NodeRef,
  ObservedNode,
  Progress,
  ReleaseOptions,
  RemoveOptions,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import { NoCapacity } from "../errors";
import { GuestSsh } from "../guest-ssh";
import { isOurs } from "../ownership";
import type { OpenNebulaSettings } from "../settings";
import { OneClient } from "./client";
import { Clusters } from "./clusters";
import { Images } from "./images";
import { foresee, refuseUndeliverable } from "./injected-images";
import { TemplateLocks } from "./locks";
import { isOfCluster, Machines, takesRoom } from "./machines";
import { Needs } from "./needs";
import { Networks } from "./networks";
import { Nodes } from "./nodes";
import { markOf } from "./objects";
import { Pools } from "./pools";
import { type Caller, callerOf, describeSite, refuseMissingRights, roomOf, siteIdOf } from "./site";
import { TakenAddresses } from "./taken-addresses";

/** Settings with nothing left to a default that may differ tomorrow. */
export function resolveOpenNebulaSettings(settings: OpenNebulaSettings): OpenNebulaSettings {
  return {
    ...settings,
    endpoint: settings.endpoint ?? process.env.ONE_XMLRPC ?? "http://localhost:2633/RPC2",
    network: settings.network ?? "public",
    datastore: settings.datastore ?? "default",
    readiness: settings.readiness ?? "running",
  };
}

/** Clusters in an OpenNebula, driven through its XML-RPC, as one of its users. */
export class OpenNebulaDriver implements Driver {
  readonly capabilities: Capabilities;
  private readonly settings: OpenNebulaSettings;
  private readonly client: OneClient;
  private readonly pools: Pools;
  private readonly networks: Networks;
  private readonly images: Images;
  private readonly machines: Machines;
  private readonly clusters: Clusters;
  private readonly needs: Needs;
  private readonly nodes: Nodes;
  private readonly locks: BeatLocks;
  private readonly taken: TakenAddresses;
  private id: Promise<string> | undefined;
  private user: Promise<number> | undefined;

  constructor(settings: OpenNebulaSettings) {
    this.settings = resolveOpenNebulaSettings(settings);
    this.capabilities = {
      macs: "fromAddress",
      liveReconfigure: true,
      liveResize: false,
      mergesNodes: false,
      readiness: this.settings.readiness !== "running",
      autostart: false,
      reserves: "running",
      parallelNodes: 8,
      ...(this.settings.delivery === "image" && {
        lacks: {
          retainDisks: "nobody can write a new vc-out.xml into a disk that is kept, and no context disc brings one",
        },
      }),
    };
    const { endpoint = "" } = this.settings;
    this.client = new OneClient(endpoint);
    this.pools = new Pools(this.client);
    this.taken = new TakenAddresses(endpoint);
    const uid = () => this.uid();
    this.networks = new Networks(this.client, this.pools, this.settings, this.taken, uid);
    this.images = new Images(this.client, this.pools, this.settings, uid);
    this.machines = new Machines(this.pools);
    this.needs = new Needs(this.pools, this.networks, this.images, this.settings);
    this.clusters = new Clusters(this.client, this.pools, this.networks, this.images, this.settings);
    this.nodes = new Nodes(
      this.client,
      this.pools,
      this.machines,
      this.clusters,
      this.networks,
      this.images,
      this.settings,
      new GuestSsh(this.settings.sshConfig),
    );
    this.locks = new BeatLocks(new TemplateLocks(this.client, this.pools));
  }

  async siteId(): Promise<string> {
    this.id ??= this.caller().then((caller) => siteIdOf(this.client, caller));
    this.id.catch(() => {
      this.id = undefined;
    });
    return this.id;
  }

  async describe(): Promise<SiteDescription> {
    const [siteId, caller, vms] = await Promise.all([
      this.siteId(),
      this.caller(),
      this.pools.vms(),
      this.networks.refuseMissingWay(),
      this.images.datastore(),
    ]);
    const [room] = await Promise.all([
      roomOf(this.client, caller, vms, this.settings),
      refuseMissingRights(this.client, caller),
    ]);
    return describeSite(siteId, caller, room, this.networks, this.pools, this.taken, this.settings);
  }

  find(clusterName: string): Promise<ClusterRecord | undefined> {
    return this.clusters.find(clusterName);
  }

  read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    return this.machines.read(clusterName);
  }

  foresee(images: ForeseenImages): readonly string[] {
    return foresee(this.settings, images);
  }

  inspect(record: ClusterRecord): Promise<readonly string[]> {
    return this.clusters.inspect(record);
  }

  diagnose(node: NodeRef): Promise<string> {
    return this.nodes.diagnose(node);
  }

  survey(): Promise<readonly FoundCluster[]> {
    return this.clusters.survey();
  }

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.locks.lock(cluster, limits);
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    refuseUndeliverable(this.settings, record.image);
    const [caller, vms] = await Promise.all([this.caller(), this.pools.vms()]);
    const own = vms.filter((vm) => isOfCluster(vm, record) && isOurs(markOf(vm), record));
    const room = await roomOf(this.client, caller, vms, this.settings);
    const nodes = 1 + record.plan.computes.length;
    refuseMachines(nodes - own.length, "more", room.machines);
    if (record.power !== "off") {
      const awake = own.filter(takesRoom);
      refuseOversize(record.plan, room, awake);
      refuseMachines(nodes - awake.length, "more running", room.running);
    }
    await this.needs.refuseBeyondQuotas(caller.quotas, record, own);
    return this.clusters.allocate(record);
  }

  fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    return this.clusters.fixImages(record, progress);
  }

  release(cluster: ClusterRef | ClusterRecord, options: ReleaseOptions): Promise<void> {
    return this.clusters.release(cluster, { ...options, keepDisks: options.keepDisks ?? false });
  }

  boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    return this.nodes.boot(node, request);
  }

  waitFor(node: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    return this.nodes.waitFor(node, goal, limits);
  }

  channel(node: NodeRef<ClusterRecord>): Promise<Channel> {
    return this.nodes.channel(node);
  }

  reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    return this.nodes.reconfigure(node, vcOut);
  }

  resize(node: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    return this.nodes.resize(node, shape, limits);
  }

  shutdown(node: NodeRef, limits: StopLimits): Promise<void> {
    return this.nodes.shutdown(node, limits);
  }

  remove(node: NodeRef, options: RemoveOptions): Promise<void> {
    return this.nodes.remove(node, options);
  }

  /** With its quotas as they are now. */
  private caller(): Promise<Caller> {
    return callerOf(this.client);
  }

  /** Asked for until it is told: a session doesn't become another user's. */
  private uid(): Promise<number> {
    this.user ??= this.caller().then(({ uid }) => uid);
    this.user.catch(() => {
      this.user = undefined;
    });
    return this.user;
  }
}

/** @throws NoCapacity */
function refuseMachines(needed: number, which: string, free: number): void {
  if (needed > free) {
    throw new NoCapacity(
      `the cluster needs ${needed} ${which} machines`,
      `the user's quota leaves ${Math.max(0, free)}`,
      "Lower numCpus or raise cpusPerNode, or let the site's admin raise the quota (`oneuser quota`)",
    ).about("numCpus");
  }
}
