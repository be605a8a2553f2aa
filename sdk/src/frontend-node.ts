import * as pulumi from "@pulumi/pulumi";
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
    const { plan } = cluster;
    const slice = {
      clusterId: cluster.id,
      site: cluster.site,
      siteId: cluster.siteId,
      node: "frontend",
      cpus: plan.apply(({ frontend }) => frontend.cpus),
      memory: plan.apply(({ frontend }) => frontend.memory),
      privateIp: plan.apply(({ frontend }) => frontend.privateIp),
      privateMac: plan.apply(({ frontend }) => frontend.privateMac),
      publicIp: plan.apply(({ frontend }) => frontend.publicIp),
      publicMac: plan.apply(({ frontend }) => frontend.publicMac),
      computes: plan.apply(({ computes }) => computes),
      publicKey: cluster.publicKey,
    };
    super(shims.frontendNode, name, { ready: undefined, ...slice, ...wait }, opts, "virtual-cluster", "FrontendNode");
  }
}
