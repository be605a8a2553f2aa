import { NotFound } from "../errors";
import type { OneObject } from "./objects";

/** Each user has one network, image and template of a name; machines may share one. */
export const privateNetworkOf = (cluster: string) => `${cluster}-private`;
export const publicLeaseOf = (cluster: string) => `${cluster}-public`;
export const keysOf = (cluster: string) => `${cluster}-keys`;
export const machineNameOf = (cluster: string, node: string) => `${cluster}-${node}`;
/** A frontend's always, a compute's where its image reads no context disc. */
export const diskOf = (cluster: string, node = "frontend") => machineNameOf(cluster, node);
export const baseOf = (digest: string) => `vc-base-${digest}`;

/** Which node of which cluster a machine of this name would be. */
export function nodeIn(name: string): { readonly cluster: string; readonly node: string } | undefined {
  const [, cluster, node] = /^(.+)-(frontend|compute-\d+)$/.exec(name) ?? [];
  return cluster && node ? { cluster, node } : undefined;
}

/**
 * The object that a setting names, by name or id. Our own goes before others' of the same name.
 * @throws NotFound naming those that are there
 */
export function named<T extends OneObject>(what: string, setting: string, objects: readonly T[], uid: number): T {
  const matching = objects.filter(({ id, name }) => name === setting || String(id) === setting);
  const [found, other] = matching.toSorted((one, two) => Number(two.uid === uid) - Number(one.uid === uid));
  if (!found) {
    throw new NotFound(
      `site.${what} ${JSON.stringify(setting)}`,
      "is not among those that OpenNebula lets us use",
      `There are: ${objects.map(({ name }) => name).join(", ") || "none"}. Another may need a right: docs/sites/opennebula.md`,
    ).about("site");
  }
  if (other && (found.uid !== uid) === (other.uid !== uid)) {
    const ids = matching.map(({ id }) => id).join(", ");
    throw new NotFound(
      `site.${what} ${JSON.stringify(setting)}`,
      "is the name of several",
      `Say which by its id: ${ids}`,
    ).about("site");
  }
  return found;
}
