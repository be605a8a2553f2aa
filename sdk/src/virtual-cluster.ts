import * as pulumi from "@pulumi/pulumi";
import type { ClusterPlan } from "@virtual-cluster/provider";
import { Claim } from "./claim";
import { pinned } from "./outputs";
import { shims } from "./shim";
import type { ClusterSettings, SiteArgs } from "./types";

export interface VirtualClusterArgs extends ClusterSettings {
  /** Cpus of all computes together. Default 0: only the frontend. */
  numCpus?: pulumi.Input<number>;
  /** Cpus of each compute. Default 1. */
  cpusPerNode?: pulumi.Input<number>;
}

/**
 * The first two steps of a launch, *fix images* and *allocate*: a cluster's networks, addresses, keys and prepared
 * images. It has no machine; these are {@link FrontendNode} and {@link ComputeNode}. Most programs want `Cluster`, which
 * declares all three.
 */
export class VirtualCluster extends pulumi.dynamic.Resource {
  /** Every node with its name, shape and addresses; known in the preview. */
  declare readonly plan: pulumi.Output<ClusterPlan>;
  declare readonly clusterName: pulumi.Output<string>;
  declare readonly publicKey: pulumi.Output<string>;
  declare readonly image: pulumi.Output<string>;
  declare readonly power: pulumi.Output<"on" | "off">;
  declare readonly retainDisks: pulumi.Output<boolean>;
  declare readonly site: pulumi.Output<SiteArgs>;
  declare readonly siteId: pulumi.Output<string>;
  /** The command that logs in to the frontend. */
  declare readonly ssh: pulumi.Output<string>;
  /** The same as arguments of the program `ssh`. */
  declare readonly sshArguments: pulumi.Output<string[]>;
  /** A known_hosts line: the frontend's ssh host key was made for this cluster. */
  declare readonly knownHosts: pulumi.Output<string>;

  constructor(name: string, args: VirtualClusterArgs, opts?: pulumi.CustomResourceOptions) {
    const outputs = {
      plan: undefined,
      siteId: undefined,
      ssh: undefined,
      sshArguments: undefined,
      knownHosts: undefined,
    };
    const identity = {
      organization: pulumi.getOrganization(),
      project: pulumi.getProject(),
      stack: pulumi.getStack(),
      name,
    };
    const { clusterName, site } = args;
    const claim = new Claim(
      name,
      { ...identity, ...(clusterName !== undefined && { clusterName }), ...(site !== undefined && { site }) },
      opts?.parent && { parent: opts.parent },
    );
    const settable = {
      clusterName: undefined,
      publicKey: undefined,
      site: undefined,
      power: undefined,
      retainDisks: undefined,
    };
    super(
      shims.virtualCluster,
      name,
      { ...outputs, ...settable, ...args, ...identity },
      pulumi.mergeOptions(pinned(opts), { dependsOn: claim }),
      "virtual-cluster",
      "VirtualCluster",
    );
  }
}
