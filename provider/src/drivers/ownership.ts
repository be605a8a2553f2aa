import type { ClusterRef, ObservedNode } from "./driver";
import { ForeignOwner } from "./errors";

const IDENTITY = ["owner", "organization", "project", "stack", "cluster"] as const;

/** Whether a mark is that of this very cluster of this very owner. */
export function isOurs(mark: ClusterRef["mark"] | undefined, cluster: ClusterRef): boolean {
  return mark !== undefined && IDENTITY.every((key) => mark[key] === cluster.mark[key]);
}

/** The nodes whose machines carry this cluster's mark. */
export function ourNodes(machines: ReadonlyMap<string, Pick<ObservedNode, "mark">>, cluster: ClusterRef): string[] {
  return [...machines].flatMap(([node, { mark }]) => (isOurs(mark, cluster) ? [node] : []));
}

/** @throws ForeignOwner naming whose it is */
export function refuseForeign(what: string, mark: ClusterRef["mark"] | undefined, cluster: ClusterRef): void {
  if (!isOurs(mark, cluster)) {
    throw new ForeignOwner(
      what,
      mark
        ? `belongs to ${mark.owner} (cluster ${mark.cluster} of stack ${mark.organization}/${mark.project}/${mark.stack})`
        : "exists and carries no mark of a virtual cluster",
      mark && mark.owner !== cluster.mark.owner
        ? `Give this cluster another clusterName; or, if that owner is you, set the configuration virtual-cluster:owner to it`
        : "Give this cluster another clusterName",
    );
  }
}
