import { z } from "zod";
import { audited } from "../audit";
import { VirtualClusterError } from "../drivers/errors";
import { isOurs } from "../drivers/ownership";
import { connect, placeOf } from "../drivers/registry";
import { type Context, clusterIdOf, lockOf, openSite, progressOf } from "./context";
import { isKnown, type LifeCycle, same, withoutUndefined } from "./host";
import { type Identity, identify, identityArgs, identityGiven, refOf } from "./identity";
import { IN_PLACE, KEPT, type PolicyTable, REPLACE } from "./policy";

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
  clusterName: REPLACE,
  site: IN_PLACE,
};

function identifyIfPossible(...args: Parameters<typeof identify>): Identity | undefined {
  try {
    return identify(...args);
  } catch (error) {
    if (error instanceof VirtualClusterError) {
      return undefined;
    }
    throw error;
  }
}

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
      const identity = parsed.success && identifyIfPossible(parsed.data, olds, context);
      // What is wrong is said by the cluster, which has the same arguments.
      return identity
        ? { inputs: { ...withoutUndefined({ ...parsed.data, ...identity }), __provider }, failures: [] }
        : { inputs: news, failures: [] };
    },
    async diff(_id, olds, news) {
      const [old, inputs] = [olds as unknown as ClaimOutputs, news as unknown as ClaimInputs];
      if (!isKnown(news) || inputs.owner === undefined) {
        return {};
      }
      if (old.owner === undefined) {
        return { changes: true, replaces: ["site"] };
      }
      const replaces = [
        ...(same(placeOf(old.site), placeOf(inputs.site)) ? [] : ["site"]),
        ...(old.clusterName === inputs.clusterName ? [] : ["clusterName"]),
      ];
      // Elsewhere, or by another name, it is another claim. With machines at the old place the cluster refuses to move.
      const moves =
        replaces.length > 0 &&
        (await openSite(old.site, old.siteId).then((site) => site.read(old.clusterName))).size === 0;
      return moves ? { changes: true, replaces } : {};
    },
    async create(news) {
      const inputs = news as unknown as ClaimInputs;
      if (inputs.owner === undefined) {
        return { id: "nothing", outs: news };
      }
      const siteId = await connect(inputs.site).siteId();
      const createdAt = new Date().toISOString();
      return { id: clusterIdOf(refOf(inputs)), outs: { ...inputs, stateVersion: 1, siteId, createdAt } };
    },
    read: async (id, props) => ({ id, props }),
    async update(_id, olds, news) {
      const [old, inputs] = [olds as unknown as ClaimOutputs, news as unknown as ClaimInputs];
      const site = same(placeOf(old.site), placeOf(inputs.site)) ? inputs.site : old.site;
      return { outs: { ...news, ...olds, site } };
    },
    async delete(_id, props) {
      const claim = props as unknown as ClaimOutputs;
      if (claim.owner === undefined) {
        return;
      }
      const cluster = refOf(claim);
      const driver = await openSite(claim.site, claim.siteId);
      await using _lock = await lockOf(driver, cluster, progressOf(cluster.name));
      const record = await driver.find(claim.clusterName);
      // One with machines, or from before this claim, was known to a state: it isn't what a cut-off create has left.
      if (
        record &&
        isOurs(record.mark, cluster) &&
        record.mark.createdAt >= claim.createdAt &&
        (await driver.read(record.name)).size === 0
      ) {
        const change = { operation: "delete", cluster: record.name, site: claim.siteId, owner: claim.owner } as const;
        // Where disks can be kept, one without a machine may have been, when a cluster before it went.
        const keepDisks = driver.capabilities.lacks?.retainDisks === undefined;
        await audited(change, () => driver.release(record, { keepBaseImage: false, keepDisks }));
      }
    },
  };
}
