/**
 * Where the shim in `@virtual-cluster/pulumi` finds the life cycles: one function a resource, called with the host's
 * `configure` request.
 */
import { withAudit } from "./resources/audited";
import { claimLifeCycle } from "./resources/claim";
import { computeNodeLifeCycle } from "./resources/compute-node";
import { Context } from "./resources/context";
import { stopWithEngine } from "./resources/engine-watch";
import { frontendNodeLifeCycle } from "./resources/frontend-node";
import type { ConfigureRequest, LifeCycle } from "./resources/host";
import { virtualClusterLifeCycle } from "./resources/virtual-cluster";
import { searchSystemFolders } from "./setup/search-path";

searchSystemFolders();

export function claim(request: ConfigureRequest): LifeCycle {
  stopWithEngine();
  return claimLifeCycle(new Context(request));
}

export function virtualCluster(request: ConfigureRequest): LifeCycle {
  stopWithEngine();
  return withAudit(virtualClusterLifeCycle(new Context(request)));
}

export function frontendNode(_request: ConfigureRequest): LifeCycle {
  stopWithEngine();
  return withAudit(frontendNodeLifeCycle());
}

export function computeNode(_request: ConfigureRequest): LifeCycle {
  stopWithEngine();
  return withAudit(computeNodeLifeCycle());
}

export type { ClusterPlan, FrontendPlan, NodePlan, PrivateNetwork, PublicNetwork } from "./plan/plan";
