import { fromNumber, toNumber } from "../../../provider/src/plan/addresses";
import { cdata, copyOf, type Group, groups, single, type Template, tag, templateXml } from "./template";
import { CODE, Refused } from "./wire";

export interface User {
  readonly id: number;
  readonly name: string;
  readonly passwords: Set<string>;
  readonly gid: number;
  readonly gname: string;
  /** Limits by `VM/CPU`, `NETWORK/0/LEASES` …; absent: none. */
  readonly quotas: Map<string, number>;
}

export type Kind = "VM" | "NET" | "IMAGE" | "TEMPLATE" | "VNTEMPLATE" | "DATASTORE" | "CLUSTER" | "SECGROUP";

/** What every object has. */
export interface Thing {
  readonly kind: Kind;
  readonly id: number;
  readonly uid: number;
  readonly gid: number;
  name: string;
  /** OWNER_U, OWNER_M, OWNER_A, GROUP_U … OTHER_A. */
  permissions: number[];
  template: Template;
}

export interface Range {
  readonly id: number;
  readonly ip: string;
  readonly mac: string;
  readonly size: number;
  next: number;
  readonly parentRange?: number;
  /** Address to what has it: `VM 7`, `VNET 3`, `VM -1`. */
  readonly leases: Map<string, string>;
  /** What else was said of it, which counts more than what its network says. */
  readonly said?: Group;
}

export interface Net extends Thing {
  readonly kind: "NET";
  state: number;
  previous: number;
  readonly parent?: number;
  readonly fromTemplate?: number;
  readonly cluster: number;
  readonly bridge: string;
  readonly automaticVlan: boolean;
  readonly vlan?: number;
  ranges: Range[];
}

export interface Img extends Thing {
  readonly kind: "IMAGE";
  state: number;
  previous: number;
  type: number;
  persistent: boolean;
  readonly path: string;
  source: string;
  format: string;
  size: number;
  readonly datastore: number;
  readonly vms: Set<number>;
  cloningOps: number;
  cloningId: number;
  /** What the stand-in knows of its bytes. */
  content: string;
}

export interface Machine extends Thing {
  readonly kind: "VM";
  state: number;
  lcm: number;
  /** Its USER_TEMPLATE; `template` is the other. */
  user: Template;
  readonly disks: Group[];
  nics: Group[];
  context: Group | undefined;
  host: number | undefined;
  content: string;
  healthy: boolean;
  endTime: number;
}

export interface Store extends Thing {
  readonly kind: "DATASTORE";
  readonly type: number;
  readonly safeDirs: string;
}

export const VM = {
  PENDING: 1,
  HOLD: 2,
  ACTIVE: 3,
  STOPPED: 4,
  SUSPENDED: 5,
  DONE: 6,
  POWEROFF: 8,
  UNDEPLOYED: 9,
  CLONING: 10,
  CLONING_FAILURE: 11,
} as const;
export const NET = { READY: 1, LOCK_CREATE: 2, LOCK_DELETE: 3, ERROR: 5 } as const;
export const IMG = { READY: 1, USED: 2, LOCKED: 4, ERROR: 5, DELETE: 7, USED_PERS: 8 } as const;

const NAMES: Readonly<Record<Kind, string>> = {
  VM: "virtual machine",
  NET: "virtual network",
  IMAGE: "image",
  TEMPLATE: "virtual machine template",
  VNTEMPLATE: "virtual network template",
  DATASTORE: "datastore",
  CLUSTER: "cluster",
  SECGROUP: "security group",
};

/** All objects of the stand-in. */
export class World {
  readonly users: User[] = [];
  readonly things = new Map<string, Thing>();
  /** Who may do what: as `acl.addrule` takes them. */
  readonly rules: Array<{ readonly user: bigint; readonly resource: bigint; readonly rights: bigint }> = [];
  /** Limits by `VM/CPU`, `NETWORK/0/LEASES` and the like: of users without their own, and of the one group. */
  readonly defaultQuotas = new Map<string, number>();
  readonly groupQuotas = new Map<string, number>();
  private readonly next = new Map<Kind, number>();

  /** The id that the next object of a kind gets. */
  nextId(kind: Kind, set?: number): number {
    const id = set ?? this.next.get(kind) ?? 0;
    this.next.set(kind, id + 1);
    return id;
  }

  peekId(kind: Kind, id: number): void {
    this.next.set(kind, id);
  }

  add<T extends Thing>(thing: T): T {
    this.things.set(`${thing.kind} ${thing.id}`, thing);
    return thing;
  }

  remove(thing: Thing): void {
    this.things.delete(`${thing.kind} ${thing.id}`);
  }

  all<T extends Thing>(kind: Kind): T[] {
    // Pools are sorted by id, the newest first.
    return [...this.things.values()].filter((thing) => thing.kind === kind).toSorted((a, b) => b.id - a.id) as T[];
  }

  /** @throws Refused when there is none */
  get<T extends Thing>(kind: Kind, id: number): T {
    const thing = this.things.get(`${kind} ${id}`);
    if (!thing) {
      throw new Refused(CODE.NO_EXISTS, `Error getting ${NAMES[kind]} [${id}].`, id);
    }
    return thing as T;
  }

  find<T extends Thing>(kind: Kind, id: number): T | undefined {
    return this.things.get(`${kind} ${id}`) as T | undefined;
  }

  user(id: number): User {
    return this.users.find((user) => user.id === id) as User;
  }

  /** Names of all but machines are unique per owner. */
  namesake(kind: Kind, name: string, uid: number): Thing | undefined {
    return this.all(kind).find((thing) => thing.name === name && thing.uid === uid);
  }
}

export function isAdmin(user: User): boolean {
  return user.gid === 0;
}

// ── Addresses ──────────────────────────────────────────────────────────────────────────────────────────────────────

export function macFrom(mac: string, steps: number): string {
  const value = (BigInt(`0x${mac.replaceAll(":", "")}`) + BigInt(steps)).toString(16).padStart(12, "0");
  return (value.match(/../g) ?? []).join(":");
}

/** The range that a template asks for; undefined for one that makes no sense, which is left out without a word. */
export function rangeFrom(group: Group, id: number): Range | undefined {
  const [ip = "", size = 0] = [group.get("IP"), Number(group.get("SIZE"))];
  if (!/^(\d{1,3}\.){3}\d{1,3}$/.test(ip) || ip.split(".").some((part) => Number(part) > 255) || !(size > 0)) {
    return undefined;
  }
  const bytes = ip.split(".").map((part) => Number(part).toString(16).padStart(2, "0"));
  const said = new Map([...group].filter(([name]) => !["IP", "MAC", "SIZE", "TYPE"].includes(name)));
  return { id, ip, mac: group.get("MAC") ?? ["02", "00", ...bytes].join(":"), size, next: 0, leases: new Map(), said };
}

export function placeIn(range: Range, ip: string): number | undefined {
  const place = toNumber(ip) - toNumber(range.ip);
  return place >= 0 && place < range.size ? place : undefined;
}

/** Takes an address: the one asked for, else the next one round the range. */
export function takeLease(
  net: Net,
  holder: string,
  wanted?: string,
): { ip: string; mac: string; range: Range } | undefined {
  for (const range of net.ranges) {
    const places =
      wanted === undefined
        ? Array.from({ length: range.size }, (_, step) => (range.next + step) % range.size)
        : [placeIn(range, wanted)].filter((place) => place !== undefined);
    for (const place of places) {
      const ip = fromNumber(toNumber(range.ip) + place);
      if (!range.leases.has(ip)) {
        range.leases.set(ip, holder);
        if (wanted === undefined) {
          range.next = (place + 1) % range.size;
        }
        return { ip, mac: macFrom(range.mac, place), range };
      }
    }
  }
  return undefined;
}

export function usedLeases(net: Net): number {
  return net.ranges.reduce((used, range) => used + range.leases.size, 0);
}

// ── Documents ──────────────────────────────────────────────────────────────────────────────────────────────────────

const PERMISSION_NAMES = [
  "OWNER_U",
  "OWNER_M",
  "OWNER_A",
  "GROUP_U",
  "GROUP_M",
  "GROUP_A",
  "OTHER_U",
  "OTHER_M",
  "OTHER_A",
];

function head(world: World, thing: Thing): string {
  const owner = world.users.find((user) => user.id === thing.uid);
  return [
    tag("ID", String(thing.id)),
    tag("UID", String(thing.uid)),
    tag("GID", String(thing.gid)),
    tag("UNAME", owner?.name ?? ""),
    tag("GNAME", owner?.gname ?? ""),
    tag("NAME", thing.name),
  ].join("");
}

function permissions(thing: Thing): string {
  return tag(
    "PERMISSIONS",
    PERMISSION_NAMES.map((name, index) => tag(name, String(thing.permissions[index] ?? 0))).join(""),
  );
}

function ids(name: string, list: Iterable<number>): string {
  return tag(name, [...list].map((id) => tag("ID", String(id))).join(""));
}

function maybe(name: string, value: string | number | undefined, data = false): string {
  return value === undefined || value === "" ? `<${name}/>` : tag(name, data ? cdata(String(value)) : String(value));
}

/** @param sees whether the asking user may see who has an address; undefined in lists, which have ranges as they are stored */
export function netXml(world: World, net: Net, sees?: (holder: string) => boolean): string {
  const vms = net.ranges.flatMap(({ leases }) => [...leases.values()]).filter((holder) => /^VM \d/.test(holder));
  const shown = vms.map((holder) => Number(holder.slice(3)));
  return tag(
    "VNET",
    [
      head(world, net),
      permissions(net),
      ids("CLUSTERS", [net.cluster]),
      tag("BRIDGE", cdata(net.bridge)),
      tag("BRIDGE_TYPE", cdata(single(net.template, "BRIDGE_TYPE") ?? "linux")),
      tag("STATE", cdata(String(net.state))),
      tag("PREV_STATE", cdata(String(net.previous))),
      maybe("PARENT_NETWORK_ID", net.parent),
      maybe("TEMPLATE_ID", net.fromTemplate),
      tag("VN_MAD", cdata(single(net.template, "VN_MAD") ?? "")),
      maybe("PHYDEV", single(net.template, "PHYDEV"), true),
      maybe("VLAN_ID", net.vlan, true),
      "<OUTER_VLAN_ID/>",
      tag("VLAN_ID_AUTOMATIC", net.automaticVlan ? "1" : "0"),
      tag("OUTER_VLAN_ID_AUTOMATIC", "0"),
      tag("USED_LEASES", String(usedLeases(net))),
      tag("VROUTERS", ""),
      ids(
        "UPDATED_VMS",
        shown.toSorted((a, b) => a - b),
      ),
      ids("OUTDATED_VMS", []),
      ids("UPDATING_VMS", []),
      ids("ERROR_VMS", []),
      tag("TEMPLATE", templateXml(net.template)),
      tag("AR_POOL", net.ranges.map((range) => (sees ? rangeXml(range, sees) : storedRangeXml(range))).join("")),
    ].join(""),
  );
}

/** The taken places as pairs: which, and by what; the kind of the object in the upper half. */
function storedRangeXml(range: Range): string {
  const KINDS: Readonly<Record<string, bigint>> = { VM: 0x10n, VNET: 0x40n };
  const allocated = [...range.leases].map(([ip, holder]) => {
    const [kind = "", id = "0"] = holder.split(" ");
    const value = ((KINDS[kind] ?? 0n) << 32n) | BigInt.asUintN(32, BigInt(id));
    return { place: toNumber(ip) - toNumber(range.ip), value };
  });
  const pairs = allocated
    .toSorted((one, other) => one.place - other.place)
    .map(({ place, value }) => ` ${place} ${value}`);
  return tag("AR", (pairs.length > 0 ? tag("ALLOCATED", cdata(pairs.join(""))) : "") + rangeAttributes(range));
}

/** Sorted, as OpenNebula keeps them. */
function rangeAttributes(range: Range): string {
  const attributes = new Map([
    ...(range.said ?? []),
    ["AR_ID", String(range.id)],
    ["IP", range.ip],
    ["MAC", range.mac],
    ["NEXT_INDEX", String(range.next)],
    ...(range.parentRange === undefined ? [] : [["PARENT_NETWORK_AR_ID", String(range.parentRange)] as const]),
    ["SHARED", "NO"],
    ["SIZE", String(range.size)],
    ["TYPE", "IP4"],
  ] as const);
  return [...attributes]
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([name, value]) => tag(name, cdata(value)))
    .join("");
}

function rangeXml(range: Range, sees: (holder: string) => boolean): string {
  const leases = [...range.leases].toSorted(([one], [other]) => toNumber(one) - toNumber(other));
  const shown = leases
    .filter(([, holder]) => sees(holder))
    .map(([ip, holder]) => {
      const [kind = "", id = ""] = holder.split(" ");
      const place = toNumber(ip) - toNumber(range.ip);
      return tag(
        "LEASE",
        [tag("IP", cdata(ip)), tag("MAC", cdata(macFrom(range.mac, place))), tag(kind, cdata(id))].join(""),
      );
    });
  return tag(
    "AR",
    [
      rangeAttributes(range),
      tag("MAC_END", cdata(macFrom(range.mac, range.size - 1))),
      tag("IP_END", cdata(fromNumber(toNumber(range.ip) + range.size - 1))),
      tag("USED_LEASES", String(range.leases.size)),
      leases.length === 0 ? "<LEASES/>" : tag("LEASES", shown.join("")),
    ].join(""),
  );
}

export function imageXml(world: World, image: Img): string {
  const store = world.find<Store>("DATASTORE", image.datastore);
  return tag(
    "IMAGE",
    [
      head(world, image),
      permissions(image),
      tag("TYPE", String(image.type)),
      tag("DISK_TYPE", "0"),
      tag("PERSISTENT", image.persistent ? "1" : "0"),
      tag("REGTIME", "1795351060"),
      tag("MODTIME", "1795351060"),
      tag("SOURCE", cdata(image.source)),
      tag("PATH", cdata(image.path)),
      tag("FORMAT", cdata(image.format)),
      tag("FS", cdata("")),
      tag("SIZE", String(image.size)),
      tag("STATE", String(image.state)),
      tag("PREV_STATE", String(image.previous)),
      tag("RUNNING_VMS", String(image.vms.size)),
      tag("CLONING_OPS", String(image.cloningOps)),
      tag("CLONING_ID", String(image.cloningId)),
      tag("TARGET_SNAPSHOT", "-1"),
      tag("DATASTORE_ID", String(image.datastore)),
      tag("DATASTORE", store?.name ?? ""),
      ids("VMS", image.vms),
      ids(
        "CLONES",
        world
          .all<Img>("IMAGE")
          .filter(({ cloningId }) => cloningId === image.id)
          .map(({ id }) => id),
      ),
      ids("APP_CLONES", []),
      tag("TEMPLATE", templateXml(image.template)),
      tag(
        "SNAPSHOTS",
        "<ALLOW_ORPHANS><![CDATA[NO]]></ALLOW_ORPHANS><CURRENT_BASE><![CDATA[-1]]></CURRENT_BASE><NEXT_SNAPSHOT><![CDATA[0]]></NEXT_SNAPSHOT>",
      ),
      tag("BACKUP_INCREMENTS", ""),
      tag("BACKUP_DISK_IDS", ""),
    ].join(""),
  );
}

export function templateDocument(world: World, thing: Thing): string {
  const name = thing.kind === "TEMPLATE" ? "VMTEMPLATE" : "VNTEMPLATE";
  return tag(
    name,
    [
      head(world, thing),
      permissions(thing),
      tag("REGTIME", "1795351307"),
      tag("TEMPLATE", templateXml(thing.template)),
    ].join(""),
  );
}

export function storeXml(world: World, store: Store): string {
  const images = world.all<Img>("IMAGE").filter(({ datastore }) => datastore === store.id);
  return tag(
    "DATASTORE",
    [
      head(world, store),
      permissions(store),
      tag("DS_MAD", cdata(single(store.template, "DS_MAD") ?? "-")),
      tag("TM_MAD", cdata(single(store.template, "TM_MAD") ?? "")),
      tag("BASE_PATH", cdata(`/var/lib/one/var//datastores/${store.id}`)),
      tag("TYPE", String(store.type)),
      tag("DISK_TYPE", "0"),
      tag("STATE", "0"),
      ids("CLUSTERS", [100]),
      tag("TOTAL_MB", "258020"),
      tag("FREE_MB", "70444"),
      tag("USED_MB", "22820"),
      ids(
        "IMAGES",
        images.map(({ id }) => id).toSorted((a, b) => a - b),
      ),
      tag("TEMPLATE", templateXml(store.template)),
    ].join(""),
  );
}

/** A machine's whole TEMPLATE as OpenNebula has it: what was asked for, and what it fills in. */
function wholeTemplate(machine: Machine): Template {
  const template = copyOf(machine.template);
  template.set("DISK", machine.disks);
  template.set("NIC", machine.nics);
  if (machine.context) {
    template.set("CONTEXT", [machine.context]);
  }
  template.set("VMID", [String(machine.id)]);
  for (const name of ["DISK", "NIC"]) {
    if (groups(template, name).length === 0) {
      template.delete(name);
    }
  }
  return template;
}

export function machineXml(world: World, machine: Machine): string {
  return tag(
    "VM",
    [
      head(world, machine),
      permissions(machine),
      tag("LAST_POLL", "0"),
      tag("STATE", String(machine.state)),
      tag("LCM_STATE", String(machine.lcm)),
      tag("PREV_STATE", String(machine.state)),
      tag("PREV_LCM_STATE", String(machine.lcm)),
      tag("RESCHED", "0"),
      tag("STIME", "1795351148"),
      tag("ETIME", String(machine.endTime)),
      tag("DEPLOY_ID", machine.host === undefined ? "" : `dummyhost${machine.host}:${machine.name}:dummy`),
      tag("MONITORING", ""),
      tag("SCHED_ACTIONS", ""),
      tag("TEMPLATE", templateXml(wholeTemplate(machine))),
      tag("USER_TEMPLATE", templateXml(machine.user)),
      historyXml(machine, false),
      "<BACKUPS><BACKUP_CONFIG/><BACKUP_IDS></BACKUP_IDS></BACKUPS>",
    ].join(""),
  );
}

/** As `vmpool.info` has it: a few attributes, and none of the user's own. */
export function shortMachineXml(world: World, machine: Machine): string {
  const pick = (group: Group, names: readonly string[]) =>
    names.map((name) => tag(name, cdata(group.get(name) ?? ""))).join("");
  const DISK = [
    "DISK_ID",
    "DATASTORE",
    "DATASTORE_ID",
    "IMAGE",
    "IMAGE_ID",
    "SIZE",
    "TYPE",
    "CLONE",
    "CLONE_TARGET",
    "LN_TARGET",
    "DISK_SNAPSHOT_TOTAL_SIZE",
  ];
  const NIC = ["IP", "MAC", "NETWORK", "NETWORK_ID", "NIC_ID", "SECURITY_GROUPS"];
  const scheduling: Template = new Map([...machine.user].filter(([name]) => name.startsWith("SCHED_REQ")));
  return tag(
    "VM",
    [
      head(world, machine),
      tag("LAST_POLL", "0"),
      tag("STATE", String(machine.state)),
      tag("LCM_STATE", String(machine.lcm)),
      tag("RESCHED", "0"),
      tag("STIME", "1795351148"),
      tag("ETIME", String(machine.endTime)),
      tag("DEPLOY_ID", machine.host === undefined ? "" : `dummyhost${machine.host}:${machine.name}:dummy`),
      tag(
        "TEMPLATE",
        [
          ...["CPU", "MEMORY", "VCPU"].flatMap((name) => {
            const value = single(machine.template, name);
            return value === undefined ? [] : [tag(name, value)];
          }),
          ...machine.disks.map((disk) => tag("DISK", pick(disk, DISK))),
          ...machine.nics.map((nic) => tag("NIC", pick(nic, NIC))),
          ...groups(machine.template, "GRAPHICS").map((group) =>
            tag("GRAPHICS", pick(group, ["LISTEN", ...(group.has("PORT") ? ["PORT"] : []), "TYPE"])),
          ),
        ].join(""),
      ),
      "<MONITORING/>",
      tag("USER_TEMPLATE", templateXml(scheduling)),
      historyXml(machine, true),
    ].join(""),
  );
}

function historyXml(machine: Machine, short: boolean): string {
  if (machine.host === undefined) {
    return "<HISTORY_RECORDS/>";
  }
  const host = `dummyhost${machine.host}`;
  const common = [
    tag("OID", String(machine.id)),
    tag("SEQ", "0"),
    tag("HOSTNAME", short ? cdata(host) : host),
    tag("HID", String(machine.host)),
    tag("CID", "100"),
  ];
  const mads = [tag("VM_MAD", cdata("dummy")), tag("TM_MAD", cdata("dummy"))];
  const rest = short
    ? [tag("DS_ID", "102"), ...mads, tag("ACTION", cdata("0"))]
    : [
        tag("STIME", "1795351151"),
        tag("ETIME", "0"),
        ...mads,
        tag("DS_ID", "102"),
        ...[
          "PLAN_ID",
          "ACTION_ID",
          "PSTIME",
          "PETIME",
          "RSTIME",
          "RETIME",
          "ESTIME",
          "EETIME",
          "ACTION",
          "UID",
          "GID",
          "REQUEST_ID",
        ].map((name) => tag(name, "0")),
      ];
  return tag("HISTORY_RECORDS", tag("HISTORY", [...common, ...rest].join("")));
}
