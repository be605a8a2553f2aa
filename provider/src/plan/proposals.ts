import type { Holder, Shape, SiteDescription } from "../drivers/driver";
import type { ClusterPlan } from "./plan";

interface Proposal {
  readonly plan: ClusterPlan;
  /** What the cluster will use beyond what its machines use now. */
  readonly growth: Shape;
}

/**
 * What has been planned in this process and isn't at the site yet, so that two clusters of one program never get the
 * same address, nor together more than there is.
 */
class Proposals {
  private readonly bySite = new Map<string, Map<string, Proposal>>();

  propose(siteId: string, cluster: string, plan: ClusterPlan, growth: Shape): void {
    const clusters = this.bySite.get(siteId) ?? new Map<string, Proposal>();
    this.bySite.set(siteId, clusters.set(cluster, { plan, growth }));
  }

  /** Forgets a plan that has been reserved at the site, or given up. */
  settle(siteId: string, cluster: string): void {
    this.bySite.get(siteId)?.delete(cluster);
  }

  /** The site as it will be when all other plans have come true. */
  withOthers(site: SiteDescription, cluster: string): SiteDescription {
    const addresses = new Map<string, Holder>(site.takenAddresses);
    const subnets = new Map<string, Holder>(site.takenSubnets);
    let { cpus, memory } = site;
    for (const [other, { plan, growth }] of this.bySite.get(site.siteId) ?? []) {
      if (other !== cluster) {
        const holder = { cluster: other, description: `cluster ${other} of this program` };
        addresses.set(plan.frontend.publicIp, addresses.get(plan.frontend.publicIp) ?? holder);
        subnets.set(plan.privateNetwork.cidr, subnets.get(plan.privateNetwork.cidr) ?? holder);
        cpus = { ...cpus, free: cpus.free - growth.cpus };
        memory = { ...memory, free: memory.free - growth.memory };
      }
    }
    return { ...site, cpus, memory, takenAddresses: addresses, takenSubnets: subnets };
  }
}

export const proposals = new Proposals();
