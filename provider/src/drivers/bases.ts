import type { ClusterRecord } from "./driver";

/** The bases that a cluster's new machines are made from. */
export function digestsOf({ image }: Pick<ClusterRecord, "image">): string[] {
  return [...new Set([image.frontend.digest, image.compute.digest])];
}

/** All bases that a cluster has to give back in the end. */
export function allDigestsOf(record: ClusterRecord): string[] {
  return [...new Set([...digestsOf(record), ...(record.formerBases ?? [])])];
}

/** What the former record names and the new one doesn't: to be given back when no machine uses it any more. */
export function formerBases(former: ClusterRecord | undefined, record: ClusterRecord): string[] {
  const present = new Set(digestsOf(record));
  return former ? allDigestsOf(former).filter((digest) => !present.has(digest)) : [];
}

export function withFormerBases(record: ClusterRecord, digests: readonly string[]): ClusterRecord {
  const { formerBases: _, ...rest } = record;
  return digests.length > 0 ? { ...rest, formerBases: digests } : rest;
}
