import { z } from "zod";
import type { FrontendPlan } from "../plan/plan";
import { frontendVcOut, type PlannedCompute } from "../vc-out/vc-out";
import { writeVcOut } from "../vc-out/write";
import type { LifeCycle, Properties } from "./host";
import {
  checkNode,
  dialectFor,
  diffNode,
  ensureNode,
  machinesOf,
  NODE_POLICIES,
  type NodeInputs,
  nodeArgs,
  nodeId,
  type Past,
  pastOf,
  readNode,
  removeNode,
} from "./node";
import { IN_PLACE, type PolicyTable, refused } from "./policy";

// ── Types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

export interface FrontendNodeInputs extends NodeInputs {
  readonly publicIp: string;
  readonly publicMac: string;
  /** Whom the frontend knows: exactly the computes of the plan. */
  readonly computes: readonly PlannedCompute[];
  /** Who may log in as root. */
  readonly publicKey: string;
  /** Whether its disk stays when it is deleted. */
  readonly retainDisk?: true | undefined;
}

const args = z.strictObject({
  ...nodeArgs,
  publicIp: z.string().min(1),
  publicMac: z.string().min(1),
  computes: z.array(
    z.strictObject({
      name: z.string(),
      cpus: z.int(),
      privateIp: z.string(),
      privateMac: z.string(),
    }),
  ),
  publicKey: z.string().min(1),
  retainDisk: z.literal(true).optional(),
});

// ── Update policy ──────────────────────────────────────────────────────────────────────────────────────────────────

const keepsItsPlace = refused(
  "the frontend's disk holds data that a replacement would lose",
  "Destroy the cluster first",
);

export const FRONTEND_NODE_POLICIES: PolicyTable<FrontendNodeInputs> = {
  ...NODE_POLICIES,
  clusterId: keepsItsPlace,
  siteId: keepsItsPlace,
  node: keepsItsPlace,
  privateIp: keepsItsPlace,
  privateMac: keepsItsPlace,
  publicIp: keepsItsPlace,
  publicMac: keepsItsPlace,
  computes: IN_PLACE,
  publicKey: IN_PLACE,
  retainDisk: IN_PLACE,
};

// ── Life cycle ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Boot, for the frontend: owns its machine, its disk with the users' data, and its vc-out.xml. */
export function frontendNodeLifeCycle(): LifeCycle {
  return {
    check: async (olds, news) => checkNode(args, FRONTEND_NODE_POLICIES, olds, news),
    diff: (_id, olds, news) => diffNode(FRONTEND_NODE_POLICIES, olds, news),
    create: async (news) => {
      const outs = await ensure(news, "new");
      // Of a cluster that was taken over.
      await removeUnlisted(news, news);
      return { id: nodeId(inputsOf(news)), outs };
    },
    read: (id, props) => readNode(id, props, true),
    update: async (_id, olds, news) => {
      const outs = await ensure(news, pastOf(olds));
      await removeUnlisted(olds, news);
      return { outs };
    },
    delete: (_id, props) => removeNode(props),
  };
}

async function ensure(news: Properties, past: Past): Promise<Properties> {
  return ensureNode(inputsOf(news), "frontend", past, (record, inputs) => {
    const frontend: FrontendPlan = { ...record.plan.frontend, publicIp: inputs.publicIp, publicMac: inputs.publicMac };
    const vcOut = frontendVcOut({ ...record.plan, frontend, computes: inputs.computes }, [inputs.publicKey]);
    return writeVcOut(vcOut, dialectFor(inputs, record.image.frontend));
  });
}

/**
 * Takes away the computes that the frontend doesn't list any more. Those that the state knows would go after this by
 * themselves; one whose create was cut off has nobody else who knows of it.
 */
async function removeUnlisted(olds: Properties, news: Properties): Promise<void> {
  const listed = new Set(["frontend", ...inputsOf(news).computes.map(({ name }) => name)]);
  const formerly = inputsOf(olds).computes.map(({ name }) => name);
  const present = await machinesOf(inputsOf(news));
  const unlisted = [...new Set([...formerly, ...present])].filter((node) => !listed.has(node));
  await Promise.all(unlisted.map((node) => removeNode({ ...news, node })));
}

function inputsOf(news: Properties): FrontendNodeInputs {
  return news as unknown as FrontendNodeInputs;
}
