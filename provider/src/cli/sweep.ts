import { type Command, InvalidArgumentError } from "commander";
import type { FoundCluster } from "../drivers/driver";
import { connect, siteName } from "../drivers/registry";
import type { SiteSettings } from "../drivers/settings";
import { type Backend, findBackends, type Knowledge, knowledgeOf, refuseUnreadable } from "../pulumi/backend";
import { type Ask, type Findings, findOrphans, removeOrphan } from "../sweep/sweep";
import { chosenSite, configurationHere, siteOption } from "./site-option";
import { alignColumns } from "./table";
import type { Fail, Terminal } from "./terminal";

interface Options {
  readonly site?: SiteSettings;
  readonly owner?: string;
  readonly yes?: true;
  readonly json?: true;
}

/** Where it looks, and for whose. */
interface Scope {
  readonly site: SiteSettings;
  readonly owner: string;
  readonly backends: readonly Backend[];
}

/** One cluster that nobody's stack knows, as `--json` shows it. */
interface Line {
  readonly name: string;
  readonly owner: string;
  /** `organization/project/stack` */
  readonly stack: string;
  /** Its logical name in the program. */
  readonly cluster: string;
  /** Nodes that have a machine. */
  readonly machines: readonly string[];
  readonly addresses: readonly string[];
  /** ISO 8601; only the record tells. */
  readonly createdAt?: string;
  readonly recordLost: boolean;
  readonly why: string;
}

type Outcome = { readonly outcome: "removed" | "known" } | { readonly outcome: "failed"; readonly reason: string };

const EXAMPLES = `
A cluster is left behind when its stack is removed with --force, its state is lost, or a command that made it is killed
before the state knows it. Other owners' clusters are only counted.

Examples:
  vc sweep                        # at the default site, or where this folder's stack says; removes nothing
  vc sweep --yes                  # removes what the same without --yes lists
  vc sweep --site '{"uri": "qemu+ssh://root@host/system"}'
  vc sweep --owner alice@laptop   # what alice made on her laptop
  vc sweep --json | jq -r '.clusters[].name'`;

export function addSweep(program: Command, terminal: Terminal, fail: Fail): void {
  program
    .command("sweep")
    .summary("list, and remove, clusters that belong to no stack")
    .description("Lists what carries your mark at a site and belongs to no stack that Pulumi knows.")
    .addOption(siteOption())
    .option(
      "--owner <owner>",
      "whose clusters (default: configuration virtual-cluster:owner, else user@host)",
      parseOwner,
    )
    .option("--yes", "remove what is listed: machines, disks, networks and addresses")
    .option("--json", "print what was found, and done, for programs")
    .addHelpText("after", EXAMPLES)
    .action(async (options: Options) => {
      if (!(await sweep(options, terminal))) {
        fail();
      }
    });
}

function parseOwner(text: string): string {
  if (!text) {
    throw new InvalidArgumentError("it must not be empty");
  }
  return text;
}

/** @returns whether all of it was done */
async function sweep(options: Options, { out, err }: Terminal): Promise<boolean> {
  const scope = await scopeOf(options);
  const ask = () => knowledgeOf(scope.backends);
  const findings = await findOrphans(connect(scope.site), scope.owner, ask);
  const { orphans, knowledge } = findings;
  if (!options.json) {
    out(overviewOf(scope, findings));
  }
  const outcomes: Outcome[] = [];
  if (options.yes && knowledge.unreadable.length === 0) {
    const terminal = { out: options.json ? err : out, err };
    if (orphans.length > 0) {
      terminal.out("");
    }
    for (const cluster of orphans) {
      outcomes.push(await remove(cluster, scope.site, ask, terminal));
    }
  }
  if (options.json) {
    const clusters = orphans.map((orphan, index) => ({ ...lineOf(orphan, knowledge), ...outcomes[index] }));
    out(JSON.stringify({ ...summaryOf(scope, findings), clusters }, undefined, 2));
  } else if (orphans.length > 0 && !options.yes) {
    out("\nNothing was removed: that takes --yes. A program with adopt: true takes its cluster over instead.");
  }
  if (orphans.length > 0) {
    refuseUnreadable(knowledge);
  }
  return outcomes.every(({ outcome }) => outcome !== "failed");
}

async function scopeOf({ site, owner }: Options): Promise<Scope> {
  const backends = await findBackends();
  const context = await configurationHere(site && owner ? [] : backends);
  return { site: chosenSite(site, context), owner: owner ?? context.owner, backends };
}

async function remove(cluster: FoundCluster, site: SiteSettings, ask: Ask, { out, err }: Terminal): Promise<Outcome> {
  const progress = (line: string) => out(`${cluster.name}: ${line}`);
  try {
    const outcome = await removeOrphan({ site, cluster, ask, progress });
    progress(outcome === "removed" ? "removed" : "left as it is, since a stack knows it by now");
    return { outcome };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    err(`${cluster.name}: not removed: ${reason}`);
    return { outcome: "failed", reason };
  }
}

function lineOf(cluster: FoundCluster, { unreadable }: Knowledge): Line {
  const { name, mark, record, machines, publicAddresses, hasKeptDisk } = cluster;
  const nobody = unreadable.length > 0 ? "no stack that can be read knows it" : "no stack knows it";
  const isOnlyLocked = !record && machines.length === 0 && publicAddresses.length === 0;
  const left = hasKeptDisk
    ? "its frontend's disk was kept"
    : isOnlyLocked
      ? "only its lock is left"
      : "its record is lost";
  return {
    name,
    owner: mark.owner,
    stack: `${mark.organization}/${mark.project}/${mark.stack}`,
    cluster: mark.cluster,
    machines,
    addresses: publicAddresses,
    ...(record && { createdAt: record.mark.createdAt }),
    recordLost: record === undefined,
    why: [nobody, ...(record ? [] : [left])].join(", "),
  };
}

function overviewOf(scope: Scope, { orphans, foreign, knowledge }: Findings): string {
  const where = siteName(scope.site);
  const owners = [...new Set(foreign.map(({ mark }) => mark.owner))].sort();
  const rows = orphans
    .map((orphan) => lineOf(orphan, knowledge))
    .map(({ name, stack, machines, addresses, createdAt, why }) => [
      name,
      stack,
      String(machines.length),
      addresses.join(" ") || "-",
      createdAt?.replace(/:\d\d\.\d+Z$/, "Z") ?? "-",
      why,
    ]);
  return [
    `Clusters of ${scope.owner} at ${where}`,
    `Stacks: ${knowledge.stacks} in ${scope.backends.map(({ url }) => url).join(" and ")}`,
    ...(foreign.length > 0
      ? [`Not looked at: ${foreign.length} cluster${foreign.length > 1 ? "s" : ""} of ${owners.join(", ")}`]
      : []),
    "",
    orphans.length > 0
      ? alignColumns([["CLUSTER", "STACK", "MACHINES", "ADDRESSES", "CREATED", "WHY"], ...rows])
      : "Nothing to sweep: none is left behind.",
  ].join("\n");
}

function summaryOf({ site, owner, backends }: Scope, { foreign, knowledge }: Findings) {
  return {
    site,
    owner,
    backends: backends.map(({ url }) => url),
    stacks: knowledge.stacks,
    unreadableStacks: knowledge.unreadable,
    foreignClusters: foreign.length,
  };
}
