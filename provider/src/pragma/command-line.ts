import { Command, InvalidArgumentError, Option } from "commander";
import type { Terminal } from "../cli/terminal";
import { closest } from "../closest";
import { CLUSTER_NAME } from "../plan/names";

/** What is wished for one cluster; what isn't said stays as it is. */
export interface Wish extends Switches {
  readonly vcName: string;
  /** The cluster's name. Absent: made from the vc name. */
  readonly name?: string;
  /** Of all computes together. */
  readonly numCpus?: number;
  /** MiB of each node. */
  readonly memory?: number;
  /** The image database: a folder or a URL. */
  readonly repository?: string;
  /** A file with a public ssh key. */
  readonly key?: string;
  readonly waitFor?: "none" | "running" | "ready";
}

export interface Switches {
  /** Shows Pulumi's own output. */
  readonly verbose: boolean;
  /** Shows what would be done, and changes nothing. */
  readonly dryRun: boolean;
}

export interface Commands {
  boot(wish: Wish): Promise<void>;
  shutdown(name: string, switches: Switches): Promise<void>;
  clean(name: string, switches: Switches): Promise<void>;
  listRepository(repository: string | undefined): Promise<void>;
  listClusters(name: string | undefined): Promise<void>;
}

/** The options as commander hands them on. */
interface Options {
  readonly vcname?: string;
  readonly name?: string;
  readonly num_cpus?: number;
  readonly memory?: number;
  readonly base_path?: string;
  readonly basepath?: string;
  readonly key?: string;
  readonly wait_for?: "none" | "running" | "ready";
  readonly list?: true;
  readonly verbose?: true;
  readonly debug?: true;
}

const EXAMPLES = `
All options work with one dash too.

Examples:
  pragma_boot --list                           # the images that there are
  pragma_boot -vcname dock6 -num_cpus 4        # a frontend, and computes with 4 cpus together
  pragma_boot -vcname dock6 -num_cpus 8        # makes that cluster larger; its frontend runs on
  pragma_boot -d -vcname dock6 -num_cpus 2     # shows what would be done
  pragma_boot -vcname dock6 -name screening    # another cluster of the same image
  pragma_boot list cluster
  pragma_boot shutdown dock6                   # turns it off; -vcname dock6 turns it on again
  pragma_boot clean dock6                      # gives everything back

Exit codes: 0 done, 1 failed, 2 called wrongly, 130 interrupted.`;

/**
 * pragma_boot's command line: the options of 2013 to 2015, and the sub-commands of the version after that (README.rst,
 * bin/pragma_boot and pragma/commands/ of pragmagrid/pragma_boot).
 */
export function commandLine(commands: Commands, version: string, terminal: Terminal): Command {
  const program = new Command("pragma_boot")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => terminal.out(text.trimEnd()),
      writeErr: (text) => terminal.err(text.trimEnd()),
      // `main` says it, in one sentence.
      outputError: () => undefined,
    })
    .version(version, "--version")
    .description("Brings up virtual clusters, as pragma_boot always did, by way of Pulumi.")
    .usage("--list | --vcname NAME [--num_cpus N] [OPTION …] | COMMAND")
    .argument("[command...]")
    .option("--vcname <name>", "bring up the virtual cluster of this name, or change it")
    .option("--list", "list the virtual clusters that can be brought up")
    .option(
      "--num_cpus <n>",
      "cpus of all computes together (default: as it is; a new one: 0, only the frontend)",
      count,
    )
    .option("--base_path <path>", "where the images are: a folder with a vcdb.txt (default: site_conf.conf)")
    .addOption(new Option("--basepath <path>").hideHelp())
    .option("--key <file>", "the public ssh key that may log in (default: id_ed25519.pub or id_rsa.pub in ~/.ssh)")
    .option("--memory <mib>", "memory of each node, MiB", count)
    .option("--name <name>", "what the cluster is called (default: its vc name)", clusterName)
    .addOption(new Option("--wait_for <state>", "when it counts as up").choices(["none", "running", "ready"]))
    .option("-v, --verbose", "show all that Pulumi says")
    .option("-d, --debug", "show what would be done, and do nothing")
    .addHelpText("after", EXAMPLES);
  const given = () => program.opts<Options>();
  const fail = (message: string) => program.error(message);

  program.action(async ([word]: string[]) => {
    const { list, vcname } = given();
    if (word !== undefined) {
      const near = closest(
        word,
        program.commands.map((command) => command.name()),
      );
      fail(`unknown command '${word}'${near ? ` (did you mean ${near}?)` : ""}`);
    }
    if (list && vcname !== undefined) {
      fail("--list and --vcname don't go together");
    }
    if (list) {
      return commands.listRepository(repositoryIn(given()));
    }
    return commands.boot(wishOf(vcname ?? fail("either --vcname or --list is needed"), given()));
  });
  program
    .command("boot")
    .summary("bring up a virtual cluster, or change it")
    .argument("<vc-name>")
    .argument("[num-cpus]", "cpus of all computes together", count)
    .action((vcName: string, numCpus: number | undefined) =>
      commands.boot(wishOf(vcName, { ...given(), ...(numCpus !== undefined && { num_cpus: numCpus }) })),
    );
  program
    .command("shutdown")
    .summary("turn a cluster off, and keep it")
    .argument("<name>")
    .action((name: string) => commands.shutdown(name, switchesIn(given())));
  program
    .command("clean")
    .summary("remove a cluster with its disks, and give back what it had")
    .argument("<name>")
    .action((name: string) => commands.clean(name, switchesIn(given())));
  const list = program.command("list").summary("list images or clusters");
  list
    .command("repository")
    .summary("the virtual clusters that can be brought up, as --list")
    .action(() => commands.listRepository(repositoryIn(given())));
  list
    .command("cluster")
    .summary("the clusters that there are")
    .argument("[name]")
    .action((name: string | undefined) => commands.listClusters(name));
  return program;
}

/** `-vcname` as well as `--vcname`. A word after `--` is no option. */
export function withTwoDashes(args: readonly string[]): string[] {
  const end = args.indexOf("--");
  const isLong = (arg: string, index: number) => (end < 0 || index < end) && /^-[a-z_]{2,}(=|$)/.test(arg);
  return args.map((arg, index) => (isLong(arg, index) && !/^-[vdh]+$/.test(arg) ? `-${arg}` : arg));
}

function wishOf(vcName: string, options: Options): Wish {
  const { name, num_cpus: numCpus, memory, key, wait_for: waitFor } = options;
  const repository = repositoryIn(options);
  return {
    ...switchesIn(options),
    vcName,
    ...(name !== undefined && { name }),
    ...(numCpus !== undefined && { numCpus }),
    ...(memory !== undefined && { memory }),
    ...(repository !== undefined && { repository }),
    ...(key !== undefined && { key }),
    ...(waitFor !== undefined && { waitFor }),
  };
}

function switchesIn({ verbose, debug }: Options): Switches {
  return { verbose: verbose ?? false, dryRun: debug ?? false };
}

function repositoryIn({ base_path: basePath, basepath }: Options): string | undefined {
  return basePath ?? basepath;
}

function count(text: string): number {
  if (!/^\d{1,9}$/.test(text)) {
    throw new InvalidArgumentError("it must be a whole number");
  }
  return Number(text);
}

function clusterName(text: string): string {
  if (!CLUSTER_NAME.test(text)) {
    throw new InvalidArgumentError("it must be a letter, then small letters, digits and dashes");
  }
  return text;
}
