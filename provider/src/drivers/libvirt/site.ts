import { addressesOf, hostAt, isHostOf, subnet, subnetOf } from "../../plan/addresses";
import type { PublicNetwork } from "../../plan/plan";
import type { Holder, SiteDescription } from "../driver";
import { Contradiction, NotFound, NotSupported } from "../errors";
import type { LibvirtSettings } from "../settings";
import type { Virsh } from "./virsh";
import { LEASE_PREFIX, LOCK_PREFIX, type ObservedNetwork, parseNetwork, REPLUG_PREFIX } from "./xml";

const DEFAULT_PRIVATE_RANGE = "10.84.0.0/16";
const DEFAULT_OVERCOMMIT = 8;

/**
 * What a libvirt has and hands out, in a handful of virsh runs.
 * @throws NotFound for an unknown network, Contradiction, Unreachable
 */
export async function describeSite(
  virsh: Virsh,
  settings: LibvirtSettings,
  network: string,
  siteId: string,
): Promise<SiteDescription> {
  const [capacity, [uuids = "", publicXml = "", active = ""], [leases = ""]] = await Promise.all([
    capacityOf(virsh, settings),
    virsh.batch([
      ["net-list", "--all", "--uuid"],
      ["net-dumpxml", network],
      ["net-list", "--name"],
    ]),
    // Fails on a network that libvirt only passes through.
    virsh.batch([["net-dhcp-leases", network]], { tolerant: true }),
  ]);
  const networks = await listNetworks(virsh, uuids);
  if (!publicXml.trim()) {
    const known = networks
      .map(({ name }) => name)
      .filter((name) => ![LEASE_PREFIX, LOCK_PREFIX, REPLUG_PREFIX].some((prefix) => name.startsWith(prefix)));
    throw new NotFound(
      `site.network ${JSON.stringify(network)}`,
      "is not a network of this libvirt",
      `Known there: ${known.join(", ") || "none"}`,
    );
  }
  if (!active.split(/\s+/).includes(network)) {
    throw new NotSupported(
      `site.network ${JSON.stringify(network)}`,
      "is stopped, so no frontend can join it",
      `Start it with \`virsh net-start ${network}\``,
    );
  }
  const observed = parseNetwork(publicXml);
  const publicNetwork = describePublicNetwork(observed, settings);
  return {
    siteId,
    ...capacity,
    publicNetwork,
    publicAddresses: publicAddressesOf(observed, publicNetwork, settings),
    takenAddresses: takenAddresses(networks, observed, publicNetwork, leases),
    privateRange: settings.privateRange ?? DEFAULT_PRIVATE_RANGE,
    takenSubnets: takenSubnets(networks),
  };
}

/** What the host has and what running machines leave of it, in one virsh run. */
export async function capacityOf(
  virsh: Virsh,
  settings: LibvirtSettings,
): Promise<Pick<SiteDescription, "cpus" | "memory">> {
  const [nodeinfo = "", stats = ""] = await virsh.batch([
    ["nodeinfo"],
    ["domstats", "--list-active", "--vcpu", "--balloon"],
  ]);
  const running = parseStats(stats);
  const cpus = Number(/^CPU\(s\):\s+(\d+)/m.exec(nodeinfo)?.[1] ?? 0);
  const memory = Math.floor(Number(/^Memory size:\s+(\d+) KiB/m.exec(nodeinfo)?.[1] ?? 0) / 1024);
  const allCpus = Math.floor(cpus * (settings.cpuOvercommit ?? DEFAULT_OVERCOMMIT));
  return {
    cpus: { total: allCpus, free: allCpus - running.cpus, perNode: cpus },
    memory: { total: memory, free: memory - running.memory },
  };
}

/**
 * Every network with its definition; that, not the running state, is what we write marks into.
 * @param uuids what `net-list --all --uuid` prints, where that is known already
 */
export async function listNetworks(virsh: Virsh, uuids?: string): Promise<ObservedNetwork[]> {
  const known = uuids ?? (await virsh.run(["net-list", "--all", "--uuid"]));
  const documents = await virsh.batch(
    known
      .split(/\s+/)
      .filter(Boolean)
      .map((uuid) => ["net-dumpxml", "--inactive", uuid]),
  );
  return documents.filter((xml) => xml.trim()).map(parseNetwork);
}

export function describePublicNetwork(observed: ObservedNetwork, settings: LibvirtSettings): PublicNetwork {
  const [own] = observed.addresses;
  const gateway = settings.gateway ?? own?.address;
  const netmask = settings.netmask ?? own?.netmask;
  if (!gateway || !netmask) {
    throw new NotSupported(
      `site.network ${JSON.stringify(observed.name)}`,
      "libvirt doesn't know the addresses on this network",
      "Say them with site.gateway, site.netmask, site.dns and site.publicAddresses",
    );
  }
  return {
    name: observed.name,
    // A netmask of libvirt's is that of libvirt's address: then a gateway of the user's must be in that network.
    cidr: subnetOf((!settings.netmask && own?.address) || gateway, netmask).cidr,
    gateway,
    dns: settings.dns ?? [own?.address ?? gateway],
    domain: settings.domain ?? "local",
  };
}

/**
 * With DHCP on the network, a lease of ours is also a reservation there; so its range needn't be left out.
 * @throws Contradiction for one that no host of the network can have
 */
export function publicAddressesOf(
  observed: ObservedNetwork,
  network: PublicNetwork,
  settings: LibvirtSettings,
): string[] {
  const net = subnet(network.cidr);
  const listed = settings.publicAddresses
    ? addressesOf(settings.publicAddresses)
    : addressesOf([`${hostAt(net, 1)}-${hostAt(net, -1)}`]);
  const stray = listed.find((ip) => !isHostOf(net, ip));
  if (stray !== undefined) {
    throw new Contradiction(
      `site.publicAddresses ${stray}`,
      `is no host's in network ${network.name}, ${net.cidr}`,
      "Leave it out, or mend site.gateway and site.netmask",
    ).about("site");
  }
  const own = new Set([network.gateway, ...observed.addresses.map(({ address }) => address)]);
  return listed.filter((ip) => !own.has(ip));
}

function takenAddresses(
  networks: readonly ObservedNetwork[],
  observed: ObservedNetwork,
  network: PublicNetwork,
  dhcpLeases: string,
): Map<string, Holder> {
  const taken = new Map<string, Holder>([[network.gateway, { description: "the network's gateway" }]]);
  for (const match of dhcpLeases.matchAll(/\bipv4\s+(\d+\.\d+\.\d+\.\d+)\//g)) {
    taken.set(match[1] ?? "", { description: "a machine with a DHCP lease" });
  }
  for (const { ip, name } of observed.dhcpHosts) {
    taken.set(ip, { description: `a DHCP reservation of network ${observed.name} (${name})` });
  }
  for (const { lease } of networks) {
    if (lease) {
      taken.set(lease.ip, { cluster: lease.cluster, description: `cluster ${lease.cluster} of ${lease.mark.owner}` });
    }
  }
  return taken;
}

function takenSubnets(networks: readonly ObservedNetwork[]): Map<string, Holder> {
  const taken = new Map<string, Holder>();
  for (const { name, cluster, addresses } of networks) {
    if (cluster) {
      taken.set(cluster.plan.privateNetwork.cidr, { cluster: cluster.name, description: `cluster ${cluster.name}` });
    }
    for (const { address, netmask } of addresses) {
      taken.set(subnetOf(address, netmask).cidr, { description: `network ${name}` });
    }
  }
  return taken;
}

function parseStats(stats: string): { cpus: number; memory: number } {
  const sum = (pattern: RegExp) => [...stats.matchAll(pattern)].reduce((total, match) => total + Number(match[1]), 0);
  return { cpus: sum(/^\s*vcpu\.current=(\d+)/gm), memory: Math.ceil(sum(/^\s*balloon\.current=(\d+)/gm) / 1024) };
}
