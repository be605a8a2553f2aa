import { isIpv4, subnetOf } from "../../plan/addresses";
import type { PublicNetwork } from "../../plan/plan";
import { SiteFailure } from "../errors";
import type { RocksSettings } from "../settings";
import type { Answer, RocksFrontend } from "./frontend";
import {
  parseAttributes,
  parseClusters,
  parseHosts,
  parseInterfaces,
  parseNetworks,
  parseVms,
  type RocksCluster,
  type RocksHost,
  type RocksInterface,
  type RocksNetwork,
  type RocksVm,
} from "./tables";

/** What doesn't change under one run of the engine. */
export interface Facts {
  /** The Rocks frontend's public name: what tells one Rocks from another. */
  readonly siteId: string;
  /** What its own hosts call it. */
  readonly ownName: string;
  /** 6 or 7. */
  readonly majorVersion: number;
  readonly networks: readonly RocksNetwork[];
  readonly attributes: ReadonlyMap<string, string>;
}

/** Rocks' tables as they are now. */
export interface Tables {
  readonly hosts: readonly RocksHost[];
  readonly vms: readonly RocksVm[];
  readonly interfaces: readonly RocksInterface[];
  readonly clusters: readonly RocksCluster[];
}

export const LIST_HOSTS = ["list", "host", "json=true"];
const LIST_VMS = ["list", "host", "vm", "showdisks=true", "json=true"];
const LIST_INTERFACES = ["list", "host", "interface", "json=true"];
const LIST_CLUSTERS = ["list", "cluster", "json=true"];

/** @throws Unreachable and what else a `rocks` command throws */
export async function readFacts(frontend: RocksFrontend): Promise<Facts> {
  const commands = [
    ["report", "version"],
    ["list", "network", "json=true"],
    ["list", "attr"],
  ];
  const [version = "", networks = "", attrs = ""] = outputs(frontend, commands, await frontend.lists(commands));
  const attributes = parseAttributes(attrs);
  const ownName = attributes.get("Kickstart_PrivateHostname");
  const siteId = attributes.get("Kickstart_PublicHostname");
  if (!ownName || !siteId) {
    throw new SiteFailure(
      `${frontend.name}: what it is called`,
      "its attributes Kickstart_PublicHostname and Kickstart_PrivateHostname are empty",
    );
  }
  const [, major = "7"] = /^(\d+)/.exec(version.trim()) ?? [];
  return { siteId, ownName, majorVersion: Number(major), networks: parseNetworks(networks), attributes };
}

export async function readTables(frontend: RocksFrontend): Promise<Tables> {
  const commands = [LIST_HOSTS, LIST_VMS, LIST_INTERFACES, LIST_CLUSTERS];
  const [hosts = "", vms = "", interfaces = "", clusters = ""] = outputs(
    frontend,
    commands,
    await frontend.lists(commands),
  );
  const found = parseHosts(hosts, "");
  const nics = parseInterfaces(interfaces, found[0]?.name);
  return {
    hosts: found,
    vms: parseVms(vms, (mac) => ownerOf(nics, mac)),
    interfaces: nics,
    clusters: parseClusters(clusters),
  };
}

/**
 * How these machines are, in Rocks' words. It asks their containers' libvirts once for each machine, which takes minutes
 * where one is silent: so never for all machines of a site.
 */
export async function readStatuses(
  frontend: RocksFrontend,
  vms: readonly string[],
  { interfaces }: Tables,
): Promise<Map<string, string>> {
  if (vms.length === 0) {
    return new Map();
  }
  const output = await frontend.list(["list", "host", "vm", ...vms, "status=true", "json=true"]);
  return new Map(parseVms(output, (mac) => ownerOf(interfaces, mac)).map(({ name, status }) => [name, status]));
}

export function ownerOf(interfaces: readonly RocksInterface[], mac: string): string {
  return interfaces.find((one) => one.mac === mac && mac !== "")?.host ?? "";
}

function outputs(
  frontend: RocksFrontend,
  commands: ReadonlyArray<readonly string[]>,
  answers: readonly Answer[],
): string[] {
  return answers.map((answer, index) => frontend.outputOf(answer, commands[index] ?? []));
}

/** The public network as the settings say, else as Rocks does. */
export function publicNetworkOf(settings: RocksSettings, { networks, attributes }: Facts): PublicNetwork {
  const listed = networks.find(({ name }) => name === "public");
  const gateway = settings.gateway ?? attributes.get("Kickstart_PublicGateway") ?? "";
  const netmask = settings.netmask ?? listed?.netmask ?? attributes.get("Kickstart_PublicNetmask") ?? "";
  if (!isIpv4(gateway) || !isIpv4(netmask)) {
    throw new SiteFailure(
      "the public network",
      "Rocks doesn't say its gateway and netmask",
      "Say site.gateway and site.netmask",
    );
  }
  const dns = settings.dns ?? (attributes.get("Kickstart_PublicDNSServers") ?? "").split(",").filter(isIpv4);
  return {
    name: "public",
    cidr: subnetOf(gateway, netmask).cidr,
    gateway,
    dns: dns.length > 0 ? dns : [gateway],
    domain: settings.domain ?? listed?.zone.toLowerCase() ?? "local",
  };
}

/** The subnets that Rocks itself has, in CIDR notation. */
export function subnetsOf({ networks }: Facts): Map<string, string> {
  return new Map(
    networks
      .filter((one) => isIpv4(one.subnet) && isIpv4(one.netmask))
      .map(({ name, subnet: address, netmask }) => [subnetOf(address, netmask).cidr, name]),
  );
}
