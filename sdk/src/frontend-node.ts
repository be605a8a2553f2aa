import * as pulumi from "@pulumi/pulumi";
import { dialectOf, NODE_OUTPUTS, pinned, powerOf } from "./outputs";
import { shims } from "./shim";
import type { WaitArgs } from "./types";
import type { VirtualCluster } from "./virtual-cluster";

export interface FrontendNodeArgs extends WaitArgs {
  cluster: VirtualCluster;
}

/** Boots a cluster's frontend: its machine and its disk. */
export class FrontendNode extends pulumi.dynamic.Resource {
  declare readonly cpus: pulumi.Output<number>;
  /** MiB. */
  declare readonly memory: pulumi.Output<number>;
  declare readonly privateIp: pulumi.Output<string>;
  declare readonly publicIp: pulumi.Output<string>;
  declare readonly ready: pulumi.Output<boolean>;

  constructor(name: string, { cluster, ...wait }: FrontendNodeArgs, opts?: pulumi.CustomResourceOptions) {
    const { plan, site, siteId, publicKey, power, retainDisks } = cluster;
    const known = pulumi.all([plan, site, siteId, publicKey, power, retainDisks]);
    const slice = known.apply(([plan, site, siteId, publicKey, power, retainDisks]) => {
      const { name: _, fqdn: __, hostName: ___, ...own } = plan.frontend;
      // Only what a frontend has to know of its computes: what else changes there is no change here.
      const computes = plan.computes
        .filter(({ allocated }) => allocated !== false)
        .map(({ name, cpus, privateIp, privateMac }) => ({ name, cpus, privateIp, privateMac }));
      return {
        ...{ site, siteId, ...own, computes, publicKey, ...dialectOf(plan.vcOutDialect), ...powerOf(power) },
        ...(retainDisks && { retainDisk: true }),
      };
    });
    const inputs = { clusterId: cluster.id, node: "frontend", slice, ...wait };
    super(
      shims.frontendNode,
      name,
      { ...NODE_OUTPUTS, publicIp: undefined, ...inputs },
      pinned(opts),
      "virtual-cluster",
      "FrontendNode",
    );
  }
}
