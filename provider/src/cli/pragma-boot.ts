import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { closest } from "../closest";
import { NotFound, VirtualClusterError } from "../drivers/errors";
import { home } from "../home";
import { findImage, namesIn } from "../images/repository/repository";
import { CLUSTER_NAME } from "../plan/names";
import { type Commands, commandLine, type Switches, type Wish, withTwoDashes } from "../pragma/command-line";
import { listenForInterruption } from "../pragma/interruption";
import { Progress, type Screen } from "../pragma/progress";
import { type ClusterSettings, Project, type Watch } from "../pragma/project";
import { siteDefaults } from "../pragma/site";
import { type ClusterSummary, summaryOf } from "../pragma/summary";
import { parsePublicKey } from "../resources/public-key";
import { SetupError } from "../setup/setup-error";
import { alignColumns } from "./table";
import { TERMINAL, type Terminal } from "./terminal";
import { exitCodeOf, versionOfPackage } from "./usage";

const INTERRUPTED = 130;

/** Somebody has asked for the end. */
class Interrupted extends Error {}

/** `pragma_boot`. @returns its exit code */
export async function main(args: readonly string[], terminal: Terminal = TERMINAL): Promise<number> {
  const program = commandLine(commandsFor(terminal), versionOfPackage(), terminal);
  try {
    await program.parseAsync(withTwoDashes(args), { from: "user" });
    return 0;
  } catch (error) {
    if (error instanceof Interrupted) {
      terminal.err(`pragma_boot: ${error.message}`);
      return INTERRUPTED;
    }
    return exitCodeOf(error, "pragma_boot", terminal);
  }
}

function commandsFor(terminal: Terminal): Commands {
  return {
    boot: (wish) => boot(wish, terminal),
    shutdown: (name, switches) => shutdown(name, switches, terminal),
    clean: (name, switches) => clean(name, switches, terminal),
    listRepository: async (repository) => {
      const names = await namesIn(repository ?? siteDefaults().repository ?? home("images"));
      terminal.out([...names.keys()].join("\n"));
    },
    listClusters: (name) => listClusters(name, terminal),
  };
}

async function boot(wish: Wish, terminal: Terminal): Promise<void> {
  const name = wish.name ?? clusterNameFor(wish.vcName);
  const given = await settingsFor(wish);
  const fresh = { ...siteDefaults(), ...given };
  if (!Project.has(name)) {
    await findImage(fresh.repository ?? home("images"), fresh.image);
  }
  const project = await Project.open();
  const current = await project.settingsOf(name);
  const settings = current ? { ...current, ...given } : fresh;
  await change(project, name, settings, wish, terminal);
  if (!wish.dryRun) {
    const summary = summaryOf(await project.stateOf(name));
    terminal.out(summary ? `\n${nodeTable(summary)}\n\nLog in: ${summary.ssh}` : "");
  }
}

/** What the command line says. A new cluster has the rest from the site, an old one as it was. */
async function settingsFor({ vcName, numCpus, memory, repository, key, waitFor }: Wish): Promise<ClusterSettings> {
  return {
    image: vcName,
    power: "on",
    ...(numCpus !== undefined && { numCpus }),
    ...(memory !== undefined && { memoryPerNode: memory, frontend: { memory } }),
    ...(repository !== undefined && { repository: /^https?:/.test(repository) ? repository : resolve(repository) }),
    ...(key !== undefined && { publicKey: await publicKeyIn(key) }),
    ...(waitFor !== undefined && { waitFor }),
  };
}

async function publicKeyIn(file: string): Promise<string> {
  const text = await readFile(file, "utf8").catch((error: NodeJS.ErrnoException) => {
    throw new NotFound(
      `--key ${file}`,
      `the file can't be read (${error.code})`,
      "Make a key with ssh-keygen -t ed25519",
    );
  });
  return parsePublicKey(text, file);
}

async function shutdown(name: string, switches: Switches, terminal: Terminal): Promise<void> {
  const project = await Project.open();
  const settings = (await project.settingsOf(name)) ?? (await unknownCluster(project, name));
  await change(project, name, { ...settings, power: "off" }, switches, terminal);
}

async function clean(name: string, switches: Switches, terminal: Terminal): Promise<void> {
  const project = await Project.open();
  if (!(await project.clusters()).includes(name)) {
    await unknownCluster(project, name);
  }
  if (switches.dryRun) {
    await run(name, { ...switches, verbose: true }, terminal, (watch) => project.previewRemoval(name, watch));
    return;
  }
  await run(name, switches, terminal, (watch) => project.remove(name, watch));
  terminal.out(`${name}: removed`);
}

async function listClusters(name: string | undefined, terminal: Terminal): Promise<void> {
  const project = await Project.open();
  const names = await project.clusters();
  if (name !== undefined && !names.includes(name)) {
    await unknownCluster(project, name);
  }
  const shown = name === undefined ? names : [name];
  if (shown.length === 0) {
    terminal.out("There are no clusters.");
    return;
  }
  const rows = await Promise.all(
    shown.map(async (cluster) => {
      const summary = summaryOf(await project.stateOf(cluster));
      const computes = summary?.plan.computes ?? [];
      const cpus = computes.reduce((sum, compute) => sum + compute.cpus, 0);
      return summary
        ? [cluster, summary.image, summary.state, summary.plan.frontend.publicIp, String(computes.length), String(cpus)]
        : [cluster, (await project.settingsOf(cluster))?.image ?? "-", "incomplete", "-", "-", "-"];
    }),
  );
  terminal.out(alignColumns([["NAME", "IMAGE", "STATE", "FRONTEND", "COMPUTES", "CPUS"], ...rows]));
}

/** Tries it first: what is refused, and what isn't meant, changes nothing. */
async function change(
  project: Project,
  name: string,
  settings: ClusterSettings,
  switches: Switches,
  terminal: Terminal,
): Promise<void> {
  const shown = { ...switches, verbose: switches.verbose || switches.dryRun };
  await run(name, shown, terminal, (watch) => project.preview(name, settings, watch));
  if (!switches.dryRun) {
    await run(name, switches, terminal, (watch) => project.up(name, settings, watch));
  }
}

/** Runs the engine and shows what it does. @throws Error that says in one sentence what went wrong */
async function run(
  name: string,
  { verbose }: Switches,
  terminal: Terminal,
  work: (watch: Watch) => Promise<void>,
): Promise<void> {
  using interruption = listenForInterruption();
  const progress = new Progress(name, verbose ? SILENT : screenOf(terminal));
  const output = lineByLine(terminal.out);
  progress.start();
  try {
    await work({ onEvent: progress.take, signal: interruption.signal, ...(verbose && { onOutput: output.take }) });
  } catch (error) {
    throw interruption.isAsked
      ? new Interrupted("interrupted; run it again to go on from here.")
      : explained(error, progress.problems);
  } finally {
    progress.end();
    output.end();
  }
}

/** What the providers said tells more than that the engine failed. */
function explained(error: unknown, problems: readonly string[]): unknown {
  if (error instanceof VirtualClusterError || error instanceof SetupError || !(error instanceof Error)) {
    return error;
  }
  const [, said] = /^\s*error: (.+)$/m.exec(error.message) ?? [];
  return problems.length > 0 ? new Error(problems.join("\npragma_boot: ")) : new Error(said ?? error.message);
}

/** @throws NotFound with the closest name that there is */
async function unknownCluster(project: Project, name: string): Promise<never> {
  const names = await project.clusters();
  const near = closest(name, names);
  throw new NotFound(
    `cluster ${name}`,
    "there is none of that name",
    near ? `Did you mean ${near}?` : `There are: ${names.join(", ") || "none"}`,
  );
}

/** What a cluster is called when nobody says: its vc name, where that can be a host's. */
function clusterNameFor(vcName: string): string {
  const name = vcName
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+/, "")
    .slice(0, 60)
    .replace(/-+$/, "");
  return CLUSTER_NAME.test(name) ? name : `vc-${name}`.replace(/-$/, "");
}

function nodeTable({ plan }: ClusterSummary): string {
  const rows = [plan.frontend, ...plan.computes].map(({ name, cpus, memory, privateIp }) => [
    name,
    String(cpus),
    `${memory} MiB`,
    privateIp,
    name === plan.frontend.name ? plan.frontend.publicIp : "-",
  ]);
  return alignColumns([["NODE", "CPUS", "MEMORY", "PRIVATE IP", "PUBLIC IP"], ...rows]);
}

const SILENT: Screen = { line: () => undefined };

function screenOf(terminal: Terminal): Screen {
  if (terminal !== TERMINAL || !process.stdout.isTTY) {
    return { line: terminal.out };
  }
  const clear = "\r\u001b[K";
  return {
    line: (text) => void process.stdout.write(`${clear}${text}\n`),
    status: (text) => void process.stdout.write(`${clear}${text.slice(0, (process.stdout.columns || 80) - 1)}`),
  };
}

/** Takes text in pieces as they come, and hands it on in whole lines. */
function lineByLine(out: (line: string) => void) {
  let rest = "";
  return {
    take: (text: string) => {
      const lines = `${rest}${text}`.split("\n");
      rest = lines.pop() ?? "";
      lines.forEach(out);
    },
    end: () => {
      if (rest) {
        out(rest);
      }
    },
  };
}
