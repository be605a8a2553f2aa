import { z } from "zod";

/** The module of our resources' type tokens, which `sdk/` sets. */
const OURS = "pulumi-nodejs:dynamic/virtual-cluster:";

const resource = z.object({ type: z.string(), outputs: z.record(z.string(), z.unknown()).default({}) });
const planned = z.object({ name: z.string(), cpus: z.number(), memory: z.number(), privateIp: z.string() });
const cluster = z.object({
  image: z.string(),
  power: z.string(),
  ssh: z.string().optional(),
  plan: z.object({ frontend: planned.extend({ publicIp: z.string() }), computes: z.array(planned) }),
});

/** As much as is read here of what `pulumi stack export` prints (apitype.UntypedDeployment of pulumi/pulumi). */
const exported = z.object({
  deployment: z
    .object({ resources: z.array(resource).nullish(), pending_operations: z.array(z.unknown()).nullish() })
    .nullish(),
});

/** A cluster as its stack's state has it. */
export interface ClusterSummary extends z.output<typeof cluster> {
  /** `incomplete`: something is missing or isn't ready. */
  readonly state: "up" | "off" | "incomplete";
}

/** @returns undefined where the state has no cluster, or only begins to */
export function summaryOf(state: unknown): ClusterSummary | undefined {
  const { deployment } = exported.parse(state);
  const resources = deployment?.resources ?? [];
  const found = cluster.safeParse(resources.find(({ type }) => type === `${OURS}VirtualCluster`)?.outputs);
  if (!found.success) {
    return undefined;
  }
  const nodes = resources.filter(({ type }) => type.startsWith(OURS) && type.endsWith("Node"));
  const isWhole =
    (deployment?.pending_operations ?? []).length === 0 &&
    nodes.length === found.data.plan.computes.length + 1 &&
    nodes.every(({ outputs }) => outputs.ready === true);
  return { ...found.data, state: !isWhole ? "incomplete" : found.data.power === "off" ? "off" : "up" };
}
