import { hostCount, subnet } from "../../plan/addresses";
import type { NodePlan } from "../../plan/plan";
import type { ClusterRecord, DiskImage } from "../driver";
import { NoCapacity } from "../errors";
import type { OpenNebulaSettings } from "../settings";
import { type Images, mibOf } from "./images";
import { isInjected } from "./injected-images";
import { nodeOf } from "./machines";
import { baseOf, diskOf } from "./names";
import type { Networks } from "./networks";
import type { Vm } from "./objects";
import type { Pools } from "./pools";
import type { Quota, Quotas } from "./quotas";

/** What a cluster would take beside what it has: looked at before the first call that changes something. */
export class Needs {
  constructor(
    private readonly pools: Pools,
    private readonly networks: Networks,
    private readonly images: Images,
    private readonly settings: OpenNebulaSettings,
  ) {}

  /** @throws NoCapacity for more leases or images than quotas leave */
  async refuseBeyondQuotas(quotas: Quotas, record: ClusterRecord, own: readonly Vm[]): Promise<void> {
    const [lease, vnet, publicNetwork, parent, datastore, images] = await Promise.all([
      this.networks.leaseOf(record.name),
      this.networks.privateOf(record.name),
      this.networks.publicNetwork(),
      this.networks.parentOfReservations(),
      this.images.datastore(),
      this.missingImages(record, own),
    ]);
    const mib = images.reduce((sum, size) => sum + size, 0);
    const leases = (id: number) => quotas("NETWORK", "LEASES", id);
    refuse(`leases of network ${publicNetwork.name}`, lease ? 0 : 1, leases(publicNetwork.id));
    if (parent && !vnet) {
      const addresses = hostCount(subnet(record.plan.privateNetwork.cidr));
      refuse(`leases of network ${parent.name}`, addresses, leases(parent.id));
    }
    const { datastore: name } = this.settings;
    refuse(`images in datastore ${name}`, images.length, quotas("DATASTORE", "IMAGES", datastore));
    refuse(`MiB in datastore ${name}`, mib, quotas("DATASTORE", "SIZE", datastore));
  }

  /** Sizes, in MiB, of the images that the cluster's nodes need and that aren't there yet. */
  private async missingImages(record: ClusterRecord, own: readonly Vm[]): Promise<number[]> {
    const names = new Set((await this.pools.images()).map(({ name }) => name));
    const machines = new Set(own.map((vm) => nodeOf(vm)?.node));
    const { frontend, compute } = record.image;
    const injects = (image: DiskImage) => isInjected(this.settings, image);
    const disk = (
      node: string,
      image: DiskImage,
      { diskSize = 0 }: NodePlan,
    ): ReadonlyArray<readonly [string, number]> =>
      machines.has(node) ? [] : [[diskOf(record.name, node), Math.max(mibOf(image), injects(image) ? diskSize : 0)]];
    const mibByName = new Map([
      ...[frontend, compute]
        .filter((image) => !injects(image))
        .map((image) => [baseOf(image.digest), mibOf(image)] as const),
      ...disk("frontend", frontend, record.plan.frontend),
      ...(injects(compute) ? record.plan.computes.flatMap((plan) => disk(plan.name, compute, plan)) : []),
    ]);
    return [...mibByName].filter(([name]) => !names.has(name)).map(([, mib]) => mib);
  }
}

function refuse(what: string, needed: number, quota: Quota): void {
  if (needed > quota.free) {
    throw new NoCapacity(
      `the cluster needs ${needed} more ${what}`,
      `the quota is ${quota.limit}, and ${Math.max(0, quota.free)} are left of it`,
      "Ask for less, or let the site's admin raise the quota (`oneuser quota`, `onegroup quota`)",
    ).about("site");
  }
}
