import type { ObservedNode } from "../drivers/driver";
import { VirtualClusterError } from "../drivers/errors";
import { isOurs } from "../drivers/ownership";
import { connect } from "../drivers/registry";
import { openSite } from "../resources/context";
import { asObserved, type NodeOutputs } from "../resources/node";
import type { StackCluster } from "./stack-clusters";

/** A cluster as `pulumi refresh` would find it. */
export interface ClusterStatus {
  readonly cluster: StackCluster;
  /** Why nobody can tell what is at the site; the nodes are then as the state has them. */
  readonly unreachable?: string;
  /** What of the cluster's own things isn't as it should be, one sentence each. */
  readonly drift: readonly string[];
  readonly nodes: readonly NodeStatus[];
}

export interface NodeStatus {
  /** `frontend`, `compute-0` …. */
  readonly node: string;
  /** What the site says of its machine; `missing` where there is none any more, `not made` where there is none yet. */
  readonly state: string;
  /** Whether it is as its program wants it, and can be used. */
  readonly ready: boolean;
  readonly cpus: number;
  /** MiB. */
  readonly memory: number;
  readonly privateIp: string;
  readonly publicIp?: string;
  /** When it was created, ISO 8601. */
  readonly since?: string;
  /** What isn't as it should be, one sentence each. */
  readonly drift: readonly string[];
}

/** Looks at the site once for all nodes. Changes nothing. */
export async function statusOf(cluster: StackCluster): Promise<ClusterStatus> {
  try {
    const { drift, machines } = await observe(cluster);
    return { cluster, drift, nodes: nodeStatuses(cluster, machines) };
  } catch (error) {
    if (error instanceof VirtualClusterError) {
      return { cluster, unreachable: error.message, drift: [], nodes: nodeStatuses(cluster) };
    }
    throw error;
  }
}

async function observe(cluster: StackCluster) {
  const driver = await openSite(cluster.site, cluster.siteId);
  const [record, machines] = await Promise.all([driver.find(cluster.name), driver.read(cluster.name)]);
  if (!record || !isOurs(record.mark, cluster)) {
    return { machines, drift: ["it isn't at its site any more"] };
  }
  return { machines, drift: await connect(record.site).inspect(record) };
}

function nodeStatuses(cluster: StackCluster, machines?: ReadonlyMap<string, ObservedNode>): NodeStatus[] {
  const { frontend, computes } = cluster.plan;
  const plans = new Map([["frontend", frontend] as const, ...computes.map((plan) => [plan.name, plan] as const)]);
  const known = new Map(cluster.nodes.map((one) => [one.node, one]));
  return [...new Set([...plans.keys(), ...known.keys()])].map((node) => {
    const { outputs, since } = known.get(node) ?? {};
    const outs = outputs as unknown as NodeOutputs | undefined;
    const machine = machines?.get(node);
    const now = machines && outs ? asObserved(outs, machine) : outs;
    const { cpus = 0, memory = 0, privateIp = "" } = now ?? outs ?? plans.get(node) ?? {};
    return {
      node,
      state: now?.state ?? (outs ? "missing" : machine ? "being made" : "not made"),
      ready: now?.ready ?? false,
      ...{ cpus, memory, privateIp },
      ...(node === "frontend" && { publicIp: frontend.publicIp }),
      ...(since !== undefined && { since }),
      drift: now?.drift ?? [],
    };
  });
}
