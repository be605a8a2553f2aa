import pLimit from "p-limit";
import { audited } from "../audit";
import type { Driver, FoundCluster, Progress } from "../drivers/driver";
import { isOurs, ourNodes } from "../drivers/ownership";
import { addressOf, connect } from "../drivers/registry";
import { allDone } from "../drivers/reverter";
import type { SiteSettings } from "../drivers/settings";
import { type Knowledge, refuseUnreadable } from "../pulumi/backend";
import { clusterIdOf } from "../resources/context";

/** Asks Pulumi anew. */
export type Ask = () => Promise<Knowledge>;

/** Everything with a mark at a site, told apart by what becomes of it. */
export interface Findings {
  /** Ours, and no stack that could be read knows them. */
  readonly orphans: readonly FoundCluster[];
  /** Of other owners: nobody looks whether a stack knows them. */
  readonly foreign: readonly FoundCluster[];
  readonly knowledge: Knowledge;
}

export async function findOrphans(driver: Driver, owner: string, ask: Ask): Promise<Findings> {
  // The site first: what `up` has begun there by then is in its stack's state by now, as a pending operation at least.
  const found = [...(await driver.survey())].sort((one, other) => (one.name < other.name ? -1 : 1));
  const knowledge = await ask();
  const isForeign = ({ mark }: FoundCluster) => mark.owner !== owner;
  return {
    orphans: found.filter((one) => !isForeign(one) && !knowledge.clusterIds.has(clusterIdOf(one))),
    foreign: found.filter(isForeign),
    knowledge,
  };
}

export interface SweepRequest {
  /** Where the cluster was found. */
  readonly site: SiteSettings;
  readonly cluster: FoundCluster;
  readonly ask: Ask;
  readonly progress: Progress;
}

/** An operation of Pulumi's on it would be known to a stack: who has the lock longer is at work from elsewhere. */
const LOCK_SECONDS = 10;

/**
 * Gives back all that a cluster has at its site, unless a stack has come to know it meanwhile. Already gone is success.
 * @throws Locked when somebody is changing it; SiteFailure when a stack's state can't be read
 */
export async function removeOrphan({ site, cluster, ask, progress }: SweepRequest): Promise<"removed" | "known"> {
  // As the record says what else there is (the pool of its disks), reached the way that it was found.
  const driver = connect({ ...site, ...cluster.record?.site, ...addressOf(site) });
  await using _lock = await driver.lock(cluster, { seconds: LOCK_SECONDS, progress });
  const knowledge = await ask();
  refuseUnreadable(knowledge);
  if (knowledge.clusterIds.has(clusterIdOf(cluster))) {
    return "known";
  }
  const change = { cluster: cluster.name, site: await driver.siteId(), owner: cluster.mark.owner };
  await audited({ operation: "sweep", ...change }, () => removeAll(driver, cluster));
  return "removed";
}

async function removeAll(driver: Driver, cluster: FoundCluster): Promise<void> {
  const [held, machines] = await Promise.all([driver.find(cluster.name), driver.read(cluster.name)]);
  const limit = pLimit(driver.capabilities.parallelNodes);
  await allDone(
    ...ourNodes(machines, cluster).map((node) => limit(() => driver.remove({ cluster, node }, { graceSeconds: 0 }))),
  );
  await driver.release(held && isOurs(held.mark, cluster) ? held : (cluster.record ?? cluster), {
    keepBaseImage: false,
  });
}
