import * as pulumi from "@pulumi/pulumi";
import { Cluster, type ClusterArgs } from "@virtual-cluster/pulumi";

/** `clusters`: arguments by logical name. */
const clusters = new pulumi.Config().requireObject<Record<string, ClusterArgs>>("clusters");

export const outputs = Object.fromEntries(
  Object.entries(clusters).map(([name, args]) => {
    const { ssh, sshArguments, publicIp, nodes, knownHosts } = new Cluster(name, args);
    return [name, { ssh, sshArguments, publicIp, nodes, knownHosts }];
  }),
);
