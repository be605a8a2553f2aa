import type { Capabilities, Shape, SiteDescription } from "../drivers/driver";
import { AddressTaken, NoCapacity } from "../drivers/errors";
import type { Dialect } from "../vc-out/vc-out";
import { contains, fromNumber, hostAt, hostCount, macOf, overlap, type Subnet, subnet, toNumber } from "./addresses";
import { computeName } from "./names";

/** What a plan says of a MAC, an address or a name that only the site chooses, until it has. */
export const SITE_DECIDES = "decided by the site";

/** What `check` works out before anything is made: every machine with its name, shape and addresses. */
export interface ClusterPlan {
  readonly frontend: FrontendPlan;
  readonly computes: readonly NodePlan[];
  readonly privateNetwork: PrivateNetwork;
  readonly publicNetwork: PublicNetwork;
  /** In which its nodes' vc-out.xml are written, where the program says so. */
  readonly vcOutDialect?: Dialect;
  /** What a site is asked for that deals the cpus to its nodes itself. */
  readonly asked?: { readonly numCpus: number; readonly cpusPerNode: number };
}

export interface NodePlan {
  /** Host name inside the cluster. */
  readonly name: string;
  readonly cpus: number;
  /** MiB. */
  readonly memory: number;
  /** MiB. Absent: as large as the image's. */
  readonly diskSize?: number;
  readonly privateIp: string;
  /** Lower case; or {@link SITE_DECIDES}. */
  readonly privateMac: string;
  /** What the site calls it, where the site chooses names. */
  readonly hostName?: string;
  /** Where the site gave fewer computes, with more cpus each: this one has no machine, and its addresses are `none`. */
  readonly allocated?: false;
}

export interface FrontendPlan extends NodePlan {
  readonly fqdn: string;
  readonly publicIp: string;
  readonly publicMac: string;
}

export interface PrivateNetwork {
  readonly cidr: string;
}

export interface PublicNetwork {
  readonly name: string;
  readonly cidr: string;
  readonly gateway: string;
  readonly dns: readonly string[];
  readonly domain: string;
}

/** What a user asks for, checked and with defaults filled in. */
export interface ClusterWish {
  readonly name: string;
  readonly numCpus: number;
  readonly cpusPerNode: number;
  /** MiB. */
  readonly memoryPerNode: number;
  /** MiB, of each compute. */
  readonly diskSize?: number | undefined;
  readonly frontend: { readonly cpus: number; readonly memory: number; readonly diskSize?: number | undefined };
  /** A public address of the user's choice. */
  readonly publicIp?: string | undefined;
  readonly vcOutDialect?: Dialect | undefined;
}

/** What was dealt before and is kept: at the site (best), else in the program's state. */
export interface Dealt {
  readonly privateCidr: string;
  readonly publicIp: string;
  /** MiB: a disk that has grown stays as large when the program asks for no size any more. */
  readonly frontendDiskSize?: number | undefined;
  readonly diskSize?: number | undefined;
  /** By address: what a site has decided once stays. */
  readonly macs?: ReadonlyMap<string, string> | undefined;
}

/** What a plan has dealt. */
export function dealtOf(plan: ClusterPlan): Dealt {
  const { frontend, computes, privateNetwork } = plan;
  return {
    privateCidr: privateNetwork.cidr,
    publicIp: frontend.publicIp,
    frontendDiskSize: frontend.diskSize,
    diskSize: computes[0]?.diskSize,
    macs: macsOf(plan),
  };
}

/** The MAC of each address of a plan's. */
export function macsOf(plan: ClusterPlan): Map<string, string> {
  const { publicIp, publicMac } = plan.frontend;
  return new Map([
    ...nodesOf(plan).map(({ privateIp, privateMac }) => [privateIp, privateMac] as const),
    [publicIp, publicMac],
  ]);
}

/** The plan with other MACs: those that `macs` has for its addresses. */
export function withMacs(plan: ClusterPlan, macs: ReadonlyMap<string, string>): ClusterPlan {
  const decided = <Node extends NodePlan>(node: Node): Node => ({
    ...node,
    privateMac: macs.get(node.privateIp) ?? node.privateMac,
  });
  const { publicIp, publicMac } = plan.frontend;
  return {
    ...plan,
    frontend: { ...decided(plan.frontend), publicMac: macs.get(publicIp) ?? publicMac },
    computes: plan.computes.map(decided),
  };
}

/** Subnets are /24 (less where the site's whole range is less): 253 computes, and a figure that people can read. */
const PRIVATE_PREFIX = 24;

/**
 * Lays a cluster out: the frontend has the first private address, computes count down from the last, and what was dealt
 * before is kept. New addresses are dealt from a place that follows from the cluster's name, so that two people who plan
 * at the same time seldom meet.
 * @throws NoCapacity, AddressTaken
 */
export function planCluster(
  wish: ClusterWish,
  site: SiteDescription,
  dealt: Partial<Dealt> = {},
  macs: Capabilities["macs"] = "fromAddress",
): ClusterPlan {
  const privateSubnet = subnet(dealt.privateCidr ?? dealSubnet(wish.name, site));
  const publicIp = wish.publicIp ?? dealt.publicIp ?? dealPublicAddress(wish.name, site);
  if (publicIp !== dealt.publicIp) {
    refuseUnknownAddress(site, publicIp);
  }
  refuseForeignAddress(wish, site, publicIp);

  const count = computeCount(wish);
  if (count > hostCount(privateSubnet) - 1) {
    throw new NoCapacity(
      `numCpus ${wish.numCpus} makes ${count} computes`,
      `the private network ${privateSubnet.cidr} has room for ${hostCount(privateSubnet) - 1}`,
      "Give more cpus to each with cpusPerNode",
    ).about("numCpus");
  }
  const mac = (ip: string) => (macs === "site" ? (dealt.macs?.get(ip) ?? SITE_DECIDES) : (site.macOf ?? macOf)(ip));
  const node = (
    name: string,
    privateIp: string,
    { cpus, memory, diskSize }: { cpus: number; memory: number; diskSize: number | undefined },
  ): NodePlan => ({
    name,
    cpus,
    memory,
    ...(diskSize !== undefined && { diskSize }),
    privateIp,
    privateMac: mac(privateIp),
  });
  const { cpus, memory, diskSize = dealt.frontendDiskSize } = wish.frontend;
  return {
    frontend: {
      ...node(wish.name, hostAt(privateSubnet, 1), { cpus, memory, diskSize }),
      fqdn: `${wish.name}.${site.publicNetwork.domain}`,
      publicIp,
      publicMac: mac(publicIp),
    },
    computes: Array.from({ length: count }, (_, index) =>
      node(computeName(index), hostAt(privateSubnet, -1 - index), {
        cpus: wish.cpusPerNode,
        memory: wish.memoryPerNode,
        diskSize: wish.diskSize ?? dealt.diskSize,
      }),
    ),
    privateNetwork: { cidr: privateSubnet.cidr },
    publicNetwork: site.publicNetwork,
    ...(wish.vcOutDialect !== undefined && { vcOutDialect: wish.vcOutDialect }),
  };
}

export function computeCount(wish: { readonly numCpus: number; readonly cpusPerNode: number }): number {
  return Math.ceil(wish.numCpus / wish.cpusPerNode);
}

/** The computes that have a machine. */
export function allocatedComputes({ computes }: Pick<ClusterPlan, "computes">): readonly NodePlan[] {
  return computes.filter(({ allocated }) => allocated !== false);
}

/** All nodes, the frontend first. */
export function nodesOf(plan: ClusterPlan): readonly NodePlan[] {
  return [plan.frontend, ...plan.computes];
}

/** The nodes that take of what the site says it has. */
export function countedNodes(plan: ClusterPlan, site: Pick<SiteDescription, "frontendsApart">): readonly NodePlan[] {
  return site.frontendsApart ? plan.computes : nodesOf(plan);
}

export function sumOf(shapes: Iterable<Shape>): { readonly cpus: number; readonly memory: number } {
  const sum = { cpus: 0, memory: 0 };
  for (const { cpus, memory } of shapes) {
    sum.cpus += cpus;
    sum.memory += memory;
  }
  return sum;
}

/**
 * Refuses a plan that is larger than the site. What the cluster's present machines use counts as free.
 * @throws NoCapacity
 */
export function refuseOversize(
  plan: ClusterPlan,
  site: Pick<SiteDescription, "cpus" | "memory" | "frontendsApart">,
  present: Iterable<Shape> = [],
): void {
  const counted = countedNodes(plan, site);
  const largest = counted.find(({ cpus }) => cpus > site.cpus.perNode);
  if (largest) {
    throw new NoCapacity(
      `${largest.name} asks for ${largest.cpus} cpus`,
      `a node at this site can have at most ${site.cpus.perNode}`,
      "Lower cpusPerNode or frontend.cpus",
    ).about(largest === plan.frontend ? "frontend" : "cpusPerNode");
  }
  const [asked, used] = [sumOf(counted), sumOf(present)];
  const free = { cpus: site.cpus.free + used.cpus, memory: site.memory.free + used.memory };
  if (asked.cpus > free.cpus) {
    throw new NoCapacity(
      `the cluster asks for ${asked.cpus} cpus`,
      `the site has ${free.cpus} of ${site.cpus.total} free`,
      "Lower numCpus",
    ).about("numCpus");
  }
  if (asked.memory > free.memory) {
    throw new NoCapacity(
      `the cluster asks for ${asked.memory} MiB of memory`,
      `the site has ${free.memory} of ${site.memory.total} MiB free`,
      "Lower memoryPerNode, frontend.memory or numCpus",
    ).about("memoryPerNode");
  }
}

function dealSubnet(name: string, site: SiteDescription): string {
  const range = subnet(site.privateRange);
  const prefix = Math.max(PRIVATE_PREFIX, range.prefix);
  const taken = [...site.takenSubnets.keys()].map(subnet);
  const count = 2 ** (prefix - range.prefix);
  const first = startFor(name, count);
  for (let step = 0; step < count; step++) {
    const candidate = nthSubnet(range, prefix, (first + step) % count);
    if (!taken.some((other) => overlap(candidate, other))) {
      return candidate.cidr;
    }
  }
  throw new NoCapacity(
    "no private subnet is left",
    `all /${prefix} networks of ${range.cidr} are in use`,
    "Give the site another privateRange",
  ).about("site");
}

function nthSubnet(range: Subnet, prefix: number, place: number): Subnet {
  return subnet(`${fromNumber(toNumber(range.network) + place * 2 ** (32 - prefix))}/${prefix}`);
}

function dealPublicAddress(name: string, site: SiteDescription): string {
  const count = site.publicAddresses.length;
  const first = startFor(name, count);
  for (let step = 0; step < count; step++) {
    const candidate = site.publicAddresses[(first + step) % count];
    if (candidate && !site.takenAddresses.has(candidate)) {
      return candidate;
    }
  }
  throw new NoCapacity(
    "no public address is left",
    `all ${count} that the site hands out on network ${site.publicNetwork.name} are in use`,
    "Destroy a cluster, or give the site more publicAddresses",
  ).about("site");
}

function refuseUnknownAddress(site: SiteDescription, publicIp: string): void {
  if (!contains(subnet(site.publicNetwork.cidr), publicIp) || !site.publicAddresses.includes(publicIp)) {
    throw new AddressTaken(
      `publicIp ${publicIp}`,
      `is not among the addresses that the site hands out (${summarise(site.publicAddresses)})`,
      "Choose one of them, or leave publicIp out",
    ).about("publicIp");
  }
}

function refuseForeignAddress(wish: ClusterWish, site: SiteDescription, publicIp: string): void {
  const holder = site.takenAddresses.get(publicIp);
  if (holder && holder.cluster !== wish.name) {
    throw new AddressTaken(
      `publicIp ${publicIp}`,
      `is in use by ${holder.description}`,
      "Choose another, or leave publicIp out",
    ).about("publicIp");
  }
}

function summarise(addresses: readonly string[]): string {
  const [first, last] = [addresses[0], addresses.at(-1)];
  return !first ? "none" : first === last ? first : `${first} … ${last}`;
}

/** FNV-1a: any spread will do. */
function startFor(name: string, count: number): number {
  let hash = 0x811c9dc5;
  for (const character of name) {
    hash = Math.imul(hash ^ character.charCodeAt(0), 0x01000193) >>> 0;
  }
  return count > 0 ? hash % count : 0;
}
