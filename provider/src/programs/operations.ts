import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import pRetry from "p-retry";
import type { ClusterRecord, Driver, NodeRef, Progress } from "../drivers/driver";
import { AddressTaken, NotFound } from "../drivers/errors";
import { isOurs } from "../drivers/ownership";
import { contradictionsIn } from "../plan/contradictions";
import { type ClusterPlan, dealtOf, planCluster } from "../plan/plan";
import { computeVcOut, DEFAULT_DIALECT, frontendVcOut, type VcOut } from "../vc-out/vc-out";
import { writeVcOut } from "../vc-out/write";
import { type ClusterFile, makeClusterFile, readClusterFile, removeClusterFile } from "./cluster-file";
import { readImage, readShapes, type WantedShapes } from "./image";

/** What a program works with: the driver and its settings, and where lines for people go. */
export interface Surroundings {
  readonly driver: Driver;
  readonly site: ClusterRecord["site"];
  readonly progress: Progress;
}

const LOCK_SECONDS = 120;
const HOST_KEY_FILE = "ssh_host_ed25519_key.pub";
/** Somebody may take what was planned before it is reserved. */
const PLANS = 5;

/** @returns its last line: the disks that `boot` gets */
export async function fixImages(around: Surroundings, [vcIn = "", temp = ""]: readonly string[]): Promise<string> {
  const { driver, progress } = around;
  const { disks, record: image } = await readImage(vcIn, progress);
  const cluster = await readClusterFile(temp);
  const record = cluster && (await driver.find(cluster.name));
  if (record) {
    await using _lock = await driver.lock(record, { seconds: LOCK_SECONDS, progress });
    const { vcName } = record.image;
    const renewed = { ...record, image: { ...image, vcName } };
    await driver.allocate(renewed, progress);
    await driver.fixImages(renewed, progress);
  }
  return `${disks.frontend} ${disks.compute}`;
}

/** Deployers call it before or after `fix_images`: whoever comes second brings the disks to the site. */
export async function allocate(around: Surroundings, args: readonly string[]): Promise<string> {
  return reserve(around, args, await makeClusterFile(args[3] ?? ""));
}

/** With a host name it brings that node up to date. @returns what that took, as its last line */
export async function reconfigure(around: Surroundings, args: readonly string[]): Promise<string> {
  const [, , vcOutPath = "", temp = "", , hostName, cpus, memory] = args;
  const cluster = await clusterOf(temp);
  if (hostName === undefined) {
    return reserve(around, args, cluster);
  }
  const { driver, progress } = around;
  await using _lock = await driver.lock(cluster, { seconds: LOCK_SECONDS, progress });
  const ref = await nodeOf(driver, temp, hostName);
  const resized = await driver.resize(ref, { cpus: Number(cpus), memory: Number(memory) }, { graceSeconds: 60 });
  const handed = await driver.reconfigure(ref, await vcOutFor(ref, temp, vcOutPath));
  return resized === "restarted" ? "restarted" : handed;
}

export async function boot(around: Surroundings, args: readonly string[]): Promise<string> {
  const [, hostName = "", temp = "", vcOutPath = ""] = args;
  const { driver, progress } = around;
  await using _lock = await driver.lock(await clusterOf(temp), { seconds: LOCK_SECONDS, progress });
  const ref = await nodeOf(driver, temp, hostName);
  const { frontend, computes } = ref.cluster.plan;
  const isFrontend = ref.node === "frontend";
  const plan = isFrontend ? frontend : computes.find(({ name }) => name === ref.node);
  if (!plan) {
    throw new NotFound(`node ${hostName}`, `isn't planned in cluster ${ref.cluster.name}`, "Run allocate first");
  }
  const booted = await driver.boot(ref, {
    role: isFrontend ? "frontend" : "compute",
    plan,
    vcOut: await vcOutFor(ref, temp, vcOutPath),
    // What lies on a frontend's disk may be data; on a compute's it is a leftover.
    keepDisk: isFrontend,
    power: "on",
    stop: { graceSeconds: 60 },
    progress,
  });
  return `${hostName}: ${booted}`;
}

/** @returns a line for each machine */
export async function status({ driver }: Surroundings, [temp = ""]: readonly string[]): Promise<string> {
  const cluster = await readClusterFile(temp);
  if (!cluster) {
    return "";
  }
  const [record, machines] = await Promise.all([driver.find(cluster.name), driver.read(cluster.name)]);
  const ours = [...machines].filter(([, { mark }]) => isOurs(mark, cluster));
  return ours.map(([node, { state }]) => `${hostNameOf(record, node)} ${state}`).join("\n");
}

export async function shutdown(around: Surroundings, args: readonly string[]): Promise<string> {
  const [temp = "", , hostName = "", graceSeconds] = args;
  const { driver, progress } = around;
  await using _lock = await driver.lock(await clusterOf(temp), { seconds: LOCK_SECONDS, progress });
  await driver.shutdown(await nodeOf(driver, temp, hostName), { graceSeconds: Number(graceSeconds) });
  return `${hostName}: off`;
}

/** One node; without a host name all that the cluster has. Already gone is success. */
export async function remove(around: Surroundings, args: readonly string[]): Promise<string> {
  const [temp = "", vcOutPath = "", hostName] = args;
  const { driver, progress } = around;
  const cluster = await readClusterFile(temp);
  if (!cluster) {
    return "nothing is there";
  }
  await using _lock = await driver.lock(cluster, { seconds: LOCK_SECONDS, progress });
  const record = await driver.find(cluster.name);
  const take = (node: string) => driver.remove({ cluster: record ?? cluster, node }, { graceSeconds: 0, progress });
  if (hostName !== undefined) {
    await take(nodeCalled(hostName, record));
    return `${hostName}: removed`;
  }
  const nodes = [...(await driver.read(cluster.name))].filter(([, { mark }]) => isOurs(mark, cluster));
  await Promise.all(nodes.map(([node]) => take(node)));
  await driver.release(record ?? cluster, { keepBaseImage: false });
  await rm(vcOutPath, { force: true });
  await removeClusterFile(temp);
  return `cluster ${cluster.name}: removed`;
}

// ── Helpers ────────────────────────────────────────────────────────────────────────────────────────────────────────

async function reserve(around: Surroundings, args: readonly string[], cluster: ClusterFile): Promise<string> {
  const [numCpus, vcIn = "", vcOutPath = "", temp = "", keyPath = ""] = args;
  const { driver, site, progress } = around;
  const shapes = await readShapes(vcIn);
  const publicKeys = (await readFile(keyPath, "utf8")).split(/\r?\n/).filter((line) => line.trim() !== "");
  await using _lock = await driver.lock(cluster, { seconds: LOCK_SECONDS, progress });
  const { record, hostKey } = await pRetry(
    async () => {
      const held = await driver.find(cluster.name);
      const plan = await planOf(driver, cluster, Number(numCpus), shapes, held?.plan);
      const image = held?.image ?? (await readImage(vcIn, progress)).record;
      const planned = { ...cluster, site, plan, image, publicKeys };
      const keys = await driver.allocate(planned, progress);
      return { record: (await driver.find(cluster.name)) ?? planned, hostKey: keys.hostKey };
    },
    { retries: PLANS - 1, minTimeout: 200, shouldRetry: ({ error }) => error instanceof AddressTaken },
  );
  await driver.fixImages(record, progress);
  const { plan } = record;
  for (const compute of plan.computes) {
    await write(join(temp, `${compute.name}.xml`), computeVcOut(plan, compute, publicKeys));
  }
  if (hostKey !== undefined) {
    await writeFile(join(temp, HOST_KEY_FILE), `${hostKey}\n`);
  }
  await write(vcOutPath, frontendVcOut(plan, publicKeys));
  return `cluster ${record.name}: network ${plan.privateNetwork.cidr} and address ${plan.frontend.publicIp} are reserved`;
}

/** @throws NoCapacity, Contradiction */
async function planOf(
  driver: Driver,
  { name }: ClusterFile,
  numCpus: number,
  { frontend, compute }: WantedShapes,
  held: ClusterPlan | undefined,
): Promise<ClusterPlan> {
  const wish = { name, numCpus, cpusPerNode: compute.cpus, memoryPerNode: compute.memory, frontend };
  const plan = planCluster(wish, await driver.describe(), held && dealtOf(held), driver.capabilities.macs);
  const [contradiction] = contradictionsIn(plan);
  if (contradiction) {
    throw contradiction;
  }
  return plan;
}

function write(file: string, vcOut: VcOut): Promise<void> {
  return writeFile(file, writeVcOut(vcOut, DEFAULT_DIALECT));
}

async function vcOutFor({ node }: NodeRef, temp: string, vcOutPath: string): Promise<string> {
  return readFile(node === "frontend" ? vcOutPath : join(temp, `${node}.xml`), "utf8");
}

/** @throws NotFound */
async function clusterOf(temp: string): Promise<ClusterFile> {
  const cluster = await readClusterFile(temp);
  if (!cluster) {
    throw new NotFound(`temporary directory ${temp}`, "no cluster was allocated with it", "Run allocate first");
  }
  return cluster;
}

/** @throws NotFound */
async function nodeOf(driver: Driver, temp: string, hostName: string): Promise<NodeRef<ClusterRecord>> {
  const cluster = await clusterOf(temp);
  const record = await driver.find(cluster.name);
  if (!record) {
    throw new NotFound(`cluster ${cluster.name}`, "isn't at its site any more", "Run allocate again");
  }
  return { cluster: record, node: nodeCalled(hostName, record) };
}

/** Computes have the same name here and there; a frontend has its public one. */
function nodeCalled(hostName: string, record: ClusterRecord | undefined): string {
  const isCompute = /^compute-\d+$/.test(hostName);
  return isCompute && hostName !== record?.plan.frontend.fqdn ? hostName : "frontend";
}

function hostNameOf(record: ClusterRecord | undefined, node: string): string {
  return node === "frontend" ? (record?.plan.frontend.fqdn ?? node) : node;
}
