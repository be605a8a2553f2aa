import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { pathToFileURL } from "node:url";
import { execa } from "execa";
import pLimit from "p-limit";
import { z } from "zod";
import { NotFound, SiteFailure } from "../drivers/errors";
import { home } from "../home";
import { findPulumiCli } from "../setup/pulumi-cli";
import { clusterIdsIn } from "./deployment";

/** What Pulumi's states say of clusters. */
export interface Knowledge {
  /** Ids of the clusters that some stack knows. */
  readonly clusterIds: ReadonlySet<string>;
  /** How many stacks there are. */
  readonly stacks: number;
  /** Stacks whose state can't be read, and why: they may know more. */
  readonly unreadable: readonly { readonly stack: string; readonly reason: string }[];
}

/** Exit codes of the CLI (sdk/go/common/util/cmdutil/exit.go of pulumi/pulumi). */
const NOT_LOGGED_IN = 3;
const NO_SUCH_STACK = 6;
/** What the CLI says, with no code of its own, where a folder has no configuration that counts. */
const NO_CONFIGURATION = /no Pulumi\.yaml project file|no stack selected|no stack named/;
/** What it says, likewise, of a stack's short name outside of its project's folder. */
const NAME_TOO_SHORT = /pass the fully qualified name/;
/** Each run of the CLI takes a processor for some tenths of a second. */
const PARALLEL_RUNS = 4;
/** A backend on the network may be slow; one that says nothing for this long is out of reach. */
const LIMIT_MS = 120_000;

const stackList = z.array(z.object({ name: z.string() }));
const configuration = z.record(z.string(), z.object({ value: z.string().optional() }));

/** One of Pulumi's backends, as the CLI sees it from this folder. */
export class Backend {
  constructor(
    private readonly run: Run,
    readonly url: string,
  ) {}

  /** What all of its stacks know, of whatever project. */
  async knowledge(): Promise<Knowledge> {
    const stacks = await this.stackNames();
    const limit = pLimit(PARALLEL_RUNS);
    const clusterIds = new Set<string>();
    const unreadable: { stack: string; reason: string }[] = [];
    await limit.map(stacks, async (name) => {
      try {
        for (const id of await this.clusterIdsOf(name)) {
          clusterIds.add(id);
        }
      } catch (error) {
        const reason = error instanceof z.ZodError ? "it isn't what Pulumi writes" : (error as Error).message;
        unreadable.push({ stack: name, reason });
      }
    });
    return { clusterIds, stacks: stacks.length, unreadable };
  }

  /** Configuration of the stack that is selected in this folder; empty where none is. */
  async configuration(): Promise<ReadonlyMap<string, string>> {
    const { exitCode, stdout, stderr } = await this.run("config", "--json");
    if (exitCode !== 0) {
      if (NO_CONFIGURATION.test(stderr)) {
        return new Map();
      }
      throw failure("config --json", stderr, "Say with --site and --owner what the configuration would");
    }
    const values = Object.entries(configuration.parse(JSON.parse(stdout)));
    return new Map(values.flatMap(([key, { value }]) => (value === undefined ? [] : [[key, value]])));
  }

  /** The names of all stacks, of whatever project. */
  async stackNames(): Promise<string[]> {
    return stackList.parse(JSON.parse(await this.output("stack", "ls", "--all", "--json"))).map(({ name }) => name);
  }

  /**
   * What `pulumi stack export` prints; undefined where there is no such stack.
   * @param name default: the stack that is selected in this folder
   */
  async stateOf(name?: string): Promise<unknown> {
    const { exitCode, stdout, stderr } = await this.run("stack", "export", ...(name ? ["--stack", name] : []));
    if (exitCode === 0) {
      return JSON.parse(stdout);
    }
    if (exitCode === NO_SUCH_STACK || (name ? NAME_TOO_SHORT : NO_CONFIGURATION).test(stderr)) {
      return undefined;
    }
    throw failure(`stack export${name ? ` --stack ${name}` : ""}`, stderr);
  }

  private async clusterIdsOf(stack: string): Promise<string[]> {
    const state = await this.stateOf(stack);
    return state === undefined ? [] : clusterIdsIn(state); // It may have gone since the list was made.
  }

  private async output(...args: string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.run(...args);
    if (exitCode !== 0) {
      throw failure(args.join(" "), stderr);
    }
    return stdout;
  }
}

/**
 * The backends in which this user's stacks may be: the one that `PULUMI_BACKEND_URL` names; else both that of
 * `npx pulumi`, where the quickstart was set up, and the one that `pulumi` is logged in to here.
 * @throws NotFound when there is none
 */
export async function findBackends(): Promise<Backend[]> {
  const setUp = home("pulumi");
  const own = process.env;
  const program = findPulumiCli()?.path ?? "pulumi";
  const environments =
    own.PULUMI_BACKEND_URL || !existsSync(setUp)
      ? [own]
      : [{ ...own, PULUMI_BACKEND_URL: pathToFileURL(setUp).href }, own];
  const backends = new Map<string, Backend>();
  for (const environment of environments) {
    const run = runner(program, environment);
    const { exitCode, stdout, stderr } = await run("whoami", "--json");
    if (exitCode === 0) {
      const said = z.object({ url: z.string() }).parse(JSON.parse(stdout));
      // The same folder may be named in two ways.
      const url = said.url.replace(/^file:\/\/~/, `file://${homedir()}`);
      backends.set(url, backends.get(url) ?? new Backend(run, url));
    } else if (exitCode !== NOT_LOGGED_IN) {
      throw failure("whoami", stderr, "Name the backend that your stacks are in with PULUMI_BACKEND_URL");
    }
  }
  if (backends.size === 0) {
    throw new NotFound(
      "Pulumi's backend",
      "Pulumi isn't logged in to any, so nobody can tell which clusters a stack knows",
      "Log in (`pulumi login`), or name it with PULUMI_BACKEND_URL",
    );
  }
  return [...backends.values()];
}

/** @throws SiteFailure naming what can't be read: then nobody can tell that a cluster is known to no stack */
export function refuseUnreadable({ unreadable }: Knowledge): void {
  const [first] = unreadable;
  if (first) {
    throw new SiteFailure(
      `the state of stack ${first.stack}${unreadable.length > 1 ? ` and ${unreadable.length - 1} more` : ""} can't be read`,
      first.reason,
      "Nothing is removed as long as it might know what is listed",
    );
  }
}

/** What the stacks of all these backends know together. */
export async function knowledgeOf(backends: readonly Backend[]): Promise<Knowledge> {
  const all = await Promise.all(backends.map((backend) => backend.knowledge()));
  return {
    clusterIds: new Set(all.flatMap(({ clusterIds }) => [...clusterIds])),
    stacks: all.reduce((sum, { stacks }) => sum + stacks, 0),
    unreadable: all.flatMap(({ unreadable }) => unreadable),
  };
}

/** Runs the CLI; tells by its exit code that it failed. @throws NotFound when it can't be run at all */
type Run = (...args: string[]) => Promise<{
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}>;

function runner(program: string, environment: NodeJS.ProcessEnv): Run {
  const env = { ...environment, PULUMI_SKIP_UPDATE_CHECK: "1" };
  return async (...args) => {
    const options = { env, stdin: "ignore", reject: false, timeout: LIMIT_MS } as const;
    const result = await execa(program, [...args, "--non-interactive"], options);
    const { exitCode, stdout, stderr, shortMessage } = result;
    if (exitCode === undefined) {
      throw new NotFound(
        "the Pulumi CLI",
        `it can't be run (${shortMessage})`,
        "Install it, or run `npm run quickstart -- --setup` in a clone",
      );
    }
    return { exitCode, stdout, stderr };
  };
}

function failure(command: string, stderr: string, hint = ""): SiteFailure {
  const said = stderr
    .trim()
    .split("\n")
    .at(-1)
    ?.replace(/^error: /, "");
  return new SiteFailure(`\`pulumi ${command}\` failed`, said, hint);
}
