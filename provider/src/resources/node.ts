import pLimit, { type LimitFunction } from "p-limit";
import { z } from "zod";
import type { BootRequest, ClusterRecord, ClusterRef, Driver, ObservedNode, Shape } from "../drivers/driver";
import { NotReady } from "../drivers/errors";
import { addressOf } from "../drivers/registry";
import { siteSettings } from "../drivers/settings";
import { sha256 } from "../vc-out/digest";
import { belongsTo, clusterNameIn, type NodeLocation, openCluster, openExistingCluster, progressOf } from "./context";
import { type CheckResult, type DiffResult, isKnown, PartialFailure, type Properties, withoutUndefined } from "./host";
import { diffByPolicy, IN_PLACE, KEPT, type PolicyTable, REPLACE, RESTART, refusals, restarts } from "./policy";

/** What frontends and computes have in common; each one's own life is in its file. */
export interface NodeInputs extends NodeLocation, Shape {
  /** `frontend` or `compute-0` …. */
  readonly node: string;
  readonly privateIp: string;
  readonly privateMac: string;
  /** Default `ready`. */
  readonly waitFor?: "none" | "running" | "ready" | undefined;
  /** How long to wait, seconds. Default 300. */
  readonly timeout?: number | undefined;
}

export interface NodeOutputs extends NodeInputs {
  readonly stateVersion: 1;
  /** Whether it came to what `waitFor` asks, and nothing has changed behind our back since. */
  readonly ready: boolean;
  readonly state: string;
}

const DEFAULT_TIMEOUT_SECONDS = 300;

export const nodeArgs = {
  clusterId: z.string().min(1),
  // The cluster's record at the site holds the rest; every node would only carry a copy.
  site: siteSettings.transform(addressOf),
  siteId: z.string().min(1),
  node: z.string().regex(/^(frontend|compute-\d+)$/),
  cpus: z.int().min(1),
  memory: z.int().min(1),
  privateIp: z.string().min(1),
  privateMac: z.string().min(1),
  waitFor: z.enum(["none", "running", "ready"], 'must be "none", "running" or "ready"').optional(),
  timeout: z.number("must be a number of seconds").positive("must be positive").optional(),
};

export const NODE_POLICIES: PolicyTable<NodeInputs> = {
  clusterId: REPLACE,
  site: KEPT,
  siteId: REPLACE,
  node: REPLACE,
  cpus: RESTART,
  memory: RESTART,
  privateIp: REPLACE,
  privateMac: REPLACE,
  waitFor: IN_PLACE,
  timeout: IN_PLACE,
};

/** The checks of nodes are pure: only their cluster's asks the site. */
export function checkNode<Schema extends z.ZodType>(
  schema: Schema,
  policies: PolicyTable<z.output<Schema>>,
  olds: Properties,
  news: Properties,
): CheckResult {
  // The program hands the node its slice of the plan as one value: the engine notes where each value comes from, at the
  // length of a URN each.
  const { __provider, slice, ...own } = news;
  const given = { ...own, ...(isKnown(slice) ? (slice as object) : { slice }) };
  // Before the first `up` the cluster's id is unknown; all else is known then too.
  if (!isKnown({ ...given, clusterId: "" })) {
    return { inputs: news, failures: [] };
  }
  const parsed = schema.safeParse(given);
  if (!parsed.success) {
    return {
      inputs: news,
      failures: parsed.error.issues.map((issue) => {
        const property = issue.path.join(".") || "inputs";
        return { property, reason: `${property}: ${issue.message}` };
      }),
    };
  }
  const inputs = withoutUndefined(parsed.data as Properties);
  return { inputs: { ...inputs, __provider }, failures: olds.node ? refusals(policies, olds, inputs) : [] };
}

export function diffNode<Inputs>(policies: PolicyTable<Inputs>, olds: Properties, news: Properties): DiffResult {
  const location = olds as unknown as NodeInputs;
  for (const change of restarts(policies, olds, news)) {
    progressOf(clusterNameIn(location.clusterId), location.node)(`${change} needs a restart of the machine`);
  }
  const result = diffByPolicy(policies, olds, news, olds.ready !== true);
  // A cluster that is about to be replaced has no id yet. Its nodes go with it.
  return isKnown(news.clusterId)
    ? result
    : { ...result, changes: true, replaces: [...(result.replaces ?? []), "clusterId"] };
}

export function nodeId({ clusterId, node }: Pick<NodeInputs, "clusterId" | "node">): string {
  return `${clusterId}/${node}`;
}

/**
 * create and update are one road: whatever is there, the machine ends up as planned, running and ready.
 * @throws PartialFailure when the machine is there and doesn't get ready
 */
export async function ensureNode(
  inputs: NodeInputs,
  role: BootRequest["role"],
  keepDisk: boolean,
  vcOutOf: (record: ClusterRecord) => string,
): Promise<Properties> {
  const { driver, record } = await openExistingCluster(inputs);
  const ref = { cluster: record, node: inputs.node };
  const progress = progressOf(record.name, inputs.node);
  const planned =
    role === "frontend" ? record.plan.frontend : record.plan.computes.find(({ name }) => name === inputs.node);
  const plan = {
    ...planned,
    name: planned?.name ?? inputs.node,
    cpus: inputs.cpus,
    memory: inputs.memory,
    privateIp: inputs.privateIp,
    privateMac: inputs.privateMac,
  };
  const vcOut = vcOutOf(record);
  const booted = await limitOf(driver)(() => driver.boot(ref, { role, plan, vcOut, keepDisk, progress }));
  const goal = inputs.waitFor ?? "ready";
  if (booted !== "kept") {
    progress(goal === "ready" ? "started; waiting until it is ready" : "started");
  }
  if (goal === "none" && booted === "created") {
    return { ...inputs, stateVersion: 1, ready: true, state: "running" };
  }
  try {
    if (goal !== "none") {
      await driver.waitFor(ref, goal, { seconds: inputs.timeout ?? DEFAULT_TIMEOUT_SECONDS, progress });
    }
    if (goal === "ready" && (await observe(driver, inputs))?.vcOutDigest !== sha256(vcOut)) {
      // The machine was off when its vc-out.xml changed; now it can be handed over.
      if ((await driver.reconfigure(ref, vcOut)) === "nextBoot") {
        throw new NotReady(
          `node ${inputs.node}`,
          "it offers no channel for its new vc-out.xml",
          "Log in and put it there",
        );
      }
      await driver.waitFor(ref, goal, { seconds: inputs.timeout ?? DEFAULT_TIMEOUT_SECONDS, progress });
    }
  } catch (error) {
    if (!(error instanceof NotReady)) {
      throw error;
    }
    const reason = error.diagnosis ? `${error.message}\nThe end of its console:\n${error.diagnosis}` : error.message;
    const outs = { ...outputsOf(inputs, await observe(driver, inputs)), ready: false };
    throw new PartialFailure(nodeId(inputs), outs, inputs as unknown as Properties, reason);
  }
  if (goal === "ready") {
    progress("ready");
  }
  const machine = await observe(driver, inputs);
  return { ...outputsOf(inputs, machine), ready: machine?.vcOutDigest === sha256(vcOut) };
}

/** What the site has of the node now; an empty id says that it is gone. */
export async function readNode(id: string, props: Properties): Promise<{ id: string; props: Properties }> {
  const outs = props as unknown as NodeOutputs;
  const machine = (await snapshotOf(outs)).get(outs.node);
  if (!machine || !belongsTo(machine.mark, outs.clusterId)) {
    return { id: "", props: {} };
  }
  const asPlanned =
    machine.state === "running" &&
    machine.cpus === outs.cpus &&
    machine.memory === outs.memory &&
    machine.autostart &&
    machine.macs[0] === outs.privateMac;
  return {
    id,
    props: {
      ...props,
      state: machine.state,
      cpus: machine.cpus,
      memory: machine.memory,
      ready: outs.ready && asPlanned,
    },
  };
}

const SNAPSHOT_MS = 3000;
const snapshots = new Map<
  string,
  { readonly taken: number; readonly nodes: Promise<ReadonlyMap<string, ObservedNode>> }
>();

/** A cluster's machines as a refresh sees them: its nodes are read one after the other, and one look serves them all. */
function snapshotOf(location: NodeLocation): Promise<ReadonlyMap<string, ObservedNode>> {
  const key = JSON.stringify([location.clusterId, location.siteId, location.site]);
  const last = snapshots.get(key);
  if (last && Date.now() - last.taken < SNAPSHOT_MS) {
    return last.nodes;
  }
  const nodes = openCluster(location).then(({ driver }) => driver.read(clusterNameIn(location.clusterId)));
  nodes.catch(() => snapshots.delete(key));
  snapshots.set(key, { taken: Date.now(), nodes });
  return nodes;
}

/** Takes the machine away. Another's machine of the same name is left alone: ours is gone then. */
export async function removeNode(props: Properties): Promise<void> {
  const outs = props as unknown as NodeOutputs;
  const { driver, record } = await openCluster(outs);
  const cluster = record ?? refOf(await observe(driver, outs), outs);
  if (cluster) {
    await limitOf(driver)(() => driver.remove({ cluster, node: outs.node }, { graceSeconds: 0 }));
  }
}

/** The cluster as a machine's mark names it, where its record is lost. */
function refOf(machine: ObservedNode | undefined, { clusterId }: NodeLocation): ClusterRef | undefined {
  return machine?.mark && belongsTo(machine.mark, clusterId)
    ? { name: clusterNameIn(clusterId), mark: machine.mark }
    : undefined;
}

async function observe(driver: Driver, { clusterId, node }: Pick<NodeInputs, "clusterId" | "node">) {
  return (await driver.read(clusterNameIn(clusterId))).get(node);
}

function outputsOf(inputs: NodeInputs, machine: ObservedNode | undefined): Properties {
  return {
    ...inputs,
    stateVersion: 1,
    ready: true,
    state: machine?.state ?? "unknown",
  };
}

const limits = new WeakMap<Driver, LimitFunction>();

/** The host starts all siblings at once; a site is given as many as it can take. */
function limitOf(driver: Driver): LimitFunction {
  const limit = limits.get(driver) ?? pLimit(driver.capabilities.parallelNodes);
  limits.set(driver, limit);
  return limit;
}
