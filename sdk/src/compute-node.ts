import * as pulumi from "@pulumi/pulumi";
import { shims } from "./shim";
import type { WaitArgs } from "./types";
import type { VirtualCluster } from "./virtual-cluster";

export interface ComputeNodeArgs extends WaitArgs {
  cluster: VirtualCluster;
  /** Which compute of the cluster this is, from 0: its identity. */
  index: number;
}

/** Boots one compute of a cluster: its machine and its disk. */
export class ComputeNode extends pulumi.dynamic.Resource {
  declare readonly cpus: pulumi.Output<number>;
  /** MiB. */
  declare readonly memory: pulumi.Output<number>;
  declare readonly privateIp: pulumi.Output<string>;
  declare readonly ready: pulumi.Output<boolean>;

  constructor(name: string, { cluster, index, ...wait }: ComputeNodeArgs, opts?: pulumi.CustomResourceOptions) {
    const compute = cluster.plan.apply(({ computes }) => {
      const found = computes[index];
      if (!found) {
        throw new RangeError(
          `compute ${index} isn't in the plan of its cluster, which has ${computes.length} computes`,
        );
      }
      return found;
    });
    const slice = {
      clusterId: cluster.id,
      site: cluster.site,
      siteId: cluster.siteId,
      node: `compute-${index}`,
      cpus: compute.cpus,
      memory: compute.memory,
      privateIp: compute.privateIp,
      privateMac: compute.privateMac,
    };
    super(shims.computeNode, name, { ready: undefined, ...slice, ...wait }, opts, "virtual-cluster", "ComputeNode");
  }
}
