// What `pragma_boot` runs as Pulumi program: the stack's one cluster, with the arguments that its configuration has.
const pulumi = require("@pulumi/pulumi");
const { Cluster } = require("@virtual-cluster/pulumi");

const name = pulumi.getStack();
const cluster = new Cluster(name, { clusterName: name, ...new pulumi.Config().requireObject("cluster") });

const { ssh, sshArguments, publicIp, nodes, knownHosts } = cluster;
module.exports = { ssh, sshArguments, publicIp, nodes, knownHosts };
