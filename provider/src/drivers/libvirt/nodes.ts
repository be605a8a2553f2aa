import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import pLimit from "p-limit";
import type { GuestChanges } from "../../images/disk/inject";
import { injectInto, withOverlay } from "../../images/disk/overlay";
import { rootOf } from "../../images/root/root";
import { nodeFiles } from "../../node-files/node-files";
import type { PrivateKeys } from "../../node-files/set-up";
import { KEY_FILES } from "../../node-files/set-up";
import { inTemporaryFolder } from "../../temporary-folder";
import { sha256 } from "../../vc-out/digest";
import type {
  BootRequest,
  Channel,
  ClusterRecord,
  ClusterRef,
  NodeRef,
  Shape,
  StopLimits,
  WaitLimits,
} from "../driver";
import { ForeignOwner, NotFound, NotReady, SiteFailure } from "../errors";
import { isOurs, refuseForeign } from "../ownership";
import { Reverter } from "../reverter";
import { baseVolume, type Clusters } from "./clusters";
import type { Guests } from "./guest";
import { diskVolume, lines, type Machine, type Machines } from "./machines";
import { Shapes } from "./shapes";
import { AlreadyThere, ifThere, type Virsh } from "./virsh";
import type { Volumes } from "./volumes";
import {
  domainXml,
  MARK_NAMESPACE,
  type NodeMark,
  nicXml,
  nodeMetadataXml,
  REPLUG_PREFIX,
  replugNetworkXml,
} from "./xml";

const CONSOLE_TAIL_LINES = 20;
/** A starting machine keeps a processor busy with its firmware; preparing its siblings goes on meanwhile. */
const PARALLEL_STARTS = 4;
const COPY_SECONDS = 6 * 3600;
const MIB = 1024 * 1024;
const MOST_CONSOLE = 4 * 1024 * 1024;

/** The machines of clusters: each one domain, its overlay volume and its console's log. */
export class Nodes {
  private readonly startLimit = pLimit(PARALLEL_STARTS);
  private readonly shapes: Shapes;

  constructor(
    private readonly virsh: Virsh,
    private readonly machines: Machines,
    private readonly volumes: Volumes,
    private readonly clusters: Clusters,
    private readonly guests: Guests,
    private readonly host: () => Promise<{ readonly kvm: boolean; readonly cpus: number }>,
  ) {
    this.shapes = new Shapes(virsh, volumes, guests);
  }

  async boot(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    const found = await this.machines.find(ref);
    if (!found) {
      await this.create(ref, request);
      return "created";
    }
    if (await this.isDiskLost(found)) {
      if (request.role === "frontend" && request.keepDisk && found.domain.mark?.disk !== "filling") {
        throw new NotFound(
          `node ${ref.node}: its disk ${diskVolume(found.domain.name)}`,
          `isn't in pool ${this.volumes.pool}`,
          "See whether the pool's folder is mounted; `pulumi up --replace URN` makes an empty frontend",
        );
      }
      await this.remove(ref, { graceSeconds: 0 });
      await this.create(ref, request);
      return "created";
    }
    if (isMisplugged(found, request)) {
      await this.refuseOtherDisk(found);
      await this.stop(found, request.stop);
      await this.undefine(found);
      await this.create(ref, { ...request, keepDisk: true });
      return "created";
    }
    let machine = await this.finishReplacement(ref, found);
    if (request.power === "off") {
      await this.setAutostart(machine, false);
      await this.stop(machine, request.stop);
      await this.resizeOff({ ...machine, state: "off" }, request.plan, request.stop);
      return machine.state === "off" ? "kept" : "stopped";
    }
    const isPaused = machine.state === "paused";
    // What is saved of a machine belongs to its disk as it is: nothing changes before it goes on.
    const isSaved = machine.state === "off" && machine.isSaved;
    if (isPaused || isSaved) {
      await this.virsh.run([isPaused ? "resume" : "start", machine.domain.name]);
      machine = await this.machines.existing(ref);
    }
    if (machine.state === "running" && (await this.resizeLive(machine, request.plan))) {
      if (machine.vcOutDigest !== sha256(request.vcOut)) {
        await this.reconfigure(ref, request.vcOut);
      }
      await this.setAutostart(machine, true);
      return isPaused || isSaved ? "started" : "kept";
    }
    await this.resizeOff(machine, request.plan, request.stop);
    await this.start(ref, await this.machines.existing(ref), request);
    // Last, so that no host starts a machine whose disk is being changed.
    await this.setAutostart(await this.machines.existing(ref), true);
    return "started";
  }

  async waitFor(ref: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    const machine = await this.machines.existing(ref);
    if (machine.state !== "running") {
      throw new NotReady(
        `node ${ref.node}`,
        `its machine is ${machine.state}`,
        "Run `pulumi up` again",
        await this.diagnose(ref),
      );
    }
    if (goal === "running") {
      return;
    }
    try {
      await this.guests.waitReady(machine.domain.name, ref.node, ref.cluster, machine.vcOutDigest, limits);
    } catch (error) {
      if (error instanceof NotReady) {
        throw new NotReady(error.summary, error.detail, error.hint, await this.diagnose(ref));
      }
      throw error;
    }
  }

  async channel(ref: NodeRef<ClusterRecord>): Promise<Channel> {
    const machine = await this.machines.existing(ref);
    return machine.state === "running" ? this.guests.channel(machine.domain.name, ref.node, ref.cluster) : "nextBoot";
  }

  async reconfigure(ref: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const machine = await this.machines.existing(ref);
    const taken =
      machine.state === "running" &&
      (await this.guests.replaceVcOut(machine.domain.name, ref.node, ref.cluster, vcOut));
    if (taken) {
      await this.setMark(ref, machine, { vcOutDigest: sha256(vcOut) });
    } else if (!machine.vcOutWaits) {
      await this.setMark(ref, machine, { vcOutDigest: machine.vcOutDigest, vcOutWaits: true });
    }
    return taken ? "live" : "nextBoot";
  }

  async resize(ref: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    const machine = await this.machines.existing(ref);
    if (await this.resizeLive(machine, shape)) {
      return "live";
    }
    await this.resizeOff(machine, shape, limits);
    if (machine.state === "off") {
      return "live";
    }
    await this.startLimit(() => this.virsh.run(["start", machine.domain.name]));
    return "restarted";
  }

  /** @returns false for what takes a restart, or a machine that doesn't run */
  private async resizeLive(machine: Machine, shape: Shape): Promise<boolean> {
    if (machine.state !== "running") {
      return false;
    }
    await this.shapes.growDisk(machine, shape);
    if (machine.nextStart) {
      await this.shapes.reshape(machine.domain, shape);
    }
    if (machine.cpus === shape.cpus && machine.memory === shape.memory) {
      return true;
    }
    return this.shapes.reshapeLive(machine, shape);
  }

  /** Stops a machine that isn't in this shape, and gives it to it. */
  private async resizeOff(machine: Machine, shape: Shape, limits: StopLimits): Promise<void> {
    const reshaped = machine.cpus !== shape.cpus || machine.memory !== shape.memory;
    if (reshaped) {
      await this.stop(machine, limits);
      await this.shapes.reshape(machine.domain, shape);
    }
    if (reshaped || machine.state === "off") {
      await this.shapes.growDisk({ ...machine, state: "off" }, shape);
    }
  }

  async shutdown(ref: NodeRef, limits: StopLimits): Promise<void> {
    await this.stop(await this.machines.existing(ref), limits);
  }

  async remove(ref: NodeRef, limits: StopLimits): Promise<void> {
    const name = domainName(ref);
    const [machine, record] = await Promise.all([this.machines.find(ref), this.clusters.find(ref.cluster.name)]);
    const takeDisks = () => this.volumes.remove(diskVolume(name), consoleVolume(name), replacementVolume(name));
    if (machine) {
      await this.stop(machine, limits);
    } else if (record) {
      // A disk without a machine says by its name alone whose it is.
      refuseForeign(`cluster ${record.name}`, record.mark, ref.cluster);
    }
    // What `read` shows goes last: then a compute that no state knows is seen until all of it is gone. A frontend's disk
    // goes last, since with it a machine can be made again.
    if (ref.node !== "frontend") {
      await takeDisks();
    }
    if (machine) {
      await this.undefine(machine);
    }
    if (ref.node === "frontend") {
      await takeDisks();
    }
    if (isOurs(record?.mark, ref.cluster)) {
      await this.clusters.removeUnusedBases(record?.formerBases ?? []);
    }
  }

  /** Whether its disk was never whole, or is gone while it is off: one that only can't be read now isn't. */
  private async isDiskLost({ domain, diskSize, state }: Machine): Promise<boolean> {
    return (
      domain.mark?.disk === "filling" ||
      (diskSize === undefined && state === "off" && !(await this.volumes.list()).has(diskVolume(domain.name)))
    );
  }

  private async setAutostart({ domain, autostart }: Machine, wished: boolean): Promise<void> {
    if (autostart !== wished) {
      await this.virsh.run(["autostart", domain.name, ...(wished ? [] : ["--disable"])]);
    }
  }

  /** @throws SiteFailure where the machine doesn't use the disk that we know: a snapshot, say, has put another in its place */
  private async refuseOtherDisk({ domain }: Machine): Promise<void> {
    const ours = await this.volumes.pathOf(diskVolume(domain.name));
    if (domain.diskFile !== ours) {
      throw new SiteFailure(
        `machine ${domain.name}`,
        `its disk is ${domain.diskFile}, not ${ours}`,
        "Merge the snapshot (virsh blockcommit --active --pivot), then run `pulumi up` again",
      );
    }
  }

  private async undefine({ domain }: Machine): Promise<void> {
    await ifThere(this.virsh.run(["undefine", domain.name, "--managed-save", "--snapshots-metadata", "--nvram"]));
  }

  /**
   * Takes away the disks of nodes whose `boot` was cut off before it got to the machine, and what virtlogd has set aside
   * of long consoles.
   * @param keepDisks leaves them there
   * @returns whether any have been left
   */
  async removeLeftovers(cluster: ClusterRef, keepDisks: boolean): Promise<boolean> {
    const [machines, volumes] = await Promise.all([
      this.machines.read(cluster.name),
      this.volumes.refresh().then(() => this.volumes.list()),
      this.refuseForeignCluster(cluster),
    ]);
    const left = [...volumes].filter((volume) => {
      const [, name, node = ""] =
        /^(.+)-(frontend|compute-\d+)\.(?:qcow2|console(?:\.\d+)?|new\.qcow2)$/.exec(volume) ?? [];
      return name === cluster.name && !machines.has(node);
    });
    if (!keepDisks) {
      await this.volumes.remove(...left);
    }
    return keepDisks && left.length > 0;
  }

  /** Nodes that aren't off and whose private NIC isn't plugged in: somebody has stopped their network, and perhaps started it again. */
  async unplugged(record: ClusterRecord): Promise<string[]> {
    return (await this.unpluggedMachines(record)).map(([node]) => node);
  }

  /** Plugs private NICs in again. Their guests notice nothing. */
  async replug(record: ClusterRecord): Promise<void> {
    const machines = await this.unpluggedMachines(record);
    if (machines.length === 0) {
      return;
    }
    const between = `${REPLUG_PREFIX}${record.name}`;
    await this.virsh.runWithFile(["net-create"], replugNetworkXml(record)).catch((error) => {
      if (!(error instanceof AlreadyThere)) {
        throw error;
      }
    });
    // libvirt takes a NIC for plugged in as long as its network's name stays the same.
    for (const [, { domain }] of machines) {
      for (const network of [between, record.name]) {
        const { mac = "", model = "" } = domain.nics[0] ?? {};
        await this.virsh.runWithFile(["update-device", domain.name, "--live"], nicXml({ mac, model, network }));
      }
    }
    await ifThere(this.virsh.run(["net-destroy", between]));
  }

  private async unpluggedMachines(record: ClusterRecord): Promise<Array<[string, Machine]>> {
    // One that is paused has its NICs as well.
    const active = [...(await this.machines.read(record.name))].filter(
      ([, { state, mark }]) => (state === "running" || state === "paused") && isOurs(mark, record),
    );
    if (active.length === 0) {
      return [];
    }
    const [ports = ""] = await this.virsh.batch([["net-port-list", record.name]], { tolerant: true });
    return active.filter(([, { domain }]) => !ports.includes(domain.nics[0]?.port || "none"));
  }

  /** A cluster's own keys, from the first of its running machines that can be asked. */
  async keysInUse(cluster: string): Promise<PrivateKeys | undefined> {
    for (const { state, domain } of (await this.machines.read(cluster)).values()) {
      const files =
        state === "running" ? await this.guests.readFiles(domain.name, Object.values(KEY_FILES)) : undefined;
      if (files) {
        const [rootKey = "", rootPublic = "", hostKey = "", hostPublic = ""] = files;
        return {
          rootKey: { private: rootKey, public: rootPublic.trim() },
          hostKey: { private: hostKey, public: hostPublic.trim() },
        };
      }
    }
    return undefined;
  }

  async diagnose(ref: NodeRef): Promise<string> {
    return inTemporaryFolder(async (folder) => {
      const file = join(folder, "console");
      const there = await this.volumes.download(consoleVolume(domainName(ref)), file).catch(() => false);
      const text = there ? await tailOf(file).catch(() => "") : "";
      // A guest may print anything; only plain text goes to people's terminals.
      const plain = stripVTControlCharacters(text).replaceAll(/[^\x20-\x7e\n]/g, "");
      return lines(plain).slice(-CONSOLE_TAIL_LINES).join("\n");
    });
  }

  private async create(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const name = domainName(ref);
    const image = ref.cluster.image[request.role];
    await using reverter = new Reverter();

    const [disk, base, console, volumes, host] = await Promise.all([
      this.volumes.pathOf(diskVolume(name)),
      this.volumes.pathOf(baseVolume(image.digest)),
      this.volumes.pathOf(consoleVolume(name)),
      request.keepDisk || request.role === "frontend" ? this.volumes.list() : new Set<string>(),
      this.host(),
    ]);
    const isThere = volumes.has(diskVolume(name));
    if (isThere && request.role === "frontend" && !request.keepDisk) {
      throw new ForeignOwner(
        `disk ${diskVolume(name)}`,
        "is there without a machine, and may hold data",
        "adopt: true makes a machine around it; else remove it with virsh vol-delete",
      );
    }
    const keepDisk = isThere && request.keepDisk;
    // Which vc-out.xml a kept disk has nobody knows.
    const mark = markOf(ref, { vcOutDigest: keepDisk ? "" : sha256(request.vcOut) });
    const xml = domainXml({
      name,
      mark: { ...mark, ...(!keepDisk && { disk: "filling" }) },
      plan: request.plan,
      disk: { path: disk, base },
      devices: image.devices,
      console,
      publicNetwork: ref.cluster.plan.publicNetwork.name,
      kvm: host.kvm,
      mostCpus: host.cpus,
    });
    // The machine comes before its disk: its mark says whether that is whole.
    await this.virsh.runWithFile(["define"], xml);
    // Not before: a machine that somebody else has defined meanwhile isn't ours to undo.
    reverter.add(() => this.virsh.run(["undefine", name]));
    const made = keepDisk ? await this.createConsole(name) : await this.createVolumes(ref, request, base);
    reverter.add(() => this.volumes.remove(...made));
    reverter.add(() => this.virsh.run(["destroy", name]));
    await this.startLimit(() =>
      this.virsh.sequence([
        ...(keepDisk ? [] : [setMetadata(name, mark, ["--config"])]),
        ...(request.power === "on"
          ? [
              ["autostart", name],
              ["start", name],
            ]
          : []),
      ]),
    );
    reverter.succeed();
  }

  /** @returns the volumes that were made */
  private async createConsole(name: string): Promise<string[]> {
    await this.volumes.store([{ name: consoleVolume(name), bytes: 0 }]);
    return [consoleVolume(name)];
  }

  /** @returns the volumes that were made */
  private async createVolumes(
    ref: NodeRef<ClusterRecord>,
    request: BootRequest,
    baseAtSite: string,
  ): Promise<string[]> {
    const name = domainName(ref);
    const image = ref.cluster.image[request.role];
    const changes = await this.changesFor(ref, request);
    return this.clusters.withLocalBase(image, request.progress, async (base) => {
      const size = Math.max(image.size, (request.plan.diskSize ?? 0) * MIB);
      const overlay = { base, baseAtSite, size, root: rootOf(image), changes };
      return withOverlay(overlay, async (file, bytes) => {
        const made = [
          { name: consoleVolume(name), bytes: 0 },
          { name: diskVolume(name), bytes, file },
        ];
        await this.volumes.store(made);
        return made.map((volume) => volume.name);
      });
    });
  }

  private async changesFor(
    { cluster, node }: NodeRef<ClusterRecord>,
    { role, vcOut }: Pick<BootRequest, "role" | "vcOut">,
  ): Promise<GuestChanges> {
    const keys = await this.clusters.keysOf(cluster.name);
    return (root) => nodeFiles(cluster.image[role].reads, { name: domainName({ cluster, node }), vcOut, keys }, root);
  }

  private async start(ref: NodeRef<ClusterRecord>, machine: Machine, request: BootRequest): Promise<void> {
    const { name } = machine.domain;
    if (machine.state !== "running") {
      if (machine.vcOutWaits && machine.vcOutDigest !== sha256(request.vcOut)) {
        await this.replaceOnDisk(ref, machine, request);
      }
      await this.startLimit(() => this.virsh.run(["start", name]));
    }
  }

  /**
   * Writes a new vc-out.xml into the disk of a machine that is off. The changed disk is at the site as a whole before it
   * takes the old one's place, so that an interruption costs no data.
   */
  private async replaceOnDisk(
    ref: NodeRef<ClusterRecord>,
    machine: Machine,
    { role, vcOut, progress }: BootRequest,
  ): Promise<void> {
    const { name } = machine.domain;
    const image = ref.cluster.image[role];
    progress("writing its new vc-out.xml into its disk");
    await this.refuseOtherDisk(machine);
    await this.setAutostart(machine, false);
    const changes = await this.changesFor(ref, { role, vcOut });
    await this.clusters.withLocalBase(image, progress, (base) =>
      inTemporaryFolder(async (folder) => {
        const file = join(folder, "disk.qcow2");
        await this.volumes.download(diskVolume(name), file, { timeoutSeconds: COPY_SECONDS });
        await injectInto({ file, base, root: rootOf(image), changes });
        await this.volumes.remove(replacementVolume(name));
        await this.volumes.create(replacementVolume(name), (await stat(file)).size);
        await this.volumes.upload(replacementVolume(name), file, { timeoutSeconds: COPY_SECONDS });
      }),
    );
    const mark = { vcOutDigest: sha256(vcOut), disk: "replacing" } as const;
    await this.setMark(ref, machine, mark);
    await this.finishReplacement(ref, { ...machine, domain: { ...machine.domain, mark: markOf(ref, mark) } });
  }

  private async finishReplacement(ref: NodeRef<ClusterRecord>, machine: Machine): Promise<Machine> {
    const { name, mark } = machine.domain;
    if (mark?.disk !== "replacing") {
      return machine;
    }
    if (machine.state !== "off") {
      throw new SiteFailure(
        `machine ${name}`,
        "runs, although its disk was being changed when that was cut off",
        "Shut it down (virsh shutdown), then run `pulumi up` again, which finishes that",
      );
    }
    await inTemporaryFolder(async (folder) => {
      const file = join(folder, "disk.qcow2");
      if (!(await this.volumes.download(replacementVolume(name), file, { timeoutSeconds: COPY_SECONDS }))) {
        throw new SiteFailure(
          `machine ${name}`,
          `its disk was being changed, and ${replacementVolume(name)}, which was to take its place, is gone`,
          "Look at its disk by hand",
        );
      }
      await this.volumes.upload(diskVolume(name), file, { timeoutSeconds: COPY_SECONDS });
    });
    await this.setMark(ref, machine, { vcOutDigest: mark.vcOutDigest });
    await this.volumes.remove(replacementVolume(name));
    return this.machines.existing(ref);
  }

  /** Asks the guest by every way there is, then pulls the plug. */
  private async stop(machine: Machine, limits: StopLimits): Promise<void> {
    const name = machine.domain.name;
    if (machine.state === "off") {
      return;
    }
    if (limits.graceSeconds > 0 && machine.state === "running") {
      await this.virsh
        .run(["shutdown", name, "--mode", "agent"])
        .catch(() => this.virsh.run(["shutdown", name, "--mode", "acpi"]).catch(() => ""));
      const limit = Date.now() + limits.graceSeconds * 1000;
      while (Date.now() < limit) {
        const [state = ""] = await this.virsh.batch([["domstate", name]]);
        if (state.trim() === "shut off" || state.trim() === "") {
          return;
        }
        await setTimeout(500);
      }
    }
    await this.virsh.run(["destroy", name]).catch((error) => {
      if (!(error instanceof NotFound) && !/not running/.test((error as Error).message)) {
        throw error;
      }
    });
  }

  private async setMark(ref: NodeRef<ClusterRecord>, machine: Machine, what: MarkContent): Promise<void> {
    const where = machine.state === "running" ? ["--live", "--config"] : ["--config"];
    await this.virsh.run(setMetadata(machine.domain.name, markOf(ref, what), where));
  }

  /** A disk without a machine says by its name alone whose it is. */
  private async refuseForeignCluster(cluster: ClusterRef): Promise<void> {
    const record = await this.clusters.find(cluster.name);
    if (record) {
      refuseForeign(`cluster ${record.name}`, record.mark, cluster);
    }
  }
}

async function tailOf(file: string): Promise<string> {
  const handle = await open(file, "r");
  try {
    const { size } = await handle.stat();
    const length = Math.min(size, MOST_CONSOLE);
    const { buffer } = await handle.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString("latin1");
  } finally {
    await handle.close();
  }
}

/** Whether somebody has given it other NICs than were planned: its guest wouldn't know them. */
function isMisplugged({ macs }: Machine, { plan }: BootRequest): boolean {
  const planned = "publicMac" in plan ? [plan.privateMac, plan.publicMac] : [plan.privateMac];
  return planned.some((mac, index) => macs[index] !== mac);
}

type MarkContent = Pick<NodeMark, "vcOutDigest" | "vcOutWaits" | "disk">;

function markOf(ref: NodeRef<ClusterRecord>, what: MarkContent): NodeMark {
  return { cluster: ref.cluster.name, node: ref.node, mark: ref.cluster.mark, ...what };
}

/** The command that writes a machine's mark. */
function setMetadata(name: string, mark: NodeMark, where: readonly string[]): string[] {
  return ["metadata", name, MARK_NAMESPACE, "--key", "vc", "--set", nodeMetadataXml(mark), ...where];
}

function domainName({ cluster, node }: NodeRef): string {
  return `${cluster.name}-${node}`;
}

function consoleVolume(domain: string): string {
  return `${domain}.console`;
}

/** What is about to take the disk's place. */
function replacementVolume(domain: string): string {
  return `${domain}.new.qcow2`;
}
