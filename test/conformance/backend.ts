import type { ClusterRef, Driver, ImageRecord } from "../../provider/src/drivers/driver";
import type { SiteSettings } from "../../provider/src/drivers/settings";

/** A site under test: its driver, and what only the site's own tools can do, behind the driver's back. */
export interface Backend {
  readonly driver: Driver;
  /** The same site as another process sees it. */
  readonly otherProcess: Driver;
  /** A site of this kind that doesn't answer. */
  readonly unreachable: Driver;
  readonly settings: SiteSettings;
  /** An image whose disks are known to this machine. Its guests shut down when asked to. */
  readonly image: ImageRecord;
  /** Shares no disk with `image`. Its guests don't listen. */
  readonly otherImage: ImageRecord;
  /** Whether guests of these images get ready and take a new vc-out.xml while they run. */
  readonly guestsAnswer: boolean;
  /** Whether `diagnose` shows what a guest prints on its console. */
  readonly showsConsole: boolean;
  /** At every which request an operation is interrupted: 1 where requests cost nothing. */
  readonly interruptEvery: number;
  /** Where no base is kept at the site: nodes' disks are made from the images here. */
  readonly storesNoBases?: true;
  /** MiB that a node of these images needs. */
  readonly memory: number;

  /** By title: laws that say nothing at this kind of site, each with the reason. */
  readonly exempt?: ReadonlyMap<string, string>;

  /** One line for each thing of any cluster's at the site: machines, networks, volumes, leases. */
  leftovers(): Promise<string[]>;
  /** Whether the site holds the whole base disk of this digest. */
  holdsBase(digest: string): Promise<boolean>;
  /** Requests to the site so far. */
  requests(): Promise<number>;
  /** From the next request on lets this many through and fails the rest, as if the process had ended. Undefined: all work again. */
  interruptAfter(requests: number | undefined): Promise<void>;

  /** Takes a node's power away. */
  turnOff(cluster: string, node: string): Promise<void>;
  /** Takes a node's machine away and leaves its disk. */
  forgetMachine(cluster: string, node: string): Promise<void>;
  /** Takes a cluster's network away, and with it the record. */
  forgetNetwork(cluster: string): Promise<void>;
  /** Stops a cluster's network; it doesn't start with its host any more either. */
  stopNetwork(cluster: string): Promise<void>;
  /** Whether a running node is plugged into its cluster's network. */
  isPluggedIn(cluster: string, node: string): Promise<boolean>;
  /** Keeps a machine from starting with its host. */
  takeAutostart(cluster: string, node: string): Promise<void>;
  /** Gives a machine another shape: one that runs for its next start. */
  reshape(cluster: string, node: string, memory: number): Promise<void>;
  /** Takes the disk of a machine that is off away. */
  deleteDisk(cluster: string, node: string): Promise<void>;
  /** Takes the lock of a cluster as a process does that is killed then. */
  dieWithLock(cluster: ClusterRef): Promise<void>;
  /** What lies in `/root/vc-out.xml` on the disk of a machine that is off. */
  vcOutOnDisk(cluster: string, node: string): Promise<string>;

  /** Changes something on a node's disk. */
  scribble(cluster: string, node: string): Promise<void>;
  isScribbled(cluster: string, node: string): Promise<boolean>;
  /** Sees to it that a node doesn't get ready, and says so on its console: `no root file system`. */
  makeUnhealthy(cluster: string, node: string): Promise<void>;
  /** Makes a network or a machine that has a cluster's name and no mark. */
  makeStrangerNetwork(name: string): Promise<void>;
  makeStrangerMachine(cluster: string, node: string): Promise<void>;
  /** Whether the stranger is as it was made; then takes it away. */
  removeStranger(): Promise<boolean>;

  /** Takes everything away. */
  tearDown(): Promise<void>;
}
