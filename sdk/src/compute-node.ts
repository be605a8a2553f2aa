import * as pulumi from "@pulumi/pulumi";
import { dialectOf, fingerprintOf, NODE_OUTPUTS, pinned, powerOf } from "./outputs";
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
    const { plan, site, siteId, image, publicKey, power } = cluster;
    const slice = pulumi
      .all([plan, site, siteId, image, publicKey, power])
      .apply(([{ computes, vcOutDialect }, site, siteId, image, publicKey, power]) => {
        const compute = computes[index];
        if (!compute) {
          throw new RangeError(
            `compute ${index} isn't in the plan of its cluster, which has ${computes.length} computes`,
          );
        }
        const { name: _, hostName: __, ...own } = compute;
        return {
          ...{ site, siteId, image, ...own, key: fingerprintOf(publicKey) },
          ...dialectOf(vcOutDialect),
          ...powerOf(power),
        };
      });
    const inputs = { clusterId: cluster.id, node: `compute-${index}`, slice, ...wait };
    super(shims.computeNode, name, { ...NODE_OUTPUTS, ...inputs }, pinned(opts), "virtual-cluster", "ComputeNode");
  }
}
