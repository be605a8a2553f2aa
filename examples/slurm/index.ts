import { Cluster } from "@virtual-cluster/pulumi";

const cluster = new Cluster("slurm", {
  image: "slurm",
  numCpus: 2,
  memoryPerNode: 256,
  frontend: { memory: 256 },
});

export const { ssh, sshArguments, publicIp, nodes, knownHosts } = cluster;
