import { z } from "zod";
import { addressesOf, isNetmask } from "../plan/addresses";

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
  publicAddresses: z
    .array(z.string())
    .superRefine((list, context) => {
      try {
        addressesOf(list);
      } catch (error) {
        context.addIssue({ code: "custom", message: `has a wrong item: ${(error as Error).message}` });
      }
    })
    .optional(),
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
export const siteSettings = z.discriminatedUnion("driver", [libvirt, memory, command], {
  error: ({ code }) => (code === "invalid_union" ? 'must be "libvirt", "memory" or "command"' : undefined),
});
/** The same as people write them: the driver is `libvirt` unless they say another. */
export const siteArgument = z.preprocess(
  (site) => (isObject(site) ? { driver: "libvirt", ...site } : site),
  siteSettings,
);
export type SiteSettings = z.output<typeof siteSettings>;
export type LibvirtSettings = z.output<typeof libvirt>;
export type MemorySettings = z.output<typeof memory>;
export type CommandSettings = z.output<typeof command>;

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
