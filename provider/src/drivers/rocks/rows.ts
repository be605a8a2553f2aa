import { macsOf, nodesOf, SITE_DECIDES } from "../../plan/plan";
import type { ClusterRecord } from "../driver";
import { AddressTaken, ForeignOwner, SiteFailure } from "../errors";
import { gigabytes } from "./disks";
import { LIST_HOSTS, readTables, type Tables } from "./facts";
import type { RocksFrontend } from "./frontend";
import { nodeOf, vmName } from "./names";
import { vmsOf } from "./site";
import type { ClusterFile } from "./store";
import { parseHosts, type RocksInterface, type RocksVm } from "./tables";

const MIB = 1024 * 1024;

/** What Rocks' tables have of a cluster: rows of virtual machines, their NICs, and of its VLAN on their hosts. */
export class Rows {
  constructor(
    private readonly frontend: RocksFrontend,
    /** `disk=` of a machine. */
    private readonly diskOf: (vm: string) => string,
  ) {}

  /** The virtual machines that are called as this cluster's are, by node. */
  static of(cluster: string, { vms }: Pick<Tables, "vms">): Map<string, RocksVm> {
    return new Map(
      vms.flatMap((vm) => {
        const node = nodeOf(cluster, vm.name);
        return node === undefined ? [] : [[node, vm] as const];
      }),
    );
  }

  /** Those of them that are in this VLAN, or in none: what is in another is called so by chance. */
  static inVlan(cluster: string, vlan: number, tables: Pick<Tables, "vms" | "interfaces">): Map<string, RocksVm> {
    const vlansOf = (vm: string) => tables.interfaces.filter((nic) => nic.host === vm && nic.vlan > 0);
    return new Map(
      [...Rows.of(cluster, tables)].filter(([, { name }]) => {
        const nics = vlansOf(name);
        return nics.length === 0 || nics.some((nic) => nic.vlan === vlan);
      }),
    );
  }

  /** The VLAN that a cluster's machines are in, the frontend's first; undefined where it has none. */
  static vlanOf(cluster: string, tables: Pick<Tables, "vms" | "interfaces">): number | undefined {
    const computes = [...Rows.of(cluster, tables).values()].map(({ name }) => name);
    return [cluster, ...computes]
      .flatMap((vm) => tables.interfaces.filter((nic) => nic.host === vm && nic.vlan > 0))
      .at(0)?.vlan;
  }

  /** The MAC of each of the plan's addresses, as the tables have it. */
  static macsOf(record: ClusterRecord, { interfaces }: Pick<Tables, "interfaces">): Map<string, string> {
    const macOf = (host: string, iface: string) =>
      interfaces.find((one) => one.host === host && one.iface === iface)?.mac ?? "";
    const { plan, name } = record;
    return new Map(
      [
        [plan.frontend.privateIp, macOf(name, "eth0")] as const,
        [plan.frontend.publicIp, macOf(name, "eth1")] as const,
        ...plan.computes.map((compute) => [compute.privateIp, macOf(vmName(name, compute.name), "eth0")] as const),
      ].filter(([, mac]) => mac !== ""),
    );
  }

  /**
   * Adds what is missing. A cluster of which nothing is there is made by one command; a machine that is missing from it
   * gets its recorded MAC again.
   * @returns whether anything was
   */
  async add({ record, vlan, hosts }: ClusterFile, before: Tables): Promise<boolean> {
    const present = Rows.of(record.name, before);
    if (present.size === 0) {
      await this.frontend.change([addClusterCommand(record, vlan, hosts)]);
      return true;
    }
    const missing = [...vmsOf(record)].filter(([node]) => !present.has(node));
    const commands: string[][] = [];
    for (const [node, vm] of missing) {
      commands.push(...(await this.addCommands(record, vlan, node, vm, hosts[node] ?? "")));
    }
    commands.push(...this.readdressCommands(record, before));
    if (commands.length > 0) {
      await this.frontend.change([...commands, ["sync", "config"]]);
    }
    return commands.length > 0;
  }

  /**
   * The VLAN on each host of the cluster's that hasn't got it: `add host vm` doesn't see to that. `start host vm` brings it
   * up; `sync host network` would restart the network below everybody's machines there.
   */
  async addVlan(vlan: number, hosts: Iterable<string>, { interfaces }: Tables): Promise<void> {
    const missing = [...new Set(hosts)].filter((host) => !hasVlan(interfaces, host, vlan));
    await this.frontend.change(
      missing.map((host) => ["add", "host", "interface", host, `vlan${vlan}`, "subnet=private", `vlan=${vlan}`]),
    );
  }

  /**
   * Compares what Rocks has made with what was asked for: it takes the same address, VLAN or MAC twice without a word.
   * @throws AddressTaken naming all that differs
   */
  verify({ record, vlan, hosts }: ClusterFile, tables: Tables): void {
    const { name, plan } = record;
    const wished = vmsOf(record);
    const inVlan = Rows.inVlan(name, vlan, tables);
    const rows = new Map([...Rows.of(name, tables)].filter(([node]) => wished.has(node) || inVlan.has(node)));
    const ours = new Set([...rows.values()].map((vm) => vm.name));
    const nics = tables.interfaces.filter(({ host }) => ours.has(host));
    const cluster = tables.clusters.find((one) => one.frontend === name);
    const strangers = (cluster?.clients ?? []).filter((client) => !ours.has(client));
    const twice = (of: "mac" | "ip") =>
      nics.flatMap((nic) =>
        nic[of] !== "" && tables.interfaces.filter((one) => one[of] === nic[of]).length > 1
          ? [`${of === "mac" ? "MAC" : "address"} ${nic[of]} is given twice`]
          : [],
      );
    const decided = [...macsOf(plan)].filter(([, mac]) => mac !== SITE_DECIDES);
    const found = Rows.macsOf(record, tables);
    const problems = [
      ...[...wished].flatMap(([node, vm]) => (rows.has(node) ? [] : [`${vm} is missing`])),
      ...[...wished].flatMap(([node, vm]) => {
        const host = rows.get(node)?.host;
        return host === undefined || host === hosts[node]
          ? []
          : [`${vm} is on ${host || "no host"}, not ${hosts[node]}`];
      }),
      ...strangers.map((one) => `VLAN ${vlan} is that of ${one} too`),
      ...nics.flatMap((nic) =>
        nic.iface === "eth0" && nic.vlan !== vlan ? [`${nic.host} is in VLAN ${nic.vlan}, not ${vlan}`] : [],
      ),
      ...(nics.some(({ host, ip }) => host === name && ip === plan.frontend.publicIp)
        ? []
        : [`${name} hasn't the address ${plan.frontend.publicIp}`]),
      ...decided.flatMap(([ip, mac]) => (found.get(ip) === mac ? [] : [`${ip} has MAC ${found.get(ip)}, not ${mac}`])),
      ...new Set([...twice("mac"), ...twice("ip")]),
    ];
    if (problems.length > 0) {
      throw new AddressTaken(
        `cluster ${name}: what Rocks has made isn't what was asked for`,
        problems.join("; "),
        "Run `pulumi up` again, which plans anew. If it comes again, see who else changes Rocks' tables",
      );
    }
  }

  /**
   * Takes machines out of the tables, after making sure that only they go: for Rocks a cluster is whatever is in its
   * VLAN. What is left of the VLAN on hosts goes with the last of them.
   * @param vms all that may go
   * @throws ForeignOwner where others are in that VLAN
   */
  async remove(cluster: string, vms: readonly string[], vlan: number | undefined, tables: Tables): Promise<void> {
    const found = tables.clusters.find((one) => one.frontend === cluster && one.isVirtual);
    const going = new Set(vms);
    const all = found && [found.frontend, ...found.clients];
    if (all && going.has(cluster)) {
      const strangers = all.filter((one) => !going.has(one));
      if (strangers.length > 0) {
        throw new ForeignOwner(
          `cluster ${cluster}`,
          `its VLAN ${vlan ?? ""} is that of ${strangers.join(", ")} too, and Rocks would remove them with it`,
          "Give them another VLAN in Rocks' tables, or remove them, then run the same command again",
        );
      }
    }
    const isWhole = all?.length === going.size && all.every((one) => going.has(one));
    const hosts = tables.vms.flatMap(({ name, host }) => (going.has(name) ? [host] : []));
    // `remove cluster` dies of a machine whose container was removed, and where it finds no VLAN to remove it restarts the
    // network of every host that Rocks manages.
    const isSafe = hosts.every((host) => host !== "") && hosts.some((host) => carries(tables.interfaces, host, vlan));
    await this.frontend.change([isWhole && isSafe ? ["remove", "cluster", cluster] : ["remove", "host", ...vms]]);
  }

  /**
   * What is left of a VLAN on hosts that have no machine in it any more.
   * @param among hosts that it may have been put on
   * @param before what had been there before us and stays
   */
  async removeStrayVlan(vlan: number, among: ReadonlySet<string>, before?: Tables): Promise<void> {
    const { interfaces, vms } = await readTables(this.frontend);
    const machines = new Set(interfaces.flatMap((nic) => (nic.vlan === vlan ? [nic.host] : [])));
    const inUse = new Set(vms.flatMap(({ name, host }) => (machines.has(name) ? [host] : [])));
    const stray = interfaces.filter(
      (nic) =>
        nic.iface === `vlan${vlan}` &&
        among.has(nic.host) &&
        !inUse.has(nic.host) &&
        !(before && hasVlan(before.interfaces, nic.host, vlan)),
    );
    await this.frontend.change(stray.map(({ host }) => ["remove", "host", "interface", host, `vlan${vlan}`]));
  }

  /** @throws SiteFailure where machines are still in the tables */
  async refuseLeft(vms: readonly string[]): Promise<void> {
    const hosts = parseHosts(await this.frontend.list(LIST_HOSTS));
    const left = hosts.filter(({ name }) => vms.includes(name));
    if (left.length > 0) {
      throw new SiteFailure(
        `${this.frontend.name}: removing ${vms.join(", ")}`,
        `${left.map(({ name }) => name).join(", ")} is still in its tables`,
        "Run `pulumi destroy` again; if it comes again, try `rocks remove host` there",
      );
    }
  }

  private async addCommands(
    { plan }: ClusterRecord,
    vlan: number,
    node: string,
    vm: string,
    host: string,
  ): Promise<string[][]> {
    const planned = nodesOf(plan).find(({ name }) =>
      node === "frontend" ? name === plan.frontend.name : name === node,
    );
    const { cpus = 1, memory = 1024, diskSize = 0, privateMac = SITE_DECIDES } = planned ?? {};
    const shape = [`cpus=${cpus}`, `mem=${memory}`, `disksize=${gigabytes(diskSize * MIB)}`];
    const mac = privateMac === SITE_DECIDES ? [] : [`mac=${privateMac}`];
    const membership = node === "frontend" ? "membership=Frontend" : "membership=Hosted VM";
    const common = [`name=${vm}`, "num-macs=1", `vlan=${vlan}`, ...mac, "sync-config=no"];
    const add = ["add", "host", "vm", host, membership, ...shape, `disk=${this.diskOf(vm)}`, ...common];
    return node === "frontend" ? [add, await this.publicNic(plan, vm, plan.frontend.publicMac)] : [add];
  }

  private readdressCommands({ name, plan }: ClusterRecord, { interfaces }: Tables): string[][] {
    const nic = interfaces.find(({ host, iface }) => host === name && iface === "eth1");
    if (!nic || nic.ip === plan.frontend.publicIp) {
      return [];
    }
    return [["remove", "host", "interface", name, "eth1"], addPublicNic(name, plan.frontend.publicIp, nic.mac)];
  }

  private async publicNic({ frontend }: ClusterRecord["plan"], vm: string, mac: string): Promise<string[]> {
    const next = mac === SITE_DECIDES ? (await this.frontend.list(["report", "vm", "nextmac"])).trim() : mac;
    return addPublicNic(vm, frontend.publicIp, next);
  }
}

function addPublicNic(vm: string, ip: string, mac: string): string[] {
  return ["add", "host", "interface", vm, "eth1", `ip=${ip}`, `mac=${mac}`, "subnet=public", "vlan=0", `name=${vm}`];
}

/** All computes get the first one's shape; what differs is set afterwards. */
function addClusterCommand({ name, plan }: ClusterRecord, vlan: number, hosts: ClusterFile["hosts"]): string[] {
  const { frontend, computes, publicNetwork } = plan;
  const [first] = computes;
  return [
    ...["add", "cluster", frontend.publicIp, String(computes.length)],
    ...[`fe-name=${name}`, "cluster-naming=true", `vlan=${vlan}`, `fe-container=${hosts.frontend}`],
    ...[`disk-per-frontend=${gigabytes((frontend.diskSize ?? 0) * MIB)}`, `gateway=${publicNetwork.gateway}`],
    ...(first
      ? [
          // One entry for each: an exact placement. An empty list would mean all containers.
          `container-hosts=${computes.map((compute) => hosts[compute.name]).join(" ")}`,
          ...[`cpus-per-compute=${first.cpus}`, `mem-per-compute=${first.memory}`],
          `disk-per-compute=${gigabytes((first.diskSize ?? 0) * MIB)}`,
        ]
      : []),
  ];
}

/** Whether Rocks finds a cluster's VLAN on a host: by the network that it and a NIC of the host's are in. */
function carries(interfaces: Tables["interfaces"], host: string, vlan: number | undefined): boolean {
  const nics = interfaces.filter((nic) => nic.host === host);
  const isPhysical = ({ iface }: RocksInterface) => !iface.startsWith("vlan");
  return nics.some(
    (row) =>
      row.iface === `vlan${vlan}` &&
      row.vlan === vlan &&
      nics.some((nic) => isPhysical(nic) && nic.subnet !== "" && nic.subnet === row.subnet),
  );
}

function hasVlan(interfaces: Tables["interfaces"], host: string, vlan: number): boolean {
  return interfaces.some((nic) => nic.host === host && nic.iface === `vlan${vlan}`);
}
