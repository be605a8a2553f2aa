import { z } from "zod";
import { computeVcOut } from "../vc-out/vc-out";
import { writeVcOut } from "../vc-out/write";
import type { LifeCycle, Properties } from "./host";
import {
  type ComputesOwn,
  checkNode,
  dialectFor,
  diffNode,
  ensureNode,
  NODE_POLICIES,
  type NodeInputs,
  nodeArgs,
  nodeId,
  type Past,
  pastOf,
  readNode,
  removeNode,
} from "./node";
import { IN_PLACE, type PolicyTable, REPLACE } from "./policy";

// ── Types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/** A compute carries its own slice of the plan and nothing of its siblings, so that a resize doesn't touch it. */
export interface ComputeNodeInputs extends NodeInputs, ComputesOwn {
  /** The vc name of its image: another one means another machine. */
  readonly image: string;
  /** The start of the fingerprint of the public key in its vc-out.xml, which the site's record has. */
  readonly key: string;
}

const args = z.strictObject({
  ...nodeArgs,
  image: z.string().min(1),
  key: z.string().min(1),
  allocated: z.literal(false).optional(),
});

// ── Update policy ──────────────────────────────────────────────────────────────────────────────────────────────────

export const COMPUTE_NODE_POLICIES: PolicyTable<ComputeNodeInputs> = {
  ...NODE_POLICIES,
  image: REPLACE,
  key: IN_PLACE,
  allocated: REPLACE,
};

// ── Life cycle ─────────────────────────────────────────────────────────────────────────────────────────────────────

/** Boot, for one compute: owns its machine, its disk and its vc-out.xml. Nothing on its disk needs keeping. */
export function computeNodeLifeCycle(): LifeCycle {
  return {
    check: async (olds, news) => checkNode(args, COMPUTE_NODE_POLICIES, olds, news),
    diff: (_id, olds, news) => diffNode(COMPUTE_NODE_POLICIES, olds, news),
    create: async (news) => ({ id: nodeId(inputsOf(news)), outs: await ensure(news, "new") }),
    read: (id, props) => readNode(id, props, false),
    update: async (_id, olds, news) => ({ outs: await ensure(news, pastOf(olds)) }),
    delete: (_id, props) => removeNode(props),
  };
}

async function ensure(news: Properties, past: Past): Promise<Properties> {
  return ensureNode(inputsOf(news), "compute", past, (record, inputs) => {
    const { allocated: _, ...own } = inputs;
    const plan = { name: inputs.node, ...own };
    return writeVcOut(computeVcOut(record.plan, plan, record.publicKeys), dialectFor(inputs, record.image.compute));
  });
}

function inputsOf(news: Properties): ComputeNodeInputs {
  return news as unknown as ComputeNodeInputs;
}
