import { element, elements, type XmlElement } from "../../images/xml";
import { Unreachable, VirtualClusterError } from "../errors";
import type { OneClient } from "./client";
import { numberAt, rootOf, textAt } from "./objects";

/** Infinity where there is no limit. */
export interface Quota {
  readonly limit: number;
  readonly free: number;
}

/** What quotas leave: `VM` has one set of limits, of networks and datastores each has its own, by id. */
export type Quotas = (kind: "VM" | "NETWORK" | "DATASTORE", name: string, id?: number) => Quota;

const NONE: Quota = { limit: Number.POSITIVE_INFINITY, free: Number.POSITIVE_INFINITY };

/**
 * Those of the user and of the group that it acts in, of which the tighter one counts. `oneadmin`, the user and the group,
 * have none.
 */
export async function quotasOf(client: OneClient, user: XmlElement): Promise<Quotas> {
  const group = await ownGroup(client);
  const sets = [
    ...(numberAt(user, "ID") === 0 ? [] : [quotasIn(user, "DEFAULT_USER_QUOTAS")]),
    ...(group && numberAt(group, "ID") !== 0 ? [quotasIn(group, "DEFAULT_GROUP_QUOTAS")] : []),
  ];
  return (kind, name, id) => sets.reduce((tightest, quotas) => tighter(tightest, quotas(kind, name, id)), NONE);
}

export function tighter<T extends { readonly free: number }>(one: T, other: T): T {
  return one.free <= other.free ? one : other;
}

/** Undefined where this user may not see it: then OpenNebula itself refuses what is too much. */
async function ownGroup(client: OneClient): Promise<XmlElement | undefined> {
  try {
    return rootOf(await client.text("group.info", -1), "GROUP");
  } catch (error) {
    if (error instanceof VirtualClusterError && !(error instanceof Unreachable)) {
      return undefined;
    }
    throw error;
  }
}

/**
 * A limit of -1 is the default's, one of -2 and an absent one are none. Limits of single clusters (since 7.0) don't count
 * here: in which one a machine will run its scheduler decides, which goes by them.
 */
function quotasIn(owner: XmlElement, defaults: string): Quotas {
  return (kind, name, id) => {
    const of = (parent: XmlElement | undefined) =>
      elements(element(parent, `${kind}_QUOTA`), kind).find((one) =>
        id === undefined ? textAt(one, "CLUSTER_IDS") === "" : numberAt(one, "ID") === id,
      );
    const [own, usual] = [of(owner), of(element(owner, defaults))];
    const mine = limitIn(own, name);
    const limit = mine === -1 ? limitIn(usual, name) : mine;
    return limit < 0 ? NONE : { limit, free: limit - numberAt(own, `${name}_USED`) };
  };
}

function limitIn(quota: XmlElement | undefined, name: string): number {
  const text = textAt(quota, name);
  return text === "" ? -1 : Number(text);
}
