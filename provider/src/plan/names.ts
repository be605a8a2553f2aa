import { createHash } from "node:crypto";

/** Who a cluster is, wherever it runs. */
export interface ClusterIdentity {
  readonly organization: string;
  readonly project: string;
  readonly stack: string;
  /** The logical name of the resource in the program. */
  readonly cluster: string;
}

/** What a cluster may be called at a site; it is a host name too. */
export const CLUSTER_NAME = /^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$/;

/** The longest domain name, dots included. */
const LONGEST_DOMAIN = 253;
const LABEL = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/i;

/** Whether it may be a host's name, with or without its domain (RFC 1123). */
export function isHostName(name: string): boolean {
  return name.length <= LONGEST_DOMAIN && name.split(".").every((label) => LABEL.test(label));
}

/** Longest name that still leaves room for a hash. */
const LONGEST = 63;
const HASH_LENGTH = 8;

/**
 * A cluster's name at its site: project, stack and logical name; where that isn't a valid name as it stands, it is made
 * one and ends with a hash of the whole. Two that still come to the same name (parts with dashes can read alike when
 * joined) are told apart by their marks: the second is refused and told to choose a `clusterName`.
 */
export function clusterNameOf(identity: ClusterIdentity): string {
  const full = [identity.project, identity.stack, identity.cluster].join("-");
  if (CLUSTER_NAME.test(full)) {
    return full;
  }
  const hash = createHash("sha256")
    .update(JSON.stringify([identity.organization, identity.project, identity.stack, identity.cluster]))
    .digest("hex");
  const cut = full
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^[^a-z]+/, "")
    .slice(0, LONGEST - HASH_LENGTH - 1)
    .replace(/-+$/, "");
  return `${cut || "vc"}-${hash.slice(0, HASH_LENGTH)}`;
}

/** The host name of a compute inside its cluster. */
export function computeName(index: number): string {
  return `compute-${index}`;
}
