import { element, elements, type XmlElement } from "../../images/xml";
import { addressesOf, contains, fromNumber, isHostOf, macOf, subnet, subnetOf, toNumber } from "../../plan/addresses";
import type { PublicNetwork } from "../../plan/plan";
import type { Capacity, Holder, SiteDescription } from "../driver";
import { Contradiction, Denied, NoCapacity } from "../errors";
import type { OpenNebulaSettings } from "../settings";
import type { OneClient } from "./client";
import { takesRoom } from "./machines";
import { macIn, rangeOf } from "./macs";
import type { Networks } from "./networks";
import {
  type AddressRange,
  markOf,
  numberAt,
  recordOf,
  rootOf,
  TAG,
  textAt,
  type Vm,
  VNET,
  type Vnet,
} from "./objects";
import type { Pools } from "./pools";
import { type Quota, type Quotas, quotasOf, tighter } from "./quotas";
import { ruleHint } from "./refusals";
import type { TakenAddresses } from "./taken-addresses";
import { VM } from "./vm-states";

/** Who we are to OpenNebula. */
export interface Caller {
  readonly uid: number;
  readonly name: string;
  readonly groups: readonly number[];
  readonly quotas: Quotas;
}

export async function callerOf(client: OneClient): Promise<Caller> {
  const user = rootOf(await client.text("user.info", -1), "USER");
  const groups = elements(element(user, "GROUPS"), "ID").map((id) => Number(id["#text"]));
  return {
    uid: numberAt(user, "ID"),
    name: textAt(user, "NAME"),
    groups: [...new Set([numberAt(user, "GID"), ...groups])],
    quotas: await quotasOf(client, user),
  };
}

/**
 * The zone and the user: what we see of an OpenNebula is one user's, so another user of the same is another site.
 */
export async function siteIdOf(client: OneClient, caller: Caller): Promise<string> {
  const zone = textAt(rootOf(await client.text("system.config"), "OPENNEBULA_CONFIGURATION"), "FEDERATION", "ZONE_ID");
  return `${client.endpoint} zone ${zone || "0"} user ${caller.name}`;
}

export interface Room {
  readonly cpus: Capacity & { readonly perNode: number };
  /** MiB. */
  readonly memory: Capacity;
  /** Machines that may be made beside those that are there. */
  readonly machines: number;
  /** Machines that may run beside those that do. */
  readonly running: number;
}

/**
 * What quotas leave and, to an account that sees hosts, what these have. A plain user without quotas isn't told: then it is
 * without end. Machines of our clusters that are off have room in a quota already; those on hold in one of running machines too.
 */
export async function roomOf(
  client: OneClient,
  caller: Caller,
  vms: readonly Vm[],
  settings: OpenNebulaSettings,
): Promise<Room> {
  const share = settings.cpuShare ?? 1;
  const asleep = vms.filter((vm) => markOf(vm) && !takesRoom(vm));
  const onHold = asleep.filter(({ state }) => state === VM.HOLD);
  const asCpus = (physical: number) => Math.floor(physical / share + 1e-9);
  const inQuota = (prefix: "" | "RUNNING_", counted: readonly Vm[]) => {
    const [cpu, memory, machines] = ["CPU", "MEMORY", "VMS"].map((name) => caller.quotas("VM", `${prefix}${name}`)) as [
      Quota,
      Quota,
      Quota,
    ];
    return {
      cpus: { total: asCpus(cpu.limit), free: asCpus(cpu.free) + sum(counted, ({ cpus }) => cpus) },
      memory: { total: memory.limit, free: memory.free + sum(counted, (vm) => vm.memory) },
      machines: machines.free,
    };
  };
  const [all, running] = [inQuota("", asleep), inQuota("RUNNING_", onHold)];
  const hosts = elements(rootPool(await client.text("hostpool.info")), "HOST").filter((host) =>
    MONITORED.includes(numberAt(host, "STATE")),
  );
  const inHosts = (name: string, unit: number) =>
    hosts.length === 0 ? Number.POSITIVE_INFINITY : sum(hosts, (host) => numberAt(host, "HOST_SHARE", name)) / unit;
  const ofHosts = {
    cpus: {
      total: asCpus(inHosts("TOTAL_CPU", 100)),
      free: asCpus(inHosts("MAX_CPU", 100) - (hosts.length > 0 ? inHosts("CPU_USAGE", 100) : 0)),
    },
    memory: {
      total: Math.floor(inHosts("TOTAL_MEM", 1024)),
      free: Math.floor(inHosts("MAX_MEM", 1024) - (hosts.length > 0 ? inHosts("MEM_USAGE", 1024) : 0)),
    },
  };
  const largest = Math.max(0, ...hosts.map((host) => numberAt(host, "HOST_SHARE", "MAX_CPU") / 100));
  const cpus = [running.cpus, ofHosts.cpus].reduce<Capacity>(tighter, all.cpus);
  return {
    cpus: { ...cpus, perNode: hosts.length > 0 ? Math.min(asCpus(largest), cpus.total) : cpus.total },
    memory: [running.memory, ofHosts.memory].reduce<Capacity>(tighter, all.memory),
    machines: all.machines,
    running: running.machines + onHold.length,
  };
}

/** States of hosts that take machines: the first while they are just being looked at. */
const MONITORED: readonly number[] = [1, 2];

function rootPool(xml: string): XmlElement | undefined {
  // An empty pool is an empty element, which is no element here.
  return /<HOST>/.test(xml) ? rootOf(xml, "HOST_POOL") : undefined;
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}

/**
 * The public network as vc-out.xml wants it. Its address ranges may have a mask, a gateway and DNS servers of their own, and
 * lie in several subnets: the first one counts of which clusters may have addresses.
 * @throws Contradiction where neither the network nor the settings say enough
 */
export function publicNetworkOf(vnet: Vnet, settings: OpenNebulaSettings): PublicNetwork {
  const wanted = wantedIn(settings);
  const range = vnet.ranges.find((one) => addressesIn(one).some(wanted)) ?? vnet.ranges[0];
  const say = (name: string) => range?.attributes.get(name) ?? vnet.attributes.get(name);
  const first = range?.ip ?? vnet.attributes.get("NETWORK_ADDRESS");
  const netmask = settings.netmask ?? say("NETWORK_MASK");
  const gateway = settings.gateway ?? say("GATEWAY");
  const missing = !first ? "address range (AR) of IPv4" : !netmask ? "NETWORK_MASK" : !gateway ? "GATEWAY" : undefined;
  if (!first || !netmask || !gateway) {
    throw new Contradiction(
      `network ${vnet.name}`,
      `it has no ${missing}`,
      "Let the site's admin add it (`onevnet update`), or say site.netmask and site.gateway",
    ).about("site");
  }
  const dns = settings.dns ?? (say("DNS") ?? "").split(/[\s,]+/).filter(Boolean);
  return { name: vnet.name, cidr: subnetOf(first, netmask).cidr, gateway, dns, domain: settings.domain ?? "local" };
}

function wantedIn({ publicAddresses }: OpenNebulaSettings): (ip: string) => boolean {
  const wanted = publicAddresses && new Set(addressesOf(publicAddresses));
  return (ip) => wanted?.has(ip) ?? true;
}

export async function describeSite(
  siteId: string,
  { quotas }: Caller,
  room: Room,
  networks: Networks,
  pools: Pools,
  taken: TakenAddresses,
  settings: OpenNebulaSettings,
): Promise<SiteDescription> {
  const [vnet, own, parent] = await Promise.all([
    networks.publicNetworkWithLeases(),
    pools.vnets(),
    networks.parentOfReservations(),
  ]);
  const publicNetwork = publicNetworkOf(vnet, settings);
  const [net, isWanted] = [subnet(publicNetwork.cidr), wantedIn(settings)];
  const inside = vnet.ranges.filter(({ ip }) => contains(net, ip));
  const publicAddresses = inside
    .flatMap(addressesIn)
    .filter((ip) => ip !== publicNetwork.gateway && isHostOf(net, ip) && isWanted(ip))
    .toSorted((one, other) => toNumber(one) - toNumber(other));
  const takenAddresses = takenIn(vnet, own, publicNetwork.gateway);
  refuseFullNetwork({ ...vnet, ranges: inside }, publicAddresses, takenAddresses, quotas("NETWORK", "LEASES", vnet.id));
  // Nothing shows who has these.
  for (const ip of taken.of(vnet.id)) {
    takenAddresses.set(ip, takenAddresses.get(ip) ?? { description: "somebody whom OpenNebula doesn't let us see" });
  }
  const ranges = [...vnet.ranges, ...(parent?.ranges ?? [])];
  return {
    siteId,
    cpus: room.cpus,
    memory: room.memory,
    publicNetwork,
    publicAddresses,
    takenAddresses,
    privateRange: settings.privateRange ?? "10.84.0.0/16",
    takenSubnets: subnetsOf(own),
    // OpenNebula says which MAC goes with an address, except in ranges that we make ourselves.
    macOf: (ip) => {
      const range = rangeOf(ranges, ip);
      return range ? macIn(range, ip) : macOf(ip);
    },
  };
}

function addressesIn({ ip, size }: AddressRange): string[] {
  const first = toNumber(ip);
  return Array.from({ length: Math.min(size, 65_536) }, (_, place) => fromNumber(first + place));
}

function takenIn(vnet: Vnet, own: readonly Vnet[], gateway: string): Map<string, Holder> {
  const holders = new Map<string, Holder>([[gateway, { description: "the network's gateway" }]]);
  for (const { ip, vm, vnet: reservation } of vnet.ranges.flatMap(({ leases }) => leases)) {
    const what =
      reservation !== undefined ? `network ${reservation}` : vm === -1 ? "a hold" : `machine ${vm ?? "of somebody's"}`;
    holders.set(ip, { description: what });
  }
  for (const lease of own.filter(({ parent, state }) => parent === vnet.id && state !== VNET.LOCK_DELETE)) {
    const cluster = lease.attributes.get(TAG.cluster) ?? /^(.+)-public$/.exec(lease.name)?.[1];
    for (const ip of lease.ranges.flatMap(addressesIn)) {
      holders.set(
        ip,
        cluster ? { cluster, description: `cluster ${cluster}` } : { description: `network ${lease.name}` },
      );
    }
  }
  return holders;
}

/** How many are taken everybody sees, whose they are not. With an address of ours there is a cluster that needs no other. */
function refuseFullNetwork(
  vnet: Vnet,
  addresses: readonly string[],
  taken: ReadonlyMap<string, Holder>,
  leases: Quota,
): void {
  const [size, used] = [sum(vnet.ranges, (range) => range.size), sum(vnet.ranges, (range) => range.used)];
  const holdsOurs = addresses.some((ip) => taken.get(ip)?.cluster !== undefined);
  const [isFull, isSpent] = [size > 0 && used >= size, leases.free < 1];
  if ((isFull || isSpent) && !holdsOurs) {
    throw new NoCapacity(
      "no public address is left",
      isFull
        ? `all ${size} of network ${vnet.name} are in use`
        : `the quota for network ${vnet.name} is ${leases.limit}`,
      isFull
        ? "Destroy a cluster, or let the site's admin add addresses (`onevnet addar`)"
        : "Destroy a cluster, or let the site's admin raise the quota (`oneuser quota`)",
    ).about("site");
  }
}

function subnetsOf(vnets: readonly Vnet[]): Map<string, Holder> {
  const subnets = new Map<string, Holder>();
  for (const vnet of vnets) {
    const record = markOf(vnet) && vnet.state !== VNET.LOCK_DELETE ? recordOf(vnet) : undefined;
    if (record) {
      const holder = { cluster: record.name, description: `cluster ${record.name}` };
      subnets.set(subnet(record.plan.privateNetwork.cidr).cidr, holder);
    }
  }
  return subnets;
}

// ── Rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** As OpenNebula's `PoolObjectSQL.h` and `AclRule.h` number them. */
const KINDS = { VM: 0x10n, NET: 0x40n, IMAGE: 0x80n, TEMPLATE: 0x200n } as const;
const ALL_OBJECTS = 0x4n;
const OF_USER = 0x1n;
const OF_GROUP = 0x2n;
const OF_ALL = 0x4n;
const CREATE = 0x8n;

/**
 * Looks whether this account may make what a cluster is made of, as far as OpenNebula lets us read its rules.
 * @throws Denied with the rule that is missing
 */
export async function refuseMissingRights(client: OneClient, caller: Caller): Promise<void> {
  if (caller.uid === 0 || caller.groups.includes(0)) {
    return;
  }
  let rules: readonly XmlElement[];
  try {
    rules = elements(rootOf(await client.text("acl.info"), "ACL_POOL"), "ACL");
  } catch {
    return; // What isn't known here the first create tells.
  }
  const missing = Object.entries(KINDS).find(([, kind]) => !rules.some((rule) => allows(rule, caller, kind)));
  if (missing) {
    const [kind] = missing;
    throw new Denied(
      `user ${caller.name} of OpenNebula`,
      `may not create ${kind} objects, which clusters are made of`,
      ruleHint(kind, caller.groups[0]),
    ).about("site");
  }
}

function allows(rule: XmlElement, caller: Caller, kind: bigint): boolean {
  const [user, resource, rights] = ["USER", "RESOURCE", "RIGHTS"].map((name) => hex(textAt(rule, name)));
  if (user === undefined || resource === undefined || rights === undefined) {
    return true; // A rule that we can't read may be the one.
  }
  const [who, id] = [user >> 32n, Number(user & 0xffffffffn)];
  const isOurs =
    (who & OF_ALL) !== 0n ||
    ((who & OF_USER) !== 0n && id === caller.uid) ||
    ((who & OF_GROUP) !== 0n && caller.groups.includes(id));
  return (
    isOurs && ((resource >> 32n) & kind) !== 0n && ((resource >> 32n) & ALL_OBJECTS) !== 0n && (rights & CREATE) !== 0n
  );
}

function hex(text: string): bigint | undefined {
  return /^[0-9a-f]+$/i.test(text) ? BigInt(`0x${text}`) : undefined;
}
