// pulumi config set where libvirt       # or opennebula
// pulumi config set --secret virtual-cluster:oneAuth user:password
import * as pulumi from "@pulumi/pulumi";
import { Cluster, type SiteArgs } from "@virtual-cluster/pulumi";

const sites: Record<string, SiteArgs> = {
  libvirt: { driver: "libvirt", uri: "qemu:///system", network: "default", pool: "default" },
  opennebula: {
    driver: "opennebula",
    endpoint: "https://one.example.org/RPC2",
    network: "public",
    privateTemplate: "vc-private",
    datastore: "images",
    imageServer: "http://me.example.org:8330",
    readiness: "ssh",
  },
};

const where = new pulumi.Config().require("where");
const site = sites[where];
if (!site) {
  throw new Error(`where is ${where}, and must be one of ${Object.keys(sites).join(", ")}`);
}

const cluster = new Cluster("demo", {
  image: "demo",
  numCpus: 4,
  cpusPerNode: 2,
  memoryPerNode: 256,
  frontend: { memory: 256 },
  site,
});

export const { ssh, publicIp, nodes } = cluster;
