import { macsOf } from "../../plan/plan";
import { Batcher } from "../batcher";
import type { NodeRef, NodeState, ObservedNode } from "../driver";
import { machineGone, NotFound, SiteFailure, Unreachable } from "../errors";
import { refuseForeign } from "../ownership";
import { TOGETHER_MS } from "./clusters";
import { type Disks, diskFile, type Files } from "./disks";
import { ownerOf } from "./facts";
import { errorIn, NO_HOST, type RocksFrontend } from "./frontend";
import { vmName } from "./names";
import { Rows } from "./rows";
import type { ClusterFile, NodeFile, Store } from "./store";
import { parseClusters, parseInterfaces, parseVms, type RocksVm } from "./tables";

const MIB = 1024 * 1024;

/** An {@link ObservedNode} with what only this driver needs. */
export interface Machine extends ObservedNode {
  readonly vm: RocksVm;
  /** Absent for a machine that isn't ours. */
  readonly file?: NodeFile;
  /** Whether its host says that its disk is there; undefined where the host doesn't answer. */
  readonly hasDisk: boolean | undefined;
}

/** What Rocks' status words say. */
const STATES: Readonly<Record<string, NodeState>> = {
  active: "running",
  paused: "paused",
  nostate: "off",
  shutoff: "off",
  // libvirt's word for a machine that is on its way there.
  shutdown: "running",
  crashed: "crashed",
};

/** Everything else is no answer: `nostate-error` above all, of a container that can't be reached. */
export function stateOf(status: string): NodeState {
  return STATES[status] ?? "unknown";
}

/**
 * The machines of clusters: a row in Rocks' tables with the MAC that our record has, and a file of ours from the first
 * boot on. A row without a file is a place that is kept for a machine.
 */
export class Machines {
  private readonly clustersRead: Batcher<string, ReadonlyMap<string, Machine>>;

  constructor(
    private readonly frontend: RocksFrontend,
    private readonly store: Store,
    private readonly disks: Disks,
  ) {
    this.clustersRead = new Batcher((names) => this.load(names), TOGETHER_MS);
  }

  /** One request to Rocks and one to each container, for all that ask at the same time. */
  async read(cluster: string): Promise<ReadonlyMap<string, Machine>> {
    return (await this.clustersRead.get(cluster)) ?? new Map();
  }

  /** @throws ForeignOwner for a machine of that name that isn't this cluster's */
  async find(ref: NodeRef): Promise<Machine | undefined> {
    const machine = (await this.read(ref.cluster.name)).get(ref.node);
    if (machine) {
      refuseForeign(`machine ${vmName(ref.cluster.name, ref.node)} (${ref.node})`, machine.mark, ref.cluster);
    }
    return machine;
  }

  /** @throws NotFound, ForeignOwner */
  async existing(ref: NodeRef): Promise<Machine> {
    const machine = await this.find(ref);
    if (!machine) {
      throw machineGone(ref.node, ref.cluster.name);
    }
    return machine;
  }

  /** The status word of one machine. @throws NotFound, Unreachable */
  async statusOf(vm: string): Promise<string> {
    const output = await this.frontend.list(["list", "host", "vm", vm, "status=true", "json=true"]);
    const [found] = parseVms(output, () => vm);
    if (!found) {
      throw new NotFound(`machine ${vm}`, "isn't in Rocks' tables");
    }
    if (stateOf(found.status) === "unknown" && found.host !== "") {
      throw new Unreachable(
        `the libvirt of ${found.host} doesn't answer`,
        `Rocks says of ${vm}: ${found.status || "nothing"}`,
        "See whether that container runs",
      );
    }
    return found.status;
  }

  private async statusesOf(vms: readonly string[]): Promise<RocksVm[]> {
    // Each by itself: a listing of several fails as a whole when one of them is gone meanwhile.
    const lists = vms.map((vm) => ["list", "host", "vm", vm, "status=true", "json=true"]);
    return (await this.frontend.lists(lists)).flatMap((answer, index) =>
      parseVms(answer.stdout, () => vms[index] ?? ""),
    );
  }

  private async load(names: readonly string[]): Promise<Map<string, ReadonlyMap<string, Machine>>> {
    const { clusters, nodes } = await this.store.read(names);
    const known = names.filter((name) => clusters.has(name) || nodes.some(({ cluster }) => cluster === name));
    if (known.length === 0) {
      return new Map();
    }
    const booted = known.filter((name) => nodes.some(({ cluster }) => cluster === name));
    const lists = [
      ["list", "host", "vm", "showdisks=true", "json=true"],
      ["list", "host", "interface", "json=true"],
      ...booted.map((name) => ["list", "cluster", name, "status=true", "json=true"]),
    ];
    const [answers, files] = await Promise.all([
      this.frontend.lists(lists),
      this.disks.list(nodes.map(({ host }) => host)),
    ]);
    const [vmsAnswer, nicsAnswer, ...statusAnswers] = answers.map((answer, index) =>
      // Without its frontend a cluster can't be listed; its machines can.
      index > 1 && hasNoFrontend(errorIn(answer.stdout) ?? "")
        ? ""
        : this.frontend.outputOf(answer, lists[index] ?? []),
    );
    const nics = parseInterfaces(nicsAnswer ?? "");
    const vms = parseVms(vmsAnswer ?? "", (mac) => ownerOf(nics, mac));
    const statuses = new Map(
      statusAnswers.flatMap((output) => parseClusters(output)).flatMap((one) => [...one.statuses]),
    );
    const without = vms.flatMap(({ name }) =>
      !statuses.has(name) && nodes.some(({ cluster, node }) => vmName(cluster, node) === name) ? [name] : [],
    );
    for (const { name, status } of await this.statusesOf(without)) {
      statuses.set(name, status);
    }
    return new Map(
      known.map((name) => {
        const own = nodes.filter(({ cluster }) => cluster === name);
        return [name, machinesOf(name, clusters.get(name), own, { vms }, statuses, files)];
      }),
    );
  }
}

function hasNoFrontend(error: string): boolean {
  return NO_HOST.test(error) || /not a virtual frontend/.test(error);
}

function machinesOf(
  name: string,
  cluster: ClusterFile | undefined,
  files: readonly NodeFile[],
  tables: { readonly vms: readonly RocksVm[] },
  statuses: ReadonlyMap<string, string>,
  disks: ReadonlyMap<string, Files | undefined>,
): Map<string, Machine> {
  const machines = new Map<string, Machine>();
  for (const [node, row] of Rows.of(name, tables)) {
    const file = files.find((one) => one.node === node);
    const vm = { ...row, status: statuses.get(row.name) ?? "" };
    if (isStranger(row, node, cluster)) {
      machines.set(node, observed(vm, undefined, undefined));
    } else if (file && !file.orphan) {
      machines.set(node, observed(vm, file, disks.get(file.host), expectedMacs(node, cluster)));
    }
  }
  return machines;
}

/** Whether somebody has put another machine in the place of the one that was planned. */
function isStranger({ macs }: RocksVm, node: string, cluster: ClusterFile | undefined): boolean {
  const planned = expectedMacs(node, cluster);
  return planned.length > 0 && !planned.some((mac) => macs.includes(mac));
}

/** In the order of the NICs, which a listing doesn't keep to. */
function expectedMacs(node: string, cluster: ClusterFile | undefined): string[] {
  const plan = cluster?.record.plan;
  if (!plan) {
    return [];
  }
  const macs = macsOf(plan);
  const compute = plan.computes.find(({ name }) => name === node);
  const addresses =
    node === "frontend" ? [plan.frontend.privateIp, plan.frontend.publicIp] : compute ? [compute.privateIp] : [];
  return addresses.flatMap((ip) => (/^[0-9a-f:]{17}$/.test(macs.get(ip) ?? "") ? [macs.get(ip) ?? ""] : []));
}

function observed(
  vm: RocksVm,
  file: NodeFile | undefined,
  files: Files | undefined,
  order: readonly string[] = [],
): Machine {
  const state = stateOf(vm.status);
  const runs = state === "running" || state === "paused";
  const { cpus, memory } = (runs && file?.started) || vm;
  const bytes = files?.get(diskFile(vm.name));
  const diskSize = files === undefined ? file?.diskSize : bytes === undefined ? undefined : Math.floor(bytes / MIB);
  const isReordered = order.length === vm.macs.length && order.every((mac) => vm.macs.includes(mac));
  return {
    vm,
    state,
    cpus,
    memory,
    machineId: file?.machineId ?? vm.name,
    macs: isReordered ? order : vm.macs,
    ...(diskSize !== undefined && { diskSize }),
    vcOutDigest: file?.vcOutDigest ?? "",
    vcOutWaits: file?.vcOutWaits === true,
    live: { cpus: { min: cpus, max: cpus }, memory: { min: memory, max: memory } },
    ...((vm.cpus !== cpus || vm.memory !== memory) && { nextStart: { cpus: vm.cpus, memory: vm.memory } }),
    ...(file && { file, mark: file.mark }),
    hasDisk: files && bytes !== undefined,
  };
}

/** @throws SiteFailure for a machine whose disk in Rocks' tables is another than ours */
export function refuseOtherDisk(disks: Disks, { vm }: Machine): void {
  if (!disks.isOurs(vm.name, vm.disks)) {
    throw new SiteFailure(
      `machine ${vm.name}`,
      `Rocks has ${vm.disks.join(" ") || "nothing"} for its disk, not ${disks.pathOf(vm.name)}`,
      "Set it back with `rocks set host vm … disk=`",
    );
  }
}
