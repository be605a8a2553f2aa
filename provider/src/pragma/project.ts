import { existsSync } from "node:fs";
import { mkdir, readFile, readlink, rename, rm, symlink, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import type { LocalWorkspace, Stack, StackSettings, UpOptions } from "@pulumi/pulumi/automation";
import { Locked } from "../drivers/errors";
import type { SiteSettings } from "../drivers/settings";
import { home } from "../home";
import { findPulumiCli } from "../setup/pulumi-cli";
import { pulumiEnvironment } from "../setup/pulumi-environment";
import { SetupError } from "../setup/setup-error";
import { inTemporaryFolder } from "../temporary-folder";

type Automation = typeof import("@pulumi/pulumi/automation");

/** Arguments of a stack's `Cluster` (`ClusterArgs` of `sdk/`), as far as pragma_boot sets them. */
export interface ClusterSettings {
  readonly image: string;
  readonly repository?: string;
  readonly site?: SiteSettings;
  readonly numCpus?: number;
  readonly memoryPerNode?: number;
  readonly frontend?: { readonly memory: number };
  readonly publicKey?: string;
  readonly waitFor?: "none" | "running" | "ready";
  readonly power?: "on" | "off";
}

/** Where what the engine does and says goes. */
export type Watch = Pick<UpOptions, "onEvent" | "onOutput" | "signal">;

const PROJECT = "pragma_boot";
/** The stack's configuration that `provider/pragma_boot/index.js` reads. */
const CONFIGURATION = `${PROJECT}:cluster`;

/** One folder with one Pulumi project, in which each virtual cluster is a stack. */
export class Project {
  private constructor(
    private readonly automation: Automation,
    private readonly workspace: LocalWorkspace,
  ) {}

  static get folder(): string {
    return home(PROJECT);
  }

  /** Whether a cluster of that name has been asked for. */
  static has(name: string): boolean {
    return existsSync(join(Project.folder, `Pulumi.${name}.yaml`));
  }

  /**
   * Makes the project, or brings it up to date. From then on this process has the environment of `npx pulumi`.
   * @throws SetupError when Pulumi isn't set up
   */
  static async open(): Promise<Project> {
    const cli = findPulumiCli();
    if (!cli) {
      throw new SetupError(
        "There is no Pulumi CLI: run `npm run quickstart -- --setup` in a clone of the project, or install it.",
      );
    }
    const packages = findPackages();
    Object.assign(process.env, pulumiEnvironment(cli));
    const {
      PULUMI_BACKEND_URL: backend,
      PULUMI_CONFIG_PASSPHRASE: phrase,
      PULUMI_CONFIG_PASSPHRASE_FILE: file,
    } = process.env;
    if (backend?.startsWith("file:") && phrase === undefined && file === undefined) {
      throw new SetupError(
        "There is no passphrase for Pulumi's state: run `npm run quickstart -- --setup` in a clone of the project, or set PULUMI_CONFIG_PASSPHRASE_FILE.",
      );
    }
    await layOut(Project.folder, packages);
    const automation: Automation = createRequire(join(packages.sdk, "package.json"))("@pulumi/pulumi/automation");
    return new Project(automation, await automation.LocalWorkspace.create({ workDir: Project.folder }));
  }

  /** Names of all clusters. */
  async clusters(): Promise<string[]> {
    return (await this.workspace.listStacks()).map(({ name }) => name.split("/").at(-1) ?? name).sort();
  }

  /** Arguments of a cluster; undefined where there is none of that name. */
  async settingsOf(name: string): Promise<ClusterSettings | undefined> {
    const text = (await this.stackSettings(name)).config?.[CONFIGURATION];
    return typeof text === "string" ? (JSON.parse(text) as ClusterSettings) : undefined;
  }

  /** What `pulumi stack export` says of a cluster. */
  async stateOf(name: string): Promise<unknown> {
    return this.workspace.exportStack(name);
  }

  /** Tries what `up` would do. Changes nothing, here or at the site. */
  async preview(name: string, settings: ClusterSettings, watch: Watch): Promise<void> {
    await inTemporaryFolder(async (folder) => {
      await layOut(folder, findPackages());
      const trial = await this.automation.LocalWorkspace.create({
        workDir: folder,
        pulumiCommand: this.workspace.pulumiCommand,
        pulumiHome: join(folder, "pulumi"),
        envVars: { PULUMI_BACKEND_URL: pathToFileURL(folder).href },
      });
      await trial.saveStackSettings(name, withSettings(await this.stackSettings(name), settings));
      const stack = (await this.find(name)) ?? (await this.automation.Stack.create(name, trial));
      await stack.preview({ ...watch, configFile: join(folder, `Pulumi.${name}.yaml`), diff: true });
    });
  }

  /** Brings a cluster up, or brings it to other settings. @throws Locked */
  async up(name: string, settings: ClusterSettings, watch: Watch): Promise<void> {
    const before = await this.stackSettings(name);
    await this.exclusively(name, async () => {
      const stack = (await this.find(name)) ?? (await this.automation.Stack.create(name, this.workspace));
      const current = await this.stackSettings(name);
      await this.workspace.saveStackSettings(name, withSettings(current, settings));
      try {
        await stack.up(watch);
      } catch (error) {
        if (error instanceof this.automation.ConcurrentUpdateError) {
          await this.workspace.saveStackSettings(name, { ...current, ...before });
        }
        throw error;
      }
    });
  }

  async previewRemoval(name: string, watch: Watch): Promise<void> {
    await (await this.find(name))?.previewDestroy(watch);
  }

  /** Removes a cluster and its stack. @throws Locked */
  async remove(name: string, watch: Watch): Promise<void> {
    await this.exclusively(name, async () => {
      await (await this.find(name))?.destroy(watch);
      await this.workspace.removeStack(name);
    });
  }

  private async find(name: string): Promise<Stack | undefined> {
    try {
      return await this.automation.Stack.select(name, this.workspace);
    } catch (error) {
      if (error instanceof this.automation.StackNotFoundError) {
        return undefined;
      }
      throw error;
    }
  }

  private async stackSettings(name: string): Promise<StackSettings> {
    return Project.has(name) ? this.workspace.stackSettings(name) : {};
  }

  private async exclusively(name: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      const { ConcurrentUpdateError, StackAlreadyExistsError } = this.automation;
      if (error instanceof ConcurrentUpdateError || error instanceof StackAlreadyExistsError) {
        throw new Locked(
          `cluster ${name}`,
          "another pragma_boot or pulumi is changing it",
          `Run this again when that is done; if it was killed, first \`npx pulumi -C ${Project.folder} cancel --yes ${name}\``,
        );
      }
      throw error;
    }
  }
}

function withSettings(stack: StackSettings, cluster: ClusterSettings): StackSettings {
  return { ...stack, config: { ...stack.config, [CONFIGURATION]: JSON.stringify(cluster) } };
}

/** Folders of the packages that the program and Pulumi's host load. */
interface Packages {
  readonly provider: string;
  readonly sdk: string;
  readonly pulumi: string;
}

/** @throws SetupError when one isn't installed beside this one */
function findPackages(): Packages {
  const provider = join(__dirname, "..", "..");
  try {
    const sdk = dirname(require.resolve("@virtual-cluster/pulumi/package.json"));
    const pulumi = dirname(createRequire(join(sdk, "package.json")).resolve("@pulumi/pulumi/package.json"));
    return { provider, sdk, pulumi };
  } catch {
    throw new SetupError(
      "pragma_boot needs two packages beside its own: run `npm install @virtual-cluster/pulumi @pulumi/pulumi`.",
    );
  }
}

/** The project's files and the packages in a folder. Two may do this at the same time. */
async function layOut(folder: string, { provider, sdk, pulumi }: Packages): Promise<void> {
  const scopes = { "@virtual-cluster": { provider, pulumi: sdk }, "@pulumi": { pulumi } };
  for (const [scope, packages] of Object.entries(scopes)) {
    await mkdir(join(folder, "node_modules", scope), { recursive: true, mode: 0o700 });
    for (const [name, target] of Object.entries(packages)) {
      await ensureLink(target, join(folder, "node_modules", scope, name));
    }
  }
  await ensureFile(join(folder, "index.js"), await readFile(join(provider, PROJECT, "index.js"), "utf8"));
  await ensureFile(join(folder, "package.json"), `${JSON.stringify({ name: PROJECT, private: true })}\n`);
  await ensureFile(join(folder, "Pulumi.yaml"), projectFile());
}

/** YAML, in the part of it that is JSON. */
function projectFile(): string {
  const project = {
    name: PROJECT,
    description: "Virtual clusters that pragma_boot has brought up, a stack each",
    runtime: { name: "nodejs", options: { typescript: false } },
    backend: { url: pathToFileURL(home("pulumi")).href },
  };
  return `${JSON.stringify(project, undefined, 2)}\n`;
}

async function ensureFile(file: string, text: string): Promise<void> {
  if ((await readFile(file, "utf8").catch(() => undefined)) !== text) {
    await replace(file, (unfinished) => writeFile(unfinished, text));
  }
}

async function ensureLink(target: string, link: string): Promise<void> {
  if ((await readlink(link).catch(() => undefined)) !== target) {
    await replace(link, (unfinished) => symlink(target, unfinished));
  }
}

/** Whoever reads it meanwhile finds the old or the new one, whole. */
async function replace(file: string, make: (unfinished: string) => Promise<void>): Promise<void> {
  const unfinished = `${file}.${process.pid}`;
  await rm(unfinished, { force: true });
  await make(unfinished);
  await rename(unfinished, file);
}
