import { Contradiction } from "../errors";

/** What Rocks may be handed as a host's name: it pastes names into SQL, and takes some for something else. */
const HOST_NAME = /^[a-z][a-z0-9-]{0,62}$/;
/** Appliances of the base and kvm rolls: as an argument each stands for all hosts of its kind. */
const APPLIANCES: ReadonlySet<string> = new Set([
  ...["frontend", "compute", "login", "nas", "network", "power", "vm-container", "hosted-vm"],
  ...["devel-server", "ethernet-switch", "infiniband-switch", "remote-management", "web-portal"],
]);
/** Rocks' commands go on after a host's place: `list host boot` is one of these, whatever host is called `boot`. */
const WORDS: ReadonlySet<string> = new Set([
  ...[
    "alias",
    "appliance",
    "attr",
    "boot",
    "bootflags",
    "cdrom",
    "firewall",
    "graph",
    "installfile",
    "interface",
    "key",
  ],
  ...["macs", "membership", "partition", "profile", "roll", "route", "vm", "xml", "help", "localhost"],
  // Of the img-storage roll.
  ...["storageattr", "storagedev", "storageimg", "storagemap", "storagevdev", "sync", "syncnas", "syncvm", "zvolattr"],
]);
/** A compute's name is the cluster's and this much more. */
const LONGEST_CLUSTER = 63 - "vm--999".length;

/** Whether Rocks takes it for the name of one host and nothing else. */
export function isVmName(name: string): boolean {
  return HOST_NAME.test(name) && !APPLIANCES.has(name) && !WORDS.has(name) && !/^(rack|select)/.test(name);
}

/** @throws Contradiction for a name that Rocks would take for something else, or that makes too long ones */
export function refuseBadName(cluster: string): void {
  if (!isVmName(cluster) || cluster.length > LONGEST_CLUSTER) {
    throw new Contradiction(
      `clusterName ${JSON.stringify(cluster)}`,
      "can't be a host's name at a Rocks site",
      `Take at most ${LONGEST_CLUSTER} lower-case letters, digits and dashes, a letter first; no appliance's name, no word of a rocks command, and nothing that begins with "rack" or "select"`,
    ).about("clusterName");
  }
}

/** What `rocks add cluster … cluster-naming=true` calls the virtual machine of a node. */
export function vmName(cluster: string, node: string): string {
  return node === "frontend" ? cluster : `vm-${cluster}-${/^compute-(\d+)$/.exec(node)?.[1]}`;
}

/** The node whose virtual machine is called so; undefined for another cluster's. */
export function nodeOf(cluster: string, vm: string): string | undefined {
  if (vm === cluster) {
    return "frontend";
  }
  const prefix = `vm-${cluster}-`;
  const number = vm.startsWith(prefix) ? vm.slice(prefix.length) : "";
  return /^(0|[1-9]\d*)$/.test(number) ? `compute-${number}` : undefined;
}
