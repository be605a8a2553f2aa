import type { PrivateKeys } from "../../node-files/set-up";
import { overlap, subnet } from "../../plan/addresses";
import { type ClusterPlan, macsOf, nodesOf, refuseOversize, SITE_DECIDES, withMacs } from "../../plan/plan";
import { allDigestsOf, digestsOf, formerBases, withFormerBases } from "../bases";
import { Batcher } from "../batcher";
import { makeKeys, publicHalves } from "../cluster-keys";
import type { ClusterKeys, ClusterRecord, ClusterRef, DiskImage, FoundCluster, Mark, Progress } from "../driver";
import { AddressTaken, ForeignOwner, NotFound } from "../errors";
import { refuseForeign } from "../ownership";
import { allDone, Reverter } from "../reverter";
import type { RocksSettings } from "../settings";
import { baseFile, type Disks, gigabytes, partFile } from "./disks";
import { type Facts, LIST_HOSTS, publicNetworkOf, readStatuses, readTables, type Tables } from "./facts";
import { type Answer, ContainerUnreachable, type RocksFrontend } from "./frontend";
import type { Locks } from "./locks";
import { decodeMark, encodeMark, MARK_ATTRIBUTE } from "./marks";
import { isVmName, refuseBadName, vmName } from "./names";
import { freeVlan, place, type Room } from "./placement";
import { Rows } from "./rows";
import {
  areFrontendsApart,
  describeSite,
  hostsOfMachines,
  roomsLeft,
  takenAddresses,
  takenSubnets,
  vmsOf,
} from "./site";
import type { ClusterFile, NodeFile, Store, StoreContent } from "./store";
import { parseAttributes, parseHosts, type RocksVm } from "./tables";
import { vlansOf } from "./vlans";

/** What the engine asks at once arrives within this time. */
export const TOGETHER_MS = 12;
const MIB = 1024 * 1024;
const ALL_VLANS = ["2-4094"];
const PLAN_ANEW = "Run `pulumi up` again: it plans anew";

/**
 * What a cluster has at a Rocks site beside its machines: its record and keys in our folder on the Rocks frontend, its rows
 * in Rocks' tables, and the bases of its disks.
 */
export class Clusters {
  private readonly found: Batcher<string, ClusterRecord | "unmarked" | undefined>;

  constructor(
    private readonly frontend: RocksFrontend,
    private readonly settings: RocksSettings,
    private readonly store: Store,
    private readonly disks: Disks,
    private readonly locks: Locks,
    private readonly rows: Rows,
    private readonly facts: () => Promise<Facts>,
    private readonly stop: (vms: readonly string[]) => Promise<void>,
  ) {
    this.found = new Batcher((names) => this.load(names), TOGETHER_MS);
  }

  /** One request for all that ask at the same time, and one or two more where there is no record. */
  async find(name: string): Promise<ClusterRecord | undefined> {
    refuseBadName(name);
    const found = await this.found.get(name);
    if (found === "unmarked") {
      throw unmarked(name);
    }
    return found;
  }

  private async load(names: readonly string[]): Promise<Map<string, ClusterRecord | "unmarked" | undefined>> {
    const { clusters } = await this.store.read(names);
    const missing = names.filter((name) => !clusters.has(name));
    const marks = await this.marksOf(missing);
    return new Map(
      names.map((name) => [
        name,
        clusters.get(name)?.record ?? (marks.has(name) && marks.get(name) === undefined ? "unmarked" : undefined),
      ]),
    );
  }

  /** The mark of each host of these names that is in Rocks' tables, undefined for one without. */
  private async marksOf(names: readonly string[]): Promise<Map<string, Mark | undefined>> {
    const listed = await this.listed(names);
    const commands = listed.map((name) => ["list", "host", "attr", name]);
    const answers = await this.frontend.lists(commands);
    return new Map(
      answers.flatMap((answer, index) => {
        const said = this.outputIfThere(answer, commands[index] ?? []);
        const mark = decodeMark(parseAttributes(said ?? "").get(MARK_ATTRIBUTE));
        return said === undefined ? [] : [[listed[index] ?? "", mark] as const];
      }),
    );
  }

  /**
   * Which of these are in Rocks' tables. All hosts are listed: asked for one that it doesn't know, Rocks asks DNS, which may
   * take long, and takes whoever has that address for the one that is meant.
   */
  async listed(names: readonly string[]): Promise<string[]> {
    if (names.length === 0) {
      return [];
    }
    const hosts = new Set(parseHosts(await this.frontend.list(LIST_HOSTS)).map(({ name }) => name));
    return names.filter((name) => hosts.has(name));
  }

  /** @returns undefined where the host went meanwhile */
  private outputIfThere(answer: Answer, args: readonly string[]): string | undefined {
    try {
      return this.frontend.outputOf(answer, args);
    } catch (error) {
      if (error instanceof NotFound) {
        return undefined;
      }
      throw error;
    }
  }

  async allocate(wished: ClusterRecord): Promise<ClusterKeys> {
    refuseBadName(wished.name);
    return this.locks.withSite(wished, () => this.allocateAlone(wished));
  }

  private async allocateAlone(wished: ClusterRecord): Promise<ClusterKeys> {
    const { name } = wished;
    const [facts, content, before] = await allDone(this.facts(), this.store.read(), readTables(this.frontend));
    const present = content.clusters.get(name);
    await this.refuseOthers(wished, content, before);
    refuseTakenNames(wished, before);
    this.refuseTaken(wished, facts, before, content);
    const vlan = present?.vlan ?? Rows.vlanOf(name, before) ?? this.chooseVlan(before, content);
    const own = Rows.inVlan(name, vlan, before);
    const records = [...content.clusters.values()].map(({ record }) => record);
    const isApart = areFrontendsApart(this.settings, before);
    const counted = [...own].flatMap(([node, vm]) => (isApart && node === "frontend" ? [] : [vm]));
    refuseOversize(wished.plan, describeSite(this.settings, facts, before, records), counted);

    const former = formerBases(present?.record, wished);
    const record = withFormerBases({ ...wished, plan: decided(wished, present?.record, before) }, former);
    const machines = new Set(
      content.nodes.flatMap(({ cluster, node, orphan }) =>
        cluster === name && !orphan && own.has(node) ? [node] : [],
      ),
    );
    const leaving = [...own.keys()].filter((node) => !vmsOf(record).has(node));
    const staying = leaving.filter((node) => machines.has(node));
    const hosts = await this.choosePlaces(record, before, own, staying, present?.hosts);
    const file: ClusterFile = { record, vlan, hosts };

    await using reverter = new Reverter();
    // The record comes first: what follows belongs to the cluster that it records.
    const formerKeys = present?.record.keys;
    await this.store.writeCluster(formerKeys ? { ...file, record: { ...record, keys: formerKeys } } : file);
    reverter.add(() =>
      present ? this.store.writeCluster(present) : this.store.removeCluster(name, { keepKeys: true }),
    );
    reverter.add(() => this.undoRows(file, before));
    const gone = leaving.filter((node) => !machines.has(node));
    const hasAdded = await this.rows.add(file, before);
    await this.removeGone(name, gone);
    const after = hasAdded || gone.length > 0 ? await readTables(this.frontend) : before;
    this.rows.verify(file, after);
    await this.rows.addVlan(vlan, Object.values(hosts), after);
    await this.shapeRows(record, after, machines);

    const { keys, made } = await this.ensureKeys(name, content.keys.has(name));
    if (made) {
      reverter.add(() => this.store.removeKeys(name));
    }
    const publicKeys = publicHalves(keys);
    const plan = decided(record, undefined, after);
    await this.store.writeCluster({ ...file, record: { ...record, plan, keys: publicKeys } });
    reverter.succeed();
    await this.removeUnusedBases(former);
    return publicKeys;
  }

  /** Rows that are called as this cluster's are belong to it, if a record or a mark says so. */
  private async refuseOthers(cluster: ClusterRef, { clusters, nodes }: StoreContent, tables: Tables): Promise<void> {
    const { name } = cluster;
    const present = clusters.get(name)?.record;
    const machine = nodes.find((one) => one.cluster === name);
    if (present || machine) {
      refuseForeign(`cluster ${name}`, present?.mark ?? machine?.mark, cluster);
      return;
    }
    const [stranger] = [name, ...[...Rows.of(name, tables).values()].map((vm) => vm.name)].filter((one) =>
      tables.hosts.some((host) => host.name === one),
    );
    if (stranger !== undefined) {
      const mark = (await this.marksOf([name])).get(name);
      if (!mark) {
        throw unmarked(stranger);
      }
      refuseForeign(`cluster ${name}`, mark, cluster);
    }
  }

  private refuseTaken(record: ClusterRecord, facts: Facts, tables: Tables, { clusters }: StoreContent): void {
    const others = [...clusters.values()].flatMap((file) => (file.record.name === record.name ? [] : [file.record]));
    const wanted = subnet(record.plan.privateNetwork.cidr);
    for (const [cidr, { description }] of takenSubnets(facts, others)) {
      if (overlap(wanted, subnet(cidr))) {
        throw new AddressTaken(`subnet ${wanted.cidr}`, `${description} has it`, PLAN_ANEW);
      }
    }
    const { publicIp } = record.plan.frontend;
    const { gateway } = publicNetworkOf(this.settings, facts);
    const own = (host: string) => host === record.name;
    const interfaces = tables.interfaces.filter(({ host }) => !own(host));
    const holder = takenAddresses({ interfaces }, others, gateway).get(publicIp);
    if (holder) {
      throw new AddressTaken(`public address ${publicIp}`, `${holder.description} has it`, PLAN_ANEW);
    }
  }

  private chooseVlan({ interfaces }: Tables, { clusters }: StoreContent): number {
    const used = new Set([...interfaces.map(({ vlan }) => vlan), ...[...clusters.values()].map(({ vlan }) => vlan)]);
    // A row `vlan7` without a number, of an interface that somebody has made by hand, counts too.
    const named = interfaces.flatMap(({ iface }) => (/^vlan\d+$/.test(iface) ? [Number(iface.slice(4))] : []));
    return freeVlan(vlansOf(this.settings.vlans ?? ALL_VLANS), new Set([...used, ...named]));
  }

  /** Machines in the tables stay where they are; for the others there must be room, and their host must answer. */
  private async choosePlaces(
    record: ClusterRecord,
    tables: Tables,
    own: ReadonlyMap<string, RocksVm>,
    leaving: readonly string[],
    former: ClusterFile["hosts"] = {},
  ): Promise<Record<string, string>> {
    const { frontendHost } = this.settings;
    const nodes = nodesOf(record.plan).map((planned, index) => ({
      ...planned,
      node: index === 0 ? "frontend" : planned.name,
    }));
    const wanted = new Set([...vmsOf(record).keys(), ...leaving]);
    const known = tables.hosts.map(({ name }) => name);
    // A row that somebody has taken out comes back where its disk is.
    const before = [...Object.entries(former), ...[...own].map(([node, { host }]) => [node, host] as const)];
    const placed = new Map(before.filter(([node, host]) => wanted.has(node) && known.includes(host)));
    if (frontendHost !== undefined && !placed.has("frontend")) {
      placed.set("frontend", frontendHost);
    }
    const rooms = roomsLeft(this.settings, tables, new Set([...own.values()].map(({ name }) => name))).map((room) => {
      const stay = [...placed].flatMap(([node, host]) =>
        host === room.name ? [nodes.find((one) => one.node === node) ?? own.get(node)] : [],
      );
      return {
        ...room,
        cpus: stay.reduce((left, one) => left - (one?.cpus ?? 0), room.cpus),
        memory: stay.reduce((left, one) => left - (one?.memory ?? 0), room.memory),
      };
    });
    const missing = nodes.filter(({ node }) => !placed.has(node));
    const found = missing.length > 0 ? place(missing, rooms, await this.silentAmong(rooms, tables)) : [];
    return Object.fromEntries([...placed, ...found]);
  }

  /**
   * Hosts whose sshd doesn't answer, where disks are sent there, or whose libvirt doesn't: one machine of each host's tells
   * that.
   */
  private async silentAmong(rooms: readonly Room[], tables: Tables): Promise<Set<string>> {
    const reached = this.settings.sharedDisks ? [] : await this.disks.list(rooms.map(({ name }) => name));
    const silent = new Set([...reached].flatMap(([host, files]) => (files === undefined ? [host] : [])));
    const asked = rooms.flatMap(({ name }) =>
      silent.has(name) ? [] : tables.vms.filter((vm) => vm.host === name && isVmName(vm.name)).slice(0, 1),
    );
    const statuses = await readStatuses(
      this.frontend,
      asked.map(({ name }) => name),
      tables,
    );
    return new Set([...silent, ...asked.flatMap((vm) => (statuses.get(vm.name) === "nostate-error" ? [vm.host] : []))]);
  }

  /** Takes rows that nothing was made from out of the tables. */
  private async removeGone(name: string, nodes: readonly string[]): Promise<void> {
    if (nodes.length > 0) {
      await this.frontend.change([["remove", "host", ...nodes.map((node) => vmName(name, node))]]);
    }
  }

  /** Gives the rows that nothing was made from yet their shape and their disk, and the frontend's its mark. */
  private async shapeRows(record: ClusterRecord, tables: Tables, machines: ReadonlySet<string>): Promise<void> {
    const rows = Rows.of(record.name, tables);
    const commands: string[][] = [["set", "host", "attr", record.name, MARK_ATTRIBUTE, encodeMark(record.mark)]];
    nodesOf(record.plan).forEach(({ name, cpus, memory, diskSize }, index) => {
      const node = index === 0 ? "frontend" : name;
      const vm = vmName(record.name, node);
      const row = rows.get(node);
      if (machines.has(node) || !row) {
        return;
      }
      if (row.cpus !== cpus) {
        commands.push(["set", "host", "cpus", vm, String(cpus)]);
      }
      const image = index === 0 ? record.image.frontend : record.image.compute;
      const bytes = Math.max(image.size, (diskSize ?? 0) * MIB);
      if (row.memory !== memory || !this.disks.isOurs(vm, row.disks)) {
        const disk = [`disk=${this.disks.specificationOf(vm)}`, `disksize=${gigabytes(bytes)}`];
        commands.push(["set", "host", "vm", vm, ...disk, `mem=${memory}`]);
      }
    });
    await this.frontend.change(commands);
  }

  /** As the tables were, apart from what others have done meanwhile. */
  private async undoRows({ record: { name }, vlan, hosts }: ClusterFile, before: Tables): Promise<void> {
    await this.frontend.untilUnchanging();
    const now = await readTables(this.frontend);
    const had = new Set(before.vms.map((vm) => vm.name));
    const added = [...Rows.inVlan(name, vlan, now).values()].map((vm) => vm.name).filter((vm) => !had.has(vm));
    if (added.length > 0) {
      await this.rows.remove(name, added, vlan, now).catch(() =>
        // Others are in its VLAN: by name alone they stay.
        this.frontend.change([["remove", "host", ...added]]),
      );
    }
    await this.rows.removeStrayVlan(vlan, hostsOfMachines(this.settings, now, Object.values(hosts)), before);
  }

  /**
   * A node's row, where somebody has taken it out of Rocks' tables since it was allocated.
   * @throws what `allocate` throws
   */
  async ensureRow(file: ClusterFile, node: string): Promise<void> {
    if ((await this.listed([vmName(file.record.name, node)])).length === 0) {
      await this.allocate(file.record);
    }
  }

  private async ensureKeys(name: string, isThere: boolean): Promise<{ keys: PrivateKeys; made: boolean }> {
    const present = isThere ? await this.store.readKeys(name) : undefined;
    const keys = present ?? (await makeKeys(name));
    if (!present) {
      await this.store.writeKeys(name, keys);
    }
    return { keys, made: present === undefined };
  }

  /** @throws NotFound when the cluster has no keys: it wasn't allocated here */
  async keysOf(name: string): Promise<PrivateKeys> {
    const keys = await this.store.readKeys(name);
    if (!keys) {
      throw new NotFound(
        `the keys of cluster ${name}`,
        `${name}.keys in ${this.store.folder} is missing or damaged`,
        "Run `pulumi up`, which makes it again",
      );
    }
    return keys;
  }

  /** Each disk on the hosts whose machines are made from it. */
  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    const file = (await this.store.read([record.name])).clusters.get(record.name);
    const hosts = file?.hosts ?? {};
    const wanted = new Map<string, { image: DiskImage; hosts: Set<string> }>();
    for (const node of vmsOf(record).keys()) {
      const image = node === "frontend" ? record.image.frontend : record.image.compute;
      const entry = wanted.get(image.digest) ?? { image, hosts: new Set<string>() };
      entry.hosts.add(hosts[node] ?? "");
      wanted.set(image.digest, entry);
    }
    if (record.plan.computes.length === 0) {
      wanted.delete("");
    }
    for (const { image, hosts: needed } of wanted.values()) {
      const all = [...needed].filter(Boolean);
      for (const host of this.settings.sharedDisks ? all.slice(0, 1) : all) {
        await this.disks.ensureBase(
          image,
          host,
          all.filter((other) => other !== host),
          progress,
        );
      }
    }
  }

  /** @param options `keepKeys`: they are on disks that stay */
  async release(
    cluster: ClusterRef | ClusterRecord,
    options: { readonly keepBaseImage: boolean; readonly keepKeys: boolean },
  ): Promise<void> {
    const { name } = cluster;
    refuseBadName(name);
    const former = await this.locks.withSite(cluster, async () => {
      const [content, tables] = await allDone(this.store.read([name]), readTables(this.frontend));
      const present = content.clusters.get(name);
      await this.refuseOthers(cluster, content, tables);
      const vlan = present?.vlan ?? Rows.vlanOf(name, tables);
      const rows = [...(vlan === undefined ? Rows.of(name, tables) : Rows.inVlan(name, vlan, tables)).values()];
      const vms = rows.map((vm) => vm.name);
      if (vms.length > 0) {
        const housed = rows.flatMap((vm) => (vm.host === "" ? [] : [vm.name]));
        const statuses = await readStatuses(this.frontend, housed, tables);
        await this.stop(housed.filter((vm) => statuses.get(vm) !== "nostate"));
        await this.rows.remove(name, vms, vlan, tables);
        await this.rows.refuseLeft(vms);
      }
      if (vlan !== undefined) {
        await this.rows.removeStrayVlan(
          vlan,
          hostsOfMachines(this.settings, tables, Object.values(present?.hosts ?? {})),
        );
      }
      await this.store.removeCluster(name, options);
      return present?.record;
    });
    if (!options.keepBaseImage) {
      const records = [former, "plan" in cluster ? cluster : undefined].filter((record) => record !== undefined);
      await this.removeUnusedBases([...new Set(records.flatMap(allDigestsOf))]);
    }
  }

  /** One sentence for each of the cluster's own things that isn't as it should be. */
  async inspect(record: ClusterRecord): Promise<string[]> {
    const [{ clusters, keys }, tables] = await Promise.all([this.store.read([record.name]), readTables(this.frontend)]);
    const file = clusters.get(record.name);
    const rows = Rows.of(record.name, tables);
    const ip = record.plan.frontend.publicIp;
    const hosts = new Set(Object.values(file?.hosts ?? {}));
    const stopped = [...hosts].filter(
      (host) => !tables.interfaces.some((nic) => nic.host === host && nic.iface === `vlan${file?.vlan}`),
    );
    const missing = [...vmsOf(record)].filter(([node]) => !rows.has(node)).map(([, vm]) => vm);
    const files = await this.disks.list(hosts);
    const wanted = [...vmsOf(record).keys()].map((node) => ({
      host: file?.hosts[node] ?? "",
      base: baseFile((node === "frontend" ? record.image.frontend : record.image.compute).digest),
    }));
    // What a host that doesn't answer has, nobody knows.
    const lost = wanted.some(({ host, base }) => files.has(host) && files.get(host)?.has(base) === false);
    return [
      ...(file ? [] : ["its private network is gone"]),
      ...(file && stopped.length > 0
        ? [`its private network is stopped: VLAN ${file.vlan} has no interface on ${stopped.join(", ")}`]
        : []),
      ...missing.map((vm) => `${vm} isn't in Rocks' tables any more`),
      ...(tables.interfaces.some((nic) => nic.host === record.name && nic.ip === ip) || rows.size === 0
        ? []
        : [`the lease of its public address ${ip} is gone`]),
      ...(keys.has(record.name) ? [] : ["its keys are gone"]),
      ...(lost ? ["its base image is gone"] : []),
    ];
  }

  async survey(): Promise<FoundCluster[]> {
    const [content, tables] = await Promise.all([this.store.read(), readTables(this.frontend)]);
    const { clusters, nodes, locks } = content;
    // Names that we would never give may be more than names where Rocks pastes them.
    const unrecorded = tables.clusters.flatMap(({ frontend, isVirtual }) =>
      isVirtual && !clusters.has(frontend) && isVmName(frontend) ? [frontend] : [],
    );
    const marked = [...(await this.marksOf(unrecorded))].flatMap(([name, mark]) =>
      mark ? [[name, mark] as const] : [],
    );
    const marks = new Map<string, ClusterRef["mark"]>([
      ...locks,
      ...marked,
      ...nodes.map(({ cluster, mark }) => [cluster, mark] as const),
      ...[...clusters].map(([name, { record }]) => [name, record.mark] as const),
    ]);
    return [...marks].map(([name, mark]) => {
      const record = clusters.get(name)?.record;
      const addresses = tables.interfaces.flatMap((nic) =>
        nic.host === name && nic.subnet === "public" && nic.ip !== "" ? [nic.ip] : [],
      );
      return {
        name,
        mark,
        ...(record && { record }),
        machines: nodes.flatMap(({ cluster, node, orphan }) => (cluster === name && !orphan ? [node] : [])).sort(),
        publicAddresses: [...new Set([...addresses, ...(record ? [record.plan.frontend.publicIp] : [])])],
      };
    });
  }

  /** Removes bases that no cluster's record names and no machine was made from, wherever they are. */
  async removeUnusedBases(digests: readonly string[]): Promise<void> {
    if (digests.length === 0) {
      return;
    }
    const { clusters, nodes } = await this.store.read();
    const records = [...clusters.values()].map(({ record }) => record);
    const used = new Set([...records.flatMap(digestsOf), ...nodes.map(({ base }) => base)]);
    const unused = digests.filter((digest) => !used.has(digest));
    if (unused.length === 0) {
      return;
    }
    const names = unused.flatMap((digest) => [baseFile(digest), partFile(digest)]);
    await Promise.all(
      (await this.diskHosts(clusters.values(), nodes)).map((host) =>
        this.disks.remove(host, names).catch((error) => {
          if (!(error instanceof ContainerUnreachable)) {
            throw error;
          }
        }),
      ),
    );
  }

  /** All hosts that may have files of ours. */
  async diskHosts(files: Iterable<ClusterFile>, nodes: readonly NodeFile[]): Promise<string[]> {
    const { ownName } = await this.facts();
    if (this.settings.sharedDisks) {
      return [ownName];
    }
    const { containers, frontendHost } = this.settings;
    const listed =
      containers ??
      parseHosts(await this.frontend.list(LIST_HOSTS)).flatMap((host) =>
        host.membership === "VM Container" ? [host.name] : [],
      );
    const recorded = [...files].flatMap(({ hosts }) => Object.values(hosts));
    return [
      ...new Set([...listed, ...(frontendHost ? [frontendHost] : []), ...recorded, ...nodes.map(({ host }) => host)]),
    ];
  }
}

/** The plan with each MAC that is left to the site as the record has it, else as Rocks' tables do. */
function decided(wished: ClusterRecord, present: ClusterRecord | undefined, tables: Tables): ClusterPlan {
  const macs = new Map([...Rows.macsOf(wished, tables), ...(present ? macsOf(present.plan) : [])]);
  const open = [...macsOf(wished.plan)].flatMap(([ip, mac]) => (mac === SITE_DECIDES ? [ip] : []));
  return withMacs(wished.plan, new Map([...macs].filter(([ip, mac]) => open.includes(ip) && mac !== SITE_DECIDES)));
}

/** Physical hosts and the frontends of other clusters may be called as a compute of this one would be. */
function refuseTakenNames(record: ClusterRecord, { hosts, vms, clusters }: Tables): void {
  const others = new Set([
    ...hosts.flatMap(({ name }) => (vms.some((vm) => vm.name === name) ? [] : [name])),
    ...clusters.flatMap(({ frontend }) => (frontend === record.name ? [] : [frontend])),
  ]);
  const taken = [...vmsOf(record).values()].find((vm) => others.has(vm));
  if (taken !== undefined) {
    throw unmarked(taken);
  }
}

function unmarked(name: string): ForeignOwner {
  return new ForeignOwner(
    `host ${name} of Rocks' tables`,
    "exists and carries no mark of a virtual cluster",
    "Give this cluster another clusterName",
  );
}
