import { randomUUID } from "node:crypto";
import { appendFileSync } from "node:fs";
import { access, open, readFile, rm } from "node:fs/promises";
import { basename } from "node:path";
import { setTimeout } from "node:timers/promises";
import { locateDisk } from "../../images/disk/digests";
import { type ClusterPlan, macsOf, SITE_DECIDES } from "../../plan/plan";
import { sha256 } from "../../vc-out/digest";
import { readVcOut } from "../../vc-out/read";
import type { VcOut } from "../../vc-out/vc-out";
import { Batcher } from "../batcher";
import type {
  BootRequest,
  Capabilities,
  Channel,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  FoundCluster,
  NodeRef,
  NodeState,
  ObservedNode,
  Progress,
  ReleaseOptions,
  Shape,
  SiteDescription,
  StopLimits,
  WaitLimits,
} from "../driver";
import {
  ForeignOwner,
  InvalidImage,
  NoCapacity,
  NotFound,
  NotReady,
  NotSupported,
  SiteFailure,
  Unreachable,
} from "../errors";
import { refuseForeign } from "../ownership";
import type { CommandSettings } from "../settings";
import { learn, refuseOtherCompute } from "./learn";
import { Locks } from "./locks";
import { type Program, ProgramFailed, Programs, type TIME_LIMITS } from "./programs";
import { placesOf } from "./settings";
import { type Entry, type Note, type Request, Store } from "./store";
import { DISK_FILES, writeVcIn } from "./vc-in";

export { resolveCommandSettings } from "./settings";

const MIB = 1024 * 1024;
/** What the engine asks at once arrives within this time. */
const TOGETHER_MS = 12;
const POLL_MS = 1000;
const LOG_LINES = 20;
const MOST_LOG = 256 * 1024;
const MOST_VC_OUT = 1024 * 1024;
const NODE_TYPES = "frontend,compute";
const HOST_KEY_FILE = "ssh_host_ed25519_key.pub";
const UNKNOWN = { total: Number.POSITIVE_INFINITY, free: Number.POSITIVE_INFINITY } as const;
const STATES: readonly NodeState[] = ["running", "off", "paused", "crashed", "unknown"];

/**
 * A site that is reached through programs of its own: PRAGMA's `fix_images`, `allocate` and `boot`, and four more where the
 * site has them (docs/sites/command.md). The site decides on names, addresses, MACs and cpus; what it has decided is read
 * from the vc-out.xml files that it leaves.
 */
export class CommandDriver implements Driver {
  private readonly programs: Programs;
  private readonly store: Store;
  private readonly locks: Locks;
  private readonly clustersRead: Batcher<string, () => Promise<ReadonlyMap<string, ObservedNode>>>;

  constructor(settings: CommandSettings, limits?: typeof TIME_LIMITS) {
    const { folder, temporaryDirectory } = placesOf(settings);
    this.programs = new Programs(folder, settings.environment, limits);
    this.store = new Store(temporaryDirectory);
    this.locks = new Locks((cluster) => this.store.lockFile(cluster));
    this.clustersRead = new Batcher(async (names) => {
      const reads = names.map((name) => [name, this.load(name)] as const);
      await Promise.allSettled(reads.map(([, nodes]) => nodes));
      return new Map(reads.map(([name, nodes]) => [name, () => nodes]));
    }, TOGETHER_MS);
  }

  /** What the site can do follows from the programs that it has now. */
  get capabilities(): Capabilities {
    const has = (program: Program) => this.programs.has(program);
    const lacks = (program: Program) => `${this.programs.folder} has no executable program ${program}`;
    return {
      macs: "site",
      addresses: "site",
      liveReconfigure: has("reconfigure"),
      liveResize: false,
      mergesNodes: true,
      readiness: false,
      autostart: false,
      reserves: "allocated",
      // Such programs were written to be called one after the other.
      parallelNodes: 1,
      lacks: {
        ...(!has("reconfigure") && { resize: lacks("reconfigure") }),
        ...(!has("remove") && { removal: lacks("remove") }),
        ...(!has("shutdown") && { powerOff: lacks("shutdown") }),
        diskSize: "its programs make disks as large as the image's",
        publicIp: "its program allocate chooses addresses",
        retainDisks: "its program remove takes disks away with their machines",
        vcOutDialect: "its program allocate writes the vc-out.xml files",
      },
    };
  }

  // ── What is there ────────────────────────────────────────────────────────────────────────────────────────────────

  siteId(): Promise<string> {
    return this.store.siteId();
  }

  async describe(): Promise<SiteDescription> {
    this.programs.refuseIncomplete();
    return {
      siteId: await this.siteId(),
      cpus: { ...UNKNOWN, perNode: Number.POSITIVE_INFINITY },
      memory: UNKNOWN,
      publicNetwork: { name: SITE_DECIDES, cidr: SITE_DECIDES, gateway: SITE_DECIDES, dns: [], domain: SITE_DECIDES },
      publicAddresses: [],
      takenAddresses: new Map(),
      privateRange: SITE_DECIDES,
      takenSubnets: new Map(),
    };
  }

  async find(clusterName: string): Promise<ClusterRecord | undefined> {
    return (await this.store.entry(clusterName))?.record;
  }

  async read(clusterName: string): Promise<ReadonlyMap<string, ObservedNode>> {
    const nodes = await this.clustersRead.get(clusterName);
    return nodes ? nodes() : new Map();
  }

  async inspect(record: ClusterRecord): Promise<readonly string[]> {
    const entry = await this.store.entry(record.name);
    if (!entry) {
      return ["its record is gone"];
    }
    return (await isThere(this.store.vcOut(record.name))) ? [] : ["its vc-out.xml is gone"];
  }

  /** What the node's programs have printed; nobody sees its console. */
  async diagnose({ cluster, node }: NodeRef): Promise<string> {
    const log = await readTail(this.store.folder(cluster.name, "log"), MOST_LOG);
    const lines = log.split("\n").filter((line) => line.startsWith(`${node}: `));
    return lines.slice(-LOG_LINES).join("\n");
  }

  async survey(): Promise<readonly FoundCluster[]> {
    const found = await Promise.all(
      (await this.store.clusters()).map(async (name) => {
        // What carries no mark isn't anybody's.
        const entry = await this.store.entry(name).catch(() => undefined);
        const ip = entry?.record.plan.frontend.publicIp;
        return entry
          ? [
              {
                name,
                mark: entry.record.mark,
                record: entry.record,
                machines: [...(await this.store.notes(name)).keys()].sort(),
                publicAddresses: ip === undefined || ip === SITE_DECIDES ? [] : [ip],
              },
            ]
          : [];
      }),
    );
    return found.flat();
  }

  // ── Who may change it ────────────────────────────────────────────────────────────────────────────────────────────

  async lock(cluster: ClusterRef, limits: WaitLimits): Promise<AsyncDisposable> {
    await this.store.refuseMissing();
    return this.locks.lock(cluster, limits);
  }

  // ── A cluster ────────────────────────────────────────────────────────────────────────────────────────────────────

  async allocate(wished: ClusterRecord, progress: Progress = SILENT): Promise<ClusterKeys> {
    const { name } = wished;
    const present = await this.store.entry(name);
    if (present) {
      refuseForeign(`cluster ${name}`, present.record.mark, wished);
    }
    const request = requestOf(wished);
    if (!present?.allocated) {
      await this.allocateFirst(wished, request, present, progress);
    } else if (!sameRequest(present.request, request) || !(await isThere(this.store.vcOut(name)))) {
      await this.writeInputs(wished, request);
      await this.run("reconfigure", name, this.allocation(name, request.numCpus), progress);
    }
    return this.writeDown(wished, request, present);
  }

  async fixImages(record: ClusterRecord, progress: Progress): Promise<void> {
    const { name, image } = record;
    const entry = await this.existingEntry(record);
    const of = [image.frontend.digest, image.compute.digest].join(" ");
    if (entry.disks?.of === of) {
      return;
    }
    for (const role of ROLES) {
      await this.store.linkDisk(name, DISK_FILES[role], await this.diskOf(image[role].digest, image.vcName));
    }
    const vcIn = this.store.folder(name, "vc-in.xml");
    const said = await this.run("fix_images", name, [vcIn, this.store.work(name), NODE_TYPES], progress);
    const [frontend, compute] = await twoDisks(said);
    await this.store.write(name, { ...(await this.existingEntry(record)), disks: { of, frontend, compute } });
  }

  async release(cluster: ClusterRef | ClusterRecord, _options: ReleaseOptions): Promise<void> {
    const { name } = cluster;
    const present = await this.store.entry(name);
    if (!present) {
      return;
    }
    refuseForeign(`cluster ${name}`, present.record.mark, cluster);
    await this.run("remove", name, [this.store.work(name), this.store.vcOut(name)], SILENT);
    await this.store.remove(name);
  }

  // ── A node ───────────────────────────────────────────────────────────────────────────────────────────────────────

  async boot(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    const entry = await this.store.entry(ref.cluster.name);
    const machine = await this.machineOf(ref);
    if (!entry?.allocated || !entry.disks) {
      throw new NotFound(`cluster ${ref.cluster.name}`, "it isn't allocated at this site", "Run `pulumi up` again");
    }
    if (!machine?.observed || machine.note.booting) {
      await this.create(ref, request, entry, machine?.note);
      return "created";
    }
    if (request.power === "off") {
      const isOff = machine.observed.state === "off";
      await this.shutdown(ref, request.stop);
      await this.reshape(ref, request.plan, request.progress);
      return isOff ? "kept" : "stopped";
    }
    await this.reshape(ref, request.plan, request.progress);
    const now = await this.existing(ref);
    if (now.observed.state === "running") {
      if (now.note.vcOutDigest !== sha256(request.vcOut)) {
        await this.reconfigure(ref, request.vcOut);
      }
      return machine.observed.state === "running" ? "kept" : "started";
    }
    await this.runBoot(ref, now.note.hostName, request, entry);
    const follows = now.note.vcOutWaits ? { vcOutDigest: sha256(request.vcOut), vcOutWaits: false } : {};
    await this.store.writeNote(ref.cluster.name, ref.node, { ...now.note, ...follows, state: "running" });
    return "started";
  }

  /** Until it runs: nothing tells when it is ready. */
  async waitFor(ref: NodeRef<ClusterRecord>, _goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    for (const end = Date.now() + limits.seconds * 1000; ; await setTimeout(POLL_MS)) {
      const { state } = (await this.existing(ref)).observed;
      if (state === "running") {
        return;
      }
      if (state !== "unknown" || Date.now() > end) {
        const hint = "Run `pulumi up` again";
        throw new NotReady(`node ${ref.node}`, `its machine is ${state}`, hint, await this.diagnose(ref));
      }
    }
  }

  async channel(ref: NodeRef<ClusterRecord>): Promise<Channel> {
    const { observed } = await this.existing(ref);
    return observed.state === "running" && this.programs.has("reconfigure") ? "site" : "nextBoot";
  }

  async reconfigure(ref: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const { name } = ref.cluster;
    const { observed, note } = await this.existing(ref);
    if (observed.state !== "running" || !this.programs.has("reconfigure")) {
      await this.store.writeNote(name, ref.node, { ...note, vcOutWaits: true });
      return "nextBoot";
    }
    const waits = (await this.bringUpToDate(ref, note, SILENT)) === "nextBoot";
    const given = waits ? { vcOutWaits: true } : { vcOutDigest: sha256(vcOut), vcOutWaits: false };
    await this.store.writeNote(name, ref.node, { ...note, ...given });
    return waits ? "nextBoot" : "live";
  }

  async resize(ref: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    return this.reshape(ref, shape, limits.progress ?? SILENT);
  }

  async shutdown(ref: NodeRef, { graceSeconds, progress = SILENT }: StopLimits): Promise<void> {
    const { name } = ref.cluster;
    const { observed, note } = await this.existing(ref);
    if (observed.state !== "off") {
      const args = [this.store.work(name), this.store.vcOut(name), note.hostName, String(graceSeconds)];
      await this.run("shutdown", name, args, progress, ref.node);
    }
    await this.store.writeNote(name, ref.node, { ...note, state: "off" });
  }

  async remove(ref: NodeRef, { progress = SILENT }: StopLimits): Promise<void> {
    const { name } = ref.cluster;
    const machine = await this.machineOf(ref);
    if (machine) {
      if (ref.node !== "frontend" && this.programs.has("remove")) {
        // Cut off, it is seen until all of it is gone.
        await this.store.writeNote(name, ref.node, { ...machine.note, booting: true });
      }
      const args = [this.store.work(name), this.store.vcOut(name), machine.note.hostName];
      await this.run("remove", name, args, progress, ref.node);
      await this.store.removeNote(name, ref.node);
    }
  }

  // ── Steps ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private async allocateFirst(
    wished: ClusterRecord,
    request: Request,
    present: Entry | undefined,
    progress: Progress,
  ): Promise<void> {
    const { name } = wished;
    await this.store.siteId();
    // The record comes first: what the site reserves belongs to the cluster that it names.
    const entry: Entry = { record: wished, allocated: false, request };
    if (present) {
      // What was cut off may have reserved a part.
      if (this.programs.has("remove")) {
        await this.run("remove", name, [this.store.work(name), this.store.vcOut(name)], progress);
      }
      await rm(this.store.vcOut(name), { force: true });
      await this.store.write(name, entry);
    } else if (!(await this.store.create(name, entry))) {
      throw new ForeignOwner(`cluster ${name}`, "was made by another process meanwhile", "Run `pulumi up` again");
    }
    await this.writeInputs(wished, request);
    try {
      await this.run("allocate", name, this.allocation(name, request.numCpus), progress);
    } catch (error) {
      if (error instanceof NoCapacity) {
        await this.store.remove(name);
      }
      throw error;
    }
  }

  private async writeInputs({ name, image }: ClusterRecord, { vcIn, keys }: Request): Promise<void> {
    for (const role of ROLES) {
      // Who only changes a cluster may not have its image any more.
      const disk = await locateDisk(image[role].digest);
      if (disk !== undefined) {
        await this.store.linkDisk(name, DISK_FILES[role], disk);
      }
    }
    await this.store.writeInput(name, "vc-in.xml", vcIn);
    await this.store.writeInput(name, "key.pub", keys);
  }

  /** What `allocate` and `reconfigure` are called with. */
  private allocation(name: string, numCpus: number): string[] {
    const [vcIn, key] = [this.store.folder(name, "vc-in.xml"), this.store.folder(name, "key.pub")];
    return [String(numCpus), vcIn, this.store.vcOut(name), this.store.work(name), key];
  }

  private async writeDown(wished: ClusterRecord, request: Request, present: Entry | undefined): Promise<ClusterKeys> {
    const { name } = wished;
    const held = present?.allocated ? present.record.plan : undefined;
    const plan = await this.decidedPlan(name, wished.plan, held);
    const hostKey = await this.hostKeyOf(name);
    const keys: ClusterKeys = hostKey === undefined ? {} : { hostKey };
    const { formerBases: _, ...record } = wished;
    await this.store.write(name, {
      record: { ...record, plan, keys },
      allocated: true,
      request,
      ...(present?.disks && { disks: present.disks }),
    });
    return keys;
  }

  /** @throws SiteFailure for files that aren't whole or contradict each other */
  private async decidedPlan(name: string, planned: ClusterPlan, held: ClusterPlan | undefined): Promise<ClusterPlan> {
    const said = await readSaid(this.store.vcOut(name));
    if (said.role !== "frontend") {
      throw damaged(this.store.vcOut(name), "is a compute's, and should be the frontend's");
    }
    for (const listed of said.computes) {
      const file = this.store.work(name, `${listed.name}.xml`);
      const own = await readSaid(file);
      if (own.role !== "compute") {
        throw damaged(file, "is a frontend's, and should be a compute's");
      }
      refuseOtherCompute(listed, own, file);
    }
    return learn(planned, said, held);
  }

  private async hostKeyOf(name: string): Promise<string | undefined> {
    const text = await readFile(this.store.work(name, HOST_KEY_FILE), "utf8").catch(() => "");
    return /^ssh-ed25519 [A-Za-z0-9+/=]+/.exec(text)?.[0];
  }

  private async create(ref: NodeRef<ClusterRecord>, request: BootRequest, entry: Entry, former: Note | undefined) {
    const { name } = ref.cluster;
    const { plan, image, mark } = entry.record;
    if (request.role === "frontend" && request.keepDisk && former && !former.booting) {
      throw new NotFound(
        `node ${ref.node}: its machine`,
        "is gone at the site, and the site's program boot would make another with an empty disk",
        "See whether the site can bring it back; `pulumi up --replace URN` makes an empty frontend",
      );
    }
    const { cpus, memory, privateIp } = request.plan;
    const { publicIp } = plan.frontend;
    const macs = macsOf(plan);
    const note: Note = {
      hostName: hostNameOf(plan, ref.node),
      booting: true,
      state: "unknown",
      ...{ cpus, memory },
      diskSize: Math.ceil(image[request.role].size / MIB),
      macs: [privateIp, ...(request.role === "frontend" ? [publicIp] : [])].map((ip) => macs.get(ip) ?? ""),
      machineId: randomUUID(),
      vcOutDigest: sha256(request.vcOut),
      vcOutWaits: false,
      mark,
    };
    if (former && this.programs.has("remove")) {
      await this.remove(ref, { graceSeconds: 0, progress: request.progress });
    }
    await this.store.writeNote(name, ref.node, note);
    await this.runBoot(ref, note.hostName, request, entry);
    if (request.power === "off") {
      const args = [this.store.work(name), this.store.vcOut(name), note.hostName, "0"];
      await this.run("shutdown", name, args, request.progress, ref.node);
    }
    const state = request.power === "off" ? "off" : "running";
    await this.store.writeNote(name, ref.node, { ...note, booting: false, state });
  }

  private async runBoot({ cluster, node }: NodeRef, hostName: string, { role, progress }: BootRequest, entry: Entry) {
    const disk = entry.disks?.[role] ?? "";
    const args = [disk, hostName, this.store.work(cluster.name), this.store.vcOut(cluster.name)];
    await this.run("boot", cluster.name, args, progress, node);
  }

  /** @throws NotSupported */
  private async reshape(
    ref: NodeRef,
    { cpus, memory, diskSize }: Shape,
    progress: Progress,
  ): Promise<"live" | "restarted"> {
    const { note } = await this.existing(ref);
    if (diskSize !== undefined && diskSize > note.diskSize) {
      throw new NotSupported(`node ${ref.node}: a disk of ${diskSize} MiB`, "this site's programs can't make it grow");
    }
    if (note.cpus === cpus && note.memory === memory) {
      return "live";
    }
    const reshaped = { ...note, cpus, memory };
    const said = await this.bringUpToDate(ref, reshaped, progress);
    await this.store.writeNote(ref.cluster.name, ref.node, reshaped);
    return said === "restarted" ? "restarted" : "live";
  }

  /** Has the site give a node this shape, and the vc-out.xml as it is now. @returns how that went, in the site's words */
  private async bringUpToDate(
    { cluster, node }: NodeRef,
    { hostName, cpus, memory }: Note,
    progress: Progress,
  ): Promise<string> {
    const entry = await this.existingEntry(cluster);
    const args = [...this.allocation(cluster.name, entry.request.numCpus), hostName, String(cpus), String(memory)];
    return this.run("reconfigure", cluster.name, args, progress, node);
  }

  /** @throws NotSupported, NoCapacity, Unreachable, SiteFailure */
  private async run(
    program: Program,
    cluster: string,
    args: readonly string[],
    progress: Progress,
    node?: string,
  ): Promise<string> {
    if (!this.programs.has(program)) {
      throw new NotSupported(
        node === undefined ? `cluster ${cluster}` : `node ${node} of cluster ${cluster}`,
        `${this.programs.folder} has no executable program ${program}`,
        program === "remove"
          ? `Have the site's admin take its machines away, delete the folder ${this.store.folder(cluster)}, then run the same command again`
          : "Have the site's admin add it (docs/sites/command.md)",
      );
    }
    const log = this.store.folder(cluster, "log");
    try {
      return await this.programs.run(program, args, this.store.work(cluster), (line) => {
        appendFileSync(log, `${node ? `${node}: ` : ""}${program}: ${line}\n`);
        progress(`${program}: ${line}`);
      });
    } catch (error) {
      throw error instanceof ProgramFailed ? translate(error, program, cluster) : error;
    }
  }

  /** What `status` says, by host name; undefined where the site has no such program. */
  private async statesOf(cluster: string): Promise<ReadonlyMap<string, NodeState> | undefined> {
    if (!this.programs.has("status")) {
      return undefined;
    }
    const states = new Map<string, NodeState>();
    const args = [this.store.work(cluster), this.store.vcOut(cluster)];
    try {
      await this.programs.run("status", args, this.store.work(cluster), (line) => {
        const [hostName = "", state] = line.split(/\s+/);
        states.set(hostName, STATES.find((known) => known === state) ?? "unknown");
      });
    } catch (error) {
      throw error instanceof ProgramFailed ? translate(error, "status", cluster) : error;
    }
    return states;
  }

  private async load(cluster: string): Promise<ReadonlyMap<string, ObservedNode>> {
    const machines = await this.machinesOf(cluster);
    return new Map([...machines].flatMap(([node, { observed }]) => (observed ? [[node, observed] as const] : [])));
  }

  private async machinesOf(cluster: string): Promise<ReadonlyMap<string, Machine>> {
    if (!(await this.store.entry(cluster))) {
      return new Map();
    }
    const [notes, states] = await Promise.all([this.store.notes(cluster), this.statesOf(cluster)]);
    return new Map([...notes].map(([node, note]) => [node, { note, observed: observedOf(note, states) }]));
  }

  /** @throws ForeignOwner */
  private async machineOf({ cluster, node }: NodeRef): Promise<Machine | undefined> {
    const entry = await this.store.entry(cluster.name);
    if (entry) {
      refuseForeign(`cluster ${cluster.name}`, entry.record.mark, cluster);
    }
    if (!(await this.store.notes(cluster.name)).has(node)) {
      return undefined;
    }
    return (await this.machinesOf(cluster.name)).get(node);
  }

  private async existing(ref: NodeRef): Promise<{ readonly note: Note; readonly observed: ObservedNode }> {
    const machine = await this.machineOf(ref);
    if (!machine?.observed) {
      throw new NotFound(`node ${ref.node} of cluster ${ref.cluster.name}`, "its machine is gone", "Run `pulumi up`");
    }
    return { note: machine.note, observed: machine.observed };
  }

  private async existingEntry(cluster: ClusterRef): Promise<Entry> {
    const entry = await this.store.entry(cluster.name);
    if (!entry) {
      throw new NotFound(`cluster ${cluster.name}`, "it isn't allocated at this site", "Run `pulumi up` again");
    }
    return entry;
  }

  private async diskOf(digest: string, vcName: string): Promise<string> {
    const file = await locateDisk(digest);
    if (file === undefined) {
      throw new NotFound(`image ${vcName}`, "its disk isn't on this machine any more", "Bring its repository back");
    }
    return file;
  }
}

const ROLES = ["frontend", "compute"] as const;
const SILENT: Progress = () => undefined;

interface Machine {
  readonly note: Note;
  /** Absent where the site has none any more. */
  readonly observed: ObservedNode | undefined;
}

function observedOf(note: Note, states: ReadonlyMap<string, NodeState> | undefined): ObservedNode | undefined {
  const state = states ? states.get(note.hostName) : note.state;
  if (state === undefined && !note.booting) {
    return undefined;
  }
  const { cpus, memory, diskSize, macs, machineId, vcOutDigest, vcOutWaits, mark } = note;
  return {
    ...{ cpus, memory, diskSize, macs, machineId, vcOutDigest, vcOutWaits, mark },
    state: state ?? "unknown",
    live: { cpus: { min: cpus, max: cpus }, memory: { min: memory, max: memory } },
  };
}

function requestOf({ name, plan, publicKeys }: ClusterRecord): Request {
  const numCpus = plan.asked?.numCpus ?? 0;
  return { numCpus, vcIn: writeVcIn(name, plan), keys: publicKeys.map((key) => `${key}\n`).join("") };
}

function sameRequest(one: Request, other: Request): boolean {
  return one.numCpus === other.numCpus && one.vcIn === other.vcIn && one.keys === other.keys;
}

/** What the site's programs call a node. */
function hostNameOf({ frontend, computes }: ClusterPlan, node: string): string {
  const hostName = node === "frontend" ? frontend.fqdn : computes.find(({ name }) => name === node)?.hostName;
  if (hostName === undefined) {
    throw new NotFound(`node ${node}`, "the site has given it no machine", "Run `pulumi up` again");
  }
  return hostName;
}

function translate({ detail, hasEnded }: ProgramFailed, program: Program, cluster: string): Error {
  if (program === "status") {
    return new Unreachable("the site's program status failed", detail, "Ask the site's admin whether the site works");
  }
  const summary = `the site's program ${program} for cluster ${cluster}`;
  return hasEnded && (program === "allocate" || program === "reconfigure")
    ? new NoCapacity(summary, detail, "Lower numCpus, or ask the site's admin").about("numCpus")
    : new SiteFailure(summary, detail, "Ask the site's admin, then run the same command again");
}

async function readSaid(file: string): Promise<VcOut> {
  const text = await readLimited(file);
  try {
    return readVcOut(text).vcOut;
  } catch (error) {
    throw error instanceof RangeError ? damaged(file, error.message) : error;
  }
}

async function readLimited(file: string): Promise<string> {
  let handle: Awaited<ReturnType<typeof open>> | undefined;
  try {
    handle = await open(file, "r");
    const found = await handle.stat();
    if (!found.isFile() || found.size > MOST_VC_OUT) {
      throw damaged(file, found.isFile() ? `has ${found.size} bytes` : "is no file");
    }
    return await handle.readFile("utf8");
  } catch (error) {
    throw (error as NodeJS.ErrnoException).code === "ENOENT" ? damaged(file, "is missing") : error;
  } finally {
    await handle?.close();
  }
}

function damaged(file: string, what: string): SiteFailure {
  return new SiteFailure(
    `the site's file ${basename(file)} (${file})`,
    what,
    "The site's program allocate has to be mended",
  );
}

/** Two paths with a blank between them, which may have blanks themselves. */
async function twoDisks(line: string): Promise<[string, string]> {
  const words = line.split(/\s+/);
  const [one, other] = words;
  if (one && other && words.length === 2) {
    return [one, other];
  }
  const splits = [...line.matchAll(/\s+/g)].map(({ index, 0: blank }): [string, string] => [
    line.slice(0, index),
    line.slice(index + blank.length),
  ]);
  const there = await Promise.all(splits.map(async (paths) => (await Promise.all(paths.map(isThere))).every(Boolean)));
  const [found, ...more] = splits.filter((_, index) => there[index]);
  if (!found || more.length > 0) {
    throw new InvalidImage(
      "the site's program fix_images",
      `ended with the line ${JSON.stringify(line)}, and should with two disks`,
      "The site's program has to be mended",
    );
  }
  return found;
}

async function isThere(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

async function readTail(file: string, bytes: number): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text.slice(-bytes);
}
