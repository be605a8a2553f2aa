import { setTimeout } from "node:timers/promises";
import { steadyProgress } from "../../setup/steady-progress";
import { sha256 } from "../../vc-out/digest";
import type {
  BootRequest,
  Channel,
  ClusterRecord,
  NodeRef,
  RemoveOptions,
  Shape,
  StopLimits,
  WaitLimits,
} from "../driver";
import { AddressTaken, NotFound, NotReady, SiteFailure } from "../errors";
import type { GuestSsh } from "../guest-ssh";
import { refuseForeign } from "../ownership";
import type { OpenNebulaSettings } from "../settings";
import type { OneClient } from "./client";
import type { Clusters } from "./clusters";
import { changingContextOf, contextOf, VC_OUT, vcOutTags } from "./context";
import { type Images, mibOf, refuseForeignDisk } from "./images";
import { InjectedImages, isInjected, readinessOf } from "./injected-images";
import { type Machines, nodeTags } from "./machines";
import { machineNameOf } from "./names";
import type { Networks } from "./networks";
import { IMAGE, type Image, markTags, TAG, type Vm } from "./objects";
import type { Pools } from "./pools";
import { WrongState } from "./refusals";
import { base64, type Template, templateText } from "./template-text";
import { complaintOf, isRunning, isUnsettled, phaseOf, stateInWords, VM } from "./vm-states";
import { ConnectionLost } from "./xml-rpc";

/** Longer than the scheduler's window, and than a driver takes to move a machine from one state to another. */
const CHANGE_SECONDS = 300;
const FIRST_POLL_MS = 20;
const POLL_MS = 1000;
/** An action that was refused because of the state is tried again after this. */
const AGAIN_MS = 1000;

/** Machines: what the contract does with nodes. */
export class Nodes {
  private readonly injected: InjectedImages;

  constructor(
    private readonly client: OneClient,
    private readonly pools: Pools,
    private readonly machines: Machines,
    private readonly clusters: Clusters,
    private readonly networks: Networks,
    private readonly images: Images,
    private readonly settings: OpenNebulaSettings,
    private readonly guests: GuestSsh,
  ) {
    this.injected = new InjectedImages(images, settings);
  }

  async boot(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<"created" | "started" | "stopped" | "kept"> {
    const [found, ...others] = await this.machines.of(node);
    await Promise.all(others.map((vm) => this.terminate(vm, 0)));
    let vm = found;
    if (vm && phaseOf(vm) === "resting") {
      await this.settle(vm);
      vm = await this.present(vm.id);
    }
    if (vm && (phaseOf(vm) === "failed" || phaseOf(vm) === "leaving")) {
      // Only an admin may mend one that failed; a frontend's disk outlives it.
      await this.terminate(vm, 0);
      vm = undefined;
    }
    if (!vm) {
      await this.create(node, request);
      return "created";
    }
    if (request.power !== "off" && phaseOf(vm) === "off" && node.node !== "frontend" && awaitsDisk(vm, request)) {
      request.progress("making its disk anew, since nothing else brings it its new vc-out.xml");
      await this.terminate(vm, 0);
      await this.create(node, request);
      return "created";
    }
    const disk = await this.images.disk(node);
    if (node.node === "frontend" && !disk) {
      throw new NotFound(
        "the frontend: its disk",
        `image ${machineNameOf(node.cluster.name, node.node)} is gone behind its machine`,
        "See whether the site's admin can bring it back; else remove the machine, and `pulumi up` makes both anew",
      );
    }
    if (disk && node.node === "frontend") {
      await this.images.markUsed(disk);
    }
    if (request.power === "off") {
      const isOff = phaseOf(vm) === "off";
      await this.stop(vm, request.stop);
      await this.reshape(vm.id, request.plan, request.stop);
      return isOff ? "kept" : "stopped";
    }
    if (phaseOf(vm) === "off" || phaseOf(vm) === "paused") {
      if (awaitsDisk(vm, request)) {
        request.progress(
          "it starts with the vc-out.xml that it has: its disk may hold data, and can't be written into from here",
        );
      }
      await this.reshape(vm.id, request.plan, request.stop);
      await this.start(vm.id, request.vcOut, node.cluster);
      if (vm.state === VM.HOLD) {
        // It has had no disk until now.
        await this.growDisk(await this.present(vm.id), request.plan, request.stop);
      }
      return "started";
    }
    const resized = await this.reshape(vm.id, request.plan, request.stop);
    await this.handOver(node, vm.id, request.vcOut);
    return resized === "restarted" ? "started" : "kept";
  }

  async waitFor(node: NodeRef<ClusterRecord>, goal: "running" | "ready", limits: WaitLimits): Promise<void> {
    const { id } = await this.existing(node);
    const said = steadyProgress(limits.progress, 15_000);
    const end = Date.now() + limits.seconds * 1000;
    for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 2, POLL_MS)) {
      const vm = await this.pools.vm(id);
      if (!vm) {
        throw new NotFound(`node ${node.node}`, "its machine is gone", "Run `pulumi refresh`, then `pulumi up`");
      }
      const phase = phaseOf(vm);
      const isOff = phase === "off" || phase === "resting";
      const runs = isRunning(vm);
      if (isOff || phase === "paused" || phase === "failed") {
        throw new NotReady(
          `node ${node.node}`,
          isOff ? "its machine is off" : `its machine ${stateInWords(vm)}`,
          HINT,
          await this.diagnosisOf(vm),
        );
      }
      if (runs && (goal === "running" || (await this.isReady(vm, node)))) {
        return;
      }
      if (Date.now() >= end) {
        const state = runs ? "it runs, and hasn't said that it is ready" : `it ${stateInWords(vm)}`;
        throw new NotReady(
          `node ${node.node}`,
          `not ${goal} after ${limits.seconds} s: ${state}`,
          HINT,
          await this.diagnosisOf(vm),
        );
      }
      said(`waiting: its machine ${[stateInWords(vm), complaintOf(vm)].filter(Boolean).join(": ")}`);
      await setTimeout(pause);
    }
  }

  async channel(node: NodeRef<ClusterRecord>): Promise<Channel> {
    const vm = await this.existing(node);
    if (isInjectedInto(vm)) {
      const reached = phaseOf(vm) === "running" && (await this.guests.hasGuestProgram(node.node, node.cluster));
      return reached ? "ssh" : "nextBoot";
    }
    return (await this.takesContext(vm, node)) ? "context" : "nextBoot";
  }

  async reconfigure(node: NodeRef<ClusterRecord>, vcOut: string): Promise<"live" | "nextBoot"> {
    const { id } = await this.existing(node);
    return this.handOver(node, id, vcOut);
  }

  async resize(node: NodeRef, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    const { id } = await this.existing(node);
    return this.reshape(id, shape, limits);
  }

  async shutdown(node: NodeRef, limits: StopLimits): Promise<void> {
    await this.stop(await this.existing(node), limits);
  }

  async remove(node: NodeRef, { graceSeconds, keepDisk = false }: RemoveOptions): Promise<void> {
    const vms = await this.machines.of(node);
    await Promise.all(vms.map((vm) => this.terminate(vm, graceSeconds)));
    const disk = await this.images.disk(node);
    const record = await this.clusters.find(node.cluster.name).catch(() => undefined);
    if (disk) {
      refuseForeignDisk(disk, node.cluster);
      await (keepDisk ? this.images.markUsed(disk) : this.images.remove(disk));
    } else if (record && vms.length === 0) {
      refuseForeign(`cluster ${record.name}`, record.mark, node.cluster);
    }
    await this.clusters.removeUnusedBases(record?.formerBases ?? []);
  }

  /** Why a node isn't ready, as far as OpenNebula knows: it has no console for us. */
  async diagnose({ cluster, node }: NodeRef): Promise<string> {
    const [vm] = await this.machines.of({ cluster, node }).catch(() => []);
    return vm ? this.diagnosisOf(vm) : "";
  }

  // ── A machine's life ─────────────────────────────────────────────────────────────────────────────────────────────

  private async create(node: NodeRef<ClusterRecord>, request: BootRequest): Promise<void> {
    const { cluster } = node;
    const image = cluster.image[request.role];
    const injected = isInjected(this.settings, image);
    const [keys, vnet, lease, base] = await Promise.all([
      this.clusters.keysOf(cluster.name),
      this.networks.privateOf(cluster.name),
      request.role === "frontend" ? this.networks.leaseOf(cluster.name) : undefined,
      injected ? undefined : this.images.base(image.digest),
    ]);
    if (!vnet || !(base || injected) || (request.role === "frontend" && !lease)) {
      const missing = !vnet ? "private network" : !base ? "base image" : "public address";
      throw new NotFound(
        `cluster ${cluster.name}: its ${missing}`,
        "isn't at the site",
        "Run `pulumi up`, which makes it again",
      );
    }
    const own = base ? await this.ownDisk(node, base, request) : await this.injected.ensure(node, request, keys);
    const nicModel = image.devices === "virtio" ? "virtio" : "e1000";
    const template: Template = {
      NAME: machineNameOf(cluster.name, node.node),
      ...this.shapeOf(request.plan),
      DISK: [diskOf(own ?? (base as Image), image, request.plan)],
      NIC: [
        {
          NETWORK_ID: vnet.id,
          IP: request.plan.privateIp,
          MODEL: nicModel,
          // Computes reach the outside through the frontend.
          ...(request.role === "compute" && {
            GATEWAY: cluster.plan.frontend.privateIp,
            DNS: cluster.plan.publicNetwork.dns.join(" ") || undefined,
          }),
        },
        ...(lease ? [{ NETWORK_ID: lease.id, IP: cluster.plan.frontend.publicIp, MODEL: nicModel }] : []),
      ],
      ...(!injected && {
        CONTEXT: contextOf(node.node, cluster, keys, request.vcOut, {
          reportsReady: readinessOf(this.settings, image) === "oneGate",
        }),
      }),
      GRAPHICS: { TYPE: "VNC", LISTEN: "127.0.0.1" },
      // What disks named sd… and NICs of no model are, each site decides for itself.
      OS: { ARCH: "x86_64", BOOT: "disk0", SD_DISK_BUS: image.devices === "sata" ? "sata" : undefined },
      SCHED_REQUIREMENTS: this.settings.requirements,
      ...markTags(cluster.name, cluster.mark),
      ...nodeTags(node.node),
      ...(injected && own ? vcOutTagsOf(own, request.vcOut) : vcOutTags(request.vcOut)),
    };
    await this.allocate(node, templateText(template), request.power === "off");
    if (own && request.role === "frontend") {
      await this.images.markUsed(own);
    }
  }

  private async ownDisk(node: NodeRef<ClusterRecord>, base: Image, request: BootRequest): Promise<Image | undefined> {
    return request.role === "frontend"
      ? this.images.ensureDisk(node, base, request.keepDisk, request.progress)
      : undefined;
  }

  /** Machines may share a name: a call whose answer got lost is only repeated when it has made none. */
  private async allocate(node: NodeRef, template: string, onHold: boolean): Promise<void> {
    const allocate = () => this.client.id("vm.allocate", template, onHold);
    try {
      await allocate();
    } catch (error) {
      if (error instanceof ConnectionLost) {
        if ((await this.machines.of(node)).length === 0) {
          await allocate();
        }
        return;
      }
      if (error instanceof AddressTaken) {
        throw new AddressTaken(
          `node ${node.node}`,
          `OpenNebula doesn't give it its planned address: ${error.detail}`,
          "See with `onevnet show` which machine has it; one that was just removed gives it back within seconds",
        );
      }
      throw error;
    }
  }

  /**
   * Lets one that is off or paused run, with the vc-out.xml that waits for it.
   * @param cluster absent: what its context has is what waits
   */
  private async start(id: number, vcOut: string, cluster?: ClusterRecord): Promise<void> {
    const vm = await this.present(id);
    const waits = vm.attributes.get(TAG.vcOutWaits) === "YES" && !isInjectedInto(vm);
    const stale = waits && vm.context.get(VC_OUT) !== base64(vcOut) ? cluster : undefined;
    const isPaused = phaseOf(vm) === "paused";
    if (stale && !isPaused) {
      await this.updateContext(id, stale, vcOut);
    }
    if (!isPaused && vm.attributes.get(READY) === "YES") {
      // That was before; a guest that is only paused goes on as it was.
      await this.client.append("vm", id, { [READY]: "NO" });
    }
    await this.change(id, "start", (now) => {
      switch (phaseOf(now)) {
        case "off":
          return now.state === VM.HOLD ? "release" : "resume";
        case "paused":
          return "resume";
        case "failed":
          throw stuck(now, "start");
        case "running":
        case "working":
          return "done";
        default:
          // The disc of one that is paused can't be made anew before it runs.
          return stale && isPaused ? "wait" : "done";
      }
    });
    if (stale && isPaused) {
      await this.updateContext(id, stale, vcOut);
    }
    if (waits) {
      await this.client.append("vm", id, vcOutTags(vcOut));
    }
  }

  private async stop({ id }: Vm, { graceSeconds }: StopLimits): Promise<void> {
    const patience = Date.now() + graceSeconds * 1000;
    let asked = false;
    await this.change(
      id,
      "shut down",
      (now) => {
        switch (phaseOf(now)) {
          case "off":
          case "failed":
          case "leaving":
            return "done";
          case "waiting":
            return "hold";
          case "paused":
            return "resume";
          case "running":
          case "unknown":
            // It says that it will, and may silently run on: then its power is taken.
            if (Date.now() >= patience) {
              return "poweroff-hard";
            }
            if (!asked) {
              asked = true;
              return "poweroff";
            }
            return "wait";
          case "stopping":
            return Date.now() >= patience ? "poweroff-hard" : "wait";
          default:
            return "wait";
        }
      },
      graceSeconds,
    );
  }

  /** Until it is gone: a machine that is on its way out still holds its image and its addresses. */
  private async terminate({ id }: Vm, graceSeconds: number): Promise<void> {
    const patience = Date.now() + graceSeconds * 1000;
    let [asked, forced] = [false, false];
    await this.change(
      id,
      "remove",
      (now) => {
        const phase = phaseOf(now);
        const isPatient = Date.now() < patience;
        if (phase === "leaving" && (isPatient || forced)) {
          return "wait";
        }
        if (phase === "running" && isPatient) {
          if (asked) {
            return "wait";
          }
          asked = true;
          return "terminate";
        }
        // Refused while it changes; else it does what it says, and asked for once more it would begin anew.
        forced = !isUnsettled(now);
        return "terminate-hard";
      },
      graceSeconds,
    );
  }

  /**
   * Brings a machine to where `next` says `done`, action by action. An action's answer comes before its state changes, and
   * may be refused in a state that passes: so it is looked at again and again, and none is repeated at once.
   */
  private async change(
    id: number,
    what: string,
    next: (vm: Vm) => "done" | "wait" | Action,
    graceSeconds = 0,
  ): Promise<void> {
    const end = Date.now() + (graceSeconds + CHANGE_SECONDS) * 1000;
    let last: { readonly action: Action; readonly at: number } | undefined;
    for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 1.5, POLL_MS)) {
      const vm = await this.pools.vm(id);
      const step = vm ? next(vm) : "done";
      if (step === "done") {
        return;
      }
      if (vm && Date.now() > end) {
        throw stuck(vm, what);
      }
      if (step !== "wait" && (last?.action !== step || Date.now() - last.at > AGAIN_MS)) {
        last = { action: step, at: Date.now() };
        await this.act(id, step);
      }
      await setTimeout(pause);
    }
  }

  private async act(id: number, action: Action): Promise<void> {
    try {
      await this.client.call("vm.action", action, id);
    } catch (error) {
      // Its state changed meanwhile, or it is gone.
      if (!(error instanceof WrongState || error instanceof NotFound)) {
        throw error;
      }
    }
  }

  // ── Shape ────────────────────────────────────────────────────────────────────────────────────────────────────────

  private shapeOf({ cpus, memory }: Pick<Shape, "cpus" | "memory">): Template {
    return { CPU: Number((cpus * (this.settings.cpuShare ?? 1)).toFixed(2)), VCPU: cpus, MEMORY: memory };
  }

  private async reshape(id: number, shape: Shape, limits: StopLimits): Promise<"live" | "restarted"> {
    const before = await this.present(id);
    const ran = !["off", "paused"].includes(phaseOf(before));
    await this.growDisk(before, shape, limits);
    const vm = await this.present(id);
    if (vm.cpus === shape.cpus && vm.memory === shape.memory) {
      return "live";
    }
    await this.stop(vm, limits);
    await this.client.call("vm.resize", id, templateText(this.shapeOf(shape)), true);
    if (!ran) {
      return "live";
    }
    await this.start(id, vcOutIn(await this.present(id)));
    return "restarted";
  }

  /** Not on hold: such a machine has no disk yet. One that is paused is shut down for it. */
  private async growDisk(vm: Vm, { diskSize }: Shape, limits: StopLimits): Promise<void> {
    const [disk] = vm.disks;
    if (!disk || diskSize === undefined || diskSize <= disk.size || vm.state === VM.HOLD) {
      return;
    }
    if (phaseOf(vm) === "paused") {
      await this.stop(vm, limits);
    }
    await this.settleDisk(vm);
    await this.client.call("vm.diskresize", vm.id, disk.id, String(diskSize));
    await this.settle(vm);
  }

  /** Waits until the machine is on its way to another state no more. */
  private async settle({ id }: Vm): Promise<void> {
    await this.change(id, "change", (now) => (isUnsettled(now) ? "wait" : "done"));
  }

  /** Waits until the machine's disk is where it will stay. */
  private async settleDisk({ id }: Vm): Promise<void> {
    await this.change(id, "change", (now) => (isUnsettled(now) || phaseOf(now) === "waiting" ? "wait" : "done"));
  }

  // ── What the guest is told ───────────────────────────────────────────────────────────────────────────────────────

  /** The context disc is made anew at once; a guest that isn't known to look at it does so at its next start. */
  private async handOver(node: NodeRef<ClusterRecord>, id: number, vcOut: string): Promise<"live" | "nextBoot"> {
    const vm = await this.present(id);
    if (isInjectedInto(vm)) {
      return this.handOverInside(node, vm, vcOut);
    }
    const [phase, live] = [phaseOf(vm), await this.takesContext(vm, node)];
    const has = vm.context.get(VC_OUT) === base64(vcOut);
    if (has && vm.attributes.get(TAG.vcOutDigest) === sha256(vcOut)) {
      return isRunning(vm) || phase === "waiting" || phase === "changing" ? "live" : "nextBoot";
    }
    if (!live) {
      await this.client.append("vm", id, { [TAG.vcOutWaits]: "YES" });
    }
    // The disc of one that is paused can't be made anew before it runs: `start` does.
    if (!has && phase !== "paused") {
      await this.updateContext(id, node.cluster, vcOut);
    }
    if (live) {
      await this.client.append("vm", id, vcOutTags(vcOut));
    }
    return live ? "live" : "nextBoot";
  }

  /** A disk that a machine has can't be written into from here: a guest that has our program takes it over ssh. */
  private async handOverInside(node: NodeRef<ClusterRecord>, vm: Vm, vcOut: string): Promise<"live" | "nextBoot"> {
    const isNew = vm.attributes.get(TAG.vcOutDigest) !== sha256(vcOut);
    if (isNew && !(phaseOf(vm) === "running" && (await this.guests.replaceVcOut(node.node, node.cluster, vcOut)))) {
      await this.client.append("vm", vm.id, { [TAG.vcOutWaits]: "YES" });
      return "nextBoot";
    }
    const disk = await this.images.disk(node);
    if (isNew && disk) {
      await this.client.append("image", disk.id, { [TAG.vcOutDigest]: sha256(vcOut) });
    }
    if (isNew || vm.attributes.get(TAG.vcOutWaits) === "YES") {
      await this.client.append("vm", vm.id, vcOutTags(vcOut));
    }
    return "live";
  }

  /** Appending merges into CONTEXT; the default would take all other variables away. */
  private async updateContext(id: number, cluster: ClusterRecord, vcOut: string): Promise<void> {
    const text = templateText({ CONTEXT: changingContextOf(cluster, vcOut) });
    const end = Date.now() + CHANGE_SECONDS * 1000;
    for (;;) {
      await this.settle(await this.present(id));
      try {
        await this.client.call("vm.updateconf", id, text, 1);
        // A running machine is busy with it for a moment.
        await this.settle(await this.present(id));
        return;
      } catch (error) {
        if (!(error instanceof WrongState) || Date.now() > end) {
          throw error;
        }
        await setTimeout(POLL_MS);
      }
    }
  }

  private async takesContext(vm: Vm, node: NodeRef<ClusterRecord>): Promise<boolean> {
    const phase = phaseOf(vm);
    // One that hasn't begun to boot reads what is there when it does.
    return phase === "waiting" || phase === "changing" || (isRunning(vm) && (await this.looks(vm, node)));
  }

  /** Whether the guest is known to look at its disc: one that has failed may do so, or not. */
  private async looks(vm: Vm, node: NodeRef<ClusterRecord>): Promise<boolean> {
    return this.isReady(vm, node).catch((error) => {
      if (error instanceof NotReady) {
        return false;
      }
      throw error;
    });
  }

  private async isReady(vm: Vm, node: NodeRef<ClusterRecord>): Promise<boolean> {
    const { frontend, compute } = node.cluster.image;
    switch (readinessOf(this.settings, node.node === "frontend" ? frontend : compute)) {
      case "oneGate":
        return vm.attributes.get(READY) === "YES";
      case "ssh":
        return this.isReadyOverSsh(vm, node);
      default:
        return true;
    }
  }

  /** @throws NotReady where its guest program failed */
  private async isReadyOverSsh(vm: Vm, { node, cluster }: NodeRef<ClusterRecord>): Promise<boolean> {
    const says = await this.guests.status(node, cluster);
    if (says === "answers" || says === undefined) {
      return says !== undefined;
    }
    if (says === "otherKey") {
      // Its context disc has the cluster's key for it: it hasn't come to that yet.
      return isInjectedInto(vm);
    }
    if (says.state === "failed") {
      throw new NotReady(`node ${node}`, `its guest program failed: ${says.message}`, HINT);
    }
    const given = isInjectedInto(vm) ? vm.attributes.get(TAG.vcOutDigest) : sha256(vcOutIn(vm));
    return says.state === "ready" && (!given || says.digest === given);
  }

  // ── Looking ──────────────────────────────────────────────────────────────────────────────────────────────────────

  /** @throws NotFound, ForeignOwner */
  private async existing(node: NodeRef): Promise<Vm> {
    const [vm] = await this.machines.of(node);
    if (!vm) {
      throw new NotFound(`node ${node.node}`, "its machine is gone", "Run `pulumi refresh`, then `pulumi up`");
    }
    return vm;
  }

  private async present(id: number): Promise<Vm> {
    const vm = await this.pools.vm(id);
    if (!vm) {
      throw new NotFound(`machine ${id}`, "is gone", "Run `pulumi refresh`, then `pulumi up`");
    }
    return vm;
  }

  private async diagnosisOf(vm: Vm): Promise<string> {
    const said = complaintOf(vm);
    const isImage = vm.state === VM.CLONING_FAILURE;
    const image = isImage ? (await this.pools.images()).find(({ id }) => id === vm.disks[0]?.imageId) : undefined;
    const ofImage = image?.state === IMAGE.ERROR ? (image.attributes.get("ERROR") ?? "") : "";
    const complaints = [said, ofImage.replaceAll(/[^\x20-\x7e\n]/g, "?")].filter(Boolean);
    return complaints.length > 0 || phaseOf(vm) === "failed"
      ? [`OpenNebula: it ${stateInWords(vm)}`, ...complaints].join("\n")
      : "";
  }
}

type Action = "release" | "resume" | "hold" | "poweroff" | "poweroff-hard" | "terminate" | "terminate-hard";

/** What one-context tells OneGate, which writes it among the machine's attributes. */
const READY = "READY";
const HINT = "See what `onevm show` says of it; `pulumi up` tries this node again";

function diskOf(disk: Image, image: ClusterRecord["image"]["frontend"], plan: BootRequest["plan"]) {
  const size =
    plan.diskSize !== undefined && plan.diskSize > Math.max(disk.size, mibOf(image)) ? plan.diskSize : undefined;
  return { IMAGE_ID: disk.id, DEV_PREFIX: image.devices === "virtio" ? "vd" : "sd", SIZE: size };
}

/** Whether its vc-out.xml came in its disk, not on a context disc. */
function isInjectedInto({ context }: Vm): boolean {
  return !context.has(VC_OUT);
}

/** Whether only another disk would bring a machine this vc-out.xml. */
function awaitsDisk(vm: Vm, { vcOut }: BootRequest): boolean {
  const waits = vm.attributes.get(TAG.vcOutWaits) === "YES";
  return isInjectedInto(vm) && waits && vm.attributes.get(TAG.vcOutDigest) !== sha256(vcOut);
}

/** What a disk was made with, which needn't be what its machine should have: one that holds data stays as it is. */
function vcOutTagsOf({ attributes }: Image, vcOut: string): Template {
  const digest = attributes.get(TAG.vcOutDigest) ?? "";
  return { [TAG.vcOutDigest]: digest, [TAG.vcOutWaits]: digest === sha256(vcOut) ? "NO" : "YES" };
}

function vcOutIn(vm: Vm): string {
  return Buffer.from(vm.context.get(VC_OUT) ?? "", "base64").toString("utf8");
}

function stuck(vm: Vm, what: string): SiteFailure {
  return new SiteFailure(
    `machine ${vm.name}: OpenNebula could not ${what} it`,
    [stateInWords(vm), complaintOf(vm)].filter(Boolean).join(": "),
    "See what `onevm show` says of it; from some states only the site's admin can bring it back (`onevm recover`)",
  );
}
