import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute } from "node:path";
import { z } from "zod";
import type {
  Ability,
  Capabilities,
  Channel,
  ClusterKeys,
  ClusterRecord,
  ClusterRef,
  Driver,
  FoundCluster,
  ImageRecord,
  ObservedNode,
  Progress,
} from "../drivers/driver";
import { ForeignOwner, InvalidImage, NotFound, NotSupported, Unreachable } from "../drivers/errors";
import { isOurs, ourNodes, refuseForeign } from "../drivers/ownership";
import { connect, placeOf } from "../drivers/registry";
import { Reverter } from "../drivers/reverter";
import type { SiteSettings } from "../drivers/settings";
import { home } from "../home";
import { examineDisk } from "../images/examine";
import { prepareImage } from "../images/prepare";
import { fetchImage, rawFileOf, sharesDisk } from "../images/repository/fetch";
import { type FoundImage, findImage } from "../images/repository/repository";
import { refuseBeyondLimits } from "../limits";
import { contradictionsIn } from "../plan/contradictions";
import {
  type ClusterPlan,
  type ClusterWish,
  countedNodes,
  dealtOf,
  planCluster,
  refuseOversize,
  SITE_DECIDES,
  sumOf,
} from "../plan/plan";
import { proposals } from "../plan/proposals";
import { planBySite } from "../plan/site-plan";
import { shellWord } from "../shell-word";
import { DIALECTS } from "../vc-out/vc-out";
import { type Context, clusterIdOf, failureOf, lockOf, openSite, progressOf } from "./context";
import {
  type CheckFailure,
  type CheckResult,
  type DiffResult,
  isKnown,
  type LifeCycle,
  PartialFailure,
  type Properties,
  same,
  withoutUndefined,
} from "./host";
import { identify, identityArgs, identityGiven, refOf } from "./identity";
import { DISK_GROWS } from "./node";
import { diffByPolicy, IN_PLACE, KEPT, type PolicyTable, refusals, refused } from "./policy";
import { findPublicKey, parsePublicKey } from "./public-key";

// ── Types ──────────────────────────────────────────────────────────────────────────────────────────────────────────

const memory = z.int("must be whole MiB").min(64, "must be at least 64 MiB").default(512);
/** 16 TiB: more is a slip, and qcow2's tables would grow large. */
const MOST_DISK_MIB = 16 * 1024 * 1024;
const diskSize = z
  .int("must be whole MiB")
  .min(1, "must be positive")
  .max(MOST_DISK_MIB, `must be at most ${MOST_DISK_MIB} MiB`);

/** What a program says; `sdk/` documents each. */
const args = z.strictObject({
  ...identityArgs,
  image: z.string().min(1, "must be a vc name"),
  repository: z.string().min(1).optional(),
  numCpus: z.int("must be a whole number").min(0, "must not be negative").default(0),
  cpusPerNode: z.int("must be a whole number").min(1, "must be at least 1").default(1),
  memoryPerNode: memory,
  diskSize: diskSize.optional(),
  frontend: z
    .strictObject({
      cpus: z.int("must be a whole number").min(1, "must be at least 1").default(1),
      memory,
      diskSize: diskSize.optional(),
    })
    .prefault({}),
  publicKey: z.string().optional(),
  publicIp: z.ipv4("must be an IPv4 address").optional(),
  power: z.enum(["on", "off"], 'must be "on" or "off"').default("on"),
  minReady: z.int("must be a whole number").min(0, "must not be negative").optional(),
  allowReplace: z.literal("computes", 'must be "computes" or left out').optional(),
  vcOutDialect: z.enum(DIALECTS, 'must be "A" or "B"').optional(),
  adopt: z.boolean().default(false),
  keepBaseImage: z.boolean().default(false),
  retainDisks: z.boolean().default(false),
});
type Args = z.output<typeof args>;

/** The checked inputs: every default filled in, the plan worked out. In a preview these are the outputs. */
export interface VirtualClusterInputs extends Omit<Args, "site" | "clusterName" | "repository" | "publicKey"> {
  readonly clusterName: string;
  readonly repository: string;
  readonly publicKey: string;
  readonly owner: string;
  readonly site: SiteSettings;
  readonly siteId: string;
  readonly plan: ClusterPlan;
}

export interface VirtualClusterOutputs extends VirtualClusterInputs {
  readonly stateVersion: 1;
  readonly ready: boolean;
  readonly createdAt: string;
  readonly imageRecord: ImageRecord;
  readonly keys: ClusterKeys;
  /** Arguments of `ssh`, the program's name left out. */
  readonly sshArguments: readonly string[];
  /** A command line for a shell. */
  readonly ssh: string;
  /** A line for a known_hosts file. */
  readonly knownHosts: string;
  /** What isn't as it should be, one sentence each; absent when nothing is. */
  readonly drift?: readonly string[];
}

// ── Update policy ──────────────────────────────────────────────────────────────────────────────────────────────────

const MAKE_ANOTHER = "Destroy this cluster first, or make another beside it";

export const VIRTUAL_CLUSTER_POLICIES: PolicyTable<VirtualClusterInputs> = {
  organization: KEPT,
  project: KEPT,
  stack: KEPT,
  name: KEPT,
  owner: KEPT,
  clusterName: refused("it is part of every name at the site", MAKE_ANOTHER),
  image: refused(
    "the frontend's disk holds data that would be lost",
    'With allowReplace: "computes" the computes are made anew from it, and the frontend stays as it is',
  ),
  repository: IN_PLACE,
  numCpus: IN_PLACE,
  cpusPerNode: IN_PLACE,
  memoryPerNode: IN_PLACE,
  diskSize: DISK_GROWS,
  frontend: IN_PLACE,
  publicKey: IN_PLACE,
  publicIp: refused("people and scripts reach the frontend by it", MAKE_ANOTHER),
  power: IN_PLACE,
  minReady: IN_PLACE,
  allowReplace: IN_PLACE,
  vcOutDialect: IN_PLACE,
  adopt: IN_PLACE,
  keepBaseImage: IN_PLACE,
  retainDisks: IN_PLACE,
  site: refused("a cluster can't move", MAKE_ANOTHER),
  siteId: refused("a cluster can't move", MAKE_ANOTHER),
  plan: IN_PLACE,
};

// ── Life cycle ─────────────────────────────────────────────────────────────────────────────────────────────────────

const DESCRIBE_LIMIT_SECONDS = 10;
const SHUTDOWN_SECONDS = 60;

/**
 * Fix images and allocate: owns the cluster's networks, addresses, keys and prepared images. Its `check` is the only one
 * that asks the site; what it plans is what `create` reserves.
 */
export function virtualClusterLifeCycle(context: Context): LifeCycle {
  return { check, diff, create, read, update, delete: remove };

  async function check(olds: Properties, news: Properties): Promise<CheckResult> {
    const { __provider, ...given } = news;
    if (!isKnown(given)) {
      // Something of another resource's is still unknown: the plan is made when it is known.
      return { inputs: news, failures: [] };
    }
    const repositoryConfigured = context.config("repository");
    const parsed = args.safeParse(
      {
        ...(repositoryConfigured !== undefined && { repository: repositoryConfigured }),
        ...identityGiven(given, olds, context),
      },
      { reportInput: true },
    );
    if (!parsed.success) {
      return { inputs: news, failures: parsed.error.issues.map(issueOf) };
    }
    const wish = parsed.data;
    const failures: CheckFailure[] = [];
    const collect = async <T>(property: string, work: () => Promise<T>): Promise<T | undefined> => {
      try {
        return await work();
      } catch (error) {
        failures.push(failureOf(error, property));
        return undefined;
      }
    };

    const identity = await collect("site", async () => identify(wish, olds, context));
    if (!identity) {
      return { inputs: news, failures };
    }
    const { clusterName, owner, site } = identity;
    const { mark } = refOf({ ...wish, clusterName, owner });
    const old = Object.keys(olds).length > 1 ? (olds as unknown as VirtualClusterInputs) : undefined;
    const repository = wish.repository ?? home("images");
    const [publicKey, image, planned] = await Promise.all([
      collect("publicKey", () => publicKeyFor(wish.publicKey, olds.publicKey)),
      // An existing cluster has its disks at the site: it needs its repository no more.
      collect("image", async () => (old?.image === wish.image ? undefined : findFittingImage(repository, wish))),
      collect("site", () => plan({ ...wish, name: clusterName }, site, mark, old)),
    ]);
    if (planned) {
      failures.push(...contradictionsIn(planned.plan).map((error) => failureOf(error, "plan")));
      failures.push(
        ...beyond(planned.capabilities, wish, planned, old && { ...old, newKey: publicKey }).map((error) =>
          failureOf(error, "site"),
        ),
      );
      if (image) {
        await collect("image", () => announceImage(connect(site), clusterName, image, wish));
      }
      if (!old) {
        announceSite(planned.capabilities, clusterName, planned.plan);
      }
    }
    if (!publicKey || !planned || failures.length > 0) {
      return { inputs: news, failures };
    }
    if (wish.minReady !== undefined && wish.minReady > planned.plan.computes.length) {
      const computes = planned.plan.computes.length;
      return {
        inputs: news,
        failures: [
          { property: "minReady", reason: `minReady is ${wish.minReady}, and there are ${computes} computes` },
        ],
      };
    }
    const inputs = withoutUndefined<VirtualClusterInputs>({
      ...wish,
      clusterName,
      owner,
      repository,
      publicKey,
      site,
      siteId: planned.siteId,
      plan: planned.plan,
    });
    return { inputs: { ...inputs, __provider }, failures: old ? refusedChanges(old, inputs) : [] };
  }

  /** Looks at the site too, so that what has drifted is mended without a refresh before. */
  async function diff(_id: string, olds: Properties, news: Properties): Promise<DiffResult> {
    const old = olds as unknown as VirtualClusterOutputs;
    const driver = await openSite(old.site, old.siteId);
    const found = await driver.find(old.clusterName);
    const ours = found && isOurs(found.mark, refOf(old)) ? found : undefined;
    const drift = ours
      ? [...(await driver.inspect(ours)), ...recordDrift(ours, old, news)]
      : ["its private network is gone"];
    for (const finding of drift) {
      progressOf(old.clusterName)(`will be mended: ${finding}`);
    }
    if (ours && isKnown(news.plan)) {
      await announceVcOut(driver, ours, old, news as unknown as VirtualClusterInputs);
    }
    const result = diffByPolicy(VIRTUAL_CLUSTER_POLICIES, olds, news, olds.ready !== true || drift.length > 0);
    // The engine compares with the old inputs, which don't know yet what the site has decided since.
    const isKnownAlready = Object.entries(news).every(([key, value]) => same(olds[key], value));
    return result.changes === undefined && isKnownAlready ? { ...result, changes: false } : result;
  }

  async function create(properties: Properties) {
    const inputs = properties as unknown as VirtualClusterInputs;
    const driver = await openSite(inputs.site, inputs.siteId);
    const progress = progressOf(inputs.clusterName);
    await using _lock = await lockOf(driver, refOf(inputs), progress);
    const held = await driver.find(inputs.clusterName);
    progress("looking at the image");
    // Machines that are there without the state knowing have their disks; an interrupted create may yet take another image.
    const inUse = held && (await driver.read(held.name)).size > 0;
    const image = inUse ? held.image : await imageOf(inputs, progress);
    const record = recordOf(inputs, held?.mark.createdAt ?? new Date().toISOString(), image);

    await refuseBeyondLimits(driver, record, record.plan);
    await using reverter = new Reverter();
    const keys = await driver.allocate(record, progress);
    if (!held) {
      reverter.add(() => driver.release(record, { keepBaseImage: inputs.keepBaseImage, keepDisks: true }));
    }
    const plan = await allocatedPlan(driver, inputs);
    const outs = outputsOf({ ...inputs, plan }, record, keys);
    progress(`network ${plan.privateNetwork.cidr} and address ${plan.frontend.publicIp} are reserved`);
    await driver.fixImages(record, progress);
    reverter.succeed();
    proposals.settle(inputs.siteId, inputs.clusterName);
    return { id: clusterIdOf(record), outs };
  }

  async function read(id: string, props: Properties) {
    const { drift: _, ...rest } = props;
    const outs = rest as unknown as VirtualClusterOutputs;
    const driver = await openSite(outs.site, outs.siteId);
    const expected = recordOf(outs, outs.createdAt, outs.imageRecord);
    const found = await driver.find(outs.clusterName);
    const ours = found !== undefined && isOurs(found.mark, expected);
    if (!ours && !(await isLeft(driver, expected))) {
      return { id: "", props: {} };
    }
    const drift = await driver.inspect(ours ? found : expected);
    return {
      id,
      props: {
        ...rest,
        ...(ours && { plan: found.plan }),
        ...(drift.length > 0 && { drift }),
        ready: outs.ready && drift.length === 0,
      },
    };
  }

  async function update(id: string, olds: Properties, news: Properties) {
    const inputs = news as unknown as VirtualClusterInputs;
    const old = olds as unknown as VirtualClusterOutputs;
    const driver = await openSite(inputs.site, inputs.siteId);
    const progress = progressOf(inputs.clusterName);
    await using _lock = await lockOf(driver, refOf(inputs), progress);
    const record: ClusterRecord = {
      ...recordOf(inputs, old.createdAt, await imageFor(inputs, old, progress)),
      mayHoldData: true,
    };
    await refuseBeyondLimits(driver, record, record.plan);
    const keys = await driver.allocate(record, progress);
    const outs = outputsOf({ ...inputs, plan: await allocatedPlan(driver, inputs) }, record, keys);
    try {
      await driver.fixImages(record, progress);
      if (inputs.power === "off") {
        await shutDown(driver, record, progress);
      }
    } catch (error) {
      throw new PartialFailure(id, { ...outs, ready: false }, news, (error as Error).message);
    }
    return { outs };
  }

  async function remove(_id: string, props: Properties): Promise<void> {
    const outs = props as unknown as VirtualClusterOutputs;
    const driver = await openSite(outs.site, outs.siteId);
    const record = recordOf(outs, outs.createdAt, outs.imageRecord);
    const found = await driver.find(outs.clusterName);
    if (found && !isOurs(found.mark, record)) {
      return; // A namesake of somebody else's: nothing of ours is left, and theirs isn't touched.
    }
    await using _lock = await lockOf(driver, record, progressOf(record.name));
    // Nodes delete their own machines. What is left was made by a create that was cut off before the state knew it.
    await Promise.all(
      ourNodes(await driver.read(record.name), record).map((node) =>
        driver.remove(
          { cluster: record, node },
          { graceSeconds: 0, keepDisk: outs.retainDisks && node === "frontend" },
        ),
      ),
    );
    await driver.release(record, { keepBaseImage: outs.keepBaseImage, keepDisks: outs.retainDisks });
  }
}

// ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────────

/**
 * Changes that the policies refuse. Of disks and addresses the plan tells, not what was asked for: what has been dealt
 * stays when it is asked for no more. Of a site only what leads to another place.
 */
function refusedChanges(old: VirtualClusterInputs, inputs: VirtualClusterInputs): CheckFailure[] {
  const told = ({ plan, site, ...rest }: VirtualClusterInputs) => ({
    ...rest,
    site: placeOf(site),
    publicIp: plan.frontend.publicIp,
    diskSize: plan.computes[0]?.diskSize,
    "frontend.diskSize": plan.frontend.diskSize,
  });
  const policies = { ...VIRTUAL_CLUSTER_POLICIES, "frontend.diskSize": DISK_GROWS, plan: IN_PLACE };
  const wasOpen = old.plan.frontend.publicIp === SITE_DECIDES;
  return refusals(policies, told(old), told(inputs)).filter(
    ({ property }) =>
      !(property === "image" && inputs.allowReplace === "computes") && !(property === "publicIp" && wasOpen),
  );
}

/** @throws NotFound; InvalidImage for a disk that its image doesn't fit on */
async function findFittingImage(repository: string, wish: Args): Promise<FoundImage> {
  const image = await findImage(repository, wish.image);
  refuseSmallDisks(wish, image);
  return image;
}

/** @throws InvalidImage for a disk that its image doesn't fit on, as far as its size is known: unpacking tells in any case */
function refuseSmallDisks(
  wish: Pick<VirtualClusterInputs, "diskSize" | "frontend">,
  { vcName, frontend, compute }: Pick<FoundImage | ImageRecord, "vcName" | "frontend" | "compute">,
): void {
  const disks = [
    { property: "diskSize", wished: wish.diskSize, size: compute.size },
    { property: "frontend.diskSize", wished: wish.frontend.diskSize, size: frontend.size },
  ];
  for (const { property, wished, size } of disks) {
    const needed = Math.ceil((size ?? 0) / 1024 / 1024);
    if (wished !== undefined && wished < needed) {
      throw new InvalidImage(
        `${property} ${wished}`,
        `image ${vcName} has a disk of ${needed} MiB`,
        `Ask for at least that, or leave ${property} out`,
      ).about(property);
    }
  }
}

/**
 * What this site makes of the image, where its disks are here already. What is wrong with the image itself `create` says,
 * which reads all of it.
 */
async function announceImage(
  driver: Driver,
  clusterName: string,
  image: FoundImage,
  { retainDisks }: Args,
): Promise<void> {
  const [frontendDisk, computeDisk] = [rawFileOf(image.frontend), rawFileOf(image.compute)];
  if (driver.foresee && frontendDisk !== undefined && computeDisk !== undefined) {
    const { vcName } = image;
    const isShared = await sharesDisk(image);
    const examined = Promise.all([frontendDisk, ...(isShared ? [] : [computeDisk])].map(examineDisk));
    const [frontend, compute = frontend] = await examined.catch(() => []);
    const said = frontend && compute ? driver.foresee({ vcName, frontend, compute, retainDisks }) : [];
    for (const line of said) {
      progressOf(clusterName)(line);
    }
  }
}

/** An operation that was cut off may have written down at the site what the program doesn't want any more. */
function recordDrift(record: ClusterRecord, old: VirtualClusterOutputs, news: Properties): string[] {
  const isAsked = ["numCpus", "cpusPerNode", "memoryPerNode", "diskSize", "frontend", "image", "publicIp", "site"].some(
    (key) => !same(old[key as keyof VirtualClusterOutputs], news[key]),
  );
  const differs =
    !isAsked && isKnown(news.plan) && !(same(record.plan, news.plan) && same(record.image, old.imageRecord));
  return differs ? ["its record at the site says something else"] : [];
}

/** Says by which way a running frontend gets to know of a change. */
async function announceVcOut(
  driver: Driver,
  cluster: ClusterRecord,
  old: VirtualClusterOutputs,
  inputs: VirtualClusterInputs,
): Promise<void> {
  const listed = ({ plan: { computes, vcOutDialect }, publicKey }: VirtualClusterInputs) => [
    publicKey,
    vcOutDialect,
    ...computes.map(({ name, cpus, privateIp }) => ({ name, cpus, privateIp })),
  ];
  if (inputs.power === "off" || same(listed(old), listed(inputs))) {
    return;
  }
  // A frontend that is gone is told of elsewhere.
  const channel = await driver.channel({ cluster, node: "frontend" }).catch(() => undefined);
  if (channel) {
    progressOf(inputs.clusterName, "frontend")(`its new vc-out.xml ${BY_CHANNEL[channel]}`);
  }
}

const BY_CHANNEL: Readonly<Record<Channel, string>> = {
  agent: "goes through the guest agent, while it runs",
  ssh: "goes over ssh, while it runs",
  context: "goes onto its context disc, while it runs",
  site: "is handed over by the site, while it runs",
  nextBoot: "waits for its next start, since its guest offers no channel now",
};

/** Another image is for the computes alone. */
async function imageFor(
  inputs: VirtualClusterInputs,
  { image, imageRecord }: VirtualClusterOutputs,
  progress: Progress,
): Promise<ImageRecord> {
  if (inputs.image === image) {
    return imageRecord;
  }
  const { compute } = await imageOf(inputs, progress);
  return { ...imageRecord, compute, computeVcName: inputs.image };
}

async function imageOf(inputs: VirtualClusterInputs, progress: Progress): Promise<ImageRecord> {
  const local = await fetchImage(await findImage(inputs.repository, inputs.image), progress);
  const { record } = await prepareImage(local, progress);
  refuseSmallDisks(inputs, record);
  return record;
}

/** Computes first: what they have open on the frontend is closed while it still answers. */
async function shutDown(driver: Driver, record: ClusterRecord, progress: Progress): Promise<void> {
  const machines = [...(await driver.read(record.name))].filter(
    ([, { mark, state }]) => isOurs(mark, record) && state === "running",
  );
  const nodes = machines.map(([node]) => node);
  const stop = (node: string) => {
    const limits = { graceSeconds: SHUTDOWN_SECONDS, progress: progressOf(record.name, node) };
    return driver.shutdown({ cluster: record, node }, limits);
  };
  if (nodes.length > 0) {
    progress(`shutting down ${nodes.length} machines, computes first`);
  }
  await Promise.all(nodes.filter((node) => node !== "frontend").map(stop));
  await Promise.all(nodes.filter((node) => node === "frontend").map(stop));
}

/** The plan as `allocate` wrote it down, with what only the site decides. */
async function allocatedPlan(driver: Driver, { clusterName, plan }: VirtualClusterInputs): Promise<ClusterPlan> {
  return driver.capabilities.macs === "site" ? ((await driver.find(clusterName))?.plan ?? plan) : plan;
}

/** Clusters that this process has seen in the state: one that is checked without it after that is being replaced. */
const inState = new Set<string>();

/** What the site holds under our mark is the plan, else what was planned before; only the rest is dealt. */
async function plan(
  wish: ClusterWish & Pick<Args, "power" | "adopt" | "image">,
  site: SiteSettings,
  mark: Omit<ClusterRecord["mark"], "version" | "createdAt">,
  oldInputs: VirtualClusterInputs | undefined,
) {
  const old = oldInputs?.clusterName === wish.name ? oldInputs.plan : undefined;
  const driver = connect(site);
  const [description, held, machines] = await withinSeconds(
    DESCRIBE_LIMIT_SECONDS,
    Promise.all([driver.describe(), driver.find(wish.name), driver.read(wish.name)]),
  );
  if (held) {
    refuseForeign(`cluster ${wish.name}`, held.mark, { name: wish.name, mark });
    refuseUnadopted(wish, held, machines, oldInputs !== undefined);
    if (!oldInputs && machines.size > 0) {
      refuseOtherThanAdopted(wish, held);
    }
  }
  if (!oldInputs && machines.size === 0 && driver.capabilities.lacks?.retainDisks === undefined) {
    const found = await withinSeconds(DESCRIBE_LIMIT_SECONDS, driver.survey());
    refuseKeptDisk(
      wish,
      mark,
      found.find(({ name, hasKeptDisk }) => name === wish.name && hasKeptDisk),
    );
  }
  const known = proposals.withOthers(description, wish.name);
  const dealt = held?.plan ?? old;
  const { addresses, macs, reserves } = driver.capabilities;
  const planned =
    addresses === "site" ? planBySite(wish, known, dealt) : planCluster(wish, known, dealt && dealtOf(dealt), macs);
  const running = [...machines.values()].filter(({ state }) => state === "running");
  const present = reserves === "running" ? running : held ? countedNodes(held.plan, known) : [];
  if (wish.power === "on" || reserves === "allocated") {
    refuseOversize(planned, known, present);
  }
  await refuseBeyondLimits(driver, { name: wish.name, mark }, planned);
  const [asked, used] = [sumOf(countedNodes(planned, known)), sumOf(present)];
  const growth = { cpus: asked.cpus - used.cpus, memory: asked.memory - used.memory };
  proposals.propose(description.siteId, wish.name, planned, growth);
  return { siteId: description.siteId, plan: planned, held: dealt, capabilities: driver.capabilities };
}

/** What the program asks for and this site can't do: said in the preview, not in the middle of `up`. */
function beyond(
  { lacks = {} }: Capabilities,
  wish: Args,
  { plan, held }: { readonly plan: ClusterPlan; readonly held: ClusterPlan | undefined },
  old: (VirtualClusterInputs & { readonly newKey: string | undefined }) | undefined,
): NotSupported[] {
  const shapesOf = ({ asked, computes, frontend }: ClusterPlan) => [
    asked ?? computes.map(({ cpus }) => cpus),
    computes[0]?.memory ?? 0,
    [frontend.cpus, frontend.memory],
  ];
  const isChanged = held !== undefined && !same(shapesOf(held), shapesOf(plan));
  const isSmaller = held !== undefined && plan.computes.length < held.computes.length;
  const asked: ReadonlyArray<readonly [ability: Ability, property: string, isAsked: boolean]> = [
    ["resize", "numCpus", isChanged],
    ["resize", "publicKey", old?.newKey !== undefined && old.newKey !== old.publicKey],
    ["removal", "numCpus", isSmaller],
    ["removal", "image", old !== undefined && old.image !== wish.image],
    ["powerOff", "power", wish.power === "off"],
    ["diskSize", "diskSize", wish.diskSize !== undefined],
    ["diskSize", "frontend.diskSize", wish.frontend.diskSize !== undefined],
    ["publicIp", "publicIp", wish.publicIp !== undefined && wish.publicIp !== held?.frontend.publicIp],
    ["vcOutDialect", "vcOutDialect", wish.vcOutDialect !== undefined],
    ["retainDisks", "retainDisks", wish.retainDisks],
  ];
  return asked.flatMap(([ability, property, isAsked]) => {
    const lack = lacks[ability];
    return lack !== undefined && isAsked
      ? [
          new NotSupported(`${property}: this site can't do that`, lack, "Leave it as it is, or leave it out").about(
            property,
          ),
        ]
      : [];
  });
}

/** What a first preview can't show, and what will not work later. */
function announceSite(
  { lacks = {}, mergesNodes, readiness }: Capabilities,
  clusterName: string,
  plan: ClusterPlan,
): void {
  const say = progressOf(clusterName);
  if (mergesNodes && plan.computes.length > 0) {
    say(
      `the site decides how many of its ${plan.computes.length} computes share the cpus: there may be fewer, with more cpus each`,
    );
  }
  if (!readiness) {
    say("this site doesn't tell when a node is ready: `up` waits until its machine runs");
  }
  if (lacks.removal !== undefined) {
    say(`\`pulumi destroy\` and fewer computes won't work at this site: ${lacks.removal}`);
  }
}

/**
 * An interrupted create has no machines as long as the state doesn't know the cluster. So where there are some, the state
 * was lost, or there are two.
 */
function refuseUnadopted(
  { name, adopt }: Pick<ClusterWish, "name"> & Pick<Args, "adopt">,
  held: ClusterRecord,
  machines: ReadonlyMap<string, ObservedNode>,
  isInState: boolean,
): void {
  if (isInState) {
    inState.add(clusterIdOf(held));
  } else if (machines.size > 0 && !adopt && !inState.has(clusterIdOf(held))) {
    throw new ForeignOwner(
      `cluster ${name}`,
      `runs at the site with this stack's mark (${machines.size} machines), and this stack's state doesn't know it`,
      "Take it over with adopt: true; or, if it isn't needed any more, remove it with `npx vc sweep`",
    ).about("adopt");
  }
}

/** A disk that was kept is used again by who says so. */
function refuseKeptDisk(
  { name, adopt }: Pick<ClusterWish, "name"> & Pick<Args, "adopt">,
  mark: ClusterRef["mark"],
  kept: FoundCluster | undefined,
): void {
  if (!kept) {
    return;
  }
  refuseForeign(`the frontend's disk of cluster ${name}`, kept.mark, { name, mark });
  if (!adopt) {
    throw new ForeignOwner(
      `cluster ${name}`,
      "its frontend's disk is at the site, kept when the cluster was destroyed (retainDisks)",
      "Set adopt: true to run on it again; or, if nobody needs it any more, remove it with `npx vc sweep`",
    ).about("adopt");
  }
  progressOf(name, "frontend")("runs on its disk again, which was kept when the cluster was destroyed");
}

/** A cluster that is taken over is taken as it is; after that it can be changed like any other. */
function refuseOtherThanAdopted(wish: ClusterWish & Pick<Args, "image">, { plan, image }: ClusterRecord): void {
  const present = { publicIp: plan.frontend.publicIp, image: image.computeVcName ?? image.vcName };
  for (const property of ["publicIp", "image"] as const) {
    if (wish[property] !== undefined && wish[property] !== present[property]) {
      throw new NotSupported(
        `${property} ${wish[property]}`,
        `the cluster that is to be taken over has ${present[property]}`,
        "Take it over with that first",
      ).about(property);
    }
  }
}

async function withinSeconds<T>(seconds: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    const late = new Unreachable(
      "the site",
      `no answer within ${seconds} s`,
      "See whether it is overloaded, then try again",
    );
    timer = setTimeout(() => reject(late), seconds * 1000);
  });
  return Promise.race([work, limit]).finally(() => clearTimeout(timer));
}

/** A key of the program's, else the one that this cluster already has, else this user's. */
async function publicKeyFor(given: string | undefined, old: unknown): Promise<string> {
  if (given !== undefined) {
    const isPath = isAbsolute(given) || /^[~.]/.test(given);
    return isPath ? parsePublicKey(await readKeyFile(given), given) : parsePublicKey(given);
  }
  return typeof old === "string" ? old : findPublicKey();
}

async function readKeyFile(path: string): Promise<string> {
  try {
    return await readFile(path.replace(/^~(?=\/)/, homedir()), "utf8");
  } catch (error) {
    throw new NotFound(
      `publicKey (${path})`,
      `the file can't be read (${(error as NodeJS.ErrnoException).code})`,
      "Make a key with ssh-keygen -t ed25519, or name another file",
    ).about("publicKey");
  }
}

function recordOf(inputs: VirtualClusterInputs, createdAt: string, image: ImageRecord): ClusterRecord {
  return {
    name: inputs.clusterName,
    mark: { version: 1, ...refOf(inputs).mark, createdAt },
    site: inputs.site,
    plan: inputs.plan,
    image,
    publicKeys: [inputs.publicKey],
    ...(inputs.minReady !== undefined && { minReady: inputs.minReady }),
    ...(inputs.adopt && { mayHoldData: true }),
    ...(inputs.power === "off" && { power: "off" }),
  };
}

function outputsOf(inputs: VirtualClusterInputs, record: ClusterRecord, keys: ClusterKeys): Properties {
  const { publicIp } = inputs.plan.frontend;
  const sshConfig = "sshConfig" in inputs.site ? inputs.site.sshConfig : undefined;
  const knownHosts = keys.hostKey === undefined ? "" : `${publicIp} ${keys.hostKey}`;
  const sshArguments = [
    ...(sshConfig ? ["-F", sshConfig] : []),
    ...(knownHosts ? ["-o", `KnownHostsCommand=/bin/echo ${knownHosts}`] : []),
    `root@${publicIp}`,
  ];
  return withoutUndefined<Properties>({
    ...inputs,
    stateVersion: 1,
    ready: true,
    createdAt: record.mark.createdAt,
    imageRecord: record.image,
    keys,
    sshArguments,
    ssh: ["ssh", ...sshArguments.map(shellWord)].join(" "),
    knownHosts,
  });
}

/** Whether anything with this cluster's mark is at the site although its record isn't. */
async function isLeft(driver: Driver, expected: ClusterRecord): Promise<boolean> {
  const found = (await driver.survey()).filter(({ name, mark }) => name === expected.name && isOurs(mark, expected));
  return found.some(({ machines, publicAddresses }) => machines.length > 0 || publicAddresses.length > 0);
}

function issueOf(issue: z.core.$ZodIssue): CheckFailure {
  if (issue.code === "unrecognized_keys") {
    const property = [...issue.path, issue.keys[0]].join(".");
    return { property, reason: `${property} is not a property of a virtual cluster` };
  }
  const property = issue.path.join(".") || "inputs";
  const value = ["string", "number"].includes(typeof issue.input) ? ` (it is ${JSON.stringify(issue.input)})` : "";
  return { property, reason: `${property} ${issue.message.replace(/^Invalid/, "is invalid:")}${value}` };
}
