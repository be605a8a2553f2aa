import pLimit, { type LimitFunction } from "p-limit";
import { z } from "zod";
import type {
  BootRequest,
  ClusterRecord,
  ClusterRef,
  DiskImage,
  Driver,
  NodeRef,
  ObservedNode,
  Power,
  Progress,
  Shape,
} from "../drivers/driver";
import { NotReady } from "../drivers/errors";
import { addressOf } from "../drivers/registry";
import { siteSettings } from "../drivers/settings";
import { allocatedComputes, macsOf, SITE_DECIDES } from "../plan/plan";
import { sha256 } from "../vc-out/digest";
import { DEFAULT_DIALECT, DIALECTS, type Dialect, type PlannedCompute } from "../vc-out/vc-out";
import {
  belongsTo,
  clusterNameIn,
  lockOf,
  type NodeLocation,
  openCluster,
  openExistingCluster,
  progressOf,
} from "./context";
import {
  type CheckResult,
  type DiffResult,
  isKnown,
  PartialFailure,
  type Properties,
  same,
  withoutUndefined,
} from "./host";
import {
  diffByPolicy,
  IN_PLACE,
  KEPT,
  LIVE_OR_RESTART,
  type Policy,
  type PolicyTable,
  REPLACE,
  refusals,
  reshapings,
} from "./policy";
import { type Timeouts, timeouts } from "./timeouts";

/** What frontends and computes have in common; each one's own life is in its file. */
export interface NodeInputs extends NodeLocation, Shape {
  /** `frontend` or `compute-0` …. */
  readonly node: string;
  readonly privateIp: string;
  readonly privateMac: string;
  /** Default `on`. */
  readonly power?: Power | undefined;
  /** Default `ready`. */
  readonly waitFor?: "none" | "running" | "ready" | undefined;
  readonly timeouts?: Timeouts | undefined;
  /** In which its vc-out.xml is written. Default: as its image wants it. */
  readonly vcOutDialect?: Dialect | undefined;
}

/** What of a node's inputs only a frontend has. */
interface FrontendsOwn {
  readonly publicIp?: string;
  readonly publicMac?: string;
  readonly computes?: readonly PlannedCompute[];
}

/** What of a node's inputs only a compute has. */
export interface ComputesOwn {
  /** Where the site gave fewer computes, with more cpus each: this one has no machine. */
  readonly allocated?: false | undefined;
}

export interface NodeOutputs extends NodeInputs, ComputesOwn {
  /** A frontend's. */
  readonly publicMac?: string;
  readonly stateVersion: 1;
  /** Whether it came to what `waitFor` asks, and nothing has changed behind our back since. */
  readonly ready: boolean;
  /** What the site says of the machine; {@link STUCK} when it didn't get ready. */
  readonly state: string;
  /** What else isn't as it should be, one sentence each; absent when nothing is. */
  readonly drift?: readonly string[];
  /** `nextBoot` while its guest, which offers no channel, follows an older vc-out.xml. */
  readonly vcOut?: "nextBoot";
}

const STUCK = "not ready";
/** How long a machine that didn't get ready last time may take to prove that it needed only more time, seconds. */
const RECHECK_SECONDS = 5;
/** How long a guest may take to shut down by itself before a restart or when its power is to be off, seconds. */
const STOP = { graceSeconds: 60 };
const DEFAULT_SECONDS = 300;

/** What a plan may leave to the site. */
const DECIDED_BY_SITES = ["privateIp", "privateMac", "publicIp", "publicMac"];
/** The state of a compute that the site gave no machine. */
const NO_MACHINE = "not allocated";

const NEXT_BOOT = "its guest offers no channel: it gets its new vc-out.xml when its power is turned off and on";

export const nodeArgs = {
  clusterId: z.string().min(1),
  // The cluster's record at the site holds the rest; every node would only carry a copy.
  site: siteSettings.transform(addressOf),
  siteId: z.string().min(1),
  node: z.string().regex(/^(frontend|compute-\d+)$/),
  cpus: z.int().min(1),
  memory: z.int().min(1),
  diskSize: z.int("must be whole MiB").min(1).optional(),
  privateIp: z.string().min(1),
  privateMac: z.string().min(1),
  power: z.enum(["on", "off"]).optional(),
  waitFor: z.enum(["none", "running", "ready"], 'must be "none", "running" or "ready"').optional(),
  timeouts: timeouts.optional(),
  vcOutDialect: z.enum(DIALECTS).optional(),
};

export const DISK_GROWS: Policy = {
  change: "grow",
  reason: "a disk never shrinks, since that would cut off data",
  hint: "Leave it as it is, or leave it out",
};

export const NODE_POLICIES: PolicyTable<NodeInputs> = {
  clusterId: REPLACE,
  site: KEPT,
  siteId: REPLACE,
  node: REPLACE,
  cpus: LIVE_OR_RESTART,
  memory: LIVE_OR_RESTART,
  diskSize: DISK_GROWS,
  privateIp: REPLACE,
  privateMac: REPLACE,
  power: IN_PLACE,
  waitFor: IN_PLACE,
  timeouts: IN_PLACE,
  vcOutDialect: IN_PLACE,
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
  const given: Record<string, unknown> = { ...own, ...(isKnown(slice) ? (slice as object) : { slice }) };
  // What the site has decided once is no change where a plan, made without the site's record, leaves it open again.
  for (const key of DECIDED_BY_SITES.filter((key) => given[key] === SITE_DECIDES && olds[key])) {
    given[key] = olds[key];
  }
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

/** Looks at the site too, so that what has drifted is mended without a refresh before. */
export async function diffNode<Inputs>(
  policies: PolicyTable<Inputs>,
  olds: Properties,
  news: Properties,
): Promise<DiffResult> {
  const old = olds as unknown as NodeOutputs;
  const say = progressOf(clusterNameIn(old.clusterId), old.node);
  const observed = old.allocated === false ? { ...old, live: undefined } : await observeNode(old);
  const now = observed ?? { ...old, state: "missing", ready: false };
  const reshaped = reshapings(policies, { ...now }, news);
  const result = diffByPolicy(policies, olds, news, !now.ready);
  const isReplaced = (result.replaces ?? []).length > 0;
  if (reshaped.length > 0 && !isReplaced && now.state === "running" && news.power !== "off") {
    const changes = reshaped.map(({ change }) => change).join(", ");
    const restart = reshaped.some((one) => one.restart);
    say(`${changes}: ${restart ? "needs a restart of the machine" : "changes while the machine runs"}`);
  }
  for (const repair of repairs(now)) {
    say(repair);
  }
  // A cluster that is about to be replaced has no id yet. Its nodes go with it.
  return isKnown(news.clusterId)
    ? result
    : { ...result, changes: true, replaces: [...(result.replaces ?? []), "clusterId"] };
}

/** What the next `up` is going to mend, for people. */
function repairs({ ready, state, node, drift = [] }: NodeOutputs): string[] {
  if (ready) {
    return [];
  }
  const remedy =
    node === "frontend"
      ? "it will be restarted unless it is ready by now; its disk stays"
      : "it will be made anew unless it is ready by now";
  return [
    ...(state === STUCK ? [`didn't get ready last time: ${remedy}`] : []),
    ...(state !== STUCK && state !== "running" ? [`its machine is ${state}`] : []),
    ...drift,
  ];
}

/** The program chooses; else the image, which has said it or looks like it. */
export function dialectFor({ vcOutDialect }: NodeInputs, image: DiskImage): Dialect {
  return vcOutDialect ?? image.vcOutDialect ?? DEFAULT_DIALECT;
}

export function nodeId({ clusterId, node }: Pick<NodeInputs, "clusterId" | "node">): string {
  return `${clusterId}/${node}`;
}

/** What is known of a node's past when it is created or updated. */
export type Past = "new" | "existing" | "stuck";

export function pastOf(olds: Properties): Past {
  return olds.state === STUCK ? "stuck" : "existing";
}

/**
 * create and update are one road: whatever is there, the machine ends up as planned, and running and ready or off.
 * @throws PartialFailure when the machine is there and doesn't get ready
 */
export async function ensureNode<Inputs extends NodeInputs & FrontendsOwn & ComputesOwn>(
  planned: Inputs,
  role: BootRequest["role"],
  past: Past,
  vcOutOf: (record: ClusterRecord, inputs: Inputs) => string,
): Promise<Properties> {
  const { driver, record } = await openExistingCluster(planned);
  const inputs = decided(planned, record);
  const ref = { cluster: record, node: inputs.node };
  const progress = progressOf(record.name, inputs.node);
  if (inputs.allocated === false) {
    progress("has no machine: the site gave fewer computes, with more cpus each");
    const outs: NodeOutputs = { ...inputs, stateVersion: 1, ready: true, state: NO_MACHINE };
    return { ...outs };
  }
  const limits = { seconds: secondsOf(inputs, past), progress };
  const goal = inputs.waitFor ?? "ready";
  const power = inputs.power ?? "on";
  const vcOut = vcOutOf(record, inputs);
  const request: BootRequest = {
    role,
    plan: planOf(inputs, role, record),
    vcOut,
    keepDisk: role === "frontend" ? past !== "new" || record.mayHoldData === true : past === "existing",
    power,
    stop: { ...STOP, progress },
    progress,
  };

  await using _lock = await lockOf(driver, record, progress);
  snapshots.clear();
  try {
    if (past === "stuck" && power === "on" && goal !== "none") {
      await repairStuck(driver, ref, role, goal, progress);
    }
    const booted = await limitOf(driver)(() => driver.boot(ref, request));
    const up = power === "on" ? goal : "off";
    sayBooted(booted, up, progress);
    if (up === "none" && booted === "created") {
      const outs: NodeOutputs = { ...inputs, stateVersion: 1, ready: true, state: "running" };
      return { ...outs };
    }
    let machine = await observe(driver, inputs);
    // A running guest that offers no channel now can't say that it is ready either.
    const isDeaf = booted === "kept" && machine?.vcOutDigest !== sha256(vcOut) && machine?.vcOutWaits === true;
    if (up === "running" || up === "ready") {
      await driver.waitFor(ref, isDeaf ? "running" : up, limits);
      machine = await observe(driver, inputs);
    }
    if (up === "ready" && machine?.vcOutDigest !== sha256(vcOut) && !machine?.vcOutWaits) {
      // It was off when its vc-out.xml changed: now it can be handed over.
      if ((await driver.reconfigure(ref, vcOut)) === "live") {
        await driver.waitFor(ref, up, limits);
      }
      machine = await observe(driver, inputs);
    }
    failing.succeeded(inputs);
    const outs = outputsOf(inputs, machine, vcOut);
    if (up === "ready") {
      progress(outs.vcOut ? NEXT_BOOT : "ready");
    }
    return { ...outs };
  } catch (error) {
    if (!(error instanceof NotReady)) {
      throw error;
    }
    const outs = { ...outputsOf(inputs, await observe(driver, inputs), vcOut), ready: false, state: STUCK };
    const tail = error.diagnosis ? `\nThe end of its console:\n${error.diagnosis}` : "";
    if (role === "compute" && failing.isTolerated(inputs, record)) {
      progress(`${error.message} The cluster counts as up without it (minReady ${record.minReady}).${tail}`);
      return outs;
    }
    throw new PartialFailure(nodeId(inputs), outs, inputs as unknown as Properties, `${error.message}${tail}`);
  }
}

/** The inputs with what only the site's record knows: addresses of the node, and of the computes that a frontend lists. */
function decided<Inputs extends NodeInputs & FrontendsOwn & ComputesOwn>(given: Inputs, record: ClusterRecord): Inputs {
  const inputs = given.privateIp === SITE_DECIDES ? { ...given, ...addressesIn(record, given) } : given;
  const macs = macsOf(record.plan);
  const decide = (mac: string, ip = "") => (mac === SITE_DECIDES ? (macs.get(ip) ?? mac) : mac);
  const { privateIp, privateMac, publicIp, publicMac, computes } = inputs;
  return {
    ...inputs,
    privateMac: decide(privateMac, privateIp),
    ...(publicMac !== undefined && { publicMac: decide(publicMac, publicIp) }),
    ...(computes && {
      computes: computes.map((one) => ({ ...one, privateMac: decide(one.privateMac, one.privateIp) })),
    }),
  };
}

function addressesIn({ plan }: ClusterRecord, { node, publicIp }: Pick<NodeInputs, "node"> & FrontendsOwn) {
  if (publicIp !== undefined) {
    const { privateIp, privateMac, publicIp, publicMac } = plan.frontend;
    return { privateIp, privateMac, publicIp, publicMac };
  }
  const { privateIp, privateMac, allocated } = plan.computes.find(({ name }) => name === node) ?? {};
  return { ...(privateIp && { privateIp, privateMac }), ...(allocated === false && { allocated }) };
}

function sayBooted(
  booted: Awaited<ReturnType<Driver["boot"]>>,
  goal: "off" | "none" | "running" | "ready",
  progress: Progress,
): void {
  if (goal === "off") {
    progress(booted === "stopped" ? "shut down" : "is off");
  } else if (booted !== "kept") {
    progress(goal === "ready" ? "started; waiting until it is ready" : "started");
  }
}

function planOf(inputs: NodeInputs, role: BootRequest["role"], record: ClusterRecord): BootRequest["plan"] {
  const { frontend, computes } = record.plan;
  const planned = role === "frontend" ? frontend : computes.find(({ name }) => name === inputs.node);
  const { cpus, memory, diskSize, privateIp, privateMac } = inputs;
  return {
    ...planned,
    name: planned?.name ?? inputs.node,
    ...{ cpus, memory, privateIp, privateMac },
    ...(diskSize !== undefined && { diskSize }),
  };
}

function secondsOf({ timeouts }: NodeInputs, past: Past): number {
  return (past === "new" ? timeouts?.create : timeouts?.update) ?? DEFAULT_SECONDS;
}

/**
 * A node that didn't get ready last time and isn't now either needs more than waiting: nothing on a compute's disk needs
 * keeping, and a frontend's stays.
 */
async function repairStuck(
  driver: Driver,
  ref: NodeRef<ClusterRecord>,
  role: BootRequest["role"],
  goal: "running" | "ready",
  progress: Progress,
): Promise<void> {
  if (!(await observe(driver, { clusterId: ref.cluster.name, node: ref.node }))) {
    return;
  }
  try {
    await driver.waitFor(ref, goal, { seconds: RECHECK_SECONDS, progress });
  } catch (error) {
    if (!(error instanceof NotReady)) {
      throw error;
    }
    if (role === "compute") {
      progress("still not ready: making it anew");
      await driver.remove(ref, { graceSeconds: 0 });
    } else {
      progress("still not ready: restarting it");
      await driver.shutdown(ref, STOP);
    }
  }
}

/** Which computes of a cluster this process has seen fail: so many may that the cluster still counts as up. */
class Failing {
  private readonly nodes = new Map<string, Set<string>>();

  isTolerated({ clusterId, node }: NodeInputs, { minReady, plan }: ClusterRecord): boolean {
    const nodes = (this.nodes.get(clusterId) ?? new Set()).add(node);
    this.nodes.set(clusterId, nodes);
    return minReady !== undefined && allocatedComputes(plan).length - nodes.size >= minReady;
  }

  succeeded({ clusterId, node }: NodeInputs): void {
    this.nodes.get(clusterId)?.delete(node);
  }
}

const failing = new Failing();

/**
 * What the site has of the node now; an empty id says that it is gone. A node whose disk is to be kept isn't gone with its
 * machine as long as the cluster is there: made anew as one that never was, it would get a new disk.
 */
export async function readNode(
  id: string,
  props: Properties,
  keepDisk: boolean,
): Promise<{ id: string; props: Properties }> {
  const outs = props as unknown as NodeOutputs;
  if (outs.allocated === false) {
    return { id, props };
  }
  const observed = await observeNode(outs);
  if (observed) {
    const { live: _, ...outs } = observed;
    return { id, props: { ...outs } };
  }
  const { record } = await snapshotOf(outs);
  return keepDisk && record ? { id, props: { ...props, state: "missing", ready: false } } : { id: "", props: {} };
}

/** The node's outputs as the site has it now; undefined where it has no machine of ours. */
async function observeNode(outs: NodeOutputs): Promise<ObservedOutputs | undefined> {
  const { nodes } = await snapshotOf(outs);
  return asObserved(outs, nodes.get(outs.node));
}

type ObservedOutputs = NodeOutputs & Pick<ObservedNode, "live">;

/** A node's outputs with what its site says of the machine; undefined where that isn't its own. */
export function asObserved(
  { drift: _, ...outs }: NodeOutputs,
  machine: ObservedNode | undefined,
): ObservedOutputs | undefined {
  if (!machine || !belongsTo(machine.mark, outs.clusterId)) {
    return undefined;
  }
  const state = outs.state === STUCK && machine.state === "running" ? STUCK : machine.state;
  const drift = driftOf(outs, machine);
  const asPlanned =
    state === (outs.power === "off" ? "off" : "running") &&
    machine.cpus === outs.cpus &&
    machine.memory === outs.memory &&
    drift.length === 0;
  const { cpus, memory, live } = machine;
  return {
    ...outs,
    ...{ state, cpus, memory, live },
    ...(drift.length > 0 && { drift }),
    ready: outs.ready && asPlanned,
  };
}

function driftOf(outs: NodeOutputs, machine: ObservedNode): string[] {
  return [
    ...(machine.autostart === undefined || machine.autostart === (outs.power !== "off")
      ? []
      : [machine.autostart ? "it would start with its host" : "it doesn't start with its host any more"]),
    ...(machine.nextStart
      ? [`from its next start on it would have cpus ${machine.nextStart.cpus} and memory ${machine.nextStart.memory}`]
      : []),
    ...(same(machine.macs, [outs.privateMac, ...(outs.publicMac ? [outs.publicMac] : [])])
      ? []
      : ["its NICs have other MAC addresses"]),
    ...(machine.diskSize === undefined ? ["its disk is gone"] : []),
    ...(outs.diskSize !== undefined && machine.diskSize !== undefined && machine.diskSize < outs.diskSize
      ? [`its disk has only ${machine.diskSize} MiB`]
      : []),
  ];
}

interface Snapshot {
  readonly record: ClusterRecord | undefined;
  readonly nodes: ReadonlyMap<string, ObservedNode>;
}

const SNAPSHOT_MS = 3000;
const snapshots = new Map<string, { readonly taken: number; readonly snapshot: Promise<Snapshot> }>();

/** A cluster and its machines as a refresh sees them: its nodes are read one after the other, and one look serves them all. */
function snapshotOf(location: NodeLocation): Promise<Snapshot> {
  const key = JSON.stringify([location.clusterId, location.siteId, location.site]);
  const last = snapshots.get(key);
  if (last && Date.now() - last.taken < SNAPSHOT_MS) {
    return last.snapshot;
  }
  const snapshot = openCluster(location).then(async ({ driver, record }) => ({
    record,
    nodes: await driver.read(clusterNameIn(location.clusterId)),
  }));
  snapshot.catch(() => snapshots.delete(key));
  snapshots.set(key, { taken: Date.now(), snapshot });
  return snapshot;
}

/** Takes the machine away. Another's machine of the same name is left alone: ours is gone then. */
export async function removeNode(props: Properties): Promise<void> {
  const outs = props as unknown as NodeOutputs & { readonly retainDisk?: true };
  if (outs.allocated === false) {
    return;
  }
  const { driver, record } = await openCluster(outs);
  const cluster = record ?? refOf(await observe(driver, outs), outs);
  if (cluster) {
    const progress = progressOf(cluster.name, outs.node);
    const keepDisk = outs.node === "frontend" && outs.retainDisk === true;
    const options = { graceSeconds: outs.timeouts?.delete ?? 0, progress, keepDisk };
    await using _lock = await lockOf(driver, cluster, progress);
    await limitOf(driver)(() => driver.remove({ cluster, node: outs.node }, options));
  }
}

/** The cluster as a machine's mark names it, where its record is lost. */
function refOf(machine: ObservedNode | undefined, { clusterId }: NodeLocation): ClusterRef | undefined {
  return machine?.mark && belongsTo(machine.mark, clusterId)
    ? { name: clusterNameIn(clusterId), mark: machine.mark }
    : undefined;
}

/** The nodes of a cluster that have a machine with its mark. */
export async function machinesOf(location: NodeLocation): Promise<string[]> {
  const { driver } = await openCluster(location);
  const machines = await driver.read(clusterNameIn(location.clusterId));
  return [...machines].flatMap(([node, { mark }]) => (belongsTo(mark, location.clusterId) ? [node] : []));
}

async function observe(driver: Driver, { clusterId, node }: Pick<NodeInputs, "clusterId" | "node">) {
  return (await driver.read(clusterNameIn(clusterId))).get(node);
}

function outputsOf(inputs: NodeInputs, machine: ObservedNode | undefined, vcOut: string): NodeOutputs {
  const follows = machine?.vcOutDigest === sha256(vcOut);
  const waits = !follows && (machine?.vcOutWaits === true || inputs.power === "off");
  return {
    ...inputs,
    stateVersion: 1,
    ready: follows || waits,
    state: machine?.state ?? "unknown",
    ...(waits && { vcOut: "nextBoot" }),
  };
}

const limits = new WeakMap<Driver, LimitFunction>();

/** The host starts all siblings at once; a site is given as many as it can take. */
function limitOf(driver: Driver): LimitFunction {
  const limit = limits.get(driver) ?? pLimit(driver.capabilities.parallelNodes);
  limits.set(driver, limit);
  return limit;
}
