import * as pulumi from "@pulumi/pulumi";
import { ComputeNode } from "./compute-node";
import { FrontendNode } from "./frontend-node";
import type { ClusterSettings, WaitArgs } from "./types";
import { VirtualCluster } from "./virtual-cluster";

export interface ClusterArgs extends ClusterSettings, WaitArgs {
  /** Cpus of all computes together. Default 0: only the frontend. */
  numCpus?: number;
  /** Cpus of each compute. Default 1. */
  cpusPerNode?: number;
}

/** One line of the output `nodes`. */
export interface NodeSummary {
  name: string;
  role: "frontend" | "compute";
  cpus: number;
  /** MiB. */
  memory: number;
  privateIp: string;
  mac: string;
  publicIp?: string;
  /** Where the site gave fewer computes, with more cpus each: this one has no machine. */
  allocated?: false;
}

/**
 * A whole virtual cluster: one frontend and `ceil(numCpus / cpusPerNode)` computes.
 *
 * ```ts
 * const dock = new Cluster("dock", { image: "demo", numCpus: 2 });
 * export const ssh = dock.ssh;
 * ```
 */
export class Cluster extends pulumi.ComponentResource {
  /** The command that logs in to the frontend. */
  readonly ssh: pulumi.Output<string>;
  /** The same as arguments of the program `ssh`. */
  readonly sshArguments: pulumi.Output<string[]>;
  /** The frontend's public address. */
  readonly publicIp: pulumi.Output<string>;
  /** Every node with its name, shape and addresses. */
  readonly nodes: pulumi.Output<NodeSummary[]>;
  /** A known_hosts line for the frontend. */
  readonly knownHosts: pulumi.Output<string>;

  constructor(name: string, { waitFor, timeouts, ...settings }: ClusterArgs, opts?: pulumi.ComponentResourceOptions) {
    super("virtual-cluster:index:Cluster", name, {}, opts);
    const parent = { parent: this };
    const wait = { ...(waitFor !== undefined && { waitFor }), ...(timeouts !== undefined && { timeouts }) };

    const cluster = new VirtualCluster(name, settings, parent);
    const frontend = new FrontendNode(`${name}-frontend`, { cluster, ...wait }, parent);
    for (let index = 0; index < computeCount(settings); index++) {
      new ComputeNode(`${name}-compute-${index}`, { cluster, index, ...wait }, { ...parent, dependsOn: [frontend] });
    }

    this.ssh = cluster.ssh;
    this.sshArguments = cluster.sshArguments;
    this.knownHosts = cluster.knownHosts;
    this.publicIp = cluster.plan.apply((plan) => plan.frontend.publicIp);
    this.nodes = cluster.plan.apply(({ frontend: first, computes }) => [
      { ...summary(first, "frontend"), publicIp: first.publicIp },
      ...computes.map((compute) => summary(compute, "compute")),
    ]);
    this.registerOutputs({
      ssh: this.ssh,
      publicIp: this.publicIp,
      nodes: this.nodes,
      knownHosts: this.knownHosts,
    });
  }
}

/** More than any private network holds. */
const MOST_COMPUTES = 1024;

/** What can't be a count declares no computes here; the cluster's own check says what is wrong with it. */
function computeCount({ numCpus = 0, cpusPerNode = 1 }: Pick<ClusterArgs, "numCpus" | "cpusPerNode">): number {
  const count = Math.ceil(numCpus / cpusPerNode);
  return count <= MOST_COMPUTES ? count : 0;
}

function summary(
  node: { name: string; cpus: number; memory: number; privateIp: string; privateMac: string; allocated?: false },
  role: NodeSummary["role"],
): NodeSummary {
  return {
    name: node.name,
    role,
    cpus: node.cpus,
    memory: node.memory,
    privateIp: node.privateIp,
    mac: node.privateMac,
    ...(node.allocated === false && { allocated: node.allocated }),
  };
}
