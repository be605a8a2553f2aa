import { setTimeout } from "node:timers/promises";
import { type Command, InvalidArgumentError } from "commander";
import { type ClusterStatus, type NodeStatus, statusOf } from "../pulumi/stack-status";
import { clustersOf } from "./stack";
import { alignColumns } from "./table";
import type { Fail, Terminal } from "./terminal";

interface Options {
  readonly watch?: true;
  readonly interval: number;
  readonly json?: true;
}

const INTERVAL_SECONDS = 5;
const TITLES = ["CLUSTER", "NODE", "STATE", "READY", "CPUS", "MEMORY", "ADDRESSES", "SINCE"];

const EXAMPLES = `
It is what \`pulumi refresh\` would write down, and changes nothing: what the state says of each node, and what its site says
of the machine now. A node is ready when \`pulumi up\` has seen it ready, and it is as the program wants it since.

Examples:
  vc status                           # of the stack that is selected in this folder
  vc status dev
  vc status --watch                   # while \`pulumi up\` works, say; ends with Ctrl-C
  vc status --watch | tee log         # in a pipe: a line for each node that has changed
  vc status --json | jq -r '.[].nodes[] | select(.ready | not) | .node'`;

export function addStatus(program: Command, terminal: Terminal, fail: Fail): void {
  program
    .command("status")
    .summary("show the nodes of a stack's clusters")
    .description(
      "Shows every node of a stack's clusters: state, shape, addresses, since when, and whether it is ready.",
    )
    .argument("[stack]", "the stack (default: the one that is selected in this folder)")
    .option("-w, --watch", "look again and again")
    .option("--interval <seconds>", "how long --watch waits in between", parseInterval, INTERVAL_SECONDS)
    .option("--json", "print it for programs, with --watch a line each time")
    .addHelpText("after", EXAMPLES)
    .action(async (stack: string | undefined, options: Options) => {
      const { clusters, lookUp } = await clustersOf(stack);
      const first = await Promise.all(clusters.map(statusOf));
      if (options.watch) {
        const look = async () => Promise.all((await lookUp()).map(statusOf));
        await watch(first, look, options, terminal);
        return;
      }
      terminal.out(options.json ? JSON.stringify(first.map(documentOf), undefined, 2) : textOf(first));
      for (const { cluster, unreachable } of first) {
        if (unreachable !== undefined) {
          terminal.err(
            `vc: ${cluster.logicalName}: the site can't be asked, so this is what the state says: ${unreachable}`,
          );
          fail();
        }
      }
    });
}

function parseInterval(text: string): number {
  const seconds = Number(text);
  if (!(seconds > 0)) {
    throw new InvalidArgumentError("it must be a number of seconds");
  }
  return seconds;
}

async function watch(
  first: readonly ClusterStatus[],
  look: () => Promise<ClusterStatus[]>,
  { json, interval }: Options,
  { out, redraw, ended }: Terminal,
): Promise<void> {
  let seen: ReadonlyMap<string, string> = new Map();
  for (let now = first; ; now = await look()) {
    if (json) {
      out(JSON.stringify({ at: new Date().toISOString(), clusters: now.map(documentOf) }));
    } else if (redraw) {
      redraw(`${textOf(now)}\n\n${new Date().toLocaleTimeString()}  every ${interval} s; ends with Ctrl-C`);
    } else {
      const shown = linesOf(now);
      changesOf(seen, shown).forEach(out);
      seen = shown;
    }
    await setTimeout(interval * 1000, undefined, { signal: ended }).catch(() => undefined);
    if (ended?.aborted) {
      return;
    }
  }
}

/** What is shown of each node, the titles before them, and notes after them: by what it is about. */
function linesOf(statuses: readonly ClusterStatus[]): Map<string, string> {
  const rows = [TITLES, ...statuses.flatMap(rowsOf)];
  const lines = alignColumns(rows).split("\n");
  return new Map([
    ...rows.map(([cluster, node], index) => [`${cluster}/${node}`, lines[index] ?? ""] as const),
    ...notesOf(statuses).map((note) => [note, note] as const),
  ]);
}

function changesOf(before: ReadonlyMap<string, string>, now: ReadonlyMap<string, string>): string[] {
  const words = (line = "") => line.replaceAll(/ +/g, " ");
  return [
    ...[...now].filter(([about, line]) => words(line) !== words(before.get(about))).map(([, line]) => line),
    ...[...before.keys()].filter((about) => !now.has(about)).map((about) => `no more: ${about}`),
  ];
}

function textOf(statuses: readonly ClusterStatus[]): string {
  const rows = statuses.flatMap(rowsOf);
  const table = rows.length > 0 ? alignColumns([TITLES, ...rows]) : "The stack has no virtual cluster.";
  return [table, ...notesOf(statuses)].join("\n");
}

function rowsOf({ cluster, unreachable, nodes }: ClusterStatus): string[][] {
  return nodes.map(({ node, state, ready, cpus, memory, privateIp, publicIp, since }) => [
    cluster.logicalName,
    node,
    unreachable === undefined ? state : `${state}?`,
    ready ? (state === "off" ? "-" : "yes") : "no",
    String(cpus),
    `${memory} MiB`,
    [publicIp, privateIp].filter(Boolean).join(" "),
    since?.replace(/:\d\d(\.\d+)?Z$/, "Z") ?? "-",
  ]);
}

function notesOf(statuses: readonly ClusterStatus[]): string[] {
  return statuses.flatMap(({ cluster, drift, nodes }) => [
    ...drift.map((sentence) => `${cluster.logicalName}: ${sentence}`),
    ...nodes.flatMap((node) => node.drift.map((sentence) => `${cluster.logicalName}/${node.node}: ${sentence}`)),
  ]);
}

function documentOf({ cluster, unreachable, drift, nodes }: ClusterStatus): object {
  const { name, logicalName, mark, site, siteId } = cluster;
  return {
    cluster: logicalName,
    name,
    owner: mark.owner,
    stack: `${mark.organization}/${mark.project}/${mark.stack}`,
    ...{ site, siteId, drift },
    ...(unreachable !== undefined && { unreachable }),
    nodes: nodes satisfies readonly NodeStatus[],
  };
}
