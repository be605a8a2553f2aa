import type { SiteDescription } from "../drivers/driver";
import { computeName } from "./names";
import { type ClusterPlan, type ClusterWish, computeCount, type NodePlan, SITE_DECIDES } from "./plan";

const OPEN = { privateIp: SITE_DECIDES, privateMac: SITE_DECIDES } as const;

/**
 * The plan for a site that deals names, addresses and cpus itself: open is what it hasn't decided yet.
 * @param held what it has decided before: that stays for as long as its node is planned
 */
export function planBySite(wish: ClusterWish, site: SiteDescription, held?: ClusterPlan): ClusterPlan {
  const { name, numCpus, cpusPerNode, memoryPerNode } = wish;
  const { cpus, memory } = wish.frontend;
  const isAsAsked = held?.asked?.numCpus === numCpus && held.asked.cpusPerNode === cpusPerNode;
  const compute = (index: number): NodePlan => {
    const before = held?.computes[index];
    // Of a cluster that changes, a compute that was too many may get a machine.
    const kept = isAsAsked || before?.allocated !== false ? before : undefined;
    const dealt = held?.asked?.cpusPerNode === cpusPerNode ? kept?.cpus : undefined;
    return { ...OPEN, ...kept, name: computeName(index), cpus: dealt ?? cpusPerNode, memory: memoryPerNode };
  };
  return {
    frontend: {
      ...OPEN,
      publicIp: SITE_DECIDES,
      publicMac: SITE_DECIDES,
      fqdn: SITE_DECIDES,
      ...held?.frontend,
      name,
      cpus,
      memory,
    },
    computes: Array.from({ length: computeCount(wish) }, (_, index) => compute(index)),
    privateNetwork: held?.privateNetwork ?? { cidr: SITE_DECIDES },
    publicNetwork: held?.publicNetwork ?? site.publicNetwork,
    asked: { numCpus, cpusPerNode },
  };
}
