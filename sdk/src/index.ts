export type { ClusterPlan, FrontendPlan, NodePlan } from "@virtual-cluster/provider";
export { Cluster, type ClusterArgs, type NodeSummary } from "./cluster";
export { ComputeNode, type ComputeNodeArgs } from "./compute-node";
export { FrontendNode, type FrontendNodeArgs } from "./frontend-node";
export type {
  ClusterSettings,
  CommandSite,
  LibvirtSite,
  MemorySite,
  NodeShape,
  OpenNebulaSite,
  RocksSite,
  SiteArgs,
  Timeouts,
  WaitArgs,
} from "./types";
export { VirtualCluster, type VirtualClusterArgs } from "./virtual-cluster";
