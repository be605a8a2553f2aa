import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { stripVTControlCharacters } from "node:util";
import pLimit from "p-limit";
import type { GuestChanges } from "../../images/disk/inject";
import { rootOf } from "../../images/root/root";
import { nodeFiles } from "../../node-files/node-files";
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
import { ForeignOwner, InvalidImage, NotFound, NotReady, SiteFailure, Unreachable } from "../errors";
import { refuseForeign } from "../ownership";
import { Reverter } from "../reverter";
import type { Clusters } from "./clusters";
import { changesFile, type Disks, diskFile, gigabytes } from "./disks";
import type { Facts } from "./facts";
import { ContainerUnreachable, type RocksFrontend } from "./frontend";
import type { Guests } from "./guests";
import type { Locks } from "./locks";
import { type Machine, type Machines, refuseOtherDisk, stateOf } from "./machines";
import { vmName } from "./names";
import type { NodeFile, Store } from "./store";

const MIB = 1024 * 1024;
const POLL_MS = 500;
/** For libvirt to start or stop a machine. */
const PATIENCE_SECONDS = 60;
const LOG_LINES = 20;

/** The machines of clusters: each a row in Rocks' tables, a file of ours on the Rocks frontend, and a disk on its container. */
export class Nodes {
  /** `start host vm` of several stops at the first that fails; one at a time is also what its containers take. */
  private readonly startLimit = pLimit(1);

  constructor(
    private readonly frontend: RocksFrontend,
    private readonly store: Store,
    private readonly disks: Disks,
    private readonly clusters: Clusters,
    private readonly machines: Machines,
    private readonly guests: Guests,
    private readonly locks: Locks,
    private readonly facts: () => Promise<Facts>,
  ) {}

  async boot(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    const found = await this.machines.find(ref);
    if (!found?.file) {
      await this.create(ref, request);
      return "created";
    }
    this.refuseUnknown(found);
    if (found.file.disk === "filling" || (found.hasDisk === false && found.state !== "running")) {
      if (request.role === "frontend" && request.keepDisk && found.file.disk !== "filling") {
        throw new NotFound(
          `node ${ref.node}: its disk ${this.disks.pathOf(found.vm.name)}`,
          `isn't on ${found.vm.host}`,
          "See whether its file system is mounted there; `pulumi up --replace URN` makes an empty frontend",
        );
      }
      await this.stopVm(found.vm.name, found.state);
      await this.create(ref, request);
      return "created";
    }
    refuseOtherDisk(this.disks, found);
    const machine = await this.finishChange(found);
    if (request.power === "off") {
      await this.stop(ref, machine, request.stop);
      await this.reshape(machine, request.plan);
      return machine.state === "off" ? "kept" : "stopped";
    }
    if (machine.state === "paused") {
      await this.frontend.sequence([["resume", "host", "vm", machine.vm.name]]);
    }
    const { cpus, memory } = request.plan;
    if (machine.state === "running" || machine.state === "paused") {
      if (machine.cpus === cpus && machine.memory === memory) {
        await this.reshape(machine, request.plan);
        if (machine.vcOutDigest !== sha256(request.vcOut)) {
          await this.reconfigure(ref, request.vcOut);
        }
        return machine.state === "paused" ? "started" : "kept";
      }
      await this.stop(ref, machine, request.stop);
    }
    await this.reshape(machine, request.plan);
    await this.start(ref, await this.changeVcOut(ref, await this.machines.existing(ref), request));
    return "started";
  }

  async waitFor(ref: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    const machine = await this.machines.existing(ref);
    const refuseStopped = async (state: string) => {
      if (state !== "running") {
        const diagnosis = await this.diagnose(ref);
        throw new NotReady(`node ${ref.node}`, `its machine is ${state}`, "Run `pulumi up` again", diagnosis);
      }
    };
    await refuseStopped(machine.state);
    if (goal === "running") {
      return;
    }
    try {
      await this.guests.waitReady(ref.node, ref.cluster, machine.vcOutDigest, limits, async () =>
        refuseStopped(stateOf(await this.machines.statusOf(machine.vm.name))),
      );
    } catch (error) {
      if (error instanceof NotReady && error.diagnosis === "") {
        throw new NotReady(error.summary, error.detail, error.hint, await this.diagnose(ref));
      }
      throw error;
    }
  }

  async channel(ref: NodeRef<ClusterRecord>): Promise<Channel> {
    const machine = await this.machines.existing(ref);
    return machine.state === "running" ? this.guests.channel(ref.node, ref.cluster) : "nextBoot";
  }

  async reconfigure(ref: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const machine = await this.machines.existing(ref);
    const { vcOutWaits, ...file } = fileOf(machine);
    if (machine.state === "running" && (await this.guests.replaceVcOut(ref.node, ref.cluster, vcOut))) {
      await this.store.writeNode({ ...file, vcOutDigest: sha256(vcOut) });
      return "live";
    }
    if (!vcOutWaits) {
      await this.store.writeNode({ ...file, vcOutWaits: true });
    }
    return "nextBoot";
  }

  async resize(ref: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    const machine = await this.machines.existing(ref);
    this.refuseUnknown(machine);
    const runs = machine.state === "running" || machine.state === "paused";
    const restarts = runs && (machine.cpus !== shape.cpus || machine.memory !== shape.memory);
    if (restarts) {
      await this.stop(ref, machine, limits);
    }
    await this.reshape(machine, shape);
    if (!restarts) {
      return "live";
    }
    await this.start(ref, await this.machines.existing(ref));
    return "restarted";
  }

  async shutdown(ref: NodeRef, limits: StopLimits): Promise<void> {
    const machine = await this.machines.existing(ref);
    this.refuseUnknown(machine);
    await this.stop(ref, machine, limits);
  }

  async remove(ref: NodeRef, limits: StopLimits): Promise<void> {
    const { cluster, node } = ref;
    const vm = vmName(cluster.name, node);
    const [machine, content] = await Promise.all([this.machines.find(ref), this.store.read([cluster.name])]);
    const record = content.clusters.get(cluster.name);
    const file = content.nodes.find((one) => one.node === node);
    const mark = file?.mark ?? record?.record.mark;
    if (mark) {
      refuseForeign(`node ${node} of cluster ${cluster.name}`, mark, cluster);
    }
    if (machine && machine.vm.host !== "") {
      this.refuseUnknown(machine);
      await this.stop(ref, machine, limits);
      if (machine.state === "off") {
        // For Rocks a machine that its guest has suspended is off, and would go on without its row.
        await this.frontend.sequence([["stop", "host", "vm", vm]]);
      }
    }
    if (file) {
      await this.removeDisk(vm, file.host, machine?.vm.host === "");
    }
    const isLeaving =
      record !== undefined && node !== "frontend" && !record.record.plan.computes.some(({ name }) => name === node);
    if (isLeaving && record.hosts[node] !== undefined) {
      await this.locks.withSite(cluster, async () => {
        // Its place isn't kept any more.
        for (const there of await this.clusters.listed([vm])) {
          await this.frontend.change([["remove", "host", there]]);
        }
        const now = (await this.store.read([cluster.name])).clusters.get(cluster.name);
        if (now) {
          const { [node]: _, ...hosts } = now.hosts;
          await this.store.writeCluster({ ...now, hosts });
        }
      });
    }
    if (file) {
      await this.store.removeNode(cluster.name, node);
    }
    await this.clusters.removeUnusedBases(record?.record.formerBases ?? []);
  }

  /**
   * Takes away what nodes without a machine have left: disks, and our files of them.
   * @param keepDisks leaves them there
   * @returns whether any have been left
   */
  async removeLeftovers(cluster: ClusterRef, keepDisks: boolean): Promise<boolean> {
    const [machines, { nodes, clusters }] = await Promise.all([
      this.machines.read(cluster.name),
      this.store.read([cluster.name]),
    ]);
    const mark = clusters.get(cluster.name)?.record.mark ?? nodes[0]?.mark;
    if (mark) {
      refuseForeign(`cluster ${cluster.name}`, mark, cluster);
    }
    const left = nodes.filter(({ node }) => !machines.has(node));
    for (const file of left) {
      if (keepDisks) {
        await this.store.writeNode({ ...file, orphan: true });
      } else {
        await this.removeDisk(vmName(cluster.name, file.node), file.host, false);
        await this.store.removeNode(cluster.name, file.node);
      }
    }
    return keepDisks && left.length > 0;
  }

  /** What may tell why: how Rocks sees it, and what its QEMU has said. */
  async diagnose(ref: NodeRef): Promise<string> {
    const machine = await this.machines.find(ref).catch(() => undefined);
    if (!machine) {
      return "";
    }
    const { name, host, status } = machine.vm;
    const log = host === "" ? "" : await this.disks.logOf(name, host).catch(() => "");
    // Only plain text goes to people's terminals.
    const plain = stripVTControlCharacters(log).replaceAll(/[^\x20-\x7e\n]/g, "");
    const lines = plain.split("\n").filter((line) => line.trim() !== "");
    return [`Rocks says of ${name} on ${host || "no host"}: ${status || "nothing"}`, ...lines.slice(-LOG_LINES)].join(
      "\n",
    );
  }

  /** Stops machines in Rocks' tables that nobody needs any more. */
  async stopAll(vms: readonly string[]): Promise<void> {
    for (const vm of vms) {
      await this.stopVm(vm, stateOf(await this.machines.statusOf(vm)));
    }
  }

  private async create(ref: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const { cluster, node } = ref;
    const vm = vmName(cluster.name, node);
    const image = cluster.image[request.role];
    if (image.devices !== "virtio") {
      throw new InvalidImage(
        `image ${cluster.image.vcName}`,
        "its kernels have no virtio drivers, and Rocks' machines have virtio NICs only",
        "Take an image with virtio_blk and virtio_net",
      );
    }
    const content = await this.store.read([cluster.name]);
    const record = content.clusters.get(cluster.name);
    const former = content.nodes.find((one) => one.node === node);
    if (!record) {
      throw new NotFound(`cluster ${cluster.name}`, "isn't allocated here", "Run `pulumi up`");
    }
    refuseForeign(`cluster ${cluster.name}`, record.record.mark, cluster);
    const changes = await this.changesFor(ref, request);
    const host = record.hosts[node] ?? "";
    const isThere = (await this.disks.list([host])).get(host)?.has(diskFile(vm)) === true && former?.disk !== "filling";
    if (isThere && request.role === "frontend" && !request.keepDisk) {
      throw new ForeignOwner(
        `disk ${this.disks.pathOf(vm)} of the frontend`,
        "is there without a machine, and may hold data",
        "adopt: true makes a machine around it; else remove it there",
      );
    }
    const keepDisk = isThere && request.keepDisk;
    await this.clusters.ensureRow(record, node);
    const { cpus, memory } = request.plan;
    const bytes = Math.max(image.size, (request.plan.diskSize ?? 0) * MIB);
    const file: NodeFile = {
      ...{ cluster: cluster.name, node, mark: cluster.mark, machineId: former?.machineId ?? randomUUID(), host },
      base: image.digest,
      // Which vc-out.xml a kept disk has nobody knows.
      vcOutDigest: keepDisk ? "" : sha256(request.vcOut),
      diskSize: Math.floor(bytes / MIB),
    };

    await using reverter = new Reverter();
    // Our file comes before the disk: it says whether that is whole.
    await this.store.writeNode(keepDisk ? file : { ...file, disk: "filling" });
    reverter.add(() => this.store.removeNode(cluster.name, node));
    if (!keepDisk) {
      reverter.add(() => this.disks.remove(host, [diskFile(vm)]));
      await this.disks.make(vm, host, image, bytes, changes, request.progress);
    }
    await this.frontend.sequence([
      ["set", "host", "cpus", vm, String(cpus)],
      [
        ...["set", "host", "vm", vm, `disk=${this.disks.specificationOf(vm)}`],
        ...[`disksize=${gigabytes(bytes)}`, `mem=${memory}`],
      ],
    ]);
    if (request.power === "on") {
      await this.startVm(file, { cpus, memory });
    } else {
      await this.store.writeNode(file);
    }
    reverter.succeed();
  }

  private async start(ref: NodeRef, machine: Machine): Promise<void> {
    if (machine.state === "running") {
      return;
    }
    if (machine.hasDisk === false) {
      // Rocks would make an empty one and install on it.
      throw new NotFound(`node ${ref.node}: its disk`, `isn't on ${machine.vm.host}`, "Run `pulumi up` again");
    }
    await this.startVm(fileOf(machine), { cpus: machine.vm.cpus, memory: machine.vm.memory });
  }

  /** A machine that boots by `install`, as new computes do, would be installed anew. */
  private async startVm(file: NodeFile, shape: { readonly cpus: number; readonly memory: number }): Promise<void> {
    const vm = vmName(file.cluster, file.node);
    await this.store.writeNode({ ...file, started: shape });
    await this.startLimit(async () => {
      try {
        await this.frontend.sequence([
          ["set", "host", "boot", vm, "action=os"],
          ["start", "host", "vm", vm],
        ]);
      } catch (error) {
        if (!(error instanceof SiteFailure && /is already running/.test(error.message))) {
          throw error;
        }
      }
    });
    await this.until(vm, (state) => state === "running", "wasn't running");
  }

  private async reshape({ vm, file, diskSize }: Machine, shape: Shape): Promise<void> {
    const commands: string[][] = [];
    if (vm.cpus !== shape.cpus) {
      commands.push(["set", "host", "cpus", vm.name, String(shape.cpus)]);
    }
    const grows = shape.diskSize !== undefined && diskSize !== undefined && shape.diskSize > diskSize;
    const bytes = (shape.diskSize ?? 0) * MIB;
    if (vm.memory !== shape.memory || grows) {
      const size = grows ? [`disksize=${gigabytes(bytes)}`] : [];
      commands.push(["set", "host", "vm", vm.name, `mem=${shape.memory}`, ...size]);
    }
    if (grows && file) {
      // It shows at the next start.
      await this.disks.grow(vm.name, file.host, bytes);
    }
    await this.frontend.sequence(commands);
  }

  /** Writes a vc-out.xml that waits into the disk of a machine that is off. */
  private async changeVcOut(
    ref: NodeRef<ClusterRecord>,
    machine: Machine,
    { role, vcOut, progress }: BootRequest,
  ): Promise<Machine> {
    if (machine.state !== "off" || !machine.vcOutWaits || machine.vcOutDigest === sha256(vcOut)) {
      return machine;
    }
    progress("writing its new vc-out.xml into its disk");
    const { vcOutWaits: _, ...file } = fileOf(machine);
    const root = rootOf(ref.cluster.image[role]);
    const wanted = await this.changesFor(ref, { role, vcOut });
    const changes = await this.disks.prepare(machine.vm.name, file.host, root, wanted);
    const replacing: NodeFile = { ...file, vcOutDigest: sha256(vcOut), disk: "replacing", changes };
    await this.store.writeNode(replacing);
    return this.finishChange({ ...machine, file: replacing });
  }

  private async changesFor(
    { cluster, node }: NodeRef<ClusterRecord>,
    { role, vcOut }: Pick<BootRequest, "role" | "vcOut">,
  ): Promise<GuestChanges> {
    const keys = await this.clusters.keysOf(cluster.name);
    const setUp = { name: vmName(cluster.name, node), vcOut, keys };
    return (root) => nodeFiles(cluster.image[role].reads, setUp, root);
  }

  /** What is to be written lies beside the disk as a whole before it is begun, so that it can be done again. */
  private async finishChange(machine: Machine): Promise<Machine> {
    const { disk, changes, ...file } = fileOf(machine);
    if (disk !== "replacing") {
      return machine;
    }
    const { name } = machine.vm;
    if (machine.state !== "off") {
      throw new SiteFailure(
        `machine ${name}`,
        "runs, although its disk was being changed when that was cut off",
        "Shut it down (rocks stop host vm), then run `pulumi up` again, which finishes that",
      );
    }
    await this.disks.change(name, file.host, changes ?? []);
    await this.store.writeNode(file);
    await this.disks.remove(file.host, [changesFile(name)]);
    return { ...machine, file, vcOutDigest: file.vcOutDigest, vcOutWaits: false };
  }

  /** Asks the guest, then pulls the plug. */
  private async stop(ref: NodeRef, { vm, state }: Machine, limits: StopLimits): Promise<void> {
    if (state === "off") {
      return;
    }
    if (limits.graceSeconds > 0 && state === "running" && (await this.askToStop(ref, vm.name))) {
      for (const end = Date.now() + limits.graceSeconds * 1000; Date.now() < end; ) {
        if (stateOf(await this.machines.statusOf(vm.name)) !== "running") {
          break;
        }
        await setTimeout(POLL_MS);
      }
    }
    await this.stopVm(vm.name, state);
  }

  /** Rocks 6 takes the power at once whatever it is asked for: there the guest itself is asked. */
  private async askToStop(ref: NodeRef, vm: string): Promise<boolean> {
    if ((await this.facts()).majorVersion >= 7) {
      await this.frontend.sequence([["stop", "host", "vm", vm, "action=shutdown"]]);
      return true;
    }
    const record = (await this.store.read([ref.cluster.name])).clusters.get(ref.cluster.name)?.record;
    return record !== undefined && this.guests.powerOff(ref.node, record);
  }

  /** That `stop` succeeds says nothing: only the status does. */
  private async stopVm(vm: string, state: string): Promise<void> {
    if (state !== "off") {
      await this.frontend.sequence([["stop", "host", "vm", vm]]);
      await this.until(vm, (now) => now === "off" || now === "crashed", "still ran");
    }
  }

  private async until(vm: string, isDone: (state: string) => boolean, complaint: string): Promise<void> {
    for (const end = Date.now() + PATIENCE_SECONDS * 1000; ; await setTimeout(POLL_MS)) {
      const status = await this.machines.statusOf(vm);
      if (isDone(stateOf(status))) {
        return;
      }
      if (Date.now() > end) {
        throw new SiteFailure(
          `machine ${vm}`,
          `it ${complaint} ${PATIENCE_SECONDS} s after Rocks was told: ${status}`,
          "See what its container's libvirt says (virsh list --all), then run `pulumi up` again",
        );
      }
    }
  }

  private async removeDisk(vm: string, host: string, isHostGone: boolean): Promise<void> {
    try {
      await this.disks.remove(host, [diskFile(vm), `${diskFile(vm)}.part`, changesFile(vm), `${changesFile(vm)}.part`]);
    } catch (error) {
      // With its container, a disk is gone as well.
      if (!(isHostGone && error instanceof ContainerUnreachable)) {
        throw error;
      }
    }
  }

  private refuseUnknown({ state, vm }: Machine): void {
    if (state === "unknown") {
      throw new Unreachable(
        `the libvirt of ${vm.host || "its host"} doesn't answer`,
        `Rocks says of ${vm.name}: ${vm.status || "nothing"}`,
        "See whether that container runs",
      );
    }
  }
}

/** Of a machine that is ours: the others have been refused. */
function fileOf({ file, vm }: Machine): NodeFile {
  if (!file) {
    throw new NotFound(`machine ${vm.name}`, "has no file of ours", "Run `pulumi up`");
  }
  return file;
}
