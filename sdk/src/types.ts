import type { Input } from "@pulumi/pulumi";

/** How a node is made. */
export interface NodeShape {
  /** Virtual cpus. Default 1. */
  cpus?: Input<number>;
  /** MiB. Default 512. */
  memory?: Input<number>;
  /** MiB. Default: as large as the image's. A disk can grow, with its file system, and never shrinks. */
  diskSize?: Input<number>;
}

/** How long the operations on a node may take, seconds. */
export interface Timeouts {
  /** Until a new node is ready. Default 300. */
  create?: Input<number>;
  /** Until a changed node is ready again. Default 300. */
  update?: Input<number>;
  /** For a guest to shut down by itself before it is removed. Default 0: its power is taken at once. */
  delete?: Input<number>;
}

/** How long `up` waits for a node. */
export interface WaitArgs {
  /**
   * `ready` (default): configured from its vc-out.xml, sshd answers, and on a frontend every compute's name resolves.
   * `running`: the machine runs. `none`: it was started.
   */
  waitFor?: Input<"none" | "running" | "ready">;
  timeouts?: Input<Timeouts>;
}

/** A site that libvirt runs. All are optional: with nothing said it is the default site on this machine. */
export interface LibvirtSite {
  driver?: "libvirt";
  /** Connection URI, `qemu:///system` for instance. Default: the default site's own libvirtd. */
  uri?: string;
  /** Name of the libvirt network that the frontend's public NIC joins. Default `public`. */
  network?: string;
  /** Name of the storage pool for disks. Default `virtual-cluster`. */
  pool?: string;
  /** Public addresses to hand out: single ones, `first-last` ranges or CIDR. Default: all of the network's subnet. */
  publicAddresses?: string[];
  /** Of the public network. Default: what the libvirt network says. */
  netmask?: string;
  gateway?: string;
  dns?: string[];
  /** Domain of the frontend's public name. Default `local`. */
  domain?: string;
  /** Where private subnets (/24) are cut from. Default `10.84.0.0/16`. */
  privateRange?: string;
  /** How many virtual cpus may share one of the host's. Default 8. */
  cpuOvercommit?: number;
  /** An ssh configuration file through which nodes are reached, with a jump host for instance. */
  sshConfig?: string;
}

/** An OpenNebula. Who we are there is configuration `virtual-cluster:oneAuth` (a secret), or `~/.one/one_auth`. */
export interface OpenNebulaSite {
  driver: "opennebula";
  /** Address of its XML-RPC. Default: `ONE_XMLRPC`, else `http://localhost:2633/RPC2`. */
  endpoint?: string;
  /** Name or id of the virtual network that the frontend's public NIC joins. Default `public`. */
  network?: string;
  /** Name or id of the network template that private networks are made from. This, `privateAttributes` or `privateReservation`. */
  privateTemplate?: string;
  /** Attributes of private networks (`VN_MAD`, `PHYDEV` …), for an account that may make them without a template. */
  privateAttributes?: Record<string, string>;
  /** The OpenNebula cluster that such networks are made in, by id. */
  privateCluster?: number;
  /** Name or id of a network that clusters share: none is isolated from the others. */
  privateReservation?: string;
  /** Name or id of the image datastore. Default `default`. */
  datastore?: string;
  /** A folder of the front-end's, or a URL, below which each disk lies as `<digest>.raw`. Default: at the same path as here. */
  images?: string;
  /** Under which http address the front-end reaches this machine, `http://me.example.org:8330`: then disks come from here. */
  imageServer?: string;
  /**
   * How a node gets its vc-out.xml: on its context disc, or written into a disk of its own, which is made here and needs
   * `imageServer`. Default: `context` for images that read the disc, `image` for others.
   */
  delivery?: "context" | "image";
  /** How it is learned that a node is ready. Default `running`: not at all. */
  readiness?: "oneGate" | "ssh" | "running";
  /** Physical cpus that each virtual one is promised. Default 1. */
  cpuShare?: number;
  /** `SCHED_REQUIREMENTS` of the machines. */
  requirements?: string;
  /** Public addresses to hand out: single ones, `first-last` ranges or CIDR. Default: all of the network's. */
  publicAddresses?: string[];
  /** Of the public network. Default: what the network says. */
  netmask?: string;
  gateway?: string;
  dns?: string[];
  /** Domain of the frontend's public name. Default `local`. */
  domain?: string;
  /** Where private subnets (/24) are cut from. Default `10.84.0.0/16`. */
  privateRange?: string;
  /** An ssh configuration file through which nodes are reached. */
  sshConfig?: string;
}

/** A Rocks cluster with the kvm roll. `docs/sites/rocks.md` says what it takes. */
export interface RocksSite {
  driver: "rocks";
  /** The Rocks frontend as ssh takes it, `root@frontend.example.edu` or an alias. Default: this machine is it. */
  ssh?: string;
  /** Whether `rocks` is run through `sudo -n`; nothing else ever is. Default: where the log-in isn't root. */
  sudo?: boolean;
  /** Path of the program there. Default `/opt/rocks/bin/rocks`. */
  rocks?: string;
  /** Hosts that machines are put on. Default: all with the membership `VM Container`. */
  containers?: string[];
  /** The host that all virtual frontends are put on, and that isn't asked how much it has. Default: any container. */
  frontendHost?: string;
  /** Cpus of each container that are left to itself. Default 0. */
  reservedCpus?: number;
  /** MiB of each container that machines may have. Default: it isn't looked at, as Rocks doesn't know it. */
  memoryPerContainer?: number;
  /** Public addresses to hand out: single ones, `first-last` ranges or CIDR. */
  publicAddresses: string[];
  /** Of the public network. Default: what Rocks says of it. */
  netmask?: string;
  gateway?: string;
  dns?: string[];
  domain?: string;
  /** VLANs to hand out: numbers and `first-last` ranges. Default 2 to 4094. */
  vlans?: Array<number | string>;
  /** Where private subnets (/24) are cut from. Default `10.84.0.0/16`. */
  privateRange?: string;
  /**
   * A folder for disks and records, the same path on the Rocks frontend and on all containers.
   * Default `/state/partition1/virtual-cluster`.
   */
  diskFolder?: string;
  /** Whether that folder is one and the same everywhere (NFS). Default: each container has its own. */
  sharedDisks?: boolean;
  /** An ssh configuration file through which nodes are reached, with a jump host for instance. */
  sshConfig?: string;
}

/** A site that lives in the provider's process: to try a program without any machine. */
export interface MemorySite {
  driver: "memory";
  name?: string;
  /** Who chooses MACs: they follow from the addresses (default), or the site tells them when it makes the machines. */
  macs?: "fromAddress" | "site";
}

/** A site that is reached through programs of its own: PRAGMA's driver contract (docs/sites/command.md). */
export interface CommandSite {
  driver: "command";
  /** The folder with its programs. Default: what `siteConf` names. */
  folder?: string;
  /** Where programs find their input and leave their files, and where clusters are written down. Default: what `siteConf` names. */
  temporaryDirectory?: string;
  /** A `site_conf.conf` of pragma_boot: its assignments are read, nothing is executed. */
  siteConf?: string;
  /** What else the programs find in their environment; nothing secret, since it is recorded. */
  environment?: Record<string, string>;
}

export type SiteArgs = LibvirtSite | OpenNebulaSite | RocksSite | CommandSite | MemorySite;

/** What both `Cluster` and `VirtualCluster` take. */
export interface ClusterSettings {
  /** The image's vc name in the repository. */
  image: Input<string>;
  /** A folder with a `vcdb.txt`, or the http(s) URL of one. Default: configuration `virtual-cluster:repository`, else where the quickstart puts its images. */
  repository?: Input<string>;
  /** MiB of each compute. Default 512. */
  memoryPerNode?: Input<number>;
  /** MiB of each compute's disk. Default: as large as the image's. A disk can grow, with its file system, and never shrinks. */
  diskSize?: Input<number>;
  /** The frontend's shape. */
  frontend?: Input<NodeShape>;
  /**
   * Who may log in as root on the frontend: a public ssh key, or the path of a file with one.
   * Default: `~/.ssh/id_ed25519.pub` or `id_rsa.pub`.
   */
  publicKey?: Input<string>;
  /** The frontend's public address. Default: one that the site has free. */
  publicIp?: Input<string>;
  /**
   * What the cluster is called at its site, and its frontend's host name: a letter, then lower-case letters, digits and
   * dashes. Default: from project, stack and the resource's name.
   */
  clusterName?: Input<string>;
  /** Where it runs. Default: configuration `virtual-cluster:site` (JSON), else the default site on this machine. */
  site?: Input<SiteArgs>;
  /** `off` shuts the machines down, computes first, and keeps their disks; `on` starts them again. Default `on`. */
  power?: Input<"on" | "off">;
  /** How many computes must get ready for the cluster to count as up. Default: all. The next `up` tries the others again. */
  minReady?: Input<number>;
  /** `computes` allows another `image`: the computes are made anew from it, the frontend stays as it is. Default: refused. */
  allowReplace?: Input<"computes">;
  /**
   * In which of PRAGMA's two dialects nodes get their `/root/vc-out.xml`: `A` for images made before September 2017, `B` for
   * all since. Default: as the image says, or what reads it there looks.
   */
  vcOutDialect?: Input<"A" | "B">;
  /** Takes over a cluster of this stack's that runs at the site although the state doesn't know it. Default false. */
  adopt?: Input<boolean>;
  /** Whether the base image stays at the site when its last cluster is destroyed. Default false. */
  keepBaseImage?: Input<boolean>;
  /**
   * Whether the frontend's disk stays at the site when the cluster is destroyed, where a site can do that. A later cluster of
   * the same stack and name runs on it again with `adopt: true`. Default false.
   */
  retainDisks?: Input<boolean>;
}
