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
  return claimLifeCycle(open(request));
}

export function virtualCluster(request: ConfigureRequest): LifeCycle {
  return withAudit(virtualClusterLifeCycle(open(request)));
}

export function frontendNode(request: ConfigureRequest): LifeCycle {
  open(request);
  return withAudit(frontendNodeLifeCycle());
}

export function computeNode(request: ConfigureRequest): LifeCycle {
  open(request);
  return withAudit(computeNodeLifeCycle());
}

/** Any of them may be the first of its process, as nodes are in a refresh and in a destroy: credentials come with each. */
function open(request: ConfigureRequest): Context {
  stopWithEngine();
  return new Context(request);
}

export type { ClusterPlan, FrontendPlan, NodePlan, PrivateNetwork, PublicNetwork } from "./plan/plan";
