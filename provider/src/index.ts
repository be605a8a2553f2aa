/**
 * Where the shim in `@virtual-cluster/pulumi` finds the life cycles: one function a resource, called with the host's
 * `configure` request.
 */
import { computeNodeLifeCycle } from "./resources/compute-node";
import { Context } from "./resources/context";
import { frontendNodeLifeCycle } from "./resources/frontend-node";
import type { ConfigureRequest, LifeCycle } from "./resources/host";
import { virtualClusterLifeCycle } from "./resources/virtual-cluster";

export const virtualCluster = (request: ConfigureRequest): LifeCycle => virtualClusterLifeCycle(new Context(request));
export const frontendNode = (_request: ConfigureRequest): LifeCycle => frontendNodeLifeCycle();
export const computeNode = (_request: ConfigureRequest): LifeCycle => computeNodeLifeCycle();

export type { ClusterPlan, FrontendPlan, NodePlan, PrivateNetwork, PublicNetwork } from "./plan/plan";
