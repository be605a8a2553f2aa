import { randomBytes, randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { copyOf, type Group, groups, parseTemplate, single, type Template, tag } from "./template";
import { type Call, CODE, decodeCall, Fault, failure, fault, Refused, success } from "./wire";
import {
  IMG,
  type Img,
  imageXml,
  isAdmin,
  type Kind,
  type Machine,
  macFrom,
  machineXml,
  NET,
  type Net,
  netXml,
  placeIn,
  type Range,
  rangeFrom,
  type Store,
  shortMachineXml,
  storeXml,
  type Thing,
  takeLease,
  templateDocument,
  type User,
  usedLeases,
  VM,
  World,
} from "./world";

/** How long what `oned` does behind its answers takes, ms. */
export interface Delays {
  /** Each call. */
  call: number;
  network: number;
  image: number;
  /** The scheduler's window. */
  schedule: number;
  prolog: number;
  boot: number;
  stop: number;
  /** A guest that heeds no power button: until the graceful action is given up. */
  patience: number;
  /** From running to READY=YES. */
  guest: number;
}

export const QUICK: Delays = {
  call: 0,
  network: 5,
  image: 10,
  schedule: 10,
  prolog: 5,
  boot: 5,
  stop: 10,
  patience: 1200,
  guest: 0,
};

/** What can go wrong on demand. */
export interface Faults {
  /** Machines whose names match don't get a host. */
  unschedulable?: RegExp;
  /** … don't boot. */
  bootFails?: RegExp;
  /** Machines whose guests heed no power button: a graceful stop is given up in the end, and they run on. */
  ignoresStops?: (machine: Machine) => boolean;
  /** Networks whose names match fail in their driver. */
  networkFails?: RegExp;
  /** Images whose names match are never copied to the end. */
  imageFails?: RegExp;
  /** Calls that are carried out, and whose answer gets lost: how many of this method. */
  losesAnswerOf?: { readonly method: string; times: number };
}

const ACTIONS = [
  "terminate",
  "terminate-hard",
  "undeploy",
  "undeploy-hard",
  "poweroff",
  "poweroff-hard",
  "hold",
  "release",
  "stop",
  "suspend",
  "resume",
  "reboot",
  "reboot-hard",
];

const LCM_NAMES: Readonly<Record<number, string>> = {
  0: "LCM_INIT",
  1: "PROLOG",
  2: "BOOT",
  3: "RUNNING",
  11: "EPILOG",
  12: "SHUTDOWN",
  16: "UNKNOWN",
  18: "SHUTDOWN_POWEROFF",
  36: "BOOT_FAILURE",
};
const STATE_NAMES: Readonly<Record<number, string>> = {
  1: "PENDING",
  2: "HOLD",
  4: "STOPPED",
  5: "SUSPENDED",
  6: "DONE",
  8: "POWEROFF",
  9: "UNDEPLOYED",
  10: "CLONING",
  11: "CLONING_FAILURE",
};

/** States in which a machine counts as running to a quota. */
const RUNNING: readonly number[] = [VM.ACTIVE, VM.HOLD, VM.PENDING, VM.CLONING];

/** States from which a machine is simply taken away, whereupon its persistent image counts as broken. */
const LCM_FAILURES = [36, 37, 38, 39, 40, 41, 42, 44, 46, 47, 48, 49, 50, 61];

const VNET_RESTRICTED = ["VN_MAD", "PHYDEV", "QINQ_TYPE", "BRIDGE", "CONF", "FILTER", "CLUSTER_IDS", "EXTERNAL"];
const VM_RESTRICTED: ReadonlyArray<readonly [string, string?]> = [
  ["CONTEXT", "FILES"],
  ["NIC", "MAC"],
  ["NIC", "VLAN_ID"],
  ["NIC", "BRIDGE"],
  ["DISK", "ORIGINAL_SIZE"],
  ["DEPLOY_ID"],
  ["PCI"],
  ["EMULATOR"],
];

const KIND_BITS: Readonly<Partial<Record<Kind, bigint>>> = {
  VM: 0x10n,
  NET: 0x40n,
  IMAGE: 0x80n,
  TEMPLATE: 0x200n,
  DATASTORE: 0x1000n,
};
const RIGHT_BITS = { USE: 1n, MANAGE: 2n, ADMIN: 4n, CREATE: 8n } as const;
type Right = keyof typeof RIGHT_BITS;

/** A stand-in for OpenNebula's `oned`: speaks its XML-RPC over http as the recorded one does. Nothing runs behind it. */
export class Oned {
  readonly world = new World();
  readonly delays: Delays;
  faults: Faults = {};
  /** How large images are whose files only a front-end sees, MiB. */
  imageMib = 40;
  /** Requests so far. */
  requests = 0;
  /** Methods called so far, in order. */
  readonly calls: string[] = [];
  /** Lets as many requests through and cuts off the rest. */
  letThrough = Number.POSITIVE_INFINITY;
  /** How many requests were being answered at the same time, at most. */
  mostAtOnce = 0;
  private atOnce = 0;
  private readonly timers = new Set<NodeJS.Timeout>();
  private readonly sockets = new Set<Socket>();
  private readonly server: Server;

  constructor(delays: Partial<Delays> = {}) {
    this.delays = { ...QUICK, ...delays };
    this.server = createServer((request, response) => void this.receive(request, response));
    this.server.on("connection", (socket) => {
      this.sockets.add(socket);
      socket.on("close", () => this.sockets.delete(socket));
    });
    this.addUser("oneadmin", "opennebula", 0, "oneadmin");
    // What the default VDC gives its groups.
    for (const kind of ["NET", "DATASTORE"] as const) {
      this.world.rules.push({ user: 0x200000064n, resource: ((KIND_BITS[kind] ?? 0n) | 4n) << 32n, rights: 1n });
    }
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}/RPC2`;
  }

  async stop(): Promise<void> {
    for (const timer of this.timers) {
      clearTimeout(timer);
    }
    for (const socket of this.sockets) {
      socket.destroy();
    }
    await new Promise((resolve) => this.server.close(resolve));
  }

  // ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  private async receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.requests += 1;
    this.atOnce += 1;
    this.mostAtOnce = Math.max(this.mostAtOnce, this.atOnce);
    response.on("close", () => {
      this.atOnce -= 1;
    });
    if (this.letThrough-- <= 0) {
      request.socket.destroy();
      return;
    }
    response.setHeader("Connection", "close");
    if (request.headers["content-length"] === undefined) {
      response.writeHead(411).end();
      return;
    }
    if (request.method !== "POST" || request.url !== "/RPC2") {
      response.writeHead(request.method === "POST" ? 404 : 405, { "Content-Type": "text/html" }).end("<HTML></HTML>");
      return;
    }
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      chunks.push(chunk as Buffer);
    }
    if (this.delays.call > 0) {
      await new Promise((resolve) => setTimeout(resolve, this.delays.call));
    }
    const body = this.answer(Buffer.concat(chunks).toString("utf8"));
    const loses = this.faults.losesAnswerOf;
    if (loses && loses.times > 0 && this.calls.at(-1) === loses.method) {
      loses.times -= 1;
      request.socket.destroy();
      return;
    }
    response
      .writeHead(200, { "Content-Type": "text/xml; charset=utf-8", "Content-Length": Buffer.byteLength(body) })
      .end(body);
  }

  /** The body of the answer to the body of a request. */
  answer(body: string): string {
    let call: Call | undefined;
    try {
      call = decodeCall(body);
      const method = call.method.replace(/^one\./, "");
      this.calls.push(method);
      const handler = this.methods[method];
      if (!handler) {
        throw new Fault(-506, `Method '${call.method}' not defined`);
      }
      const [session = "", ...args] = call.args;
      return success(handler(this.authenticate(String(session)), args as never[]));
    } catch (error) {
      if (error instanceof Refused) {
        return failure(call?.method ?? "", error);
      }
      if (error instanceof Fault) {
        return fault(error);
      }
      throw error;
    }
  }

  // ── Who may what ─────────────────────────────────────────────────────────────────────────────────────────────────

  addUser(name: string, password: string, gid: number, gname: string, id?: number): User {
    const user: User = {
      id: id ?? (name === "oneadmin" ? 0 : this.world.users.length + 1),
      name,
      passwords: new Set([password]),
      gid,
      gname,
      quotas: new Map(),
    };
    this.world.users.push(user);
    return user;
  }

  private authenticate(session: string): User {
    const [name, ...rest] = session.split(":");
    const user = this.world.users.find((one) => one.name === name);
    if (!user?.passwords.has(rest.join(":"))) {
      throw new Refused(CODE.AUTHENTICATION, "User couldn't be authenticated, aborting call.");
    }
    return user;
  }

  private may(user: User, right: Right, thing: Thing): boolean {
    if (isAdmin(user)) {
      return true;
    }
    const offset = right === "USE" ? 0 : right === "MANAGE" ? 1 : 2;
    const [owner, group, other] = [
      thing.permissions[offset],
      thing.permissions[3 + offset],
      thing.permissions[6 + offset],
    ];
    const byPermission = (thing.uid === user.id && owner) || (thing.gid === user.gid && group) || other;
    return byPermission === 1 || this.mayByRule(user, right, thing.kind, thing.id);
  }

  private mayByRule(user: User, right: Right, kind: Kind, id?: number): boolean {
    const bit = KIND_BITS[kind];
    return this.world.rules.some((rule) => {
      const [who, whose] = [rule.user >> 32n, Number(rule.user & 0xffffffffn)];
      const applies = who === 4n || (who === 1n && whose === user.id) || (who === 2n && whose === user.gid);
      const [what, which] = [rule.resource >> 32n, Number(rule.resource & 0xffffffffn)];
      const matches =
        bit !== undefined && (what & bit) !== 0n && ((what & 4n) !== 0n || ((what & 1n) !== 0n && which === id));
      return applies && matches && (rule.rights & RIGHT_BITS[right]) !== 0n;
    });
  }

  private authorize(user: User, ...needs: ReadonlyArray<readonly [Right, Kind | Thing]>): void {
    const missing = needs.filter(([right, what]) =>
      typeof what === "string" ? !(isAdmin(user) || this.mayByRule(user, right, what)) : !this.may(user, right, what),
    );
    if (missing.length > 0) {
      const texts = missing.map(([right, what]) =>
        typeof what === "string"
          ? `Not authorized to perform ${right} ${what}`
          : `Not authorized to perform ${right} ${what.kind} [${what.id}]`,
      );
      throw new Refused(CODE.AUTHORIZATION, `User [${user.id}] : ${texts.join("; ")}.`);
    }
  }

  private refuseRestricted(
    user: User,
    template: Template,
    names: ReadonlyArray<readonly [string, string?]>,
    what: string,
  ): void {
    if (isAdmin(user)) {
      return;
    }
    for (const [name, key] of names) {
      const found = key === undefined ? template.has(name) : groups(template, name).some((group) => group.has(key));
      if (found) {
        const who = what.startsWith("Extra") ? "" : "";
        throw new Refused(
          CODE.AUTHORIZATION,
          `User [${user.id}] : ${who}${what} includes a restricted attribute ${key ?? name}.`,
        );
      }
    }
  }

  /** @param isTheirs whether something counts: a user's own, or a group's members' */
  private used(isTheirs: (thing: Thing) => boolean, quota: string): number {
    const machines = this.world.all<Machine>("VM").filter((vm) => isTheirs(vm) && vm.state !== VM.DONE);
    const [kind, id, what] = quota.split("/");
    if (kind === "VM") {
      const [, running, name = ""] = /^(RUNNING_)?(.+)$/.exec(id ?? "") ?? [];
      const counted = running ? machines.filter(({ state }) => RUNNING.includes(state)) : machines;
      return name === "VMS"
        ? counted.length
        : counted.reduce((sum, vm) => sum + Number(single(vm.template, name) ?? 0), 0);
    }
    if (kind === "NETWORK" && what === "LEASES") {
      const net = this.world.find<Net>("NET", Number(id));
      const mine = new Set(machines.map((vm) => `VM ${vm.id}`));
      const own = new Set(
        this.world
          .all<Net>("NET")
          .filter(isTheirs)
          .map((one) => `VNET ${one.id}`),
      );
      return net
        ? net.ranges
            .flatMap(({ leases }) => [...leases.values()])
            .filter((holder) => mine.has(holder) || own.has(holder)).length
        : 0;
    }
    const images = this.world.all<Img>("IMAGE").filter((one) => isTheirs(one) && String(one.datastore) === id);
    return what === "IMAGES" ? images.length : images.reduce((sum, { size }) => sum + size, 0);
  }

  private refuseOverQuota(user: User, wanted: Readonly<Record<string, number>>): void {
    if (isAdmin(user)) {
      return;
    }
    const ofUser = (quota: string) => user.quotas.get(quota) ?? this.world.defaultQuotas.get(quota);
    const ofGroup = (quota: string) => this.world.groupQuotas.get(quota);
    for (const [quota, amount] of Object.entries(wanted)) {
      const limits = [
        [`user [${user.id}]`, ofUser(quota), this.used(({ uid }) => uid === user.id, quota)],
        [`group [${user.gid}]`, ofGroup(quota), this.used(({ gid }) => gid === user.gid, quota)],
      ] as const;
      for (const [whose, limit, used] of limits) {
        if (limit !== undefined && used + amount > limit) {
          const [kind, id, what] = quota.split("/");
          const where = kind === "VM" ? `${id} quota in VM` : `${what} quota in ${kind} with ID: ${id}`;
          throw new Refused(CODE.AUTHORIZATION, `User [${user.id}] : ${whose} limit of ${limit} reached for ${where}.`);
        }
      }
    }
  }

  private refuseNamesake(kind: Kind, name: string, uid: number, code: number, before = ""): void {
    const other = this.world.namesake(kind, name, uid);
    if (other) {
      throw new Refused(code, `${before}NAME is already taken by ${kind} ${other.id}.`);
    }
  }

  private later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      work();
    }, ms);
    timer.unref();
    this.timers.add(timer);
  }

  // ── Pools ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private pool<T extends Thing>(user: User, kind: Kind, filter: number, first = -1, last = -1): T[] {
    return this.world
      .all<T>(kind)
      .filter((thing) => {
        const visible = this.may(user, "USE", thing);
        switch (filter) {
          case -4:
            return thing.gid === user.gid && visible;
          case -3:
            return thing.uid === user.id;
          case -2:
            return visible;
          case -1:
            return thing.uid === user.id || (thing.gid === user.gid && visible);
          default:
            return thing.uid === filter && visible;
        }
      })
      .filter(({ id }) => (first < 0 || id >= first) && (last < 0 || id <= last));
  }

  private machines(user: User, filter: number, first: number, last: number, state: number, search = ""): Machine[] {
    if (search) {
      throw new Refused(CODE.INTERNAL, "JSON query search is not supported by the SQL backend");
    }
    return this.pool<Machine>(user, "VM", filter, first, last).filter((vm) =>
      state === -2 ? true : state === -1 ? vm.state !== VM.DONE : vm.state === state,
    );
  }

  private sees(user: User, net: Net): (holder: string) => boolean {
    return (holder) => {
      if (isAdmin(user) || this.may(user, "MANAGE", net)) {
        return true;
      }
      const [kind, id] = holder.split(" ");
      const thing = kind === "VM" ? this.world.find("VM", Number(id)) : this.world.find("NET", Number(id));
      return thing !== undefined && thing.uid === user.id;
    };
  }

  private info<T extends Thing>(user: User, kind: Kind, id: unknown): T {
    if (typeof id !== "number") {
      throw new Fault(
        -501,
        id === undefined ? "Not enough parameters" : "Parameter that is supposed to be integer is not",
      );
    }
    const thing = this.world.get<T>(kind, id);
    this.authorize(user, ["USE", thing]);
    return thing;
  }

  private userXml(user: User): string {
    return tag(
      "USER",
      [
        tag("ID", String(user.id)),
        tag("GID", String(user.gid)),
        tag("GROUPS", tag("ID", String(user.gid))),
        tag("GNAME", user.gname),
        tag("NAME", user.name),
        "<PASSWORD><![CDATA[0000]]></PASSWORD><AUTH_DRIVER><![CDATA[core]]></AUTH_DRIVER><ENABLED>1</ENABLED><TEMPLATE></TEMPLATE>",
        this.quotasXml(user.quotas, ({ uid }) => uid === user.id),
        tag(
          "DEFAULT_USER_QUOTAS",
          this.quotasXml(this.world.defaultQuotas, () => false),
        ),
      ].join(""),
    );
  }

  private groupXml(user: User): string {
    return tag(
      "GROUP",
      [
        tag("ID", String(user.gid)),
        tag("NAME", user.gname),
        this.quotasXml(this.world.groupQuotas, ({ gid }) => gid === user.gid),
        tag(
          "DEFAULT_GROUP_QUOTAS",
          this.quotasXml(new Map(), () => false),
        ),
      ].join(""),
    );
  }

  private quotasXml(quotas: ReadonlyMap<string, number>, isTheirs: (thing: Thing) => boolean): string {
    const line = (path: string, name: string) => {
      const quota = `${path}/${name}`;
      const limit = String(quotas.get(quota) ?? -1);
      return `<${name}><![CDATA[${limit}]]></${name}><${name}_USED><![CDATA[${this.used(isTheirs, quota)}]]></${name}_USED>`;
    };
    const members = (kind: "DATASTORE" | "NETWORK", things: readonly Thing[], names: readonly string[]) =>
      things
        .toSorted((one, other) => one.id - other.id)
        .map(({ id }) => `${kind}/${id}`)
        .filter((path) =>
          names.some((name) => quotas.has(`${path}/${name}`) || this.used(isTheirs, `${path}/${name}`) > 0),
        )
        .map((path) =>
          tag(kind, `<ID><![CDATA[${path.split("/")[1]}]]></ID>${names.map((name) => line(path, name)).join("")}`),
        )
        .join("");
    const isLimited = [...quotas.keys()].some((name) => name.startsWith("VM/")) || this.used(isTheirs, "VM/VMS") > 0;
    const names = ["CPU", "MEMORY", "RUNNING_CPU", "RUNNING_MEMORY", "RUNNING_VMS", "SYSTEM_DISK_SIZE", "VMS"];
    return [
      tag("DATASTORE_QUOTA", members("DATASTORE", this.world.all("DATASTORE"), ["IMAGES", "SIZE"])),
      tag("NETWORK_QUOTA", members("NETWORK", this.world.all("NET"), ["LEASES"])),
      tag("VM_QUOTA", isLimited ? tag("VM", names.map((name) => line("VM", name)).join("")) : ""),
      tag("IMAGE_QUOTA", ""),
    ].join("");
  }

  // ── Networks ─────────────────────────────────────────────────────────────────────────────────────────────────────

  private makeNet(user: User, name: string, template: Template, from: Partial<Net>): Net {
    const id = this.world.nextId("NET");
    const asked = groups(template, "AR");
    const mad = single(template, "VN_MAD") ?? "";
    const automaticVlan = single(template, "AUTOMATIC_VLAN_ID")?.toUpperCase() === "YES";
    const bridge = single(template, "BRIDGE") ?? `onebr${id}`;
    const kept = copyOf(template);
    for (const gone of ["NAME", "AUTOMATIC_VLAN_ID"]) {
      kept.delete(gone);
    }
    const defaults = {
      BRIDGE: bridge,
      BRIDGE_TYPE: mad === "ovswitch" ? "openvswitch" : "linux",
      PHYDEV: "",
      SECURITY_GROUPS: "0",
    };
    for (const [attribute, value] of Object.entries(defaults)) {
      if (!kept.has(attribute)) {
        kept.set(attribute, [value]);
      }
    }
    const net: Net = this.world.add({
      kind: "NET",
      id,
      uid: user.id,
      gid: user.gid,
      name,
      permissions: [1, 1, 0, 0, 0, 0, 0, 0, 0],
      template: kept,
      state: NET.LOCK_CREATE,
      previous: NET.LOCK_CREATE,
      cluster: 100,
      bridge,
      automaticVlan,
      ...(automaticVlan && { vlan: id + 2 }),
      ranges: [],
      ...from,
    });
    if (net.state === NET.LOCK_CREATE) {
      this.later(this.delays.network, () => this.finishNet(net, asked));
    }
    return net;
  }

  /** The network driver is through. */
  finishNet(net: Net, asked: readonly Group[] = groups(net.template, "AR")): void {
    if (this.world.find("NET", net.id) !== net || net.state !== NET.LOCK_CREATE) {
      return;
    }
    const failed = this.faults.networkFails?.test(net.name) ?? false;
    const ranges = asked.map((group, index) => rangeFrom(group, index));
    const bad = ranges.some((range) => range === undefined);
    if (failed) {
      Object.assign(net, { state: NET.ERROR, previous: NET.ERROR });
      net.template.set("ERROR", ["Sun Nov 22 12:33:39 2026 : Error creating network"]);
      return;
    }
    net.template.delete("AR");
    net.ranges = ranges.filter((range): range is Range => range !== undefined);
    for (const empty of ["OUTER_VLAN_ID", ...(net.automaticVlan ? [] : ["VLAN_ID"])]) {
      net.template.set(empty, net.template.get(empty) ?? [""]);
    }
    net.state = bad ? NET.ERROR : NET.READY;
    net.previous = net.state;
    if (bad) {
      net.template.set("ERROR", ["Sun Nov 22 12:33:39 2026 : Wrong or empty IP attribute"]);
    }
  }

  private deleteNet(user: User, id: number): number {
    const net = this.world.get<Net>("NET", id);
    this.authorize(user, ["MANAGE", net]);
    const refuse = (why: string) => {
      throw new Refused(CODE.ACTION, `Cannot delete virtual network. ${why}`);
    };
    if (usedLeases(net) > 0) {
      refuse("Can not remove a virtual network with leases in use");
    }
    if (net.state === NET.LOCK_CREATE || net.state === NET.LOCK_DELETE) {
      refuse(
        `Can not remove a Virtual Network, wrong state ${net.state === NET.LOCK_CREATE ? "LOCK_CREATE" : "LOCK_DELETE"}`,
      );
    }
    net.state = NET.LOCK_DELETE;
    net.ranges = [];
    this.later(this.delays.network, () => this.dropNet(net));
    return id;
  }

  /** Also what `onevnet delete --force` of an admin does. */
  dropNet(net: Net): void {
    this.world.remove(net);
    if (net.parent !== undefined) {
      for (const { leases } of this.world.find<Net>("NET", net.parent)?.ranges ?? []) {
        for (const [ip, holder] of [...leases]) {
          if (holder === `VNET ${net.id}`) {
            leases.delete(ip);
          }
        }
      }
    }
  }

  private reserve(user: User, id: number, text: string): number {
    const parent = this.world.get<Net>("NET", id);
    const template = parseTemplate(text);
    this.authorize(user, ["USE", parent]);
    const [name, size] = [single(template, "NAME"), Number(single(template, "SIZE"))];
    const extended = single(template, "NETWORK_ID");
    const [rangeId, ip] = [single(template, "AR_ID"), single(template, "IP")];
    if (rangeId === undefined && ip !== undefined) {
      throw new Refused(CODE.ACTION, "AR_ID must be specified for IP/MAC based reservations");
    }
    if (parent.parent !== undefined) {
      throw new Refused(CODE.ACTION, "Cannot reserve addresses from a reserved VNET");
    }
    if (extended === undefined) {
      this.refuseNamesake("NET", name ?? "", user.id, CODE.INTERNAL);
    }
    this.refuseOverQuota(user, { [`NETWORK/${id}/LEASES`]: size });
    const found = parent.ranges
      .filter((range) => rangeId === undefined || range.id === Number(rangeId))
      .flatMap((range) => {
        const first = ip === undefined ? freeRun(range, size) : placeIn(range, ip);
        const fits = first !== undefined && first + size <= range.size && isFree(range, first, size);
        return fits ? [{ range, first }] : [];
      })[0];
    if (!found) {
      const where = rangeId === undefined ? "an address range" : `address range ${rangeId}, or it does not exist`;
      throw new Refused(CODE.ACTION, `Not enough free addresses in ${where}`);
    }
    const { range, first } = found;
    const net =
      extended === undefined
        ? this.makeNet(user, name ?? "", copyOf(parent.template), {
            parent: parent.id,
            state: NET.READY,
            previous: NET.READY,
            bridge: parent.bridge,
          })
        : this.world.get<Net>("NET", Number(extended));
    for (const ip of addresses(range, first, size)) {
      range.leases.set(ip, `VNET ${net.id}`);
    }
    const [start = ""] = addresses(range, first, 1);
    net.ranges.push({
      id: net.ranges.length,
      ip: start,
      mac: macFrom(range.mac, first),
      size,
      next: 0,
      parentRange: range.id,
      leases: new Map(),
      ...(range.said && { said: range.said }),
    });
    range.next = (first + size) % range.size;
    return net.id;
  }

  private hold(user: User, id: number, text: string, holds: boolean): number {
    const net = this.world.get<Net>("NET", id);
    this.authorize(user, ["MANAGE", net]);
    const ip = groups(parseTemplate(text), "LEASES")[0]?.get("IP") ?? "";
    if (holds && !takeLease(net, "VM -1", ip)) {
      throw new Refused(CODE.INTERNAL, "Address is not part of the address range or in use.");
    }
    if (!holds) {
      for (const { leases } of net.ranges) {
        if (leases.get(ip) === "VM -1") {
          leases.delete(ip);
        }
      }
    }
    return id;
  }

  // ── Images ───────────────────────────────────────────────────────────────────────────────────────────────────────

  private allocateImage(user: User, text: string, datastore: number): number {
    const template = parseTemplate(text);
    this.authorize(user, ["CREATE", "IMAGE"]);
    this.refuseRestricted(user, template, [["SOURCE"]], "Template");
    const store = this.world.get<Store>("DATASTORE", datastore);
    const [name = "", path = "", type = "OS"] = ["NAME", "PATH", "TYPE"].map(
      (attribute) => single(template, attribute) ?? (attribute === "TYPE" ? "OS" : ""),
    );
    if (path === "" && single(template, "SIZE") === undefined) {
      throw new Refused(CODE.INTERNAL, "Cannot parse image SIZE: Wrong number or missing SIZE attribute.");
    }
    if (/nope|nothere/.test(path)) {
      const why = path.startsWith("http") ? "Permission denied" : "No such file or directory";
      throw new Refused(CODE.INTERNAL, `Cannot parse image SIZE: cannot access '${path}' (${why})`);
    }
    if (store.type === 1) {
      throw new Refused(
        CODE.ALLOCATE,
        "Error allocating a new image. New images can only be allocated in a files or image datastore.",
      );
    }
    if (store.type === 0 && type === "CONTEXT") {
      throw new Refused(
        CODE.ALLOCATE,
        "Error allocating a new image. IMAGES of type KERNEL, RAMDISK and CONTEXT cannot be registered in an IMAGE_DS datastore",
      );
    }
    const size = Number(single(template, "SIZE") ?? this.imageMib);
    if (size > 500_000) {
      throw new Refused(CODE.ACTION, "Not enough space in datastore");
    }
    this.refuseOverQuota(user, { [`DATASTORE/${datastore}/IMAGES`]: 1, [`DATASTORE/${datastore}/SIZE`]: size });
    this.refuseNamesake("IMAGE", name, user.id, CODE.ALLOCATE, "Error allocating a new image. ");
    const kept = copyOf(template);
    const persistent = single(template, "PERSISTENT")?.toUpperCase() === "YES";
    for (const gone of ["NAME", "TYPE", "PATH", "FORMAT", "PERSISTENT", "SIZE"]) {
      kept.delete(gone);
    }
    if (type !== "CONTEXT") {
      kept.set("DEV_PREFIX", [single(template, "DEV_PREFIX") ?? "sd"]);
    }
    const image = this.makeImage(user, name, kept, { type: TYPES[type] ?? 0, path, size, persistent, datastore });
    this.later(this.delays.image, () => this.finishImage(image));
    return image.id;
  }

  private makeImage(user: User, name: string, template: Template, from: Partial<Img>): Img {
    return this.world.add({
      kind: "IMAGE",
      id: this.world.nextId("IMAGE"),
      uid: user.id,
      gid: user.gid,
      name,
      permissions: [1, 1, 0, 0, 0, 0, 0, 0, 0],
      template,
      state: IMG.LOCKED,
      previous: 0,
      type: 0,
      persistent: false,
      path: "",
      source: "",
      format: "",
      size: 0,
      datastore: 100,
      vms: new Set<number>(),
      cloningOps: 0,
      cloningId: -1,
      content: "fresh",
      ...from,
    });
  }

  finishImage(image: Img): void {
    if (this.world.find("IMAGE", image.id) !== image || image.state !== IMG.LOCKED) {
      return;
    }
    const safe = single(this.world.get<Store>("DATASTORE", image.datastore).template, "SAFE_DIRS") ?? "/";
    const isUnsafe = image.cloningId < 0 && image.path.startsWith("/") && !image.path.startsWith(safe);
    const waiting = this.world
      .all<Machine>("VM")
      .filter((vm) => vm.state === VM.CLONING && vm.disks.some((disk) => disk.get("IMAGE_ID") === String(image.id)));
    if (isUnsafe || this.faults.imageFails?.test(image.name)) {
      image.state = IMG.ERROR;
      image.template.set("ERROR", [
        `Sun Nov 22 12:38:00 2026 : Error copying image in the datastore: ${isUnsafe ? "Not allowed to copy image file" : "cannot read"} ${image.path}`,
      ]);
      for (const vm of waiting) {
        vm.state = VM.CLONING_FAILURE;
      }
      return;
    }
    Object.assign(image, {
      state: image.vms.size > 0 ? IMG.USED : IMG.READY,
      format: "raw",
      source: `/var/lib/one/var//datastores/${image.datastore}/${randomBytes(16).toString("hex")}`,
    });
    image.previous = image.state;
    if (image.cloningId >= 0) {
      const source = this.world.find<Img>("IMAGE", image.cloningId);
      if (source) {
        source.cloningOps -= 1;
        source.state = source.cloningOps === 0 && source.vms.size === 0 ? IMG.READY : source.state;
      }
      image.cloningId = -1;
    }
    for (const vm of waiting) {
      for (const disk of vm.disks) {
        disk.delete("CLONING");
      }
      vm.state = VM.PENDING;
      this.schedule(vm);
    }
  }

  private cloneImage(user: User, id: number, name: string): number {
    const source = this.world.get<Img>("IMAGE", id);
    this.authorize(user, ["CREATE", "IMAGE"], ["USE", source]);
    const store = `DATASTORE/${source.datastore}`;
    this.refuseOverQuota(user, { [`${store}/IMAGES`]: 1, [`${store}/SIZE`]: source.size });
    this.refuseNamesake("IMAGE", name, user.id, CODE.ALLOCATE, "Error allocating a new image. ");
    source.cloningOps += 1;
    source.state = IMG.USED;
    const { size, datastore, type } = source;
    const image = this.makeImage(user, name, copyOf(source.template), {
      path: source.source,
      size,
      datastore,
      type,
      cloningId: id,
      format: source.format,
      content: "fresh",
    });
    this.later(this.delays.image, () => this.finishImage(image));
    return image.id;
  }

  private deleteImage(user: User, id: number): number {
    const image = this.world.get<Img>("IMAGE", id);
    this.authorize(user, ["MANAGE", image]);
    if (image.vms.size > 0 && image.state !== IMG.ERROR) {
      throw new Refused(CODE.ACTION, `Cannot delete image. There are ${image.vms.size} VMs using it.`);
    }
    if (image.state === IMG.DELETE) {
      throw new Refused(CODE.ACTION, "Cannot delete image. Image is in state DELETE");
    }
    image.previous = IMG.DELETE;
    image.state = IMG.DELETE;
    this.later(this.delays.image, () => this.world.remove(image));
    return id;
  }

  private enableImage(user: User, id: number): number {
    const image = this.world.get<Img>("IMAGE", id);
    this.authorize(user, ["MANAGE", image]);
    if (image.state !== IMG.ERROR && image.state !== IMG.READY) {
      throw new Refused(CODE.INTERNAL, "Could not enable image: Image cannot be in state USED.");
    }
    image.state = IMG.READY;
    return id;
  }

  private setPersistent(user: User, id: number, persistent: boolean): number {
    const image = this.world.get<Img>("IMAGE", id);
    this.authorize(user, ["MANAGE", image]);
    if (image.state === IMG.USED || image.state === IMG.USED_PERS) {
      throw new Refused(CODE.INTERNAL, "Could not make image persistent: Image cannot be in state USED.");
    }
    image.persistent = persistent;
    return id;
  }

  // ── Machines ─────────────────────────────────────────────────────────────────────────────────────────────────────

  private allocateMachine(user: User, template: Template, onHold: boolean, extra: { template?: number } = {}): number {
    this.authorize(user, ["CREATE", "VM"]);
    this.refuseRestricted(user, template, VM_RESTRICTED, "VM Template");
    const memory = Number(single(template, "MEMORY"));
    const cpu = Number(single(template, "CPU"));
    if (!(memory > 0)) {
      throw new Refused(CODE.INTERNAL, "MEMORY attribute must be a positive integer value.");
    }
    if (!(cpu > 0)) {
      throw new Refused(CODE.INTERNAL, "CPU attribute must be a positive float or integer value.");
    }
    const perNet: Record<string, number> = {};
    for (const nic of groups(template, "NIC")) {
      const key = `NETWORK/${nic.get("NETWORK_ID")}/LEASES`;
      perNet[key] = (perNet[key] ?? 0) + 1;
    }
    const shape = { CPU: cpu, MEMORY: memory, VMS: 1 };
    const perMachine = Object.entries(shape).flatMap(([name, amount]) => [
      [`VM/${name}`, amount] as const,
      [`VM/RUNNING_${name}`, amount] as const,
    ]);
    this.refuseOverQuota(user, { ...Object.fromEntries(perMachine), ...perNet });
    const images = groups(template, "DISK").map((disk, index) => this.diskImage(disk, index));
    const id = this.world.nextId("VM");
    const nics = this.takeNics(user, template, id);

    const machine: Machine = this.world.add({
      kind: "VM",
      id,
      uid: user.id,
      gid: user.gid,
      name: single(template, "NAME") ?? `one-${id}`,
      permissions: [1, 1, 0, 0, 0, 0, 0, 0, 0],
      template: new Map(),
      user: new Map(),
      disks: [],
      nics,
      context: undefined,
      state: onHold ? VM.HOLD : VM.PENDING,
      lcm: 0,
      host: undefined,
      content: "fresh",
      healthy: true,
      endTime: 0,
    });
    for (const [index, image] of images.entries()) {
      machine.disks.push(diskOf(groups(template, "DISK")[index] as Group, image, index));
      image.vms.add(id);
      if (image.state === IMG.READY || image.state === IMG.USED) {
        image.state = image.persistent ? IMG.USED_PERS : IMG.USED;
        image.previous = image.state;
      }
    }
    const known = ["CPU", "VCPU", "MEMORY", "OS", "GRAPHICS", "FEATURES", "INPUT", "RAW"];
    for (const [name, values] of template) {
      if (known.includes(name)) {
        machine.template.set(name, values);
      } else if (!["NAME", "DISK", "NIC", "CONTEXT", "USER_TEMPLATE"].includes(name)) {
        machine.user.set(name, values);
      }
    }
    const os = groups(machine.template, "OS")[0] ?? new Map<string, string>();
    machine.template.set("OS", [new Map([...os, ["UUID", randomUUID()]])]);
    machine.template.set("AUTOMATIC_REQUIREMENTS", [
      images.length > 0 || nics.length > 0 ? "(CLUSTER_ID = 100) & !(PIN_POLICY = PINNED)" : "!(PIN_POLICY = PINNED)",
    ]);
    if (images.length > 0) {
      machine.template.set("AUTOMATIC_DS_REQUIREMENTS", ['("CLUSTERS/ID" @> 100)']);
    }
    if (nics.length > 0) {
      machine.template.set("AUTOMATIC_NIC_REQUIREMENTS", ['("CLUSTERS/ID" @> 100)']);
      machine.template.set(
        "SECURITY_GROUP_RULE",
        ["OUTBOUND", "INBOUND"].map(
          (type) =>
            new Map([
              ["PROTOCOL", "ALL"],
              ["RULE_TYPE", type],
              ["SECURITY_GROUP_ID", "0"],
              ["SECURITY_GROUP_NAME", "default"],
            ]),
        ),
      );
    }
    if (onHold) {
      machine.template.set("SUBMIT_ON_HOLD", ["YES"]);
    }
    if (extra.template !== undefined) {
      machine.template.set("TEMPLATE_ID", [String(extra.template)]);
    }
    const context = groups(template, "CONTEXT")[0];
    if (context) {
      machine.context = this.contextOf(machine, context);
    }
    if (images.some(({ state }) => state === IMG.LOCKED)) {
      machine.state = VM.CLONING;
    } else if (!onHold) {
      this.schedule(machine);
    }
    return id;
  }

  private diskImage(disk: Group, index: number): Img {
    const id = Number(disk.get("IMAGE_ID"));
    const image = this.world.find<Img>("IMAGE", id);
    if (!image) {
      throw new Refused(CODE.INTERNAL, `DISK ${index}: Image with ID: ${id} does not exist`);
    }
    if (image.type > 2) {
      throw new Refused(
        CODE.INTERNAL,
        `DISK ${index}: Image ${id} (${image.name}) of type CONTEXT cannot be used as DISK.`,
      );
    }
    if (image.state === IMG.ERROR || image.state === IMG.DELETE) {
      throw new Refused(
        CODE.INTERNAL,
        `DISK ${index}: Cannot acquire image ${id}, it is in state: ${image.state === IMG.ERROR ? "ERROR" : "DELETE"}`,
      );
    }
    if (image.persistent && image.vms.size > 0) {
      throw new Refused(
        CODE.INTERNAL,
        `DISK ${index}: Cannot acquire image ${id}, it is persistent and already in use`,
      );
    }
    return image;
  }

  private takeNics(user: User, template: Template, vm: number): Group[] {
    const taken: Array<{ leases: Map<string, string>; ip: string }> = [];
    try {
      return groups(template, "NIC").map((nic, index) => {
        if (!nic.has("NETWORK_ID")) {
          throw new Refused(
            CODE.INTERNAL,
            `User 0 does not own a network with name: ${nic.get("NETWORK")} . Set NETWORK_UNAME or NETWORK_UID of owner in NIC.`,
          );
        }
        const id = Number(nic.get("NETWORK_ID"));
        const net = this.world.find<Net>("NET", id);
        if (!net) {
          throw new Refused(CODE.INTERNAL, `Virtual network with ID: ${id} does not exist`);
        }
        this.authorize(user, ["USE", net]);
        const lease = takeLease(net, `VM ${vm}`, nic.get("IP"));
        if (!lease) {
          throw new Refused(CODE.INTERNAL, `Cannot get IP/MAC lease from virtual network ${id}.`);
        }
        taken.push({ leases: lease.range.leases, ip: lease.ip });
        return nicOf(nic, net, lease, vm, index);
      });
    } catch (error) {
      for (const { leases, ip } of taken) {
        leases.delete(ip);
      }
      throw error;
    }
  }

  private contextOf(machine: Machine, asked: Group): Group {
    const context: Group = new Map([
      ["DISK_ID", String(machine.disks.length)],
      ["TARGET", "hda"],
    ]);
    for (const [name, value] of asked) {
      context.set(name, this.substituted(machine, value));
    }
    if (asked.get("NETWORK")?.toUpperCase() === "YES") {
      for (const [index, nic] of machine.nics.entries()) {
        const net = this.world.find<Net>("NET", Number(nic.get("NETWORK_ID")));
        const range = net?.ranges.find(({ id }) => String(id) === nic.get("AR_ID"));
        const from = (name: string) =>
          nic.get(name) ?? range?.said?.get(name) ?? (net && single(net.template, name)) ?? "";
        for (const name of [
          "EXTERNAL",
          "IP6",
          "IP6_GATEWAY",
          "IP6_METHOD",
          "IP6_METRIC",
          "IP6_PREFIX_LENGTH",
          "IP6_ULA",
          "METHOD",
          "METRIC",
          "MTU",
          "ROUTES",
          "SEARCH_DOMAIN",
          "VLAN_ID",
          "VROUTER_IP",
          "VROUTER_IP6",
          "VROUTER_MANAGEMENT",
        ]) {
          context.set(`ETH${index}_${name}`, nic.get(name) ?? "");
        }
        context.set(`ETH${index}_DNS`, from("DNS"));
        context.set(`ETH${index}_GATEWAY`, from("GATEWAY"));
        context.set(`ETH${index}_IP`, nic.get("IP") ?? "");
        context.set(`ETH${index}_MAC`, nic.get("MAC") ?? "");
        context.set(`ETH${index}_MASK`, from("NETWORK_MASK") || "255.255.255.0");
        context.set(`ETH${index}_NETWORK`, from("NETWORK_ADDRESS"));
        context.set(`ETH${index}_MTU`, "");
      }
    }
    return context;
  }

  private substituted(machine: Machine, value: string): string {
    return value
      .replaceAll("$NAME", machine.name)
      .replaceAll(
        /\$NIC\[(\w+), NETWORK_ID="?(\d+)"?\]/g,
        (_, name: string, id: string) => machine.nics.find((nic) => nic.get("NETWORK_ID") === id)?.get(name) ?? "",
      )
      .replaceAll(/\$NETWORK\[(\w+), NETWORK_ID="?(\d+)"?\]/g, (_, name: string, id: string) => {
        const net = this.world.find<Net>("NET", Number(id));
        return (net && single(net.template, name)) ?? "";
      })
      .replaceAll(/\$FILE\[IMAGE_ID="?(\d+)"?\]/g, (_, id: string) => {
        const image = this.world.find<Img>("IMAGE", Number(id));
        return image ? `${image.source}:'${image.name}' ` : "";
      });
  }

  private schedule(machine: Machine): void {
    if (this.faults.unschedulable?.test(machine.name)) {
      this.later(this.delays.schedule, () =>
        machine.user.set("SCHED_MESSAGE", ["Sun Nov 22 12:41:00 2026: No host meets SCHED_REQUIREMENTS"]),
      );
      return;
    }
    this.later(this.delays.schedule, () => {
      if (machine.state === VM.PENDING) {
        this.deploy(machine, machine.id % 3);
      }
    });
  }

  deploy(machine: Machine, host: number): void {
    Object.assign(machine, { state: VM.ACTIVE, lcm: 1, host });
    hosted(machine);
    this.later(this.delays.prolog, () => {
      if (machine.state === VM.ACTIVE && machine.lcm === 1) {
        machine.lcm = 2;
        this.later(this.delays.boot, () => this.booted(machine));
      }
    });
  }

  private booted(machine: Machine): void {
    if (machine.state !== VM.ACTIVE) {
      return;
    }
    if (this.faults.bootFails?.test(machine.name)) {
      machine.lcm = 36;
      machine.user.set("ERROR", [`Sun Nov 22 12:41:41 2026: DEPLOY: dummyhost${machine.host}:${machine.name}:dummy`]);
      return;
    }
    this.run(machine);
  }

  private run(machine: Machine): void {
    Object.assign(machine, { state: VM.ACTIVE, lcm: 3, host: machine.host ?? 0 });
    const reports = machine.context?.get("TOKEN") === "YES" && machine.context.get("REPORT_READY") === "YES";
    if (reports && machine.healthy) {
      const report = () => {
        if (machine.lcm === 3 && machine.healthy) {
          machine.user.set("READY", ["YES"]);
        }
      };
      this.delays.guest > 0 ? this.later(this.delays.guest, report) : report();
    }
  }

  private act(user: User, action: string, id: number): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["MANAGE", machine]);
    if (!ACTIONS.includes(action)) {
      throw new Refused(CODE.ACTION, `Action "${action}" is not supported`);
    }
    const name = machine.state === VM.ACTIVE ? LCM_NAMES[machine.lcm] : STATE_NAMES[machine.state];
    const refuse = (why = `This action is not available for state ${name}`): never => {
      throw new Refused(CODE.ACTION, `Error performing action "${action}": ${why}`);
    };
    const running = machine.state === VM.ACTIVE && (machine.lcm === 3 || machine.lcm === 16);
    const hard = action.endsWith("-hard");
    const deaf = !hard && (this.faults.ignoresStops?.(machine) ?? false);
    switch (action) {
      case "terminate":
      case "terminate-hard":
        if (machine.state === VM.DONE) {
          return id;
        }
        if (running || (hard && machine.state === VM.ACTIVE && machine.lcm === 12)) {
          machine.lcm = 12;
          this.later(deaf ? this.delays.patience : this.delays.stop, () =>
            deaf ? this.runOn(machine, 12) : this.epilog(machine),
          );
        } else if (machine.state === VM.ACTIVE && !LCM_FAILURES.includes(machine.lcm)) {
          refuse(`Could not terminate VM ${id}, wrong state ${name}.`);
        } else if (
          machine.state === VM.POWEROFF ||
          machine.state === VM.UNDEPLOYED ||
          machine.state === VM.STOPPED ||
          machine.state === VM.SUSPENDED
        ) {
          Object.assign(machine, { state: VM.ACTIVE, lcm: 11 });
          this.later(this.delays.stop, () => this.done(machine));
        } else {
          this.done(machine);
        }
        return id;
      case "poweroff":
      case "poweroff-hard":
        if (!running && !(hard && machine.state === VM.ACTIVE && machine.lcm === 18)) {
          refuse();
        }
        machine.lcm = 18;
        this.later(deaf ? this.delays.patience : this.delays.stop, () => {
          if (machine.lcm === 18) {
            deaf ? this.runOn(machine, 18) : this.turnOff(machine);
          }
        });
        return id;
      case "undeploy":
      case "undeploy-hard":
        if (!running && machine.state !== VM.POWEROFF) {
          refuse();
        }
        return this.after(machine, 30, () => Object.assign(machine, { state: VM.UNDEPLOYED, lcm: 0 }));
      case "suspend":
        return running
          ? this.after(machine, 6, () => Object.assign(machine, { state: VM.SUSPENDED, lcm: 0 }))
          : refuse();
      case "stop":
        return running ? this.after(machine, 5, () => Object.assign(machine, { state: VM.STOPPED, lcm: 0 })) : refuse();
      case "reboot":
      case "reboot-hard":
        return running ? id : refuse();
      case "resume":
        if (machine.state === VM.POWEROFF || machine.state === VM.SUSPENDED) {
          // The answer comes before the state changes.
          this.later(1, () => {
            Object.assign(machine, { state: VM.ACTIVE, lcm: machine.state === VM.POWEROFF ? 20 : 21 });
            this.later(this.delays.boot, () => this.booted(machine));
          });
          return id;
        }
        if (machine.state === VM.UNDEPLOYED || machine.state === VM.STOPPED) {
          machine.state = VM.PENDING;
          this.schedule(machine);
          return id;
        }
        return refuse();
      case "hold":
        if (machine.state !== VM.PENDING) {
          refuse();
        }
        machine.state = VM.HOLD;
        return id;
      default:
        if (machine.state !== VM.HOLD) {
          refuse();
        }
        machine.state = VM.PENDING;
        this.schedule(machine);
        return id;
    }
  }

  private after(machine: Machine, lcm: number, then: () => void): number {
    Object.assign(machine, { state: VM.ACTIVE, lcm });
    this.later(this.delays.stop, then);
    return machine.id;
  }

  turnOff(machine: Machine): void {
    Object.assign(machine, { state: VM.POWEROFF, lcm: 0 });
  }

  private runOn(machine: Machine, from: number): void {
    if (machine.lcm === from) {
      machine.lcm = 3;
    }
  }

  private epilog(machine: Machine): void {
    if (machine.lcm === 12) {
      machine.lcm = 11;
      this.later(this.delays.stop, () => this.done(machine));
    }
  }

  /** It stays readable for ever, with the addresses that it had. */
  done(machine: Machine): void {
    const isBroken = machine.state === VM.ACTIVE && LCM_FAILURES.includes(machine.lcm);
    Object.assign(machine, { state: VM.DONE, lcm: 0, endTime: 1795351302 });
    for (const net of this.world.all<Net>("NET")) {
      for (const { leases } of net.ranges) {
        for (const [ip, holder] of [...leases]) {
          if (holder === `VM ${machine.id}`) {
            leases.delete(ip);
          }
        }
      }
    }
    for (const image of this.world.all<Img>("IMAGE")) {
      if (image.vms.delete(machine.id)) {
        if (image.persistent) {
          image.content = machine.content;
        }
        if (image.vms.size === 0 && (image.state === IMG.USED || image.state === IMG.USED_PERS)) {
          image.state = isBroken && image.persistent ? IMG.ERROR : IMG.READY;
          image.previous = image.state;
        }
      }
    }
  }

  private updateConf(user: User, id: number, text: string, append: number): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["MANAGE", machine]);
    const asked = groups(parseTemplate(text), "CONTEXT")[0];
    this.refuseRestricted(user, parseTemplate(text), VM_RESTRICTED, "VM Template");
    const busy = machine.state === VM.ACTIVE && ![3, 36].includes(machine.lcm);
    const never: readonly number[] = [VM.DONE, VM.CLONING, VM.SUSPENDED, VM.STOPPED];
    if (busy || never.includes(machine.state)) {
      const name = machine.state === VM.ACTIVE ? LCM_NAMES[machine.lcm] : STATE_NAMES[machine.state];
      throw new Refused(CODE.ACTION, `configuration cannot be updated in state ${name}`);
    }
    if (append !== 1) {
      // All that isn't said again is gone.
      for (const gone of ["OS", "GRAPHICS", "FEATURES", "INPUT", "RAW"]) {
        machine.template.delete(gone);
      }
      for (const disk of machine.disks) {
        disk.delete("ORDER");
      }
    }
    if (asked) {
      const own = [...(machine.context ?? new Map<string, string>())].filter(([name]) => !/^ETH\d/.test(name));
      machine.context = this.contextOf(machine, append === 1 ? new Map([...own, ...asked]) : asked);
    }
    if (machine.state === VM.ACTIVE && machine.lcm === 3) {
      machine.lcm = 17;
      this.later(this.delays.stop, () => this.runOn(machine, 17));
    }
    return id;
  }

  private resize(user: User, id: number, text: string): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["MANAGE", machine]);
    const template = parseTemplate(text);
    const running = machine.state === VM.ACTIVE && machine.lcm === 3;
    if (!running && (machine.state === VM.ACTIVE || machine.state === VM.DONE)) {
      throw new Refused(
        CODE.ACTION,
        `Resize is not available in state ${LCM_NAMES[machine.lcm] ?? STATE_NAMES[machine.state]}`,
      );
    }
    const more = (name: string) => Number(single(template, name) ?? 0) - Number(single(machine.template, name) ?? 0);
    this.refuseOverQuota(user, { "VM/CPU": more("CPU"), "VM/MEMORY": more("MEMORY") });
    for (const name of ["CPU", "VCPU", "MEMORY"]) {
      const value = single(template, name);
      if (value !== undefined) {
        machine.template.set(name, [value]);
      }
    }
    if (running) {
      machine.lcm = 66;
      this.later(this.delays.stop, () => this.runOn(machine, 66));
    }
    return id;
  }

  private resizeDisk(user: User, id: number, disk: number, size: string): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["MANAGE", machine]);
    const found = machine.disks[disk];
    if (!found || !(Number(size) > Number(found.get("SIZE")))) {
      throw new Refused(CODE.ACTION, "New disk size has to be greater than current one");
    }
    const off = machine.state === VM.POWEROFF || machine.state === VM.UNDEPLOYED;
    const running = machine.state === VM.ACTIVE && machine.lcm === 3;
    if (!off && !running) {
      throw new Refused(CODE.ACTION, "Could not perform a disk resize, wrong state");
    }
    const before = { state: machine.state, lcm: machine.lcm };
    Object.assign(machine, { state: VM.ACTIVE, lcm: running ? 62 : machine.state === VM.POWEROFF ? 63 : 64 });
    found.set("SIZE", size);
    this.later(this.delays.stop, () => Object.assign(machine, before));
    return id;
  }

  private recover(user: User, id: number, _operation: number): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["ADMIN", machine]);
    machine.lcm = 2;
    this.later(this.delays.boot, () => this.booted(machine));
    return id;
  }

  private attach(user: User, id: number, text: string): number {
    const machine = this.world.get<Machine>("VM", id);
    this.authorize(user, ["MANAGE", machine]);
    const [nic] = this.takeNics(user, parseTemplate(text), id);
    if (nic) {
      nic
        .set("NIC_ID", String(machine.nics.length))
        .set("NAME", `NIC${machine.nics.length}`)
        .set("TARGET", `one-${id}-${machine.nics.length}`);
      machine.nics.push(nic);
    }
    machine.context =
      machine.context &&
      this.contextOf(machine, new Map([...machine.context].filter(([name]) => !/^ETH\d/.test(name))));
    return id;
  }

  // ── Templates ────────────────────────────────────────────────────────────────────────────────────────────────────

  private allocateTemplate(user: User, kind: "TEMPLATE" | "VNTEMPLATE", text: string): number {
    if (kind === "TEMPLATE") {
      this.authorize(user, ["CREATE", "TEMPLATE"]);
    }
    const template = parseTemplate(text);
    const name = single(template, "NAME") ?? "";
    this.refuseNamesake(kind, name, user.id, CODE.INTERNAL);
    template.delete("NAME");
    const id = this.world.nextId(kind);
    this.world.add({ kind, id, uid: user.id, gid: user.gid, name, permissions: [1, 1, 0, 0, 0, 0, 0, 0, 0], template });
    return id;
  }

  private instantiateNet(user: User, id: number, name: string, text: string): number {
    const source = this.world.get("VNTEMPLATE", id);
    this.authorize(user, ["USE", source]);
    this.authorize(user, ["CREATE", "NET"]);
    const extra = parseTemplate(text);
    const restricted = isAdmin(user) ? undefined : VNET_RESTRICTED.find((attribute) => extra.has(attribute));
    if (restricted) {
      throw new Refused(
        CODE.AUTHORIZATION,
        `User [${user.id}] : Extra Template includes a restricted attribute ${restricted}.`,
      );
    }
    this.refuseNamesake("NET", name, user.id, CODE.ALLOCATE, "Error allocating a new virtual network template. ");
    return this.makeNet(user, name, new Map([...copyOf(source.template), ...extra]), { fromTemplate: id }).id;
  }

  private allocateNet(user: User, text: string, cluster: number): number {
    const template = parseTemplate(text);
    if (!isAdmin(user)) {
      const at: Thing = {
        kind: "CLUSTER",
        id: cluster < 0 ? 0 : cluster,
        uid: 0,
        gid: 0,
        name: "",
        permissions: [],
        template: new Map(),
      };
      this.authorize(user, ["CREATE", "NET"], ["ADMIN", at]);
    }
    const name = single(template, "NAME");
    if (name === undefined) {
      throw new Refused(CODE.INTERNAL, "No NAME in template for Virtual Network.");
    }
    if (!template.has("VN_MAD")) {
      throw new Refused(CODE.INTERNAL, "No VN_MAD in template for Virtual Network.");
    }
    if (
      single(template, "VN_MAD") === "ovswitch_vxlan" &&
      !template.has("OUTER_VLAN_ID") &&
      !template.has("AUTOMATIC_OUTER_VLAN_ID")
    ) {
      throw new Refused(CODE.INTERNAL, "OUTER_VLAN_ID (or AUTOMATIC) is mandatory for driver ovswitch_vxlan");
    }
    this.refuseNamesake("NET", name, user.id, CODE.INTERNAL);
    return this.makeNet(user, name, template, { cluster: cluster < 0 ? 0 : cluster }).id;
  }

  private update(user: User, kind: Kind, id: number, text: string, append: number): number {
    const thing = this.world.get(kind, id);
    this.authorize(user, ["MANAGE", thing]);
    const given = parseTemplate(text);
    if (kind === "VM") {
      const machine = thing as Machine;
      machine.user = append === 1 ? new Map([...machine.user, ...given]) : given;
    } else {
      thing.template = append === 1 ? new Map([...thing.template, ...given]) : given;
    }
    return id;
  }

  private rename(user: User, kind: Kind, id: number, name: string): number {
    const thing = this.world.get(kind, id);
    this.authorize(user, ["MANAGE", thing]);
    thing.name = name;
    return id;
  }

  private chmod(kind: Kind, id: number, bits: readonly number[]): number {
    const thing = this.world.get(kind, id);
    thing.permissions = thing.permissions.map((bit, index) =>
      (bits[index] ?? -1) < 0 ? bit : (bits[index] as number),
    );
    return id;
  }

  private removeTemplate(user: User, id: number): number {
    const thing = this.world.get("TEMPLATE", id);
    this.authorize(user, ["MANAGE", thing]);
    this.world.remove(thing);
    return id;
  }

  private poolXml(name: string, members: readonly string[]): string {
    return tag(name, members.join(""));
  }

  // biome-ignore lint/suspicious/noExplicitAny: what a call brings is checked where it matters
  private readonly methods: Record<string, (user: User, args: any[]) => string | number> = {
    "system.version": () => "7.4.0",
    "system.config": () =>
      "<OPENNEBULA_CONFIGURATION><FEDERATION><MODE><![CDATA[STANDALONE]]></MODE><ZONE_ID><![CDATA[0]]></ZONE_ID></FEDERATION></OPENNEBULA_CONFIGURATION>",
    "user.info": (user, [id]) => this.userXml(id === -1 ? user : this.world.user(id)),
    "user.allocate": (_, [name, password, , gids]) => this.addUser(name, password, gids?.[0] ?? 1, "hpc").id,
    "user.quota": (_, [id, text]) => {
      const { quotas } = this.world.user(id);
      for (const [kind, values] of parseTemplate(text)) {
        for (const value of values as Group[]) {
          for (const [name, limit] of value) {
            if (name !== "ID" && Number(limit) >= 0) {
              quotas.set(kind === "VM" ? `VM/${name}` : `${kind}/${value.get("ID")}/${name}`, Number(limit));
            }
          }
        }
      }
      return id;
    },
    "user.login": (user) => {
      const token = randomBytes(32).toString("hex");
      user.passwords.add(token);
      return token;
    },
    "userquota.info": () =>
      tag(
        "DEFAULT_USER_QUOTAS",
        this.quotasXml(this.world.defaultQuotas, () => false),
      ),
    "group.info": (user) => this.groupXml(user),
    "group.allocate": () => 100,
    "vdc.addgroup": (_, [, group]) => {
      throw new Refused(CODE.INTERNAL, `Group ${group} is already assigned to the VDC 0`);
    },
    "cluster.allocate": () => 100,
    "host.allocate": () => this.hosts++,
    "acl.addrule": (_, [user, resource, rights]) => {
      const [who, what, which] = [user, resource, rights].map((text) => BigInt(`0x${text}`)) as [
        bigint,
        bigint,
        bigint,
      ];
      this.world.rules.push({ user: who, resource: what, rights: which });
      return this.world.rules.length + 6;
    },
    "acl.info": () =>
      this.poolXml(
        "ACL_POOL",
        this.world.rules.map(({ user, resource, rights }, index) =>
          tag(
            "ACL",
            [
              tag("ID", String(index)),
              tag("USER", user.toString(16)),
              tag("RESOURCE", resource.toString(16)),
              tag("RIGHTS", rights.toString(16)),
              tag("ZONE", "100000000"),
            ].join(""),
          ),
        ),
      ),
    "hostpool.info": (user) =>
      this.poolXml("HOST_POOL", isAdmin(user) ? Array.from({ length: this.hosts }, (_, id) => hostXml(id)) : []),
    "clusterpool.info": () => "<CLUSTER_POOL></CLUSTER_POOL>",
    "documentpool.info": () => "<DOCUMENT_POOL></DOCUMENT_POOL>",
    "datastore.allocate": (user, [text]) => {
      const template = parseTemplate(text);
      const id = this.world.nextId(
        "DATASTORE",
        Math.max(100, ...this.world.all("DATASTORE").map((store) => store.id + 1)),
      );
      const name = single(template, "NAME") ?? "";
      template.delete("NAME");
      const type = ["IMAGE_DS", "SYSTEM_DS", "FILE_DS"].indexOf(single(template, "TYPE") ?? "IMAGE_DS");
      const store: Store = {
        kind: "DATASTORE",
        id,
        uid: user.id,
        gid: user.gid,
        name,
        permissions: [1, 1, 0, 1, 0, 0, 0, 0, 0],
        template,
        type,
        safeDirs: "",
      };
      this.world.add(store);
      return id;
    },
    "datastorepool.info": (user) =>
      this.poolXml(
        "DATASTORE_POOL",
        this.pool<Store>(user, "DATASTORE", -2).map((store) => storeXml(this.world, store)),
      ),
    "datastore.info": (user, [id]) => storeXml(this.world, this.info<Store>(user, "DATASTORE", id)),

    "vn.allocate": (user, [text, cluster]) => this.allocateNet(user, text, cluster),
    "vn.info": (user, [id]) => {
      const net = this.info<Net>(user, "NET", id);
      return netXml(this.world, net, this.sees(user, net));
    },
    "vnpool.info": (user, [filter, first, last]) =>
      this.poolXml(
        "VNET_POOL",
        this.pool<Net>(user, "NET", filter, first, last).map((net) => netXml(this.world, net)),
      ),
    "vn.delete": (user, [id]) => this.deleteNet(user, id),
    "vn.reserve": (user, [id, text]) => this.reserve(user, id, text),
    "vn.hold": (user, [id, text]) => this.hold(user, id, text, true),
    "vn.release": (user, [id, text]) => this.hold(user, id, text, false),
    "vn.update": (user, [id, text, append]) => this.update(user, "NET", id, text, append),
    "vn.rename": (user, [id, name]) => this.rename(user, "NET", id, name),
    "vn.chmod": (_, [id, ...bits]) => this.chmod("NET", id, bits),
    "vn.add_ar": (user, [id, text]) => {
      const net = this.world.get<Net>("NET", id);
      this.authorize(user, ["MANAGE", net]);
      if (net.state === NET.LOCK_CREATE) {
        throw new Refused(CODE.ACTION, "Could not execute one.vn.add_arVirtual Network is in wrong state: LOCK_CREATE");
      }
      const range = rangeFrom(groups(parseTemplate(text), "AR")[0] ?? new Map(), net.ranges.length);
      if (range) {
        net.ranges.push(range);
      }
      return id;
    },
    "vn.rm_ar": (user, [id, rangeId]) => {
      const net = this.world.get<Net>("NET", id);
      this.authorize(user, ["MANAGE", net]);
      if ((net.ranges.find((range) => range.id === rangeId)?.leases.size ?? 0) > 0) {
        throw new Refused(CODE.INTERNAL, "Address Range has leases in use");
      }
      net.ranges = net.ranges.filter((range) => range.id !== rangeId);
      return id;
    },
    "vntemplate.allocate": (user, [text]) => this.allocateTemplate(user, "VNTEMPLATE", text),
    "vntemplate.chmod": (_, [id, ...bits]) => this.chmod("VNTEMPLATE", id, bits),
    "vntemplate.instantiate": (user, [id, name, text]) => this.instantiateNet(user, id, name, text),
    "vntemplatepool.info": (user, [filter]) =>
      this.poolXml(
        "VNTEMPLATE_POOL",
        this.pool(user, "VNTEMPLATE", filter).map((one) => templateDocument(this.world, one)),
      ),

    "image.allocate": (user, [text, datastore]) => this.allocateImage(user, text, datastore),
    "image.info": (user, [id]) => imageXml(this.world, this.info<Img>(user, "IMAGE", id)),
    "imagepool.info": (user, [filter, first, last]) =>
      this.poolXml(
        "IMAGE_POOL",
        this.pool<Img>(user, "IMAGE", filter, first, last).map((image) => imageXml(this.world, image)),
      ),
    "image.clone": (user, [id, name]) => this.cloneImage(user, id, name),
    "image.delete": (user, [id]) => this.deleteImage(user, id),
    "image.enable": (user, [id]) => this.enableImage(user, id),
    "image.persistent": (user, [id, persistent]) => this.setPersistent(user, id, persistent),
    "image.update": (user, [id, text, append]) => this.update(user, "IMAGE", id, text, append),
    "image.rename": (user, [id, name]) => this.rename(user, "IMAGE", id, name),
    "image.chtype": (_, [id, type]) => {
      this.world.get<Img>("IMAGE", id).type = TYPES[type] ?? 0;
      return id;
    },

    "vm.allocate": (user, [text, onHold]) => this.allocateMachine(user, parseTemplate(text), onHold === true),
    "vm.info": (user, [id]) => machineXml(this.world, this.info<Machine>(user, "VM", id)),
    "vmpool.info": (user, [filter, first, last, state, search]) =>
      this.poolXml(
        "VM_POOL",
        this.machines(user, filter, first, last, state, search).map((vm) => shortMachineXml(this.world, vm)),
      ),
    "vmpool.infoextended": (user, [filter, first, last, state, search]) =>
      this.poolXml(
        "VM_POOL",
        this.machines(user, filter, first, last, state, search).map((vm) => machineXml(this.world, vm)),
      ),
    "vmpool.infoset": (user, [list, extended]) => {
      const wanted = new Set(String(list).split(",").map(Number));
      const found = this.machines(user, -2, -1, -1, -2).filter(({ id }) => wanted.has(id));
      return this.poolXml(
        "VM_POOL",
        found.map((vm) => (extended ? machineXml(this.world, vm) : shortMachineXml(this.world, vm))),
      );
    },
    "vm.action": (user, [action, id]) => this.act(user, action, id),
    "vm.deploy": (user, [id, host]) => {
      const machine = this.world.get<Machine>("VM", id);
      this.authorize(user, ["ADMIN", machine]);
      this.deploy(machine, host);
      return id;
    },
    "vm.update": (user, [id, text, append]) => this.update(user, "VM", id, text, append),
    "vm.updateconf": (user, [id, text, append]) => this.updateConf(user, id, text, append),
    "vm.resize": (user, [id, text]) => this.resize(user, id, text),
    "vm.diskresize": (user, [id, disk, size]) => this.resizeDisk(user, id, disk, size),
    "vm.rename": (user, [id, name]) => this.rename(user, "VM", id, name),
    "vm.recover": (user, [id, operation]) => this.recover(user, id, operation),
    "vm.attachnic": (user, [id, text]) => this.attach(user, id, text),
    "vm.detachnic": (_, [id, nic]) => {
      const machine = this.world.get<Machine>("VM", id);
      machine.nics = machine.nics.filter((one) => one.get("NIC_ID") !== String(nic));
      return id;
    },

    "template.allocate": (user, [text]) => this.allocateTemplate(user, "TEMPLATE", text),
    "template.info": (user, [id]) => templateDocument(this.world, this.info(user, "TEMPLATE", id)),
    "templatepool.info": (user, [filter, first, last]) =>
      this.poolXml(
        "VMTEMPLATE_POOL",
        this.pool(user, "TEMPLATE", filter, first, last).map((one) => templateDocument(this.world, one)),
      ),
    "template.update": (user, [id, text, append]) => this.update(user, "TEMPLATE", id, text, append),
    "template.delete": (user, [id]) => this.removeTemplate(user, id),
    "template.instantiate": (user, [id, name, onHold, text]) => {
      const source = this.world.get("TEMPLATE", id);
      this.authorize(user, ["USE", source]);
      const merged: Template = new Map([...copyOf(source.template), ...parseTemplate(text), ["NAME", [name]]]);
      return this.allocateMachine(user, merged, onHold, { template: id });
    },
  };

  private hosts = 0;
}

/** What a machine has from its first host on. */
export function hosted(machine: Machine): void {
  machine.template.set("TM_MAD_SYSTEM", ["dummy"]);
  for (const graphics of groups(machine.template, "GRAPHICS")) {
    graphics.set("PORT", String(5900 + machine.id));
  }
}

const TYPES: Readonly<Record<string, number>> = { OS: 0, CDROM: 1, DATABLOCK: 2, KERNEL: 3, RAMDISK: 4, CONTEXT: 5 };

function hostXml(id: number): string {
  const share = [
    ["MEM_USAGE", 0],
    ["CPU_USAGE", 0],
    ["TOTAL_MEM", 16777216],
    ["TOTAL_CPU", 800],
    ["MAX_MEM", 16777216],
    ["MAX_CPU", 800],
  ] as const;
  return tag(
    "HOST",
    [
      tag("ID", String(id)),
      tag("NAME", `dummyhost${id}`),
      tag("STATE", "2"),
      tag("HOST_SHARE", share.map(([name, value]) => tag(name, String(value))).join("")),
    ].join(""),
  );
}

function addresses(range: Range, first: number, size: number): string[] {
  const start = range.ip.split(".").reduce((sum, part) => sum * 256 + Number(part), 0);
  return Array.from({ length: size }, (_, step) => {
    const value = start + first + step;
    return [24, 16, 8, 0].map((shift) => Math.floor(value / 2 ** shift) % 256).join(".");
  });
}

function isFree(range: Range, first: number, size: number): boolean {
  return addresses(range, first, size).every((ip) => !range.leases.has(ip));
}

function freeRun(range: Range, size: number): number | undefined {
  for (let step = 0; step + size <= range.size; step++) {
    if (isFree(range, step, size)) {
      return step;
    }
  }
  return undefined;
}

function diskOf(asked: Group, image: Img, index: number): Group {
  return new Map([
    ["ALLOW_ORPHANS", "NO"],
    ["CLONE", image.persistent ? "NO" : "YES"],
    [image.persistent ? "PERSISTENT" : "CLONE_TARGET", image.persistent ? "YES" : "SYSTEM"],
    ...(image.state === IMG.LOCKED ? [["CLONING", "YES"] as const] : []),
    ["CLUSTER_ID", "100"],
    ["DATASTORE", "vc-images"],
    ["DATASTORE_ID", String(image.datastore)],
    ["DEV_PREFIX", asked.get("DEV_PREFIX") ?? single(image.template, "DEV_PREFIX") ?? "sd"],
    ["DISK_ID", String(index)],
    ["DISK_SNAPSHOT_TOTAL_SIZE", "0"],
    ["DISK_TYPE", "FILE"],
    ["DRIVER", "raw"],
    ["FORMAT", "raw"],
    ["IMAGE", image.name],
    ["IMAGE_ID", String(image.id)],
    ["IMAGE_STATE", String(image.persistent ? IMG.USED_PERS : IMG.USED)],
    ["LN_TARGET", "NONE"],
    ["ORDER", "1"],
    ["ORIGINAL_SIZE", String(image.size)],
    ["PERSISTENT_SNAPSHOTS", "YES"],
    ["READONLY", "NO"],
    ["SAVE", image.persistent ? "YES" : "NO"],
    ["SIZE", asked.get("SIZE") ?? String(image.size)],
    ["SOURCE", image.source],
    ["TARGET", "vda"],
    ["TM_MAD", "dummy"],
    ["TYPE", "FILE"],
  ]);
}

/** The network's own, and those that are asked for beside them. */
function securityGroups(asked: Group, net: Net): string {
  const lists = [single(net.template, "SECURITY_GROUPS") ?? "0", asked.get("SECURITY_GROUPS") ?? ""];
  const all = new Set(
    lists
      .flatMap((list) => list.split(","))
      .filter(Boolean)
      .map(Number),
  );
  return [...all].toSorted((one, other) => one - other).join(",");
}

function nicOf(
  asked: Group,
  net: Net,
  lease: { ip: string; mac: string; range: Range },
  vm: number,
  index: number,
): Group {
  const from = (name: string) => asked.get(name) ?? lease.range.said?.get(name) ?? single(net.template, name);
  const nic: Group = new Map([
    ["AR_ID", String(lease.range.id)],
    ["BRIDGE", net.bridge],
    ["BRIDGE_TYPE", "linux"],
    ["CLUSTER_ID", "100"],
  ]);
  for (const name of ["DNS", "GATEWAY"]) {
    const value = from(name);
    if (value) {
      nic.set(name, value);
    }
  }
  for (const [name, value] of asked) {
    nic.set(name, value);
  }
  return nic
    .set("IP", lease.ip)
    .set("MAC", lease.mac)
    .set("NAME", `NIC${index}`)
    .set("NETWORK", net.name)
    .set("NETWORK_ID", String(net.id))
    .set("NIC_ID", String(index))
    .set("SECURITY_GROUPS", securityGroups(asked, net))
    .set("TARGET", `one-${vm}-${index}`)
    .set("VN_MAD", single(net.template, "VN_MAD") ?? "");
}
