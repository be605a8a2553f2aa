import * as pulumi from "@pulumi/pulumi";
import { shims } from "./shim";
import type { SiteArgs } from "./types";

/** Who a cluster is: the same for all of its resources. */
export interface ClusterIdentity {
  organization: string;
  project: string;
  stack: string;
  name: string;
}

/** What makes `destroy` clean up after a cluster whose creation was cut off before the state knew it. Makes nothing itself. */
export class Claim extends pulumi.dynamic.Resource {
  constructor(
    name: string,
    args: ClusterIdentity & { clusterName?: pulumi.Input<string>; site?: pulumi.Input<SiteArgs> },
    opts?: pulumi.CustomResourceOptions,
  ) {
    super(shims.claim, name, args, opts, "virtual-cluster", "Claim");
  }
}
