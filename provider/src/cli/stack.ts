import { type Command, Option } from "commander";
import { closest } from "../closest";
import { NotFound } from "../drivers/errors";
import { type Backend, findBackends } from "../pulumi/backend";
import { clustersIn, type StackCluster } from "../pulumi/stack-clusters";

/** What a command works at. */
export interface Chosen {
  readonly stack?: string;
  readonly cluster?: string;
}

/** Where clusters are looked up: asked again, it sees what has changed meanwhile. */
export type LookUp = () => Promise<readonly StackCluster[]>;

export function stackOption(): Option {
  return new Option("-s, --stack <name>", "the stack (default: the one that is selected in this folder)");
}

export function clusterOption(): Option {
  return new Option("-c, --cluster <name>", "which of the stack's clusters (default: the only one)");
}

export function withStackAndCluster(command: Command): Command {
  return command.addOption(stackOption()).addOption(clusterOption());
}

/**
 * The clusters of a stack, in whichever of this user's backends it is.
 * @param name default: the stack that is selected in this folder
 * @throws NotFound with the closest name that there is
 */
export async function clustersOf(name?: string): Promise<{ clusters: readonly StackCluster[]; lookUp: LookUp }> {
  const backends = await findBackends();
  for (const backend of backends) {
    const lookUp = async () => {
      const state = await backend.stateOf(name);
      return state === undefined ? undefined : clustersIn(state);
    };
    const clusters = await lookUp();
    if (clusters) {
      return { clusters, lookUp: async () => (await lookUp()) ?? [] };
    }
  }
  if (name === undefined) {
    throw new NotFound(
      "the stack",
      "none is selected in this folder",
      "Go to a program's folder, select one there (`pulumi stack select`), or name one with --stack",
    );
  }
  throw new NotFound(`stack ${name}`, "there is none of that name", await suggestion(name, backends));
}

async function suggestion(name: string, backends: readonly Backend[]): Promise<string> {
  const names = (await Promise.all(backends.map((backend) => backend.stackNames()))).flat();
  const near =
    closest(name, names) ?? names.find((full) => full.split("/").at(-1) === closest(name, names.map(lastOf)));
  return near ? `Did you mean ${near}?` : "`pulumi stack ls --all` lists those that there are";
}

function lastOf(name: string): string {
  return name.split("/").at(-1) ?? name;
}

/** The cluster that a command is for. @throws NotFound */
export async function chosenCluster({ stack, cluster }: Chosen): Promise<StackCluster> {
  const { clusters } = await clustersOf(stack);
  const [only] = clusters;
  const names = clusters.map(({ logicalName }) => logicalName);
  if (!only) {
    throw new NotFound("the stack", "it has no virtual cluster", "Run `pulumi up`, or name another one with --stack");
  }
  if (cluster === undefined) {
    if (clusters.length > 1) {
      throw new NotFound(
        "the cluster",
        `the stack has ${clusters.length}`,
        `Name one with --cluster: ${names.join(", ")}`,
      );
    }
    return only;
  }
  const found = clusters.find(({ logicalName, name }) => cluster === logicalName || cluster === name);
  if (!found) {
    throw new NotFound(
      `cluster ${cluster}`,
      "the stack has none of that name",
      `Did you mean ${closest(cluster, names) ?? names.join(" or ")}?`,
    );
  }
  return found;
}

/** Every node of a cluster's plan. */
export function nodeNames({ plan }: StackCluster): string[] {
  return ["frontend", ...plan.computes.map(({ name }) => name)];
}

/** @throws NotFound with the closest name that there is */
export function refuseUnknownNode(cluster: StackCluster, node: string): void {
  const names = nodeNames(cluster);
  if (!names.includes(node)) {
    const near = closest(node, names);
    throw new NotFound(
      `node ${node}`,
      `cluster ${cluster.logicalName} has none of that name`,
      near
        ? `Did you mean ${near}?`
        : `Known there: ${names.length > 3 ? `${names[0]}, ${names[1]} … ${names.at(-1)}` : names.join(", ")}`,
    );
  }
}
