import { z } from "zod";
import { isOurs } from "../drivers/ownership";
import { connect } from "../drivers/registry";
import { type Context, clusterIdOf, lockOf, openSite, progressOf } from "./context";
import { isKnown, type LifeCycle, withoutUndefined } from "./host";
import { type Identity, identify, identityArgs, identityGiven, refOf } from "./identity";
import { IN_PLACE, KEPT, type PolicyTable } from "./policy";

// ── Types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const args = z.strictObject(identityArgs);

export interface ClaimInputs extends Omit<z.output<typeof args>, "clusterName" | "site">, Identity {}

interface ClaimOutputs extends ClaimInputs {
  readonly stateVersion: 1;
  readonly siteId: string;
  /** ISO 8601. */
  readonly createdAt: string;
}

// ── Update policy ──────────────────────────────────────────────────────────────────────────────────────────────────

/** A change that would matter is refused by the cluster itself. */
export const CLAIM_POLICIES: PolicyTable<ClaimInputs> = {
  organization: KEPT,
  project: KEPT,
  stack: KEPT,
  name: KEPT,
  owner: KEPT,
  clusterName: KEPT,
  site: IN_PLACE,
};

// ── Life cycle ─────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * What makes `destroy` clean up after a VirtualCluster whose create was cut off: that isn't in the state, and its claim,
 * which comes first and makes nothing at the site, is.
 */
export function claimLifeCycle(context: Context): LifeCycle {
  return {
    async check(olds, news) {
      const { __provider, ...given } = news;
      const parsed = args.safeParse(isKnown(given) ? identityGiven(given, olds, context) : undefined);
      // What is wrong is said by the cluster, which has the same arguments.
      return parsed.success
        ? {
            inputs: { ...withoutUndefined({ ...parsed.data, ...identify(parsed.data, olds, context) }), __provider },
            failures: [],
          }
        : { inputs: news, failures: [] };
    },
    diff: async () => ({}),
    async create(news) {
      const inputs = news as unknown as ClaimInputs;
      const siteId = await connect(inputs.site).siteId();
      const createdAt = new Date().toISOString();
      return { id: clusterIdOf(refOf(inputs)), outs: { ...inputs, stateVersion: 1, siteId, createdAt } };
    },
    read: async (id, props) => ({ id, props }),
    update: async (_id, olds, news) => ({ outs: { ...olds, ...news } }),
    async delete(_id, props) {
      const claim = props as unknown as ClaimOutputs;
      const cluster = refOf(claim);
      const driver = await openSite(claim.site, claim.siteId);
      const record = await driver.find(claim.clusterName);
      // One with machines, or from before this claim, was known to a state: it isn't what a cut-off create has left.
      if (
        record &&
        isOurs(record.mark, cluster) &&
        record.mark.createdAt >= claim.createdAt &&
        (await driver.read(record.name)).size === 0
      ) {
        await using _lock = await lockOf(driver, cluster, progressOf(cluster.name));
        await driver.release(record, { keepBaseImage: false });
      }
    },
  };
}
