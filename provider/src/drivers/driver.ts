import type { ClusterPlan, NodePlan, PublicNetwork } from "../plan/plan";
import type { Dialect } from "../vc-out/vc-out";
import type { SiteSettings } from "./settings";

/**
 * The driver contract: all that the resources ask of a site. `docs/drivers.md` is the recipe for writing one, and
 * `test/conformance/` holds every driver to it.
 *
 * Rules that hold for every operation:
 * - It may be called again after it was interrupted anywhere, and then finishes the work.
 * - It touches only what carries our mark with the same owner; else it throws {@link ForeignOwner}.
 * - It throws the sentinel errors of `errors.ts`, {@link Unreachable} among them, and never takes silence for absence.
 * - Memory is in MiB, disks are in bytes, time limits are in seconds.
 */
export interface Driver {
  readonly capabilities: Capabilities;

  // ── What is there ────────────────────────────────────────────────────────────────────────────────────────────────

  /** What the site calls itself. Another id than the recorded one is another site. One call. */
  siteId(): Promise<string>;

  /** What the site is, has and hands out. A bounded number of calls, whatever the number of machines. */
  describe(): Promise<SiteDescription>;

  /**
   * A cluster as the site knows it, whoever owns it; undefined when there is nothing of that name.
   * @throws ForeignOwner when there is, and it carries no mark
   */
  find(clusterName: string): Promise<ClusterRecord | undefined>;

  /** Every machine of a cluster, by node (`frontend`, `compute-0` …), whoever owns it. Calls made at the same time share their requests to the site. */
  read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>>;

  /**
   * What a preview should say of nodes of these images at this site, one sentence each, for people. Asks nobody. Absent where
   * all images are alike to the site.
   * @throws NotSupported for images that can't be run here as the site is set up
   */
  readonly foresee?: (images: ForeseenImages) => readonly string[];

  /**
   * What of the cluster's own things, machines aside, isn't as `allocate` leaves it: one sentence each, for people.
   * `allocate` mends all of it.
   */
  inspect(record: ClusterRecord): Promise<readonly string[]>;

  /** What may explain why a node isn't ready, for people: the console's last lines and the like. */
  diagnose(node: NodeRef): Promise<string>;

  /** Everything at the site with a mark, by cluster, whoever owns it and whether or not its record is still there. */
  survey(): Promise<readonly FoundCluster[]>;

  // ── Who may change it ────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Takes the lock of a cluster at the site: of all processes one has it, and its own operations share it. It is given
   * back when the result is disposed of, and is nobody's as soon as its holder is seen to be gone.
   * @throws Locked when another process still has it after `seconds`
   */
  lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable>;

  // ── A cluster: fix images, allocate, release ─────────────────────────────────────────────────────────────────────

  /**
   * Reserves what the record plans, all of it or nothing, and writes the record down at the site. Called again for a
   * cluster of ours it brings the record up to date (a resize, new keys), mends what `inspect` names, and gives back what
   * only the former record named; a base image not before the last machine that uses it is gone. What the plan leaves
   * to the site (`SITE_DECIDES`) is in the record that `find` gives from then on, and stays for as long as its node is
   * planned.
   * @throws AddressTaken, NoCapacity, ForeignOwner
   */
  allocate(record: ClusterRecord, progress?: Progress): Promise<ClusterKeys>;

  /**
   * Makes the cluster's disks bootable at this site and stores each once, under its digest.
   * @throws InvalidImage, NoCapacity
   */
  fixImages(record: ClusterRecord, progress: Progress): Promise<void>;

  /**
   * Gives back all that `allocate` and `fixImages` took, and disks that an interrupted `boot` left; a base image only
   * when no other cluster uses it. Machines must be gone. Already gone is success.
   * @param cluster with its record where that is known: a part of what only the record names may still be there
   */
  release(cluster: ClusterRef | ClusterRecord, options: ReleaseOptions): Promise<void>;

  // ── A node ───────────────────────────────────────────────────────────────────────────────────────────────────────

  /**
   * Makes sure that the node's machine exists in its planned shape with this vc-out.xml, and runs or is off as asked.
   * A machine that runs in another shape is resized. A whole disk without a machine is used again when `keepDisk` says
   * that the node had been created before, else it is a leftover of an interrupted create and made anew; a disk that
   * isn't whole is always made anew. A running machine is handed its vc-out.xml as by `reconfigure`; one that has to be
   * started first has its old one still, unless
   * `reconfigure` has left the new one for its next boot: what the node was given last is `vcOutDigest` of `read`.
   * @returns what it had to do: make the machine, start or stop the one that was there, or none of these
   * @throws NoCapacity, ForeignOwner
   */
  boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept">;

  /**
   * Waits until the node is `running` or `ready`.
   * @throws NotReady when the time is up, with the diagnosis
   */
  waitFor(node: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void>;

  /** By which way a new vc-out.xml would reach the node as it is now. Changes nothing. */
  channel(node: NodeRef<ClusterRecord>): Promise<Channel>;

  /**
   * Hands the node a new vc-out.xml: at once where the guest offers a channel, else for its next boot, before which
   * `boot` writes it into the node's disk.
   * @returns how it got there
   */
  reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot">;

  /**
   * Gives the machine another shape; restarts it only where the site can't do it live, which is outside the `live`
   * ranges of `read`. A disk only grows: one that is larger than asked for stays as it is.
   */
  resize(node: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted">;

  /** Stops the machine and keeps its disk: asks the guest, and pulls the plug when `graceSeconds` are up. */
  shutdown(node: NodeRef, limits: StopLimits): Promise<void>;

  /** Takes the machine away with its disks and whatever else belongs to this node alone. Already gone is success. */
  remove(node: NodeRef, options: RemoveOptions): Promise<void>;
}

/** What a driver and its site can do. */
export interface Capabilities {
  /** Who chooses MAC addresses: we do, they follow from the IP address, or the site tells them after `allocate`. */
  readonly macs: "ours" | "fromAddress" | "site";
  /** `site`: the site deals addresses and names too, and tells them after `allocate`. Absent: we do. */
  readonly addresses?: "site";
  /** Whether a running guest can be handed a new vc-out.xml. */
  readonly liveReconfigure: boolean;
  /** Whether cpus or memory of a running machine can change without a restart, within what its guest takes part in. */
  readonly liveResize: boolean;
  /** Whether the site may give fewer nodes with more cpus each. */
  readonly mergesNodes: boolean;
  /** Whether readiness can be learned from the guest, not only that the machine runs. */
  readonly readiness: boolean;
  /** Whether a machine can be made to start with its host. */
  readonly autostart: boolean;
  /** What takes cpus and memory: machines that run, or every machine from `allocate` on. */
  readonly reserves: "running" | "allocated";
  /** How many machines may be made or removed at the same time. */
  readonly parallelNodes: number;
  /** What this site can't do, each with what it lacks for that, for people: the preview refuses it. Absent: nothing. */
  readonly lacks?: Readonly<Partial<Record<Ability, string>>>;
}

/** What only some sites can't do. */
export type Ability =
  /** Change an allocated cluster: its computes, its shapes, its keys. */
  | "resize"
  /** Take a machine or a cluster away. */
  | "removal"
  /** Turn a machine off and keep its disk. */
  | "powerOff"
  /** Give a disk another size than its image's. */
  | "diskSize"
  /** Give the frontend an address of the user's choice. */
  | "publicIp"
  /** Write vc-out.xml in a dialect of the user's choice. */
  | "vcOutDialect"
  /** Keep a frontend's disk, and the keys that are on it, when its cluster goes. */
  | "retainDisks";

export interface SiteDescription {
  readonly siteId: string;
  readonly cpus: Capacity & {
    /** The most cpus that one node can have. */
    readonly perNode: number;
  };
  /** MiB. */
  readonly memory: Capacity;
  /** Whether frontends take none of these: they have a host of their own. Absent: they do. */
  readonly frontendsApart?: true;
  readonly publicNetwork: PublicNetwork;
  /** Addresses of the public network that the site hands out, lowest first. */
  readonly publicAddresses: readonly string[];
  /** Public addresses in use or reserved, by whomever. */
  readonly takenAddresses: ReadonlyMap<string, Holder>;
  /** The range that private subnets are cut from, in CIDR notation. */
  readonly privateRange: string;
  /** Subnets in use at the site, in CIDR notation. */
  readonly takenSubnets: ReadonlyMap<string, Holder>;
  /** Which MAC goes with an address, where the site says so. Default: the one that we make from the address. */
  readonly macOf?: (ip: string) => string;
}

/** Infinity where the site doesn't tell. */
export interface Capacity {
  readonly total: number;
  readonly free: number;
}

/** Whose an address is: a cluster's name, or in words what else holds it. */
export interface Holder {
  readonly cluster?: string;
  readonly description: string;
}

/** The ownership mark, version 1. */
export interface Mark {
  readonly version: 1;
  readonly owner: string;
  readonly organization: string;
  readonly project: string;
  readonly stack: string;
  /** The logical name in the program. */
  readonly cluster: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly expiresAt?: string;
}

export interface ReleaseOptions {
  readonly keepBaseImage: boolean;
  /** Whether disks without a machine stay, and the keys that are on them: they may be from before. Default false. */
  readonly keepDisks?: boolean;
}

/** How a new vc-out.xml reaches a guest. */
export type Channel = "agent" | "ssh" | "context" | "site" | "nextBoot";

/** What `survey` finds of one cluster. */
export interface FoundCluster extends ClusterRef {
  /** Absent where it is lost: then only machines, leases or a lock are left. */
  readonly record?: ClusterRecord;
  /** Nodes that have a machine, sorted. */
  readonly machines: readonly string[];
  /** Whether its frontend's disk is there without a machine. Absent: it isn't, or the site can't keep one. */
  readonly hasKeptDisk?: true;
  readonly publicAddresses: readonly string[];
}

/** All that a site must remember of a cluster, so that a node can be made from it alone. */
export interface ClusterRecord {
  readonly name: string;
  readonly mark: Mark;
  /** How to reach the site; nothing secret. */
  readonly site: SiteSettings;
  readonly plan: ClusterPlan;
  readonly image: ImageRecord;
  /** Public ssh keys that may log in as root. */
  readonly publicKeys: readonly string[];
  /** Public halves of the cluster's own keys; absent before `allocate`. */
  readonly keys?: ClusterKeys;
  /** How many computes must be ready for the cluster to count as up. Absent: all. */
  readonly minReady?: number;
  /** Whether its machines are to be off: then it takes no cpus and no memory. Absent: on. */
  readonly power?: "off";
  /** Digests of bases that the cluster has left for others, and its machines perhaps not yet. Drivers keep this. */
  readonly formerBases?: readonly string[];
  /** Whether what lies on its frontend's disk may be data: it was taken over, or has changed since it was made. */
  readonly mayHoldData?: true;
}

/** Public halves of the keys that are made for one cluster and lie only on its own disks; absent where a site doesn't tell them. */
export interface ClusterKeys {
  /** The ssh host key of all nodes, `ssh-ed25519 AAAA…`. */
  readonly hostKey?: string;
  /** Root's own key, with which nodes reach each other. */
  readonly rootKey?: string;
}

export interface ImageRecord {
  readonly vcName: string;
  /** Absent where computes have the frontend's image. */
  readonly computeVcName?: string;
  readonly frontend: DiskImage;
  readonly compute: DiskImage;
}

export interface DiskImage {
  /** SHA-256 of the RAW disk, hex. */
  readonly digest: string;
  /** Bytes. */
  readonly size: number;
  /** What the machine's disk and NICs must look like for this image to find them. */
  readonly devices: "virtio" | "sata";
  /** Byte offset of the root partition. */
  readonly rootOffset: number;
  /** Absent: ext2, ext3 or ext4. */
  readonly rootFileSystem?: "xfs" | "btrfs";
  /** Whether its files have SELinux' labels. Absent: nobody asks for them. */
  readonly isLabelled?: true;
  /** By which way the network contract reaches what is inside. Absent: `vc-out.xml`. */
  readonly reads?: NetworkContract;
  /** Whether something inside takes its vc-out.xml from an OpenNebula context disc. */
  readonly takesContext?: true;
  /** Whether something inside tells an OneGate that it is ready. */
  readonly reportsReady?: true;
  /** In which its reader wants the vc-out.xml. Absent: in the default one. */
  readonly vcOutDialect?: Dialect;
}

/** What is known of a disk before it was read whole. */
export type ExaminedDisk = Omit<DiskImage, "digest">;

/** An image as a preview knows it, and what is asked of it. */
export interface ForeseenImages {
  readonly vcName: string;
  readonly frontend: ExaminedDisk;
  readonly compute: ExaminedDisk;
  readonly retainDisks: boolean;
}

/**
 * What an image reads its network from: a `/root/vc-out.xml`, as the standard wants; a seed for cloud-init; or its own
 * configuration files, into which the deployer has to write it.
 */
export type NetworkContract = (typeof NETWORK_CONTRACTS)[number];
export const NETWORK_CONTRACTS = ["vc-out.xml", "cloud-init", "files"] as const;

/** What tells one cluster from all others. */
export interface ClusterRef {
  readonly name: string;
  readonly mark: Pick<Mark, "owner" | "organization" | "project" | "stack" | "cluster">;
}

export interface NodeRef<Cluster extends ClusterRef = ClusterRef> {
  readonly cluster: Cluster;
  /** `frontend`, or a compute's name in its cluster: `compute-0` …. */
  readonly node: string;
}

export interface Shape {
  readonly cpus: number;
  /** MiB. */
  readonly memory: number;
  /** MiB. In a plan: absent where the image's own size does. Observed: absent where the disk is gone. */
  readonly diskSize?: number;
}

/** Least and most, both included. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

export interface BootRequest {
  readonly role: "frontend" | "compute";
  readonly plan: NodePlan;
  readonly vcOut: string;
  /** Whether the node had been created before, so that its disk may hold data. */
  readonly keepDisk: boolean;
  readonly power: Power;
  /** How long a machine that has to be stopped may take to shut down by itself. */
  readonly stop: StopLimits;
  readonly progress: Progress;
}

export type Power = "on" | "off";

export interface WaitLimits {
  readonly seconds: number;
  readonly progress: Progress;
}

export interface StopLimits {
  /** How long the guest may take to shut down by itself. */
  readonly graceSeconds: number;
  readonly progress?: Progress;
}

export interface RemoveOptions extends StopLimits {
  /** Whether a frontend's disk stays for a later machine of the node. Default false; never asked of sites that lack it. */
  readonly keepDisk?: boolean;
}

export type NodeState = "running" | "off" | "paused" | "crashed" | "unknown";

/** One machine as the site sees it now. */
export interface ObservedNode extends Shape {
  readonly state: NodeState;
  /** The site's own, lasting id of the machine. */
  readonly machineId: string;
  /** Lower case, in the order of the NICs. */
  readonly macs: readonly string[];
  /** Whether the machine starts with its host. Absent where the site has no such thing. */
  readonly autostart?: boolean;
  /** SHA-256 of the vc-out.xml that the node was last given, hex. */
  readonly vcOutDigest: string;
  /** Whether a newer one is written into its disk before its next boot. */
  readonly vcOutWaits: boolean;
  /** Within what cpus and memory (MiB) of the running machine can change without a restart. */
  readonly live: { readonly cpus: Range; readonly memory: Range };
  /** What the running machine's next start would give it, where somebody has made that something else. */
  readonly nextStart?: Pick<Shape, "cpus" | "memory">;
  /** Absent where the machine carries none of ours. */
  readonly mark?: Mark;
}

/** Takes one line for people, without a newline. */
export type Progress = (line: string) => void;
