import type { ClusterRef, FoundCluster } from "../driver";
import type { NodeMark, ObservedNetwork } from "./xml";
import { LOCK_PREFIX } from "./xml";

/** Puts together by cluster what carries a mark: records, leases and locks among the networks, and machines. */
export function foundClusters(
  networks: readonly ObservedNetwork[],
  machines: readonly NodeMark[],
): readonly FoundCluster[] {
  const marks = new Map<string, ClusterRef["mark"]>();
  for (const { name, lock } of networks) {
    if (lock) {
      marks.set(name.slice(LOCK_PREFIX.length), lock.mark);
    }
  }
  for (const { lease } of networks) {
    if (lease) {
      marks.set(lease.cluster, lease.mark);
    }
  }
  for (const { cluster, mark } of machines) {
    marks.set(cluster, mark);
  }
  for (const { cluster } of networks) {
    if (cluster) {
      marks.set(cluster.name, cluster.mark);
    }
  }
  return [...marks].map(([name, mark]) => {
    const record = networks.find(({ cluster }) => cluster?.name === name)?.cluster;
    return {
      name,
      mark,
      ...(record && { record }),
      machines: machines.flatMap(({ cluster, node }) => (cluster === name ? [node] : [])).sort(),
      publicAddresses: networks.flatMap(({ lease }) => (lease?.cluster === name ? [lease.ip] : [])),
    };
  });
}
