import { z } from "zod";
import type { ClusterRef } from "../drivers/driver";
import { SiteFailure } from "../drivers/errors";
import { type SiteSettings, siteSettings } from "../drivers/settings";
import type { ClusterPlan } from "../plan/plan";
import type { Properties } from "../resources/host";
import { DIALECTS } from "../vc-out/vc-out";
import { OURS, type Resource, resourcesIn } from "./deployment";

/** A cluster as its stack's state has it. */
export interface StackCluster extends ClusterRef {
  /** `name` is what it is called at its site; this is what its program calls it. */
  readonly logicalName: string;
  /** With every setting filled in. */
  readonly site: SiteSettings;
  readonly siteId: string;
  readonly plan: ClusterPlan;
  /** How ssh reaches its frontend: absent while it is being created. */
  readonly access?: Access;
  /** Nodes that the state knows, the frontend first. */
  readonly nodes: readonly StackNode[];
}

export interface Access {
  /** Arguments of `ssh` that lead to the frontend, the destination last. */
  readonly sshArguments: readonly string[];
  /** The key that every node of the cluster shows, `ssh-ed25519 AAAA…`. */
  readonly hostKey: string;
}

export interface StackNode {
  /** `frontend`, `compute-0` …. */
  readonly node: string;
  readonly outputs: Properties;
  /** When it was created, ISO 8601; absent in states of old. */
  readonly since?: string;
}

const nodePlan = z.object({
  name: z.string(),
  cpus: z.int(),
  memory: z.int(),
  diskSize: z.int().optional(),
  privateIp: z.ipv4(),
  privateMac: z.string(),
});

const cluster = z.object({
  clusterName: z.string(),
  name: z.string(),
  owner: z.string(),
  organization: z.string(),
  project: z.string(),
  stack: z.string(),
  site: siteSettings,
  siteId: z.string(),
  plan: z.object({
    frontend: nodePlan.extend({ fqdn: z.string(), publicIp: z.ipv4(), publicMac: z.string() }),
    computes: z.array(nodePlan),
    privateNetwork: z.object({ cidr: z.string() }),
    publicNetwork: z.object({
      name: z.string(),
      cidr: z.string(),
      gateway: z.string(),
      dns: z.array(z.string()),
      domain: z.string(),
    }),
    vcOutDialect: z.enum(DIALECTS).optional(),
  }),
});

const access = z.object({
  sshArguments: z.array(z.string()).refine((words) => /^[\w.]+@[\w.]/.test(words.at(-1) ?? ""), "must end with a host"),
  keys: z.object({ hostKey: z.string().regex(/^[\w-]+ [\w+/=]+$/, "must be a public key") }),
});

const nodeOutputs = z.looseObject({ clusterId: z.string(), node: z.string() });

/**
 * The clusters of a stack, those that an operation has begun to create among them.
 * @param stack what `pulumi stack export` prints
 * @throws SiteFailure for what isn't the state of a stack, or has been written by another version
 */
export function clustersIn(stack: unknown): StackCluster[] {
  try {
    const { resources, pending } = resourcesIn(stack);
    const nodes = resources.filter(isOf("FrontendNode", "ComputeNode"));
    const made = resources.filter(isOf("VirtualCluster"));
    const begun = pending.filter(isOf("VirtualCluster")).filter(({ id }) => !made.some((one) => one.id === id));
    return [
      ...made.map((one) => clusterOf(one.outputs, nodesOf(nodes, one.id))),
      ...begun.filter(({ id }) => id === "").map((one) => clusterOf(one.inputs, [])),
    ];
  } catch (error) {
    if (error instanceof z.ZodError) {
      const [issue] = error.issues;
      throw new SiteFailure(
        "what the state says of a cluster can't be read",
        [issue?.path.join("."), issue?.message].filter(Boolean).join(": "),
        "It was written by another version, or is encrypted: run `pulumi up` with this one",
      );
    }
    throw error;
  }
}

function isOf(...kinds: readonly string[]) {
  return ({ type }: Resource) => kinds.some((kind) => type === `${OURS}${kind}`);
}

function clusterOf(properties: Properties, nodes: readonly StackNode[]): StackCluster {
  const { clusterName, name, site, siteId, plan, ...mark } = cluster.parse(properties);
  return {
    name: clusterName,
    logicalName: name,
    mark: { ...mark, cluster: name },
    site,
    siteId,
    // JSON has no `undefined`.
    plan: plan as ClusterPlan,
    ...(properties.sshArguments !== undefined && { access: accessOf(properties) }),
    nodes,
  };
}

function accessOf(properties: Properties): Access {
  const { sshArguments, keys } = access.parse(properties);
  return { sshArguments, hostKey: keys.hostKey };
}

function nodesOf(resources: readonly Resource[], clusterId: string): StackNode[] {
  return resources
    .map(({ outputs, created }) => ({ ...nodeOutputs.parse(outputs), outputs, created }))
    .filter((one) => one.clusterId === clusterId)
    .map(({ node, outputs, created }) => ({ node, outputs, ...(created !== undefined && { since: created }) }))
    .sort((one, other) => placeOf(one.node) - placeOf(other.node));
}

function placeOf(node: string): number {
  return node === "frontend" ? -1 : Number(/\d+$/.exec(node)?.[0] ?? 0);
}
