import * as pulumi from "@pulumi/pulumi";
import { NODE_OUTPUTS } from "./outputs";
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
    const slice = pulumi
      .all([cluster.plan, cluster.site, cluster.siteId, cluster.publicKey])
      .apply(([{ frontend, computes }, site, siteId, publicKey]) => {
        const { cpus, memory, privateIp, privateMac, publicIp, publicMac } = frontend;
        return { site, siteId, cpus, memory, privateIp, privateMac, publicIp, publicMac, computes, publicKey };
      });
    const inputs = { clusterId: cluster.id, node: "frontend", slice, ...wait };
    super(
      shims.frontendNode,
      name,
      { ...NODE_OUTPUTS, publicIp: undefined, ...inputs },
      opts,
      "virtual-cluster",
      "FrontendNode",
    );
  }
}
