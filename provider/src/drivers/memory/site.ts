import type { ClusterKeys, ClusterRecord, ClusterRef, Mark, NodeState, Range, Shape } from "../driver";
import { Unreachable } from "../errors";

/** A machine of the in-memory site. */
export interface MemoryMachine {
  shape: Shape;
  /** Where somebody has given it another one while it runs. */
  nextStart?: Shape;
  state: NodeState;
  autostart: boolean;
  vcOut: string;
  /** Whether its guest takes a new vc-out.xml while it runs. */
  takesVcOut: boolean;
  /** Whether a new vc-out.xml waits for its next boot. */
  vcOutWaits: boolean;
  /** Whether its disk isn't whole yet. */
  filling: boolean;
  /** How often it was started. */
  boots: number;
  /** Within what its shape changes without a restart. */
  live: { readonly cpus: Range; readonly memory: Range };
  /** Whether it is ready when it is waited for. */
  healthy: boolean;
  /** What it has printed. */
  console: string;
  readonly macs: readonly string[];
  readonly machineId: string;
  /** Digest of the image's disk that it was made from. */
  readonly base: string;
  /** Absent on a machine that isn't of any cluster. */
  readonly mark?: Mark;
}

/** All that an in-memory site holds. Tests look into it, and change it behind the driver's back. */
export class MemorySite {
  /** By name; `unmarked` is one that isn't of any cluster. */
  readonly networks = new Map<string, ClusterRecord | "unmarked">();
  /** Names of networks that somebody has stopped. */
  readonly stoppedNetworks = new Set<string>();
  /** By public address. */
  readonly leases = new Map<string, { readonly cluster: string; readonly mark: Mark }>();
  /** By cluster. */
  readonly keys = new Map<string, ClusterKeys>();
  /** By digest. */
  readonly bases = new Map<string, "partial" | "whole">();
  /** An id of each disk by `cluster/node`; a disk that was made anew has another one. */
  readonly disks = new Map<string, string>();
  /** Clusters whose frontend's disk was kept when its machine went, each with whose it is. */
  readonly keptDisks = new Map<string, ClusterRef["mark"]>();
  /** MiB, by `cluster/node`; absent for a disk of its image's size. */
  readonly diskSizes = new Map<string, number>();
  /** By `cluster/node`. */
  readonly machines = new Map<string, MemoryMachine>();
  /** By cluster: the driver that holds its lock. */
  readonly locks = new Map<string, { readonly mark: ClusterRef["mark"]; readonly holder: object }>();
  siteId = "memory-site";
  cpus = 64;
  memory = 262_144;
  /** Whether it answers. */
  reachable = true;
  /** How often it was asked something. */
  requests = 0;
  /** Called before every change. A test that throws here, from then on, interrupts the driver as the end of its process would. */
  beforeStep: (step: string) => void = () => undefined;
  private serial = 0;

  /** @throws Unreachable */
  ask(): void {
    this.requests += 1;
    if (!this.reachable) {
      throw new Unreachable("the in-memory site", "it was made unreachable", "Make it reachable again");
    }
  }

  nextId(kind: string): string {
    this.serial += 1;
    return `${kind}-${this.serial}`;
  }

  nextMac(): string {
    this.serial += 1;
    return `0a:64:33:${[16, 8, 0].map((shift) => ((this.serial >> shift) & 0xff).toString(16).padStart(2, "0")).join(":")}`;
  }

  newKeys(): ClusterKeys {
    const key = () => `ssh-ed25519 ${Buffer.from(this.nextId("key")).toString("base64")}`;
    return { hostKey: key(), rootKey: key() };
  }
}

const sites = new Map<string, MemorySite>();

/** The site of that name in this process. */
export function memorySite(name: string): MemorySite {
  const site = sites.get(name) ?? new MemorySite();
  sites.set(name, site);
  return site;
}
