import { isIpv4 } from "../../plan/addresses";
import { parseListing, type Row } from "./listing";

export interface RocksHost {
  readonly name: string;
  readonly membership: string;
  readonly cpus: number;
}

export interface RocksVm {
  readonly name: string;
  /** Where it runs. Empty where that container has been removed. */
  readonly host: string;
  /** MiB. */
  readonly memory: number;
  readonly cpus: number;
  /** Lower case. */
  readonly macs: readonly string[];
  /** `file:/path,vda,virtio` and the like; only where disks were asked for. */
  readonly disks: readonly string[];
  /** As Rocks says it; empty where it wasn't asked for. */
  readonly status: string;
}

export interface RocksInterface {
  readonly host: string;
  readonly subnet: string;
  readonly iface: string;
  readonly mac: string;
  readonly ip: string;
  /** 0 where there is none. */
  readonly vlan: number;
}

export interface RocksCluster {
  readonly frontend: string;
  readonly clients: readonly string[];
  readonly isVirtual: boolean;
  /** By host; empty where it wasn't asked for. */
  readonly statuses: ReadonlyMap<string, string>;
}

export interface RocksNetwork {
  readonly name: string;
  readonly subnet: string;
  readonly netmask: string;
  readonly zone: string;
}

/** `list host`. @param only the name where no other host can be listed: then Rocks leaves it out */
export function parseHosts(output: string, only = ""): RocksHost[] {
  return parseListing(output, "host").map((row) => ({
    name: row.host ?? only,
    membership: row.membership ?? "",
    cpus: numberOf(row.cpus),
  }));
}

/**
 * `list host vm`: one row for each NIC or disk, and only the first of a machine's says more.
 * @param nameOf the machine that has a MAC: where all rows are of one machine, Rocks leaves its name out
 */
export function parseVms(output: string, nameOf: (mac: string) => string): RocksVm[] {
  const rows = parseListing(output, "vm-host");
  const only = rows.map(({ mac = "" }) => nameOf(mac.toLowerCase())).find(Boolean) ?? "";
  const machines = new Map<string, Row[]>();
  for (const row of rows) {
    const name = row["vm-host"] ?? only;
    machines.set(name, [...(machines.get(name) ?? []), row]);
  }
  return [...machines].map(([name, of]) => {
    const first = of.find(({ slice, mem, host }) => slice || mem || host) ?? {};
    return {
      name,
      host: first.host === "None" ? "" : (first.host ?? ""),
      memory: numberOf(first.mem),
      cpus: numberOf(first.cpus),
      macs: of.flatMap(({ mac }) => (mac ? [mac.toLowerCase()] : [])),
      disks: of.flatMap(({ disk }) => (disk ? [disk] : [])),
      status: first.status ?? "",
    };
  });
}

/** `list host interface` of all hosts, of which there are several: the frontend, and what it serves. */
export function parseInterfaces(output: string, only = ""): RocksInterface[] {
  return parseListing(output, "host").map((row) => ({
    host: row.host ?? only,
    subnet: row.subnet ?? "",
    iface: row.iface ?? "",
    mac: (row.mac ?? "").toLowerCase(),
    ip: isIpv4(row.ip ?? "") ? (row.ip ?? "") : "",
    vlan: numberOf(row.vlan),
  }));
}

/** `list cluster`: a frontend's row comes before those of its clients, which name no frontend. */
export function parseClusters(output: string): RocksCluster[] {
  const clusters: Array<{ frontend: string; clients: string[]; isVirtual: boolean; statuses: Map<string, string> }> =
    [];
  for (const { frontend = "", "client nodes": client = "", type, status = "" } of parseListing(output, "frontend")) {
    if (frontend) {
      clusters.push({ frontend, clients: [], isVirtual: type === "VM", statuses: new Map([[frontend, status]]) });
    } else {
      const cluster = clusters.at(-1);
      cluster?.clients.push(client);
      cluster?.statuses.set(client, status);
    }
  }
  return clusters;
}

/** `list network`. */
export function parseNetworks(output: string): RocksNetwork[] {
  return parseListing(output, "network").map((row) => ({
    name: row.network ?? "",
    subnet: row.subnet ?? "",
    netmask: row.netmask ?? "",
    zone: row.dnszone ?? "",
  }));
}

/** `list attr`, `list host attr HOST`: values by name. */
export function parseAttributes(output: string): Map<string, string> {
  const rows = parseListing(output, output.trimStart().startsWith("HOST") ? "host" : "attr");
  return new Map(rows.map(({ attr = "", value = "" }) => [attr, value]));
}

function numberOf(text = ""): number {
  return /^\d+$/.test(text) ? Number(text) : 0;
}
