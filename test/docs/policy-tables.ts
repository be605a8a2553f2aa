import { join } from "node:path";
import { CLAIM_POLICIES } from "../../provider/src/resources/claim";
import { COMPUTE_NODE_POLICIES } from "../../provider/src/resources/compute-node";
import { FRONTEND_NODE_POLICIES } from "../../provider/src/resources/frontend-node";
import type { Policy } from "../../provider/src/resources/policy";
import { VIRTUAL_CLUSTER_POLICIES } from "../../provider/src/resources/virtual-cluster";
import type { ClusterArgs, NodeShape } from "../../sdk/src";
import { table, withTable } from "./tables";

export const LIFE_CYCLE = join(__dirname, "..", "..", "docs", "life-cycle.md");

const POLICIES = {
  Claim: CLAIM_POLICIES,
  VirtualCluster: VIRTUAL_CLUSTER_POLICIES,
  FrontendNode: FRONTEND_NODE_POLICIES,
  ComputeNode: COMPUTE_NODE_POLICIES,
} as const;

type Argument = Exclude<keyof ClusterArgs, "frontend"> | `frontend.${keyof NodeShape}`;

/** What a person writes, in the order of the README: whose policy holds for it, and what that doesn't say. */
const ARGUMENTS: Readonly<Record<Argument, readonly [policy: Policy, note?: string]>> = {
  image: [VIRTUAL_CLUSTER_POLICIES.image],
  repository: [VIRTUAL_CLUSTER_POLICIES.repository, "it is looked into for new images only"],
  numCpus: [VIRTUAL_CLUSTER_POLICIES.numCpus, "computes come or go, and those that stay aren't touched"],
  cpusPerNode: [COMPUTE_NODE_POLICIES.cpus, "computes come or go as `numCpus` needs it"],
  memoryPerNode: [COMPUTE_NODE_POLICIES.memory],
  diskSize: [COMPUTE_NODE_POLICIES.diskSize],
  "frontend.cpus": [FRONTEND_NODE_POLICIES.cpus],
  "frontend.memory": [FRONTEND_NODE_POLICIES.memory],
  "frontend.diskSize": [FRONTEND_NODE_POLICIES.diskSize],
  publicKey: [FRONTEND_NODE_POLICIES.publicKey, "every node is told the new key, and no longer lets the old one in"],
  publicIp: [VIRTUAL_CLUSTER_POLICIES.publicIp, "naming the one that the cluster has is no change"],
  clusterName: [VIRTUAL_CLUSTER_POLICIES.clusterName],
  site: [
    VIRTUAL_CLUSTER_POLICIES.site,
    "that is another `driver`, `uri`, `network` or `pool`, at a Rocks site `ssh` or `diskFolder`, at one with programs `temporaryDirectory`; other settings are taken over in place",
  ],
  power: [FRONTEND_NODE_POLICIES.power, "shuts the machines down, or starts them"],
  waitFor: [FRONTEND_NODE_POLICIES.waitFor],
  timeouts: [FRONTEND_NODE_POLICIES.timeouts],
  minReady: [VIRTUAL_CLUSTER_POLICIES.minReady],
  allowReplace: [VIRTUAL_CLUSTER_POLICIES.allowReplace],
  vcOutDialect: [FRONTEND_NODE_POLICIES.vcOutDialect, "every node gets a new vc-out.xml"],
  adopt: [VIRTUAL_CLUSTER_POLICIES.adopt],
  keepBaseImage: [VIRTUAL_CLUSTER_POLICIES.keepBaseImage],
  retainDisks: [VIRTUAL_CLUSTER_POLICIES.retainDisks, "what it is when the cluster is destroyed counts"],
};

/** docs/life-cycle.md with its tables made anew. */
export function withPolicies(page: string): string {
  return withTable(withTable(page, "arguments", argumentsTable()), "properties", propertiesTable());
}

function argumentsTable(): string {
  return table(
    ["argument", "a change of it"],
    Object.entries(ARGUMENTS).map(([name, [policy, note]]) => [
      `\`${name}\``,
      [inWords(policy), note].filter(Boolean).join("; "),
    ]),
  );
}

/** By resource and what a change does, so that the long lists read as one line each. */
function propertiesTable(): string {
  return table(
    ["resource", "properties", "a change of them"],
    Object.entries(POLICIES).flatMap(([resource, policies]) => {
      const byChange = new Map<string, string[]>();
      for (const [property, policy] of Object.entries(policies)) {
        const words = inWords(policy);
        byChange.set(words, [...(byChange.get(words) ?? []), `\`${property}\``]);
      }
      return [...byChange].map(([words, properties]) => [resource, properties.join(", "), words]);
    }),
  );
}

function inWords(policy: Policy): string {
  switch (policy.change) {
    case "inPlace":
      return "in place";
    case "liveOrRestart":
      return "while the machine runs where it can, else with a restart";
    case "grow":
      return `grows only, and while the machine runs: ${policy.reason}`;
    case "replace":
      return "made anew";
    case "refused":
      return `refused: ${policy.reason}. ${policy.hint}`;
    case "kept":
      return "keeps its first value";
  }
}
