import { type Command, InvalidArgumentError } from "commander";
import { type AuditedChange, auditLog, readAuditLog } from "../audit";
import type { FoundCluster, SiteDescription } from "../drivers/driver";
import { connect, siteName } from "../drivers/registry";
import type { SiteSettings } from "../drivers/settings";
import { FIGURES, type Limits, limitsPath, readLimits, usageOf } from "../limits";
import { nodesOf, sumOf } from "../plan/plan";
import { backendsHere, chosenSite, configurationHere, siteOption } from "./site-option";
import { alignColumns } from "./table";
import { printable, type Terminal } from "./terminal";

interface Options {
  readonly site?: SiteSettings;
  readonly json?: true;
}

interface LogOptions {
  readonly lines: number;
  readonly json?: true;
}

/** What a cluster has, as `--json` shows it. */
interface Holding {
  readonly name: string;
  readonly owner: string;
  /** `organization/project/stack` */
  readonly stack: string;
  readonly machines: number;
  /** As planned; absent where its record at the site is lost. */
  readonly cpus?: number;
  /** MiB. */
  readonly memory?: number;
  readonly addresses: readonly string[];
  /** ISO 8601. */
  readonly createdAt?: string;
}

const EXAMPLES = `
It shows what carries a mark, whoever owns it, and what the site has left. Cpus and memory are those of the clusters' plans.
Limits are those of this machine's ${limitsPath()}, where there is such a file.

Examples:
  vc site                             # the default site, or where this folder's stack says
  vc site --site '{"uri": "qemu+ssh://root@host/system"}'
  vc site --json | jq '.owners'
  vc site log                         # who has changed what from this machine`;

const LOG_EXAMPLES = `
Every change that Pulumi or \`vc sweep\` makes at a site is written down before and after: into the file that
VIRTUAL_CLUSTER_AUDIT_LOG names, else audit.jsonl in the folder of the user who makes it. What was made from another
machine, or with the site's own tools, isn't in it.

Examples:
  vc site log
  vc site log --lines 1000 --json | jq 'select(.outcome != "done")'`;

const LINES = 20;

export function addSite(program: Command, terminal: Terminal): void {
  const site = program
    .command("site")
    .summary("show who has what at a site, and what is free")
    .description("Shows all virtual clusters at a site by owner, and what the site has left.")
    .addOption(siteOption())
    .option("--json", "print it for programs")
    .addHelpText("after", EXAMPLES)
    .action((options: Options) => show(options, terminal));
  site
    .command("log")
    .summary("show who has changed what")
    .description("Shows the last changes at sites that were made from this machine.")
    .option("-n, --lines <number>", "how many", parseLines, LINES)
    .option("--json", "print a line of JSON for each")
    .addHelpText("after", LOG_EXAMPLES)
    .action(({ lines, json }: LogOptions) => showLog(readAuditLog().slice(-lines), json ?? false, terminal));
}

function parseLines(text: string): number {
  const lines = Number(text);
  if (!Number.isInteger(lines) || lines < 1) {
    throw new InvalidArgumentError("it must be a whole number from 1 on");
  }
  return lines;
}

async function show({ site: given, json }: Options, { out }: Terminal): Promise<void> {
  const site = chosenSite(given, await configurationHere(given ? [] : await backendsHere()));
  const driver = connect(site);
  const [description, found, limitsOf] = await Promise.all([driver.describe(), driver.survey(), readLimits()]);
  const holdings = found.map(holdingOf).sort((one, other) => (keyOf(one) < keyOf(other) ? -1 : 1));
  const free = freeOf(description);
  const owners = [...new Set(holdings.map(({ owner }) => owner))].map((owner) => ({
    ...totalOf(owner, found),
    ...(limitsOf && { limits: limitsOf(owner) }),
  }));
  if (json) {
    out(JSON.stringify({ site, siteId: description.siteId, ...free, owners, clusters: holdings }, undefined, 2));
    return;
  }
  const { cpus, memory, addresses } = free;
  out(`Site ${siteName(site)} (${description.siteId})`);
  out(
    `Free: ${cpus.free} of ${cpus.total} cpus (at most ${cpus.perNode} a node), ${memory.free} of ${memory.total} MiB, ${addresses.free} of ${addresses.total} public addresses`,
  );
  if (holdings.length === 0) {
    out("\nNobody has a virtual cluster here.");
    return;
  }
  const totals = owners.map(({ limits, ...one }) => [
    ...[one.owner, String(one.clusters), ...figures(one), String(one.addresses)],
    ...(limits ? [limitsText(limits)] : []),
  ]);
  const rows = holdings.map((one) => [
    one.owner,
    one.name,
    one.stack,
    ...figures(one),
    one.addresses.join(" ") || "-",
    one.createdAt?.replace(/:\d\d\.\d+Z$/, "Z") ?? "-",
  ]);
  out(
    `\n${alignColumns([["OWNER", "CLUSTERS", "MACHINES", "CPUS", "MEMORY", "ADDRESSES", ...(limitsOf ? ["LIMITS"] : [])], ...totals])}`,
  );
  out(
    `\n${alignColumns([["OWNER", "CLUSTER", "STACK", "MACHINES", "CPUS", "MEMORY", "ADDRESSES", "CREATED"], ...rows])}`,
  );
}

function holdingOf({ name, mark, record, machines, publicAddresses }: FoundCluster): Holding {
  return {
    name,
    owner: mark.owner,
    stack: `${mark.organization}/${mark.project}/${mark.stack}`,
    machines: machines.length,
    ...(record && { ...sumOf(nodesOf(record.plan)), createdAt: record.mark.createdAt }),
    addresses: publicAddresses,
  };
}

function keyOf({ owner, name }: Holding): string {
  return `${owner} ${name}`;
}

function freeOf({ cpus, memory, publicAddresses, takenAddresses }: SiteDescription) {
  const free = publicAddresses.filter((address) => !takenAddresses.has(address));
  return { cpus, memory, addresses: { total: publicAddresses.length, free: free.length } };
}

function totalOf(owner: string, found: readonly FoundCluster[]) {
  const own = found.filter(({ mark }) => mark.owner === owner);
  return { owner, machines: own.reduce((sum, { machines }) => sum + machines.length, 0), ...usageOf(own) };
}

function limitsText(limits: Limits): string {
  const set = FIGURES.filter((figure) => limits[figure] !== undefined);
  return set.map((figure) => `${limits[figure]} ${figure === "memory" ? "MiB" : figure}`).join(", ") || "-";
}

function figures({ machines, cpus, memory }: Pick<Holding, "machines" | "cpus" | "memory">): string[] {
  return [String(machines), cpus === undefined ? "?" : String(cpus), memory === undefined ? "?" : `${memory} MiB`];
}

function showLog(changes: readonly AuditedChange[], json: boolean, { out }: Terminal): void {
  if (json) {
    for (const change of changes) {
      out(JSON.stringify(change));
    }
    return;
  }
  if (changes.length === 0) {
    out(`No change is written down in ${auditLog()}.`);
    return;
  }
  const rows = changes.map(({ at, who, operation, cluster, node, site, outcome, seconds, error }) => [
    at.replace(/\.\d+Z$/, "Z"),
    who,
    operation,
    node === undefined ? cluster : `${cluster}/${node}`,
    site,
    [outcome, ...(seconds === undefined ? [] : [`${seconds.toFixed(1)} s`]), ...(error ? [error] : [])].join(", "),
  ]);
  out(printable(alignColumns([["AT", "WHO", "DID", "TO", "SITE", "OUTCOME"], ...rows])));
}
