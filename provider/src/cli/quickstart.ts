import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { link, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { execa } from "execa";
import { buildDemoImage } from "../building/demo-image";
import { removeSite, siteStatus, startSite, stopSite } from "../default-site/site";
import { home } from "../home";
import { ensurePulumiCli, type PulumiCli } from "../setup/pulumi-cli";
import { pulumiEnvironment } from "../setup/pulumi-environment";
import { searchSystemFolders } from "../setup/search-path";
import { type Progress, SetupError } from "../setup/setup-error";
import { installSystemPackages } from "../setup/system-packages";
import { alignColumns } from "./table";

/**
 * The quickstart behind `npm run quickstart`, which has installed and compiled this before (its step 1). Runs in the
 * repository's folder. What each option does is told by `npm run quickstart -- --help`.
 */

const STEPS = 8;

/** What the quickstart's program has as outputs, as far as it is shown here. */
interface QuickstartOutputs {
  /** The command that a person types. */
  readonly ssh: string;
  /** The same as arguments of ssh. */
  readonly sshArguments: readonly string[];
  readonly nodes: readonly QuickstartNode[];
}

interface QuickstartNode {
  readonly name: string;
  readonly role: string;
  readonly cpus: number;
  /** MiB */
  readonly memory: number;
  readonly privateIp: string;
  readonly publicIp?: string;
  readonly mac: string;
}

/** Says each computer's name and how long it has been up; a name stands in the machinefile once a cpu. */
const ASK_EVERY_COMPUTE = `sort -u /etc/vc/machinefile | while read -r node; do ssh -n "$node" 'hostname && uptime'; done`;

const started = Date.now();
let interrupted = false;

function seconds(since: number): string {
  return `${((Date.now() - since) / 1000).toFixed(1)} s`;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** One step, with its number, what it does meanwhile, and how long it took. `work` returns what there is now. */
async function step(number: number, title: string, work: (progress: Progress) => Promise<string>): Promise<void> {
  const begin = Date.now();
  print(`[${number}/${STEPS}] ${title}`);
  const result = await work((line) => print(`      ${seconds(begin).padStart(7)}  ${line}`));
  if (interrupted) {
    throw new SetupError("Interrupted.");
  }
  print(`      ${seconds(begin).padStart(7)}  done: ${result}`);
}

/** Everything that a cluster needs but the site: steps 2 to 5. */
async function setUp(): Promise<void> {
  await mkdir(home(), { recursive: true, mode: 0o700 });
  await step(2, "Debian packages", async (progress) => {
    await installSystemPackages(progress);
    return "all are installed";
  });
  await step(3, "Pulumi CLI", async (progress) => {
    const { path, version } = await ensurePulumiCli(progress);
    return `${version} (${path})`;
  });
  await step(4, "demo image", async (progress) => {
    await buildDemoImage({ folder: home("images"), progress });
    return home("images");
  });
  await step(5, "ssh key and passphrase", async (progress) => {
    const key = await ensureSshKey(progress);
    await ensurePassphrase(progress);
    return `${key}, ${home("passphrase")}`;
  });
}

/** @returns the public key that clusters get when none is named */
async function ensureSshKey(progress: Progress): Promise<string> {
  const own = home("id_ed25519");
  const users = ["id_ed25519.pub", "id_rsa.pub"].map((name) => join(homedir(), ".ssh", name));
  const found = [...users, `${own}.pub`].find((file) => existsSync(file));
  if (found) {
    return found;
  }
  progress(`you have no ssh key: making one in ${own}`);
  // What an interrupted run left; the public half is written last.
  await rm(own, { force: true });
  await execa("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "virtual-cluster", "-f", own], { stdin: "ignore" });
  return `${own}.pub`;
}

async function ensurePassphrase(progress: Progress): Promise<void> {
  const file = home("passphrase");
  if (existsSync(file)) {
    return;
  }
  progress(
    "Pulumi encrypts the secrets in its state with a passphrase: a random one is made, which you never have to type",
  );
  const unfinished = `${file}.${process.pid}`;
  await writeFile(unfinished, `${randomBytes(24).toString("base64url")}\n`, { mode: 0o600 });
  try {
    // Unlike a rename, a link never replaces a passphrase that another run has made meanwhile.
    await link(unfinished, file);
  } catch (error) {
    if (!existsSync(file)) {
      throw error;
    }
  } finally {
    await rm(unfinished, { force: true });
  }
}

async function bringUp(stack: string): Promise<void> {
  await setUp();
  await step(6, "default site", startSite);
  const pulumi = new Pulumi(await ensurePulumiCli(print));
  await step(7, "pulumi up", async () => {
    if (!(await pulumi.hasStack(stack))) {
      await forgetSalt(stack);
    }
    await pulumi.run("stack", "select", "--create", stack);
    await pulumi.run("up", "--yes", "--skip-preview", "--stack", stack);
    return "the cluster is ready";
  });
  const outputs: QuickstartOutputs = JSON.parse(await pulumi.output("stack", "output", "--json", "--stack", stack));
  const { ssh, sshArguments, nodes } = outputs;
  await step(8, "a command on every compute, from the frontend", async () => {
    print(`$ ${ASK_EVERY_COMPUTE}`);
    const { exitCode } = await execa("ssh", [...sshArguments, ASK_EVERY_COMPUTE], { stdio: "inherit", reject: false });
    if (exitCode !== 0) {
      throw new SetupError(`The frontend could not be asked over ssh (exit code ${exitCode}); by hand: ${ssh}`);
    }
    return `${nodes.filter(({ role }) => role === "compute").length} computes`;
  });
  print(`\n${nodeTable(nodes)}\n`);
  print(`Your cluster is up, after ${seconds(started)}. Try next:`);
  print(`  ${ssh}`);
  print("  npx pulumi preview --diff       # after you have changed numCpus in examples/quickstart/index.ts");
  print("  npm run quickstart:destroy      # gives everything back");
}

function nodeTable(nodes: readonly QuickstartNode[]): string {
  const rows = [
    ["NODE", "ROLE", "CPUS", "MEMORY", "PRIVATE IP", "PUBLIC IP", "MAC"],
    ...nodes.map(({ name, role, cpus, memory, privateIp, publicIp, mac }) => [
      name,
      role,
      String(cpus),
      `${memory} MiB`,
      privateIp,
      publicIp ?? "-",
      mac,
    ]),
  ];
  return alignColumns(rows);
}

/**
 * A stack's file that outlived its state belongs to a passphrase that may be gone as well: a new stack begins with a new
 * salt.
 */
async function forgetSalt(stack: string): Promise<void> {
  const file = `Pulumi.${stack}.yaml`;
  if (existsSync(file)) {
    await writeFile(file, (await readFile(file, "utf8")).replace(/^encryptionsalt:.*\n?/m, ""));
  }
}

/** Destroys the cluster and forgets its stack. A site that was stopped is started for it. */
async function destroy(stack: string): Promise<void> {
  const pulumi = new Pulumi(await ensurePulumiCli(print));
  if (!(await pulumi.hasStack(stack))) {
    print(`There is no stack ${stack}: nothing to destroy.`);
    return;
  }
  if ((await siteStatus()).state === "stopped") {
    await startSite(print);
  }
  await pulumi.run("destroy", "--yes", "--skip-preview", "--stack", stack);
  await pulumi.run("stack", "rm", "--yes", stack);
}

/** The CLI as `npx pulumi` runs it. */
class Pulumi {
  private readonly environment: NodeJS.ProcessEnv;

  constructor(private readonly cli: PulumiCli) {
    this.environment = pulumiEnvironment(cli);
  }

  /** Runs a command in the terminal. @throws SetupError when it fails; it has said why */
  async run(...args: string[]): Promise<void> {
    const options = { stdio: "inherit", env: this.environment, reject: false } as const;
    const { exitCode } = await execa(this.cli.path, args, options);
    if (exitCode !== 0) {
      throw new SetupError(`\`pulumi ${args.join(" ")}\` failed (see above). It can be run again.`);
    }
  }

  async hasStack(stack: string): Promise<boolean> {
    const stacks: readonly { name: string }[] = JSON.parse(await this.output("stack", "ls", "--json"));
    return stacks.some(({ name }) => name.split("/").at(-1) === stack);
  }

  /** What a command prints on stdout. */
  async output(...args: string[]): Promise<string> {
    return (await execa(this.cli.path, args, { env: this.environment })).stdout;
  }
}

async function main(args: readonly string[]): Promise<void> {
  searchSystemFolders();
  const { force, stack, ...chosen } = parseOptions(args);
  const operations = {
    setup: setUp,
    destroy: () => destroy(stack),
    "start-site": async () => print(`The default site runs: ${await startSite(print)}`),
    "stop-site": () => stopSite(print),
    "remove-site": () => removeSite({ force }, print),
  };
  const names = (Object.keys(operations) as (keyof typeof operations)[]).filter((name) => chosen[name]);
  if (names.length > 1) {
    throw new SetupError(
      `--${names.join(" and --")} don't go together; \`npm run quickstart -- --help\` explains them.`,
    );
  }
  const [name] = names;
  await (name ? operations[name]() : bringUp(stack));
}

function parseOptions(args: readonly string[]) {
  const flag = { type: "boolean", default: false } as const;
  try {
    return parseArgs({
      args: [...args],
      options: {
        stack: { type: "string", default: "quickstart" },
        force: flag,
        setup: flag,
        destroy: flag,
        "start-site": flag,
        "stop-site": flag,
        "remove-site": flag,
      },
    }).values;
  } catch (error) {
    throw new SetupError(`${(error as Error).message}; \`npm run quickstart -- --help\` lists the options.`);
  }
}

// Ctrl-C reaches whatever runs in the foreground by itself; the step ends with it and cleans up. A second one is final.
process.on("SIGINT", () => {
  if (interrupted) {
    process.exit(130);
  }
  interrupted = true;
});

main(process.argv.slice(2)).catch((error: unknown) => {
  if (interrupted) {
    print("Interrupted. Run it again to go on from here.");
    process.exitCode = 130;
    return;
  }
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
