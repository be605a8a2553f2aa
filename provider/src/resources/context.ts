import { createHash } from "node:crypto";
import { hostname, userInfo } from "node:os";
import type { ClusterRecord, ClusterRef, Driver, Mark, Progress } from "../drivers/driver";
import { NotFound, VirtualClusterError, WrongSite } from "../drivers/errors";
import { configureCredentials, connect } from "../drivers/registry";
import type { SiteSettings } from "../drivers/settings";
import type { CheckFailure, ConfigureRequest } from "./host";

/** Names of the stack's configuration that the provider reads. */
const NAMESPACE = "virtual-cluster";

/** What a life cycle gets from its surroundings: the stack's configuration and who runs it. */
export class Context {
  constructor(private readonly request: ConfigureRequest) {
    configureCredentials((name) => this.config(name));
  }

  config(name: string): string | undefined {
    return this.request.config.get(`${NAMESPACE}:${name}`);
  }

  /** `virtual-cluster:site`, JSON: where the stack's clusters run. */
  siteConfiguration(): { readonly site?: unknown } {
    const site = this.config("site");
    return site === undefined ? {} : { site: parseJson(site) };
  }

  /** Who owns what this stack makes: configuration `virtual-cluster:owner`, default `user@host`. */
  get owner(): string {
    return this.config("owner") ?? `${userInfo().username}@${hostname()}`;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The id of a VirtualCluster: its name, and a hash of whose it is, so that a namesake is never taken for it. */
export function clusterIdOf({ name, mark }: ClusterRef): string {
  const whose = [mark.owner, mark.organization, mark.project, mark.stack, mark.cluster];
  return `${name}/${createHash("sha256").update(JSON.stringify(whose)).digest("hex").slice(0, 12)}`;
}

export function clusterNameIn(clusterId: string): string {
  return clusterId.split("/")[0] ?? "";
}

/** What every node records of where it is. */
export interface NodeLocation {
  readonly clusterId: string;
  readonly site: SiteSettings;
  readonly siteId: string;
}

/**
 * The recorded site, after making sure that it is the recorded one.
 * @throws Unreachable, WrongSite
 */
export async function openSite(site: SiteSettings, siteId: string): Promise<Driver> {
  const driver = connect(site);
  const found = await driver.siteId();
  if (found !== siteId) {
    throw new WrongSite(
      "another site answers where this cluster's was expected",
      `the state says ${siteId}, and now it is ${found}`,
      "Nothing was touched. Point the connection back at the right host",
    );
  }
  return driver;
}

/** A node's cluster as its site knows it, with a driver that is set up from what is recorded there. */
export interface OpenCluster {
  readonly driver: Driver;
  readonly record: ClusterRecord | undefined;
}

/** @throws Unreachable, WrongSite */
export async function openCluster(location: NodeLocation): Promise<OpenCluster> {
  const driver = await openSite(location.site, location.siteId);
  const record = await driver.find(clusterNameIn(location.clusterId));
  if (!record || clusterIdOf(record) !== location.clusterId) {
    return { driver, record: undefined };
  }
  return { driver: connect(record.site), record };
}

/** @throws NotFound when the cluster isn't at its site any more */
export async function openExistingCluster(location: NodeLocation): Promise<OpenCluster & { record: ClusterRecord }> {
  const { driver, record } = await openCluster(location);
  if (!record) {
    throw new NotFound(
      `cluster ${clusterNameIn(location.clusterId)}`,
      "it isn't at its site any more",
      "Run `pulumi refresh`, then `pulumi up`",
    );
  }
  return { driver, record };
}

/** How long an operation waits for another process's on the same cluster, seconds. */
const LOCK_SECONDS = 120;

/** @throws Locked */
export function lockOf(driver: Driver, cluster: ClusterRef, progress: Progress): Promise<AsyncDisposable> {
  return driver.lock(cluster, { seconds: LOCK_SECONDS, progress });
}

/** Whether a mark is of the cluster with this id. */
export function belongsTo(mark: Mark | undefined, clusterId: string): boolean {
  return mark !== undefined && clusterIdOf({ name: clusterNameIn(clusterId), mark }) === clusterId;
}

/** Prints one line under the stack. */
export function progressOf(cluster: string, node?: string): Progress {
  const prefix = node ? `${cluster}/${node}` : cluster;
  return (line) => console.log(`${prefix}: ${line}`);
}

/** An error as a failure of `check`, where it is one that people can mend; others are thrown on. */
export function failureOf(error: unknown, property: string): CheckFailure {
  if (error instanceof VirtualClusterError) {
    return { property: error.property ?? property, reason: error.message };
  }
  throw error;
}
