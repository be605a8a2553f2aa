import { subnet } from "../plan/addresses";
import type { ClusterPlan, NodePlan } from "../plan/plan";

/**
 * What a `/root/vc-out.xml` says, in whichever dialect. PRAGMA has two: A, of its images from 2013 to August 2017, and B,
 * of those since (docs/vc-out.md).
 */
export type VcOut = FrontendVcOut | ComputeVcOut;

export const DIALECTS = ["A", "B"] as const;
export type Dialect = (typeof DIALECTS)[number];
/** What an image reads that doesn't say. */
export const DEFAULT_DIALECT: Dialect = "B";

/** The file of a frontend: itself, and every compute. */
export interface FrontendVcOut extends Everywhere {
  readonly role: "frontend";
  readonly fqdn: string;
  /** The short host name. */
  readonly name: string;
  /** The way to the outside. */
  readonly gateway: string;
  /** `private` and `public` first. */
  readonly nics: readonly Nic[];
  readonly computes: readonly ListedNode[];
}

/** The file of one compute: itself, and its frontend's name. */
export interface ComputeVcOut extends Everywhere {
  readonly role: "compute";
  readonly frontendFqdn: string;
  readonly name: string;
  /** The frontend's private address. */
  readonly gateway: string;
  /** `private` first. */
  readonly nics: readonly Nic[];
}

interface Everywhere {
  readonly dns: Dns;
  /** Public ssh keys that may log in as root, one line each. */
  readonly keys: readonly string[];
}

export interface Nic {
  /** `private`, `public`, or what a further network is called. */
  readonly network: string;
  readonly ip: string;
  /** Lower case: vc-out-parser compares it as text with what the kernel says. */
  readonly mac: string;
  readonly mtu: number;
  readonly netmask: string;
}

/** What a frontend's file says of a compute. */
export interface ListedNode {
  readonly name: string;
  readonly cpus: number;
  readonly gateway: string;
  /** `private` first. */
  readonly nics: readonly Nic[];
}

export interface Dns {
  readonly servers: readonly string[];
  /** As in resolv.conf: domains with spaces between them. */
  readonly search: string;
  readonly domain: string;
}

export const DEFAULT_MTU = 1500;
export const PRIVATE = "private";
export const PUBLIC = "public";
/** What a network may be called so that an element can be named after it. */
export const NETWORK_NAME = /^[A-Za-z][A-Za-z0-9_.-]*$/;

/** What a frontend has to know of a planned compute. */
export type PlannedCompute = Pick<NodePlan, "name" | "cpus" | "privateIp" | "privateMac">;

export function frontendVcOut(
  plan: Omit<ClusterPlan, "computes"> & { readonly computes: readonly PlannedCompute[] },
  keys: readonly string[],
): FrontendVcOut {
  const { frontend, privateNetwork, publicNetwork } = plan;
  return {
    role: "frontend",
    fqdn: frontend.fqdn,
    name: frontend.name,
    gateway: publicNetwork.gateway,
    nics: [
      privateNic(frontend, privateNetwork.cidr),
      nic(PUBLIC, frontend.publicIp, frontend.publicMac, publicNetwork.cidr),
    ],
    computes: plan.computes.map((compute) => ({
      name: compute.name,
      cpus: compute.cpus,
      gateway: frontend.privateIp,
      nics: [privateNic(compute, privateNetwork.cidr)],
    })),
    dns: dnsOf(plan),
    keys,
  };
}

export function computeVcOut(plan: ClusterPlan, compute: NodePlan, keys: readonly string[]): ComputeVcOut {
  return {
    role: "compute",
    frontendFqdn: plan.frontend.fqdn,
    name: compute.name,
    gateway: plan.frontend.privateIp,
    nics: [privateNic(compute, plan.privateNetwork.cidr)],
    dns: dnsOf(plan),
    keys,
  };
}

function privateNic({ privateIp, privateMac }: Pick<NodePlan, "privateIp" | "privateMac">, cidr: string): Nic {
  return nic(PRIVATE, privateIp, privateMac, cidr);
}

function nic(network: string, ip: string, mac: string, cidr: string): Nic {
  return { network, ip, mac: mac.toLowerCase(), mtu: DEFAULT_MTU, netmask: subnet(cidr).netmask };
}

function dnsOf({ publicNetwork }: Pick<ClusterPlan, "publicNetwork">): Dns {
  return { servers: publicNetwork.dns, search: "local", domain: "" };
}
