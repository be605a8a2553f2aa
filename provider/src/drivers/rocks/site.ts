import { addressesOf, isHostOf, subnet } from "../../plan/addresses";
import { nodesOf } from "../../plan/plan";
import type { ClusterRecord, Holder, SiteDescription } from "../driver";
import { Contradiction, NotFound } from "../errors";
import type { RocksSettings } from "../settings";
import { type Facts, publicNetworkOf, subnetsOf, type Tables } from "./facts";
import { vmName } from "./names";
import type { Room } from "./placement";

const PRIVATE_RANGE = "10.84.0.0/16";

/** What there is and what is left of it. Every machine in Rocks' tables counts, whether it runs or not: it may be started. */
export function describeSite(
  settings: RocksSettings,
  facts: Facts,
  tables: Tables,
  records: readonly ClusterRecord[],
): SiteDescription {
  refuseWithoutPublicHost(settings, tables);
  const publicNetwork = publicNetworkOf(settings, facts);
  const total = totalRooms(settings, tables);
  const left = roomsLeft(settings, tables);
  const sum = (rooms: readonly Room[], of: (room: Room) => number) => rooms.reduce((all, room) => all + of(room), 0);
  const used = tables.vms.filter(({ name, host }) => isCounted(settings, tables, host) && name !== "");
  const cpus = sum(total, (room) => room.cpus);
  const memory = sum(total, (room) => room.memory);
  return {
    siteId: facts.siteId,
    cpus: {
      total: cpus,
      free: sum(left, (room) => room.cpus),
      perNode: Math.max(0, ...total.map((room) => room.cpus)),
    },
    memory: { total: memory, free: memory - used.reduce((all, vm) => all + vm.memory, 0) },
    ...(areFrontendsApart(settings, tables) && { frontendsApart: true }),
    publicNetwork,
    publicAddresses: publicAddressesOf(settings, publicNetwork.cidr, publicNetwork.gateway),
    takenAddresses: takenAddresses(tables, records, publicNetwork.gateway),
    privateRange: settings.privateRange ?? PRIVATE_RANGE,
    takenSubnets: takenSubnets(facts, records),
  };
}

/** Whether all frontends are put on a host that no other machines are. */
export function areFrontendsApart(settings: RocksSettings, tables: Tables): boolean {
  const { frontendHost } = settings;
  return frontendHost !== undefined && !isCounted(settings, tables, frontendHost);
}

/** @throws NotFound where frontends would be without their public NIC: Rocks gives it only where the host has one */
function refuseWithoutPublicHost(settings: RocksSettings, tables: Tables): void {
  const { frontendHost } = settings;
  if (frontendHost !== undefined && !tables.hosts.some(({ name }) => name === frontendHost)) {
    throw new NotFound(`site.frontendHost ${frontendHost}`, "is no host of this Rocks", "See `rocks list host`").about(
      "site",
    );
  }
  const candidates = frontendHost === undefined ? totalRooms(settings, tables).map(({ name }) => name) : [frontendHost];
  if (candidates.length > 0 && !candidates.some((name) => isPublicHost(tables, name))) {
    throw new NotFound(
      "a host for frontends",
      `${candidates.join(", ")}: none has an interface on Rocks' network public`,
      "Name one that has in site.frontendHost: the Rocks frontend itself, where it runs machines too",
    ).about("site");
  }
}

function isPublicHost({ interfaces }: Tables, host: string): boolean {
  return interfaces.some((nic) => nic.host === host && nic.subnet === "public" && !nic.iface.startsWith("vlan"));
}

/** @throws Contradiction for one that no host of the network can have */
function publicAddressesOf(settings: RocksSettings, cidr: string, gateway: string): string[] {
  const listed = addressesOf(settings.publicAddresses);
  const stray = listed.find((ip) => !isHostOf(subnet(cidr), ip));
  if (stray !== undefined) {
    throw new Contradiction(
      `site.publicAddresses ${stray}`,
      `is no host's in network public, ${cidr}`,
      "Leave it out, or mend site.gateway and site.netmask",
    ).about("site");
  }
  return listed.filter((ip) => ip !== gateway);
}

/** Rocks itself takes an address twice: whatever its tables know, and our records. */
export function takenAddresses(
  { interfaces }: Pick<Tables, "interfaces">,
  records: readonly ClusterRecord[],
  gateway: string,
): Map<string, Holder> {
  const taken = new Map<string, Holder>([[gateway, { description: "the network's gateway" }]]);
  const ours = new Map(records.map((record) => [record.name, record]));
  for (const { ip, host } of interfaces) {
    if (ip !== "") {
      const record = ours.get(host);
      taken.set(ip, record ? holder(record) : { description: `host ${host} of Rocks' tables` });
    }
  }
  for (const record of records) {
    taken.set(record.plan.frontend.publicIp, holder(record));
  }
  return taken;
}

export function takenSubnets(facts: Facts, records: readonly ClusterRecord[]): Map<string, Holder> {
  return new Map<string, Holder>([
    ...[...subnetsOf(facts)].map(([cidr, name]) => [cidr, { description: `network ${name} of Rocks` }] as const),
    ...records.map((record) => [record.plan.privateNetwork.cidr, holder(record)] as const),
  ]);
}

function holder({ name, mark }: ClusterRecord): Holder {
  return { cluster: name, description: `cluster ${name} of ${mark.owner}` };
}

/** The hosts that machines may be put on, without anything on them. @throws NotFound for one of the settings that isn't there */
function totalRooms(settings: RocksSettings, tables: Tables): Room[] {
  const { hosts } = tables;
  const containers =
    settings.containers ?? hosts.flatMap((host) => (host.membership === "VM Container" ? [host.name] : []));
  return containers.map((name) => {
    const host = hosts.find((one) => one.name === name);
    if (!host) {
      throw new NotFound(
        `site.containers ${name}`,
        "is no host of this Rocks",
        `Its VM containers: ${hosts.flatMap((one) => (one.membership === "VM Container" ? [one.name] : [])).join(", ") || "none"}`,
      ).about("site");
    }
    return {
      name,
      cpus: Math.max(0, host.cpus - (settings.reservedCpus ?? 0)),
      memory: settings.memoryPerContainer ?? Number.POSITIVE_INFINITY,
      isPublic: isPublicHost(tables, name),
    };
  });
}

/**
 * What is left on each host.
 * @param without machines that don't count
 */
export function roomsLeft(settings: RocksSettings, tables: Tables, without: ReadonlySet<string> = new Set()): Room[] {
  return totalRooms(settings, tables).map((room) => {
    const on = tables.vms.filter(({ name, host }) => host === room.name && !without.has(name));
    return {
      ...room,
      cpus: room.cpus - on.reduce((all, { cpus }) => all + cpus, 0),
      memory: room.memory - on.reduce((all, { memory }) => all + memory, 0),
    };
  });
}

/** Hosts that machines are put on, or have been: the settings' and Rocks' containers, and these. */
export function hostsOfMachines(
  { containers = [], frontendHost }: RocksSettings,
  { hosts }: Tables,
  recorded: readonly string[],
): Set<string> {
  const listed = hosts.flatMap(({ name, membership }) => (membership === "VM Container" ? [name] : []));
  return new Set([...listed, ...containers, ...(frontendHost === undefined ? [] : [frontendHost]), ...recorded]);
}

function isCounted(settings: RocksSettings, tables: Tables, host: string): boolean {
  return totalRooms(settings, tables).some(({ name }) => name === host);
}

/** The virtual machines that a cluster is to have, by node. */
export function vmsOf(record: Pick<ClusterRecord, "name" | "plan">): Map<string, string> {
  const nodes = [
    "frontend",
    ...nodesOf(record.plan)
      .slice(1)
      .map(({ name }) => name),
  ];
  return new Map(nodes.map((node) => [node, vmName(record.name, node)]));
}
