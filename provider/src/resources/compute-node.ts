import { z } from "zod";
import { computeVcOut } from "../vc-out/dialect-b";
import type { LifeCycle, Properties } from "./host";
import {
  checkNode,
  diffNode,
  ensureNode,
  NODE_POLICIES,
  type NodeInputs,
  nodeArgs,
  nodeId,
  readNode,
  removeNode,
} from "./node";
import type { PolicyTable } from "./policy";

// ── Types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A compute carries its own slice of the plan and nothing of its siblings, so that a resize doesn't touch it. */
export type ComputeNodeInputs = NodeInputs;

const args = z.strictObject(nodeArgs);

// ── Update policy ──────────────────────────────────────────────────────────────────────────────────────────────────

export const COMPUTE_NODE_POLICIES: PolicyTable<ComputeNodeInputs> = NODE_POLICIES;

// ── Life cycle ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Boot, for one compute: owns its machine, its disk and its vc-out.xml. Nothing on its disk needs keeping. */
export function computeNodeLifeCycle(): LifeCycle {
  return {
    check: async (olds, news) => checkNode(args, COMPUTE_NODE_POLICIES, olds, news),
    diff: async (_id, olds, news) => diffNode(COMPUTE_NODE_POLICIES, olds, news),
    create: async (news) => ({ id: nodeId(inputsOf(news)), outs: await ensure(news, false) }),
    read: (id, props) => readNode(id, props, false),
    update: async (_id, _olds, news) => ({ outs: await ensure(news, true) }),
    delete: (_id, props) => removeNode(props),
  };
}

async function ensure(news: Properties, keepDisk: boolean): Promise<Properties> {
  const inputs = inputsOf(news);
  const plan = { name: inputs.node, ...inputs };
  return ensureNode(inputs, "compute", keepDisk, (record) => computeVcOut(record.plan, plan, record.publicKeys));
}

function inputsOf(news: Properties): ComputeNodeInputs {
  return news as unknown as ComputeNodeInputs;
}
