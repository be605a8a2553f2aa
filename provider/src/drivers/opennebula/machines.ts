import type { ClusterRef, Mark, NodeRef, ObservedNode } from "../driver";
import { refuseForeign } from "../ownership";
import { diskOf, machineNameOf, nodeIn } from "./names";
import { IMAGE, type Image, markOf, TAG, type Vm } from "./objects";
import type { Pools } from "./pools";
import { nodeStateOf, VM } from "./vm-states";

/** Which node a machine is: by our tags, else by its name, since several machines may have one name. */
export interface MachineOfNode {
  readonly cluster: string;
  readonly node: string;
  readonly mark: Mark | undefined;
}

export function nodeOf(vm: Vm): MachineOfNode | undefined {
  const mark = markOf(vm);
  const cluster = vm.attributes.get(TAG.cluster);
  if (mark && cluster) {
    const index = vm.attributes.get(TAG.index);
    return { cluster, node: vm.attributes.get(TAG.role) === "frontend" ? "frontend" : `compute-${index}`, mark };
  }
  const named = nodeIn(vm.name);
  return named && { ...named, mark: undefined };
}

/** What tells people and us which node a machine is. */
export function nodeTags(node: string): Readonly<Record<string, string>> {
  const index = /^compute-(\d+)$/.exec(node)?.[1];
  return index === undefined ? { [TAG.role]: "frontend" } : { [TAG.role]: "compute", [TAG.index]: index };
}

export class Machines {
  constructor(private readonly pools: Pools) {}

  /** Every machine of a cluster as the contract has it, whoever owns it. */
  async read(cluster: string): Promise<Map<string, ObservedNode>> {
    const [vms, images] = await Promise.all([this.pools.vms(), this.pools.images()]);
    const byNode = new Map<string, Vm[]>();
    for (const vm of vms) {
      const of = nodeOf(vm);
      if (of?.cluster === cluster) {
        byNode.set(of.node, [...(byNode.get(of.node) ?? []), vm]);
      }
    }
    return new Map(
      [...byNode].map(([node, found]) => [node, observed(first(found), diskImage(cluster, node, images))]),
    );
  }

  /** All machines that stand for a node, the first one first. @throws ForeignOwner */
  async of({ cluster, node }: NodeRef): Promise<Vm[]> {
    const found = (await this.pools.vms()).filter((vm) => {
      const of = nodeOf(vm);
      return of?.cluster === cluster.name && of.node === node;
    });
    for (const vm of found) {
      refuseForeign(`machine ${machineNameOf(cluster.name, node)}`, markOf(vm), cluster);
    }
    return found.toSorted((one, other) => one.id - other.id);
  }
}

/** The marked one that was made first: a second is what a call whose answer got lost has left. */
function first(vms: readonly Vm[]): Vm {
  return vms.toSorted((one, other) => Number(!markOf(one)) - Number(!markOf(other)) || one.id - other.id)[0] as Vm;
}

/** `gone` where a machine's disk was an image of its own. */
function diskImage(cluster: string, node: string, images: readonly Image[]): Image | "gone" | undefined {
  return node === "frontend"
    ? (images.find(({ name, state }) => name === diskOf(cluster) && state !== IMAGE.DELETE) ?? "gone")
    : undefined;
}

function observed(vm: Vm, image: Image | "gone" | undefined): ObservedNode {
  const [disk] = vm.disks;
  const mark = markOf(vm);
  const isGone = disk === undefined || (mark !== undefined && image === "gone");
  return {
    cpus: vm.cpus,
    memory: vm.memory,
    ...(!isGone && { diskSize: disk.size }),
    state: nodeStateOf(vm),
    machineId: String(vm.id),
    macs: vm.nics.map(({ mac }) => mac),
    vcOutDigest: vm.attributes.get(TAG.vcOutDigest) ?? "",
    vcOutWaits: vm.attributes.get(TAG.vcOutWaits) === "YES",
    live: { cpus: { min: vm.cpus, max: vm.cpus }, memory: { min: vm.memory, max: vm.memory } },
    ...(mark && { mark }),
  };
}

/** Whether it takes cpus and memory at the site. */
export function takesRoom({ state }: Vm): boolean {
  return ![VM.HOLD, VM.POWEROFF, VM.UNDEPLOYED, VM.STOPPED].some((off) => off === state);
}

export function isOfCluster(vm: Vm, cluster: ClusterRef): boolean {
  return nodeOf(vm)?.cluster === cluster.name;
}
