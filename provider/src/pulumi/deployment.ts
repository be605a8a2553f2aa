import { z } from "zod";
import { clusterIdOf } from "../resources/context";

/** The module of our resources' type tokens, which `sdk/` sets. */
export const OURS = "pulumi-nodejs:dynamic/virtual-cluster:";

const properties = z.record(z.string(), z.unknown()).default({});
const resource = z.object({
  type: z.string(),
  id: z.string().default(""),
  inputs: properties,
  outputs: properties,
  /** ISO 8601. */
  created: z.string().optional(),
});
export type Resource = z.output<typeof resource>;

/** As much as is read here of what `pulumi stack export` prints (apitype.UntypedDeployment of pulumi/pulumi). */
const exported = z.object({
  deployment: z
    .object({
      resources: z.array(resource).nullish(),
      pending_operations: z.array(z.object({ resource })).nullish(),
    })
    .nullish(),
});

/** What makes up the id of a cluster that is claimed, or being created. */
const identity = z.object({
  clusterName: z.string(),
  owner: z.string(),
  organization: z.string(),
  project: z.string(),
  stack: z.string(),
  name: z.string(),
});

/**
 * Ids of the clusters that a stack knows: those in its state, those of which it has only a node left, and those that an
 * operation has begun to create.
 * @throws ZodError for what isn't the state of a stack, or hides which cluster it means
 */
export function clusterIdsIn(stack: unknown): string[] {
  const { resources, pending } = resourcesIn(stack);
  return [...resources, ...pending].filter(({ type }) => type.startsWith(OURS)).map(clusterIdIn);
}

/** What a state has, and what operations that are under way, or were cut off, work at. @throws ZodError */
export function resourcesIn(stack: unknown): { resources: readonly Resource[]; pending: readonly Resource[] } {
  const { deployment } = exported.parse(stack);
  return {
    resources: deployment?.resources ?? [],
    pending: (deployment?.pending_operations ?? []).map((operation) => operation.resource),
  };
}

function clusterIdIn({ type, id, inputs, outputs }: Resource): string {
  if (type !== `${OURS}VirtualCluster` && type !== `${OURS}Claim`) {
    return z.string().parse(inputs.clusterId ?? outputs.clusterId);
  }
  if (id) {
    return id;
  }
  const { clusterName, name, ...mark } = identity.parse(inputs);
  return clusterIdOf({ name: clusterName, mark: { ...mark, cluster: name } });
}
