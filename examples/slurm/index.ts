import { Cluster } from "@virtual-cluster/pulumi";

const cluster = new Cluster("slurm", {
  image: "slurm",
  numCpus: 2,
  memoryPerNode: 384,
  frontend: { memory: 384 },
});

export const { ssh, sshArguments, publicIp, nodes, knownHosts } = cluster;
