import { z } from "zod";
import { addressesOf, isNetmask } from "../plan/addresses";
import { vlansOf } from "./rocks/vlans";

/** Takes what `parse` takes, and gives its words for the rest. */
function refuseWhat<T>(parse: (value: T) => unknown) {
  return (value: T, context: z.RefinementCtx): void => {
    try {
      parse(value);
    } catch (error) {
      context.addIssue({ code: "custom", message: `has a wrong item: ${(error as Error).message}` });
    }
  };
}

const libvirt = z.strictObject({
  driver: z.literal("libvirt").default("libvirt"),
  /** Connection URI. Default: the default site's libvirtd on this machine. */
  uri: z
    .string()
    .regex(
      /^(qemu|test)(\+[a-z0-9]+)?:\/\/\S*$/,
      "must be a libvirt URI such as qemu:///system or qemu+ssh://host/system",
    )
    .optional(),
  /** Name of the libvirt network that the frontend's public NIC joins. Default `public`. */
  network: z.string().min(1).optional(),
  /** Name of the storage pool for disks. Default `virtual-cluster`. */
  pool: z.string().min(1).optional(),
  /** Public addresses to hand out: single ones, `first-last` ranges or CIDR. Default: what the network's own range leaves. */
  publicAddresses: z.array(z.string()).superRefine(refuseWhat(addressesOf)).optional(),
  /** Netmask, gateway and DNS servers of the public network. Default: what the libvirt network says. */
  netmask: z.ipv4().refine(isNetmask, "must be a netmask such as 255.255.255.0").optional(),
  gateway: z.ipv4().optional(),
  dns: z.array(z.ipv4()).optional(),
  /** Domain of the frontend's public name. Default `local`. */
  domain: z
    .string()
    .regex(/^[a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?$/, "must be a domain name in lower case")
    .optional(),
  /** Where private subnets (/24) are cut from. Default `10.84.0.0/16`. */
  privateRange: z.cidrv4().optional(),
  /** How many virtual cpus may share one of the host's. Default 8. */
  cpuOvercommit: z.number().positive().max(64).optional(),
  /** An ssh configuration file through which nodes are reached (a jump host, say). Default: plain ssh. */
  sshConfig: z.string().min(1).optional(),
});

const publicAddresses = libvirt.shape.publicAddresses;
const { netmask, gateway, dns, domain, privateRange, sshConfig } = libvirt.shape;

const opennebula = z.strictObject({
  driver: z.literal("opennebula"),
  /** The address of its XML-RPC. Default: the environment's `ONE_XMLRPC`, else `http://localhost:2633/RPC2`. */
  endpoint: z
    .url({ protocol: /^https?$/, error: "must be an http(s) address such as http://one.example.org:2633/RPC2" })
    .optional(),
  /** Name or id of the virtual network that the frontend's public NIC joins. Default `public`. */
  network: z.string().min(1).optional(),
  /** Name or id of the network template that private networks are made from: what a plain user has. */
  privateTemplate: z.string().min(1).optional(),
  /** Attributes of private networks (`VN_MAD`, `PHYDEV`, `AUTOMATIC_VLAN_ID` …), for an account that may make them itself. */
  privateAttributes: z.record(z.string().regex(/^[A-Z][A-Z0-9_]*$/), z.string()).optional(),
  /** The OpenNebula cluster that such networks are made in, by id. Default: OpenNebula's default cluster. */
  privateCluster: z.int().min(0).optional(),
  /** Name or id of a network that all clusters share: each gets addresses of its own, and none is isolated from the others. */
  privateReservation: z.string().min(1).optional(),
  /** Name or id of the datastore for disks. Default `default`. */
  datastore: z.string().min(1).optional(),
  /**
   * Where the front-end finds disks: one of its folders, or a URL, below which each lies as `<digest>.raw`. Default: at
   * the same path as here.
   */
  images: z
    .string()
    .regex(/^(\/|https?:\/\/)/, "must be a folder or a URL")
    .optional(),
  /** Under which http address the front-end reaches this machine: then disks are served to it from here. */
  imageServer: z
    .url({ protocol: /^http$/, error: "must be an http address of this machine such as http://me.example.org:8330" })
    .optional(),
  /**
   * How a node gets its vc-out.xml: on its context disc, or written into a disk of its own, which is made here and needs
   * `imageServer`. Default: `context` for images that read the disc, `image` for others.
   */
  delivery: z.enum(["context", "image"]).optional(),
  /** How it is learned that a node is ready: `oneGate` (images with one-context), `ssh`, or `running`: not at all. Default `running`. */
  readiness: z.enum(["oneGate", "ssh", "running"]).optional(),
  /** Physical cpus that each virtual one is promised. Default 1. */
  cpuShare: z.number().positive().max(1).optional(),
  /** `SCHED_REQUIREMENTS` of machines, `CLUSTER_ID="100"` for instance. */
  requirements: z.string().min(1).optional(),
  ...{ publicAddresses, netmask, gateway, dns, domain, privateRange, sshConfig },
});

const rocksHost = z.string().regex(/^[A-Za-z0-9][\w-]{0,62}$/, "must be a host's name as `rocks list host` has it");

const rocks = z.strictObject({
  driver: z.literal("rocks"),
  /** The Rocks frontend as ssh takes it, `root@frontend.example.edu` or an alias. Default: this machine is it. */
  ssh: z
    .string()
    .regex(/^[A-Za-z0-9_][^\s]*$/, "must be a destination of ssh, such as root@frontend.example.edu")
    .optional(),
  /** Whether `rocks` is run through `sudo -n`; nothing else ever is. Default: where the log-in isn't root. */
  sudo: z.boolean().optional(),
  /** Path of the program there. Default `/opt/rocks/bin/rocks`. */
  rocks: z
    .string()
    .regex(/^\/[\w./-]+$/, "must be an absolute path")
    .optional(),
  /** Hosts that machines are put on. Default: all with the membership `VM Container`. */
  containers: z.array(rocksHost).min(1).optional(),
  /** The host that all virtual frontends are put on, and that isn't asked how much it has. Default: any container. */
  frontendHost: rocksHost.optional(),
  /** Cpus of each container that are left to itself. Default 0. */
  reservedCpus: z.int().min(0).optional(),
  /** MiB of each container that machines may have. Default: it isn't looked at, as Rocks doesn't know it. */
  memoryPerContainer: z.int().min(64).optional(),
  /** Public addresses to hand out: single ones, `first-last` ranges or CIDR. */
  publicAddresses: z.array(z.string()).min(1).superRefine(refuseWhat(addressesOf)),
  /** Netmask, gateway, DNS servers and domain of the public network. Default: what Rocks says of it. */
  ...{ netmask, gateway, dns, domain },
  /** VLANs to hand out: numbers and `first-last` ranges. Default 2 to 4094. */
  vlans: z
    .array(z.union([z.int(), z.string()]))
    .min(1)
    .superRefine(refuseWhat(vlansOf))
    .optional(),
  privateRange,
  /** A folder of the account's for disks and records, the same path on the Rocks frontend and on all containers. Default `/state/partition1/virtual-cluster`. */
  diskFolder: z
    .string()
    .regex(/^(\/[\w-][\w.-]*)+$/, "must be an absolute path of letters, digits, dots and dashes")
    .optional(),
  /** Whether that folder is one and the same everywhere (NFS). Default: each container has its own, reached by ssh from the Rocks frontend. */
  sharedDisks: z.boolean().optional(),
  /** An ssh configuration file through which nodes are reached (a jump host, say). Default: plain ssh. */
  sshConfig,
});

const memory = z.strictObject({
  driver: z.literal("memory"),
  /** Sites of the same name share their state within one process. */
  name: z.string().min(1).default("default"),
  /** Who chooses MACs: they follow from the addresses (default), or the site tells them after `allocate`. */
  macs: z.enum(["fromAddress", "site"]).optional(),
});

const absolutePath = z.string().regex(/^\/[^\0]*$/, "must be an absolute path");

const command = z.strictObject({
  driver: z.literal("command"),
  /** The folder with the site's programs. Default: what `siteConf` names. */
  folder: absolutePath.optional(),
  /** Where programs find their input and leave their files, and where clusters are written down. Default: what `siteConf` names. */
  temporaryDirectory: absolutePath.optional(),
  /** A `site_conf.conf` of pragma_boot. */
  siteConf: absolutePath.optional(),
  /** What else programs find in their environment. */
  environment: z
    .record(z.string().regex(/^[A-Za-z_]\w*$/, "must be the name of an environment variable"), z.string())
    .optional(),
});

/** Settings of a site, told apart by `driver`. */
export const siteSettings = z.discriminatedUnion("driver", [libvirt, opennebula, rocks, command, memory], {
  error: ({ code }) =>
    code === "invalid_union" ? 'must be "libvirt", "opennebula", "rocks", "command" or "memory"' : undefined,
});
/** The same as people write them: the driver is `libvirt` unless they say another. */
export const siteArgument = z.preprocess(
  (site) => (isObject(site) ? { driver: "libvirt", ...site } : site),
  siteSettings,
);
export type SiteSettings = z.output<typeof siteSettings>;
export type LibvirtSettings = z.output<typeof libvirt>;
export type OpenNebulaSettings = z.output<typeof opennebula>;
export type RocksSettings = z.output<typeof rocks>;
export type MemorySettings = z.output<typeof memory>;
export type CommandSettings = z.output<typeof command>;

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
