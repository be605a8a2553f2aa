import { readFile } from "node:fs/promises";
import { z } from "zod";
import type { ClusterRef, Driver, FoundCluster } from "./drivers/driver";
import { Contradiction, NoCapacity } from "./drivers/errors";
import { type ClusterPlan, nodesOf, sumOf } from "./plan/plan";

const count = z.int().min(0);
const limits = z.strictObject({
  clusters: count.optional(),
  /** Of all clusters together, as planned. */
  cpus: count.optional(),
  /** MiB, likewise. */
  memory: count.optional(),
  /** Public addresses. */
  addresses: count.optional(),
});
export type Limits = z.output<typeof limits>;

/** How much each owner may have at a site. */
const limitsFile = z.strictObject({
  /** Of owners that aren't named. */
  default: limits.default({}),
  /** By owner, instead of the default. */
  owners: z.record(z.string(), limits).default({}),
});

/** What an owner has, in the same figures. */
export type Usage = Readonly<Record<keyof Limits, number>>;

/** The file in which who looks after a site sets limits: `$VIRTUAL_CLUSTER_LIMITS`, default `/etc/virtual-cluster/limits.json`. */
export function limitsPath(): string {
  return process.env.VIRTUAL_CLUSTER_LIMITS || "/etc/virtual-cluster/limits.json";
}

/**
 * By owner; undefined where this machine has no such file.
 * @throws Contradiction for one that says something else
 */
export async function readLimits(path = limitsPath()): Promise<((owner: string) => Limits) | undefined> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") {
      return undefined;
    }
    throw new Contradiction(`the limits in ${path}`, `they can't be read (${error.code})`, "Let everybody read them");
  });
  if (text === undefined) {
    return undefined;
  }
  const parsed = limitsFile.safeParse(jsonOf(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const where = issue?.path.join(".");
    throw new Contradiction(
      `the limits in ${path}`,
      `${where ? `${where}: ` : ""}${issue?.message}`,
      "Mend the file as docs/vc.md describes it",
    );
  }
  return (owner) => parsed.data.owners[owner] ?? parsed.data.default;
}

/** What clusters have together: as planned where their records are there, else what is left of them. */
export function usageOf(clusters: readonly FoundCluster[]): Usage {
  const planned = sumOf(clusters.flatMap(({ record }) => (record ? nodesOf(record.plan) : [])));
  const addresses = clusters.reduce((sum, { publicAddresses }) => sum + publicAddresses.length, 0);
  return { clusters: clusters.length, ...planned, addresses };
}

/**
 * Refuses a plan with which its owner would have more at the site than this machine's limits allow. What the cluster has
 * already it may keep.
 * @throws NoCapacity
 */
export async function refuseBeyondLimits(driver: Driver, cluster: ClusterRef, plan: ClusterPlan): Promise<void> {
  const limitsOf = await readLimits();
  if (!limitsOf) {
    return;
  }
  const { owner } = cluster.mark;
  const found = (await driver.survey()).filter(({ mark }) => mark.owner === owner);
  const present = usageOf(found);
  const others = usageOf(found.filter(({ name }) => name !== cluster.name));
  const asked: Usage = { clusters: 1, ...sumOf(nodesOf(plan)), addresses: 1 };
  const allowed = limitsOf(owner);
  for (const figure of FIGURES) {
    const [most, total] = [allowed[figure], others[figure] + asked[figure]];
    if (most !== undefined && total > most && total > present[figure]) {
      throw new NoCapacity(
        `${owner} would have ${total} ${WORDS[figure]} at this site`,
        `the limit is ${most}, and other clusters of theirs have ${others[figure]}`,
        "Ask for less, destroy one of them, or ask who looks after this site for more",
      ).about(figure === "memory" ? "memoryPerNode" : "numCpus");
    }
  }
}

export const FIGURES = ["clusters", "cpus", "memory", "addresses"] as const;

const WORDS: Readonly<Record<keyof Limits, string>> = {
  clusters: "clusters",
  cpus: "cpus",
  memory: "MiB of memory",
  addresses: "public addresses",
};

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
