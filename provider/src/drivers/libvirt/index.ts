import { socketUri } from "../../default-site/libvirt";
import { sitePaths } from "../../default-site/paths";
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
import type { LibvirtSettings } from "../settings";
import { Clusters } from "./clusters";
import { Guests } from "./guest";
import { NetworkLocks } from "./locks";
import { Machines } from "./machines";
import { Nodes } from "./nodes";
import { capacityOf, describeSite } from "./site";
import { foundClusters } from "./survey";
import { Virsh } from "./virsh";
import { Volumes } from "./volumes";
import { type HostCapabilities, parseCapabilities } from "./xml";

const CAPABILITIES: Capabilities = {
  macs: "fromAddress",
  liveReconfigure: true,
  liveResize: true,
  mergesNodes: false,
  readiness: true,
  autostart: true,
  reserves: "running",
  parallelNodes: 8,
  lacks: {
    retainDisks: "a frontend's disk is only what differs from its base image, which goes with its last cluster",
  },
};

/** Settings with nothing left to a default that may differ tomorrow. */
export function resolveLibvirtSettings(settings: LibvirtSettings): LibvirtSettings {
  const defaultSite = sitePaths();
  const defaultUri = socketUri(defaultSite.socket);
  const uri = settings.uri ?? defaultUri;
  const sshConfig = settings.sshConfig ?? (uri === defaultUri ? defaultSite.sshConfig : undefined);
  return {
    ...settings,
    uri,
    network: settings.network ?? "public",
    pool: settings.pool ?? "virtual-cluster",
    ...(sshConfig && { sshConfig }),
  };
}

/** Clusters on one libvirt host, driven through `virsh`. */
export class LibvirtDriver implements Driver {
  readonly capabilities = CAPABILITIES;
  private readonly virsh: Virsh;
  private readonly volumes: Volumes;
  private readonly clusters: Clusters;
  private readonly machines: Machines;
  private readonly nodes: Nodes;
  private readonly locks: BeatLocks;
  private capabilitiesRead: Promise<HostCapabilities> | undefined;

  constructor(private readonly settings: LibvirtSettings) {
    const { uri = "", pool = "", sshConfig } = resolveLibvirtSettings(settings);
    this.virsh = new Virsh(uri);
    this.volumes = new Volumes(this.virsh, pool);
    this.machines = new Machines(this.virsh);
    this.clusters = new Clusters(
      this.virsh,
      this.volumes,
      () => this.machines.basesInUse(),
      (cluster) => this.nodes.keysInUse(cluster),
    );
    const guests = new Guests(this.virsh, new GuestSsh(sshConfig));
    this.nodes = new Nodes(this.virsh, this.machines, this.volumes, this.clusters, guests, () => this.host());
    // Runs of its own: a sign of life doesn't wait behind long transfers.
    this.locks = new BeatLocks(new NetworkLocks(new Virsh(uri)));
  }

  async siteId(): Promise<string> {
    return (await this.host()).uuid;
  }

  async describe(): Promise<SiteDescription> {
    const { network = "" } = resolveLibvirtSettings(this.settings);
    const [site] = await Promise.all([
      this.siteId().then((siteId) => describeSite(this.virsh, this.settings, network, siteId)),
      this.volumes.refuseMissingPool(),
    ]);
    return site;
  }

  find(clusterName: string): Promise<ClusterRecord | undefined> {
    return this.clusters.find(clusterName);
  }

  async read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    const machines = await this.machines.read(clusterName);
    return new Map([...machines].map(([node, { domain: _, ...observed }]) => [node, observed]));
  }

  async inspect(record: ClusterRecord): Promise<readonly string[]> {
    const findings = await this.clusters.inspect(record);
    // With the network, all of its NICs are out.
    const nodes = findings.length === 0 ? await this.nodes.unplugged(record) : [];
    return [...findings, ...nodes.map((node) => `${node} isn't plugged into its private network`)];
  }

  diagnose(node: NodeRef): Promise<string> {
    return this.nodes.diagnose(node);
  }

  async survey(): Promise<readonly FoundCluster[]> {
    const [networks, machines] = await Promise.all([this.clusters.survey(), this.machines.survey()]);
    return foundClusters(networks, machines);
  }

  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    return this.locks.lock(cluster, limits);
  }

  async allocate(record: ClusterRecord): Promise<ClusterKeys> {
    const [site, machines] = await Promise.all([
      capacityOf(this.virsh, this.settings),
      this.machines.read(record.name),
      this.volumes.refuseMissingPool(),
    ]);
    if (record.power !== "off") {
      const running = [...machines.values()].filter(({ state }) => state === "running");
      refuseOversize(record.plan, site, running);
    }
    const keys = await this.clusters.allocate(record);
    if (machines.size > 0) {
      await this.nodes.replug(record);
    }
    return keys;
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

  /** Asked for anew until it answers; a libvirt doesn't change under one run of the engine. */
  private host(): Promise<HostCapabilities> {
    this.capabilitiesRead ??= this.virsh.run(["capabilities"]).then(parseCapabilities);
    this.capabilitiesRead.catch(() => {
      this.capabilitiesRead = undefined;
    });
    return this.capabilitiesRead;
  }
}
