import type {
  BootRequest,
  Capabilities,
  Channel,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  FoundCluster,
  NodeRef,
  ObservedNode,
  Progress,
  ReleaseOptions,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import { GuestSsh } from "../guest-ssh";
import { allDone } from "../reverter";
import type { RocksSettings } from "../settings";
import { Clusters } from "./clusters";
import { Disks } from "./disks";
import { type Facts, readFacts, readTables } from "./facts";
import { RocksFrontend } from "./frontend";
import { Guests } from "./guests";
import { Locks } from "./locks";
import { Machines } from "./machines";
import { Nodes } from "./nodes";
import { Rows } from "./rows";
import { describeSite } from "./site";
import { Store } from "./store";

const CAPABILITIES: Capabilities = {
  macs: "site",
  liveReconfigure: true,
  liveResize: false,
  mergesNodes: false,
  readiness: true,
  autostart: false,
  reserves: "allocated",
  parallelNodes: 4,
  lacks: { retainDisks: "Rocks forgets on which host a disk lies when its machine goes" },
};

const DISK_FOLDER = "/state/partition1/virtual-cluster";

/** Clusters at a Rocks site, driven through its `rocks` command. */
export class RocksDriver implements Driver {
  readonly capabilities = CAPABILITIES;
  private readonly frontend: RocksFrontend;
  private readonly store: Store;
  private readonly clusters: Clusters;
  private readonly machines: Machines;
  private readonly nodes: Nodes;
  private readonly locks: Locks;
  private factsRead: Promise<Facts> | undefined;

  constructor(private readonly settings: RocksSettings) {
    const folder = settings.diskFolder ?? DISK_FOLDER;
    const facts = () => this.facts();
    this.frontend = new RocksFrontend(settings);
    this.store = new Store(this.frontend, folder);
    this.locks = new Locks(this.frontend, folder);
    const shared = settings.sharedDisks ?? false;
    const disks = new Disks(this.frontend, folder, shared, async () => (await this.facts()).ownName);
    const rows = new Rows(this.frontend, (vm) => disks.specificationOf(vm));
    this.machines = new Machines(this.frontend, this.store, disks);
    this.clusters = new Clusters(this.frontend, settings, this.store, disks, this.locks, rows, facts, (vms) =>
      this.nodes.stopAll(vms),
    );
    const guests = new Guests(new GuestSsh(settings.sshConfig));
    this.nodes = new Nodes(
      ...([this.frontend, this.store, disks, this.clusters, this.machines, guests, this.locks, facts] as const),
    );
  }

  async siteId(): Promise<string> {
    return (await this.facts()).siteId;
  }

  async describe(): Promise<SiteDescription> {
    const [facts, tables, { clusters }] = await Promise.all([
      this.facts(),
      readTables(this.frontend),
      this.store.read(),
    ]);
    return describeSite(
      this.settings,
      facts,
      tables,
      [...clusters.values()].map(({ record }) => record),
    );
  }

  find(clusterName: string): Promise<ClusterRecord | undefined> {
    return this.clusters.find(clusterName);
  }

  async read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    const machines = await this.machines.read(clusterName);
    return new Map([...machines].map(([node, { vm: _, file: __, hasDisk: ___, ...observed }]) => [node, observed]));
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

  allocate(record: ClusterRecord): Promise<ClusterKeys> {
    return this.clusters.allocate(record);
  }

  fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    return this.clusters.fixImages(record, progress);
  }

  async release(cluster: ClusterRef | ClusterRecord, options: ReleaseOptions): Promise<void> {
    const hasDisks = await this.nodes.removeLeftovers(cluster, options.keepDisks ?? false);
    await this.clusters.release(cluster, { ...options, keepKeys: hasDisks });
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

  remove(node: NodeRef, limits: StopLimits): Promise<void> {
    return this.nodes.remove(node, limits);
  }

  /** With what the account may do, so that a preview says it. Asked for anew until it answers; a Rocks doesn't change under one run of the engine. */
  private facts(): Promise<Facts> {
    this.factsRead ??= allDone(readFacts(this.frontend), this.frontend.refuseWithoutRights(this.store.folder)).then(
      ([facts]) => facts,
    );
    this.factsRead.catch(() => {
      this.factsRead = undefined;
    });
    return this.factsRead;
  }
}
