import { type Cell, type Listing, print } from "./print";
import type { StandInInterface, StandInNode, StandInState, StandInVm } from "./site";

export interface Result {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What `self.abort` says. */
class Abort extends Error {}
/** A Python exception: type and text. */
class PythonError extends Error {}

const USAGE: ReadonlyArray<readonly [string, string]> = [
  ["list host vm", "[host]... [showdisks=bool] [status=bool]"],
  ["list host interface", "[host]..."],
  ["list host route", "[host]..."],
  ["list host boot", "[host]..."],
  ["list host attr", "[host]"],
  ["list host", "[host]..."],
  ["list network", "[network]..."],
  ["list cluster", "[cluster]... [status=bool]"],
  ["list membership", "[membership]..."],
  ["list appliance", "[appliance]..."],
  ["list attr", ""],
  ["report vm nextmac", ""],
  ["report nextip", "{subnet} [baseip=string] [increment=string]"],
  ["report version", ""],
  ["dump host vm", "[host]..."],
  [
    "add cluster",
    "{ip} {num-computes} [cluster-naming=bool] [container-hosts=string] [cpus-per-compute=string] [disk-per-compute=string] [disk-per-frontend=string] [fe-container=string] [fe-name=string] [ip=string] [mem-per-compute=string] [num-computes=string] [virt-type=string] [vlan=string]",
  ],
  [
    "add host vm",
    "{host}... {membership} [cpus=string] [disk=string] [disksize=string] [ip=string] [mac=string] [mem=string] [membership=string] [name=string] [num-macs=string] [slice=string] [subnet=string] [sync-config=bool] [virt-type=string] [vlan=string]",
  ],
  [
    "add host interface",
    "{host} {iface} [iface=string] [ip=string] [mac=string] [module=string] [name=string] [subnet=string] [vlan=string]",
  ],
  ["add host", "{host} [cpus=int] [membership=string] [os=string] [rack=int] [rank=int]"],
  ["set host cpus", "{host}... {cpus} [cpus=string]"],
  ["set host vm cdrom", "{host}... [cdrom=string]"],
  [
    "set host vm",
    "{host} [disk=string] [disksize=string] [mem=string] [physnode=string] [slice=string] [virt-type=string]",
  ],
  ["set host boot", "{host}... [action=string]"],
  ["set host attr", "{host} {attr} {value} [attr=string] [value=string]"],
  ["remove cluster", "[cluster]..."],
  ["remove host interface", "{host} {iface} [iface=string]"],
  ["remove host", "{host}..."],
  ["start host vm", "{host}..."],
  ["stop host vm", "{host}... [action=string] [terminate=bool]"],
  ["pause host vm", "{host}..."],
  ["resume host vm", "{host}..."],
  ["sync config", ""],
  ["sync host network", "[host]... [timeout=string]"],
];

const APPLIANCES: ReadonlyMap<string, string> = new Map([
  ["Frontend", "frontend"],
  ["Compute", "compute"],
  ["Login", "login"],
  ["NAS Appliance", "nas"],
  ["Ethernet Switch", "network"],
  ["Power Unit", "power"],
  ["VM Container", "vm-container"],
  ["Hosted VM", "hosted-vm"],
]);

const DISKS = "/state/partition1/kvm/disks";

/** What the real `rocks` does with these arguments: changes the state, and prints. */
export function runRocks(state: StandInState, words: readonly string[]): Result {
  return new Run(state).main(words);
}

interface Arguments {
  readonly positional: readonly string[];
  readonly params: ReadonlyMap<string, string>;
}

class Run {
  private output = "";
  private warnings = "";

  constructor(private readonly state: StandInState) {}

  main(words: readonly string[]): Result {
    // The first word may hold the whole command.
    if (words[0]?.includes(" ")) {
      return this.main([...words[0].split(" "), ...words.slice(1)]);
    }
    const command = USAGE.filter(([name]) => name.split(" ").every((word, index) => words[index] === word)).sort(
      ([one], [other]) => other.length - one.length,
    )[0];
    if (!command) {
      return { exitCode: 255, stdout: `error - invalid rocks command "${words[0]}"\n`, stderr: "" };
    }
    const [name, usage] = command;
    const rest = words.slice(name.split(" ").length);
    const positional = rest.filter((word) => !/^[A-z0-9\-_+]+=/.test(word));
    const params = new Map(
      rest
        .filter((word) => /^[A-z0-9\-_+]+=/.test(word))
        .map((word) => [word.slice(0, word.indexOf("=")), word.slice(word.indexOf("=") + 1)] as const),
    );
    try {
      if (rest[0] === "") {
        throw new PythonError("SyntaxError: unexpected EOF while parsing");
      }
      if (this.state.databaseIsDown) {
        throw new Abort(
          "Dabase error: (OperationalError) (2002, \"Can't connect to local server through socket '/run/mysqld/mysqld.sock' (2)\") None None",
        );
      }
      this.run(name, { positional, params });
      return { exitCode: 0, stdout: this.output, stderr: this.warnings };
    } catch (error) {
      if (error instanceof PythonError) {
        const trace = `Traceback (most recent call last):\n  File "/opt/rocks/bin/rocks", line 260, in <module>\n    command.runWrapper(name, args[i:])\n${error.message}\n`;
        return { exitCode: 1, stdout: this.output, stderr: trace };
      }
      if (error instanceof Abort) {
        const isOld = this.state.version === "6.1";
        const said = `${isOld ? "error - " : "Error: "}${error.message}\n${usage}\n`;
        return { exitCode: isOld ? 255 : 1, stdout: this.output + said, stderr: "" };
      }
      throw error;
    }
  }

  private run(name: string, given: Arguments): void {
    const { positional } = given;
    switch (name) {
      case "list host":
        this.list(given, this.hostListing(this.nodesOf(positional)));
        return;
      case "list host vm":
        this.list(given, this.vmListing(given));
        return;
      case "list host interface":
        this.list(given, this.interfaceListing(this.nodesOf(positional)));
        return;
      case "list host route":
        this.list(given, this.routeListing(this.nodesOf(positional)));
        return;
      case "list host boot":
        this.list(given, this.bootListing(this.nodesOf(positional)));
        return;
      case "list host attr":
        this.list(given, this.attributeListing(this.nodesOf(positional)));
        return;
      case "list network":
        this.list(given, this.networkListing(positional));
        return;
      case "list cluster":
        this.list(given, this.clusterListing(given));
        return;
      case "list attr":
        this.list(given, {
          ...{ columns: ["attr", "value"], key: "list", trimOwner: false, rows: this.state.attributes },
        });
        return;
      case "list membership":
        this.list(given, MEMBERSHIPS);
        return;
      case "list appliance":
        this.list(given, APPLIANCE_LISTING);
        return;
      case "report vm nextmac":
        this.say(this.nextMac());
        return;
      case "report nextip":
        this.say(this.nextIp(positional[0] ?? ""));
        return;
      case "report version":
        this.say(this.state.version);
        return;
      case "dump host vm":
        this.dump();
        return;
      case "add cluster":
        this.addCluster(given);
        return;
      case "add host vm":
        this.addHostVm(given);
        return;
      case "add host interface":
        this.addHostInterface(given);
        return;
      case "add host":
        this.addHostCommand(given);
        return;
      case "set host cpus":
        this.setHostCpus(given);
        return;
      case "set host vm":
        this.setHostVm(given);
        return;
      case "set host vm cdrom":
        this.setCdrom(given);
        return;
      case "set host boot":
        this.setHostBoot(given);
        return;
      case "set host attr":
        this.setHostAttr(given);
        return;
      case "remove cluster":
        this.removeCluster(positional);
        return;
      case "remove host interface":
        this.removeHostInterface(positional);
        return;
      case "remove host":
        this.removeHostCommand(positional);
        return;
      case "start host vm":
        this.start(positional);
        return;
      case "stop host vm":
        this.stop(given);
        return;
      case "sync host network":
        this.syncNetwork(
          this.nodesOf(positional)
            .map(({ name }) => (positional.length > 0 ? name : ""))
            .filter(Boolean),
        );
        return;
      case "pause host vm":
        this.setStatus(positional, "active", "paused");
        return;
      case "resume host vm":
        this.setStatus(positional, "paused", "active");
        return;
    }
  }

  // ── Arguments ────────────────────────────────────────────────────────────────────────────────────────────────────

  private say(line: string): void {
    this.output += `${line}\n`;
  }

  private list({ params }: Arguments, listing: Listing): void {
    const modern = this.state.version === "7.0";
    this.output += print(listing, {
      json: modern && isTrue(params.get("json")),
      header: params.get("output-header") !== "no",
      only: params.get("output-col")?.split(",") ?? [],
    });
  }

  /** No name is every host. */
  private nodesOf(names: readonly string[]): StandInNode[] {
    const { nodes } = this.state;
    if (names.length === 0) {
      return nodes;
    }
    const found = names.flatMap((name) => this.resolve(name));
    return nodes.filter((node) => found.includes(node));
  }

  private resolve(name: string): StandInNode[] {
    const { nodes, interfaces } = this.state;
    const membership = [...APPLIANCES].find(([, appliance]) => appliance === name)?.[0];
    if (membership) {
      return nodes.filter((node) => node.membership === membership);
    }
    if (name.startsWith("rack")) {
      const rack = name.slice(4);
      if (!/^\d+$/.test(rack)) {
        throw new PythonError(`ValueError: invalid literal for int() with base 10: '${rack}'`);
      }
      return nodes.filter((node) => node.rack === Number(rack));
    }
    if (name.includes("%")) {
      const pattern = new RegExp(`^${name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&").replaceAll("%", ".*")}$`);
      return nodes.filter((node) => pattern.test(node.name));
    }
    if (name.split("'").length % 2 === 0) {
      throw new PythonError(
        'sqlalchemy.exc.ProgrammingError: (ProgrammingError) (1064, "You have an error in your SQL syntax")',
      );
    }
    if (name.startsWith("select") || name.includes("'")) {
      return [];
    }
    const nic = interfaces.find(({ ip, mac }) => ip === name || mac === name);
    const node = nodes.find((one) => one.name === name.replace(/\.local$/, "") || one.name === nic?.node);
    if (!node) {
      throw new Abort(
        this.state.elsewhere.includes(name) ? `host "${name}" is not in cluster` : `cannot resolve host "${name}"`,
      );
    }
    return [node];
  }

  private node(name: string): StandInNode {
    const [node] = this.resolve(name);
    if (!node) {
      throw new Abort(`cannot resolve host "${name}"`);
    }
    return node;
  }

  private vmOf({ name }: Pick<StandInNode, "name">): StandInVm | undefined {
    return this.state.vms.find((vm) => vm.node === name);
  }

  private nicsOf({ name }: Pick<StandInNode, "name">): StandInInterface[] {
    return this.state.interfaces.filter((nic) => nic.node === name);
  }

  // ── list ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  private hostListing(nodes: readonly StandInNode[]): Listing {
    return {
      columns: ["host", "membership", "cpus", "rack", "rank", "runaction", "installaction"],
      rows: nodes.map((one) => [
        ...[one.name, one.membership, one.cpus, one.rack, one.rank],
        ...[one.runAction, one.installAction],
      ]),
      key: "list",
      trimOwner: true,
      json: { order: ["installaction", "runaction", "cpus", "rank", "membership", "rack"] },
    };
  }

  private vmListing({ positional, params }: Arguments): Listing {
    const [status, disks] = [isTrue(params.get("status")), isTrue(params.get("showdisks"))];
    const rows: Cell[][] = [];
    for (const node of this.nodesOf(positional)) {
      const vm = this.vmOf(node);
      if (vm) {
        const macs = this.nicsOf(node).map(({ mac }) => mac);
        (macs.length > 0 ? macs : [null]).forEach((mac, index) => {
          const first = index === 0;
          rows.push([
            ...[node.name, first ? vm.slice : null, first ? vm.memory : null, first ? node.cpus : null, mac],
            ...[first ? (vm.host ?? "None") : null, first ? "hvm" : null],
            ...(status ? [first ? this.statusOf(node.name) : null] : []),
            ...(disks ? (first ? [vm.disk, vm.diskSize, vm.cdrom ?? ""] : ["", "", null]) : []),
          ]);
        });
      }
    }
    return {
      columns: [
        ...["vm-host", "slice", "mem", "cpus", "mac", "host", "virt-type"],
        ...(status ? ["status"] : []),
        ...(disks ? ["disk", "disksize", "cdrom"] : []),
      ],
      rows,
      key: "vm",
      trimOwner: true,
      json: {
        order: ["status", "virt-type", "mem", "host", "cpus", "mac", "slice", "disksize", "cdrom", "disk"],
      },
    };
  }

  private statusOf(name: string): string {
    const vm = this.vmOf({ name });
    if (!vm?.host || this.state.silent.includes(vm.host)) {
      return "nostate-error";
    }
    const domain = this.state.domains[name];
    return domain?.host === vm.host && domain.status !== "suspended" ? domain.status : "nostate";
  }

  private interfaceListing(nodes: readonly StandInNode[]): Listing {
    const netmaskOf = (nic: StandInInterface) =>
      nic.iface.startsWith("vlan")
        ? null
        : (this.state.networks.find(({ name }) => name === nic.subnet)?.netmask ?? null);
    return {
      columns: [
        ...["host", "subnet", "iface", "mac", "ip", "netmask"],
        ...["module", "name", "vlan", "options", "channel"],
      ],
      rows: byName(nodes).flatMap((node) =>
        this.nicsOf(node).map((nic) => [
          ...[node.name, nic.subnet, nic.iface, nic.mac, nic.ip, netmaskOf(nic)],
          ...[null, nic.name, nic.vlan, null, null],
        ]),
      ),
      key: "interface",
      trimOwner: true,
      json: {
        order: ["subnet", "iface", "name", "ip", "vlan", "netmask", "module", "mac", "options", "channel"],
        ownerLast: true,
      },
    };
  }

  private routeListing(nodes: readonly StandInNode[]): Listing {
    return {
      columns: ["host", "network", "netmask", "gateway", "source"],
      rows: byName(nodes).map(({ name }) => {
        const own = this.state.routes.find((route) => route.node === name);
        return [name, "0.0.0.0", "0.0.0.0", own?.gateway ?? "10.1.1.1", own ? "H" : "G"];
      }),
      key: "route",
      trimOwner: false,
    };
  }

  private bootListing(nodes: readonly StandInNode[]): Listing {
    return {
      columns: ["host", "action"],
      rows: byName(nodes).map(({ name, bootAction }) => [name, bootAction]),
      key: "boot",
      trimOwner: true,
    };
  }

  private attributeListing(nodes: readonly StandInNode[]): Listing {
    const major = this.state.version.split(".")[0] ?? "";
    const rows = nodes.flatMap((node): Cell[][] => {
      const appliance = APPLIANCES.get(node.membership) ?? "";
      const attributes = new Map<string, [string, string]>([
        ...this.state.attributes.map(([name, value]): [string, [string, string]] => [name, [value, "G"]]),
        ["arch", ["x86_64", "G"]],
        ["rocks_release", ["Manzanita", "G"]],
        ["rocks_version", [this.state.version, "G"]],
        ["rocks_version_major", [major, "G"]],
        ["version", [this.state.version, "G"]],
        ...(APPLIANCE_ATTRIBUTES[appliance] ?? []).map(([name, value]): [string, [string, string]] => [
          name,
          [value, "A"],
        ]),
        ["appliance", [appliance, "I"]],
        ["hostname", [node.name, "I"]],
        ["membership", [node.membership, "I"]],
        ["rack", [String(node.rack), "I"]],
        ["rank", [String(node.rank), "I"]],
        ...Object.entries(node.attributes).map(([name, value]): [string, [string, string]] => [name, [value, "H"]]),
      ]);
      return [...attributes]
        .sort(([one], [other]) => (one < other ? -1 : 1))
        .map(([name, [value, source]]) => [node.name, name, value, source]);
    });
    return { columns: ["host", "attr", "value", "source"], rows, key: "attr", trimOwner: false };
  }

  private networkListing(names: readonly string[]): Listing {
    const unknown = names.find((name) => !this.state.networks.some((one) => one.name === name));
    if (unknown !== undefined) {
      throw new Abort(`unknown network "${unknown}"`);
    }
    return {
      columns: ["network", "subnet", "netmask", "mtu", "dnszone", "servedns"],
      rows: this.state.networks
        .filter(({ name }) => names.length === 0 || names.includes(name))
        .map((one) => [one.name, one.subnet, one.netmask, one.mtu, one.zone, one.served ? "True" : "False"]),
      key: "list",
      trimOwner: true,
      json: { order: ["dnszone", "subnet", "netmask", "servedns", "mtu"], ownerLast: true },
    };
  }

  private clusterListing({ positional, params }: Arguments): Listing {
    const status = isTrue(params.get("status"));
    const frontends = this.nodesOf(positional).filter(
      ({ membership }) => positional.length > 0 || membership === "Frontend",
    );
    const rows = frontends.flatMap((frontend): Cell[][] => {
      const isVirtual = this.vmOf(frontend) !== undefined;
      if (frontend.membership !== "Frontend") {
        throw new Abort(`host ${frontend.name} is not a virtual frontend`);
      }
      const row = (owner: string, client: string, of: string): Cell[] => [
        ...[owner, client, isVirtual ? "VM" : "physical"],
        ...(status ? [isVirtual ? this.statusOf(of) : null] : []),
      ];
      return [
        row(frontend.name, "", frontend.name),
        ...this.clientsOf(frontend).map((client) => row("", client.name, client.name)),
      ];
    });
    return {
      columns: ["frontend", "client nodes", "type", ...(status ? ["status"] : [])],
      rows,
      key: "cluster",
      trimOwner: false,
      json: { order: ["status", "client nodes", "type"], ownerLast: true },
    };
  }

  /** For Rocks a cluster is whatever is in its frontend's VLAN. */
  private clientsOf(frontend: StandInNode): StandInNode[] {
    if (!this.vmOf(frontend)) {
      return this.state.nodes.filter(({ membership }) => membership === "Compute");
    }
    const vlan = this.nicsOf(frontend).find((nic) => (nic.vlan ?? 0) > 0)?.vlan;
    return this.state.nodes.filter(
      (node) =>
        node !== frontend &&
        this.vmOf(node) &&
        vlan !== undefined &&
        this.nicsOf(node).some((nic) => nic.vlan === vlan),
    );
  }

  private dump(): void {
    for (const vm of this.state.vms) {
      const host = vm.host === "rocks" ? "localhost" : vm.host;
      this.say(
        `/opt/rocks/bin/rocks set host vm ${vm.node} physnode='${host}' disk='${vm.disk}' disksize='${vm.diskSize}' mem='${vm.memory}' slice='${vm.slice}' virt-type='hvm'`,
      );
    }
  }

  private nextMac(): string {
    const known = this.state.interfaces.flatMap(({ mac }) => (/^0a:64:33:[89ab]/.test(mac ?? "") ? [mac ?? ""] : []));
    if (known.length === 0) {
      return "0a:64:33:80:00:00";
    }
    const highest = Math.max(...known.map((mac) => Number.parseInt(mac.replaceAll(":", ""), 16)));
    return ((highest + 1).toString(16).padStart(12, "0").match(/../g) ?? []).join(":");
  }

  private nextIp(network: string): string {
    const [base, hosts] = network === "public" ? ["198.51.100.", 254] : ["10.1.", 65534];
    const used = new Set(this.state.interfaces.map(({ ip }) => ip));
    for (let host = hosts as number; host > 0; host--) {
      const ip = network === "public" ? `${base}${host}` : `${base}${host >> 8}.${host & 255}`;
      if (!used.has(ip)) {
        return ip;
      }
    }
    throw new Abort("no address is left");
  }

  // ── add ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  private addCluster({ positional, params }: Arguments): void {
    // Positional arguments are taken from the end.
    const given = [...positional];
    const computes = params.get("num-computes") ?? given.pop();
    const ip = params.get("ip") ?? given.pop();
    if (!ip) {
      throw new Abort("must supply an IP address for the frontend");
    }
    if (!computes) {
      throw new Abort("must supply the number of compute nodes");
    }
    if (!/^\d+$/.test(computes)) {
      throw new Abort("num-computes must be an integer");
    }
    const name = params.get("fe-name") || undefined;
    const isNamed = isTrue(params.get("cluster-naming"));
    if (isNamed && !name) {
      throw new Abort("you must select a fe-name when using cluster-naming");
    }
    if ((params.get("virt-type") ?? "hvm").toLowerCase() !== "hvm") {
      throw new Abort("KVM support only 'hvm' virtualization");
    }
    const vlan = this.vlanFor(params.get("vlan"));
    const listed = params.get("container-hosts")?.split(/\s+/).filter(Boolean) ?? [];
    const containers =
      listed.length > 0
        ? listed.map((one) => this.node(one).name)
        : this.state.nodes.flatMap((one) => (one.membership === "VM Container" ? [one.name] : []));
    const container = params.get("fe-container") ?? "rocks";

    this.say(`Creating Virtual Frontend on Physical Host ${container} --> `);
    this.addVlan(container, vlan);
    const memory = this.state.version === "7.0" ? 2048 : 1024;
    const size = params.get("disk-per-frontend") ?? "36";
    const frontend = this.addVm(container, "Frontend", {
      ...{ name, memory, cpus: "1", disksize: size, vlans: [vlan, 0] },
    });
    const eth1 = this.nicsOf(frontend)[1];
    if (eth1) {
      eth1.subnet = "public";
      if (!isAddress(ip)) {
        throw new Abort(`The ip address ${ip} is invalid`);
      }
      eth1.ip = ip;
    }
    this.state.routes.push({ node: frontend.name, gateway: params.get("gateway") ?? "198.51.100.1" });
    Object.assign(frontend, { runAction: "os", installAction: "install vm frontend", bootAction: "install" });
    this.say(`\tcreated frontend VM named: ${frontend.name}`);
    this.say("<-- Done.");
    if (Number(computes) > 0) {
      this.say(`Creating ${Number(computes)} Virtual Cluster nodes  --> `);
      for (let index = 0; index < Number(computes); index++) {
        const host = containers[index % containers.length] ?? "rocks";
        this.addVlan(host, vlan);
        const node = this.addVm(host, "Hosted VM", {
          name: isNamed ? `vm-${name}-${index}` : undefined,
          memory: this.toMemory(params.get("mem-per-compute") ?? "1024"),
          cpus: params.get("cpus-per-compute") ?? "1",
          disksize: params.get("disk-per-compute") ?? "36",
          vlans: [vlan],
        });
        Object.assign(node, { runAction: null, installAction: "install", bootAction: "install" });
        this.say(`\tcreated compute VM named: ${node.name}`);
      }
      this.say("<-- Done.");
    }
    this.say("Syncing Network Configuration --> ");
    this.say("<-- Done.");
  }

  private vlanFor(text: string | undefined): number {
    if (text !== undefined && text !== "") {
      if (!/^\d+$/.test(text)) {
        throw new Abort(`Vlan ID (${text}) must be an integer`);
      }
      return Number(text);
    }
    this.say("Getting Free VLAN --> ");
    const used = new Set(this.state.interfaces.map(({ vlan }) => vlan));
    let free = 2;
    while (used.has(free)) {
      free += 1;
    }
    this.say("<-- Done");
    return free;
  }

  private addVlan(host: string, vlan: number): void {
    const iface = `vlan${vlan}`;
    if (!this.state.interfaces.some((nic) => nic.node === host && nic.iface === iface && nic.vlan === vlan)) {
      this.state.interfaces.push({
        ...{ node: host, subnet: "private", iface, mac: null, ip: null, name: null, vlan },
      });
    }
  }

  /** MySQL takes a word for 0, and only warns. */
  private toMemory(text: string): number {
    if (/^\d+$/.test(text)) {
      return Number(text);
    }
    this.warnings +=
      "/opt/rocks/lib/python2.7/site-packages/SQLAlchemy-0.9.2-py2.7-linux-x86_64.egg/sqlalchemy/engine/default.py:425: Warning: Incorrect integer value: 'lots' for column `cluster`.`vm_nodes`.`Mem` at row 1\n";
    return 0;
  }

  private addVm(
    host: string,
    membership: string,
    wish: {
      readonly name?: string | undefined;
      readonly memory: number;
      readonly cpus: string;
      readonly disksize: string;
      readonly vlans: ReadonlyArray<number | null>;
      readonly mac?: string | undefined;
      readonly ip?: string | undefined;
      readonly macs?: number;
      readonly disk?: string | undefined;
    },
  ): StandInNode {
    const physical = this.node(host);
    const appliance = APPLIANCES.get(membership);
    if (!appliance) {
      throw new PythonError("sqlalchemy.orm.exc.NoResultFound: No row was found for one()");
    }
    let slice = Math.max(0, ...this.state.vms.filter((vm) => vm.host === host).map((vm) => vm.slice));
    const named = () => `${appliance}-${physical.rack}-${physical.rank}-${slice}`;
    while (!wish.name && this.state.nodes.some(({ name }) => name === named())) {
      slice += 1;
    }
    const name = wish.name ?? named();
    if (physical.membership === "Compute") {
      throw new Abort(`could not find a partition on host (${host}) to hold the VM's disk image`);
    }
    if (!/^\d+$/.test(wish.cpus)) {
      throw new PythonError(`ValueError: invalid literal for int() with base 10: '${wish.cpus}'`);
    }
    const { rack, rank } = physical;
    const node = this.addNode({ name, membership, cpus: Number(wish.cpus), rack, rank });
    const count = wish.macs ?? wish.vlans.length;
    for (let index = 0; index < count; index++) {
      const isFirst = index === 0;
      this.state.interfaces.push({
        node: name,
        subnet: isFirst && membership !== "Hosted VM" ? "private" : null,
        iface: `eth${index}`,
        mac: (isFirst && wish.mac) || this.nextMac(),
        ip: isFirst && membership !== "Hosted VM" ? (wish.ip ?? this.nextIp("private")) : null,
        name,
        vlan: wish.vlans[index] ?? null,
      });
    }
    this.state.vms.push({
      ...{ node: name, host, slice, memory: wish.memory, cdrom: null, diskSize: Number(wish.disksize) },
      disk: wish.disk ?? `file:${DISKS}/${name}.vda,vda,virtio`,
    });
    const modern = this.state.version === "7.0";
    Object.assign(node, {
      ...{ runAction: "os", bootAction: "install" },
      installAction: modern ? "install notracker" : "install headless",
      attributes: { os: "linux", ...(modern && { UseTracker: "False" }) },
    });
    return node;
  }

  private addNode(wish: Pick<StandInNode, "name" | "membership" | "cpus" | "rack" | "rank">): StandInNode {
    const { name } = wish;
    if (this.state.nodes.some((node) => node.name === name)) {
      throw new Abort(`Node ${name} already exists.\nSelect a different hostname, cabinet and/or rank value.`);
    }
    const wrong = name.includes(".")
      ? "can not contains any dot."
      : [...APPLIANCES.values()].includes(name)
        ? "can not be equal to an appliance name."
        : /^rack\d+$/.test(name)
          ? "can not be in the form of rack<number>."
          : undefined;
    if (wrong) {
      throw new Abort(`Hostname ${name} ${wrong}${name.includes(".") ? "" : "\nSelect a different hostname."}`);
    }
    const node: StandInNode = {
      ...wish,
      ...{ runAction: "os", installAction: "install", bootAction: null, attributes: { os: "linux" } },
    };
    this.state.nodes.push(node);
    return node;
  }

  private addHostVm({ positional, params }: Arguments): void {
    const given = [...positional];
    const membership = params.get("membership") ?? given.pop();
    if (!membership) {
      throw new Abort("must supply a membership");
    }
    if (given.length === 0) {
      throw new Abort("must supply at least one host");
    }
    for (const host of given.map((one) => this.node(one).name)) {
      const node = this.addVm(host, membership, {
        name: params.get("name"),
        memory: this.toMemory(params.get("mem") ?? (this.state.version === "7.0" ? "2048" : "1024")),
        cpus: params.get("cpus") ?? "1",
        disksize: params.get("disksize") ?? "36",
        vlans: (params.get("vlan")?.split(",") ?? []).map((vlan) => (vlan === "none" ? null : Number(vlan))),
        macs: Number(params.get("num-macs") ?? "1"),
        mac: params.get("mac"),
        ip: params.get("ip"),
        disk: params.get("disk"),
      });
      this.say(`added VM ${node.name} on physical node ${host}`);
    }
  }

  private addHostInterface({ positional, params }: Arguments): void {
    const given = [...positional];
    const iface = params.get("iface") ?? given.pop();
    if (given.length !== 1 || !iface) {
      throw new Abort("must supply one host");
    }
    const node = this.node(given[0] ?? "");
    if (this.nicsOf(node).some((nic) => nic.iface === iface)) {
      throw new Abort(`interface "${iface}" exists`);
    }
    const subnet = params.get("subnet");
    const vlan = params.get("vlan");
    this.state.interfaces.push({
      node: node.name,
      // One that isn't there is taken without a word.
      subnet: this.state.networks.some(({ name }) => name === subnet) ? (subnet ?? null) : null,
      iface,
      mac: params.get("mac") ?? null,
      ip: params.get("ip") ?? null,
      name: params.get("name") ?? (params.has("mac") ? node.name : null),
      vlan: vlan === undefined ? null : Number(vlan),
    });
  }

  private addHostCommand({ positional, params }: Arguments): void {
    const [name] = positional;
    if (!name) {
      throw new Abort("must supply one host");
    }
    const [, appliance, rack, rank] = /^(.+)-(\d+)-(\d+)$/.exec(name) ?? [];
    const byName = [...APPLIANCES].find(([, one]) => one === appliance)?.[0];
    if (this.state.nodes.some((node) => node.name === name)) {
      throw new Abort(`Node ${name} already exists.\nSelect a different hostname, cabinet and/or rank value.`);
    }
    const membership = params.get("membership") ?? byName;
    if (!membership) {
      throw new Abort("membership not specified");
    }
    if (!APPLIANCES.has(membership)) {
      throw new Abort(`Membership ${membership} is not valid.\nPlease select a valid membership`);
    }
    const cpus = Number(params.get("cpus") ?? "1");
    const place = { rack: Number(params.get("rack") ?? rack), rank: Number(params.get("rank") ?? rank) };
    this.addNode({ name, membership, cpus, ...place });
  }

  // ── set ──────────────────────────────────────────────────────────────────────────────────────────────────────────

  private setHostCpus({ positional, params }: Arguments): void {
    const given = [...positional];
    const cpus = params.get("cpus") ?? given.pop();
    if (given.length === 0) {
      throw new Abort("must supply host");
    }
    const nodes = this.nodesOf(given);
    if (!cpus || !/^\d+$/.test(cpus)) {
      throw new PythonError(`ValueError: invalid literal for int() with base 10: '${cpus}'`);
    }
    for (const node of nodes) {
      node.cpus = Number(cpus);
    }
  }

  private setHostVm({ positional, params }: Arguments): void {
    const nodes = this.nodesOf(positional);
    if (nodes.length !== 1) {
      throw new Abort("must supply only one host");
    }
    const vm = this.vmOf(nodes[0] as StandInNode);
    const [memory, disk, size, host] = ["mem", "disk", "disksize", "physnode"].map((name) => params.get(name));
    if (memory !== undefined && !/^\d+$/.test(memory)) {
      throw new Abort('"mem" parameter must be an integer');
    }
    if (disk !== undefined && !/^(file|qcow2|qed|phy):[^,]+,[^,]+,[^,]+$/.test(disk)) {
      throw new Abort("Invalid disk specification. Please see rocks add host vm help.");
    }
    const physical = host === undefined ? undefined : this.node(host).name;
    if (vm) {
      Object.assign(vm, {
        ...(memory !== undefined && { memory: Number(memory) }),
        ...(disk !== undefined && { disk, diskSize: 36 }),
        ...(size !== undefined && { diskSize: Number(size) }),
        ...(physical !== undefined && { host: physical }),
      });
    }
  }

  private setCdrom({ positional, params }: Arguments): void {
    for (const node of this.nodesOf(positional)) {
      const vm = this.vmOf(node);
      const cdrom = params.get("cdrom");
      if (vm) {
        vm.cdrom = cdrom === "none" ? null : (cdrom ?? null);
      }
    }
  }

  private setHostBoot({ positional, params }: Arguments): void {
    if (positional.length === 0) {
      throw new Abort("must supply host");
    }
    const action = params.get("action") ?? "";
    if (!["os", "run", "install"].includes(action)) {
      throw new Abort('invalid action. action must be "os", "run" or "install"');
    }
    for (const node of this.nodesOf(positional)) {
      node.bootAction = action;
    }
  }

  private setHostAttr({ positional, params }: Arguments): void {
    const given = [...positional];
    const value = params.get("value") ?? given.pop();
    const name = params.get("attr") ?? given.pop();
    for (const node of this.nodesOf(given)) {
      node.attributes[name ?? ""] = value ?? "";
    }
  }

  // ── remove ───────────────────────────────────────────────────────────────────────────────────────────────────────

  private removeCluster(names: readonly string[]): void {
    if (names.length === 0) {
      throw new Abort("must supply at least one frontend name");
    }
    const frontends = names.map((name) => this.node(name));
    const touched = new Set<string>();
    for (const frontend of frontends) {
      if (frontend.membership !== "Frontend" || !this.vmOf(frontend)) {
        throw new Abort(`host ${frontend.name} is not a virtual frontend`);
      }
      const going = [...this.clientsOf(frontend), frontend];
      const rows = new Map<string, [number, string]>();
      for (const node of going) {
        const host = this.vmOf(node)?.host;
        if (!host) {
          throw new PythonError("AttributeError: 'NoneType' object has no attribute 'name'");
        }
        for (const { vlan } of this.nicsOf(node)) {
          if (vlan && this.findsVlan(host, vlan)) {
            rows.set(`${host} ${vlan}`, [vlan, host]);
            touched.add(host);
          }
        }
      }
      for (const [vlan, host] of rows.values()) {
        this.say(`Removing vlan ${vlan}  on host  ${host}`);
        this.removeInterface(host, `vlan${vlan}`);
      }
      this.say(`Removing hosts:  ${going.map(({ name }) => name).join(" ")}`);
      this.removeNodes(going);
    }
    this.say("Syncing configuration");
    this.syncNetwork([...touched]);
  }

  /** By the network that the VLAN and a NIC of its host's are in. */
  private findsVlan(host: string, vlan: number): boolean {
    const nics = this.state.interfaces.filter(({ node }) => node === host);
    return nics.some(
      (row) =>
        row.iface.startsWith("vlan") &&
        row.vlan === vlan &&
        nics.some(({ iface, subnet }) => !iface.startsWith("vlan") && subnet !== null && subnet === row.subnet),
    );
  }

  /** No host is every host that Rocks manages. */
  private syncNetwork(hosts: readonly string[]): void {
    const managed = this.state.nodes.filter(({ membership }) => /^(Compute|VM Container)$/.test(membership));
    this.state.restarted.push(...(hosts.length > 0 ? hosts : managed.map(({ name }) => name)));
  }

  private removeHostInterface(positional: readonly string[]): void {
    const [host, iface] = positional;
    this.removeInterface(this.node(host ?? "").name, iface ?? "");
  }

  private removeInterface(host: string, iface: string): void {
    this.state.interfaces = this.state.interfaces.filter((nic) => !(nic.node === host && nic.iface === iface));
    if (this.state.down && host !== "rocks") {
      this.say(`${host}: down`);
    }
  }

  private removeHostCommand(names: readonly string[]): void {
    if (names.length === 0) {
      throw new Abort("must supply at least one host");
    }
    this.removeNodes(this.nodesOf(names));
  }

  /** A machine that runs goes on, and nobody knows of it any more. */
  private removeNodes(going: readonly StandInNode[]): void {
    const names = new Set(going.map(({ name }) => name));
    const { state } = this;
    state.nodes = state.nodes.filter(({ name }) => !names.has(name));
    state.interfaces = state.interfaces.filter(({ node }) => !names.has(node));
    state.vms = state.vms
      .filter(({ node }) => !names.has(node))
      .map((vm) => (vm.host !== null && names.has(vm.host) ? { ...vm, host: null } : vm));
    state.routes = state.routes.filter(({ node }) => !names.has(node));
  }

  // ── start, stop ──────────────────────────────────────────────────────────────────────────────────────────────────

  private start(names: readonly string[]): void {
    for (const node of this.nodesOf(names)) {
      const host = this.hypervisorOf(node);
      const vm = this.vmOf(node) as StandInVm;
      const domain = this.state.domains[node.name];
      if (domain?.status === "active") {
        throw new Abort(`The host ${node.name} is already running.`);
      }
      if (domain?.status === "paused") {
        throw new Abort(`The host ${node.name} is puased. You need to resume it (rocks resume host vm).`);
      }
      const { cpus, bootAction } = node;
      this.state.domains[node.name] = { ...{ host, status: "active", cpus, memory: vm.memory, bootAction } };
      if (node.membership === "Frontend") {
        node.bootAction = "os";
      }
    }
  }

  private stop({ positional, params }: Arguments): void {
    for (const node of this.nodesOf(positional)) {
      this.hypervisorOf(node);
      const domain = this.state.domains[node.name];
      const action = this.state.version === "7.0" ? params.get("action") : undefined;
      if (action === "shutdown") {
        // Undefined at once: with its end it is gone, and only who runs is looked at.
        if (domain?.status === "active" && !this.state.deaf.includes(node.name)) {
          delete this.state.domains[node.name];
        }
      } else if (!this.state.unstoppable.includes(node.name)) {
        delete this.state.domains[node.name];
      }
    }
  }

  private setStatus(names: readonly string[], from: "active" | "paused", to: "active" | "paused"): void {
    for (const node of this.nodesOf(names)) {
      this.hypervisorOf(node);
      const domain = this.state.domains[node.name];
      if (domain?.status === from) {
        domain.status = to;
      }
    }
  }

  private hypervisorOf(node: StandInNode): string {
    const vm = this.vmOf(node);
    if (!vm) {
      throw new Abort(`host ${node.name} is not a virtual host`);
    }
    if (!vm.host) {
      throw new Abort(`host ${node.name} does not have a physical host`);
    }
    if (this.state.silent.includes(vm.host)) {
      throw new PythonError(
        `libvirt.libvirtError: unable to connect to server at '${vm.host}:16514': No route to host`,
      );
    }
    return vm.host;
  }
}

const MEMBERSHIPS: Listing = {
  columns: ["membership", "appliance", "distribution", "public"],
  rows: [
    ["Frontend", "frontend", "rocks-dist", "no"],
    ["Compute", "compute", "rocks-dist", "yes"],
    ["Login", "login", "rocks-dist", "yes"],
    ["NAS Appliance", "nas", "rocks-dist", "yes"],
    ["Ethernet Switch", "network", "rocks-dist", "yes"],
    ["Power Distribution Unit", "power", "rocks-dist", "yes"],
    ["VM Container", "vm-container", "rocks-dist", "yes"],
    ["Hosted VM", "hosted-vm", "rocks-dist", "no"],
  ],
  key: "list",
  trimOwner: true,
};

const APPLIANCE_LISTING: Listing = {
  columns: ["appliance", "graph", "node"],
  rows: [
    ["frontend", "default", "server"],
    ["compute", "default", "compute"],
    ["login", "default", "login"],
    ["nas", "default", "nas"],
    ["network", null, null],
    ["power", null, null],
    ["vm-container", "default", "client"],
    ["hosted-vm", null, null],
  ],
  key: "list",
  trimOwner: true,
};

const APPLIANCE_ATTRIBUTES: Readonly<Record<string, ReadonlyArray<readonly [string, string]>>> = {
  "vm-container": [
    ["dhcp_filename", "pxelinux.0"],
    ["dhcp_nextserver", "10.1.1.1"],
    ["kickstartable", "yes"],
    ["kvm", "true"],
    ["managed", "true"],
  ],
  "hosted-vm": [["kickstartable", "no"]],
};

function byName(nodes: readonly StandInNode[]): StandInNode[] {
  return [...nodes].sort((one, other) => (one.name < other.name ? -1 : 1));
}

function isTrue(text: string | undefined): boolean {
  return /^(on|yes|y|true|1)$/i.test(text ?? "");
}

function isAddress(ip: string): boolean {
  return /^\d+(\.\d+){3}$/.test(ip) && ip.split(".").every((octet) => Number(octet) < 256);
}
