import { readdir } from "node:fs/promises";
import { expect } from "chai";
import type { ClusterRecord, NodeRef } from "../../provider/src/drivers/driver";
import { RocksDriver } from "../../provider/src/drivers/rocks";
import { macsOf, planCluster } from "../../provider/src/plan/plan";
import { differences, type RocksSite, rocksSite } from "../conformance/rocks";

const SEQUENCES = 50;
const STEPS = 4;
const MOST_COMPUTES = 4;
const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };

/** Mulberry32: the same numbers for the same seed. */
function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

describe("clusters that come, change, are cut off and go at a Rocks site", function () {
  this.timeout(1_800_000);
  const seed = Number(process.env.VC_SEED ?? Date.now() % 2 ** 31);
  let site: RocksSite;
  let clean: string;

  before(async function () {
    site = await rocksSite(this);
    clean = JSON.stringify(site.rocks.state);
  });

  after(() => site?.backend.tearDown());

  it(`leave the tables as they were (VC_SEED=${seed})`, async () => {
    for (let sequence = 0; sequence < SEQUENCES; sequence++) {
      const random = randomOf(seed + sequence);
      const done: string[] = [];
      try {
        await live(`soak-${sequence}`, random, done);
      } catch (error) {
        throw new Error(`VC_SEED=${seed + sequence}: ${done.join(", ")}: ${(error as Error).message}`);
      }
      const left = differences(JSON.parse(clean), site.rocks.state);
      expect(left, `VC_SEED=${seed + sequence}: ${done.join(", ")}`).to.deep.equal([]);
      // The lock of one that was killed stays until the next takes it.
      const files = (await readdir(site.folder)).filter((file) => !file.includes("lock"));
      expect(files, `VC_SEED=${seed + sequence}: ${done.join(", ")}`).to.deep.equal([]);
    }
  });

  async function live(name: string, random: () => number, done: string[]): Promise<void> {
    let record: ClusterRecord | undefined;
    for (let step = 0; step < STEPS; step++) {
      const computes = Math.floor(random() * (MOST_COMPUTES + 1));
      const cutOff = random() < 0.5 ? Math.floor(random() * 30) : undefined;
      done.push(`${computes} computes${cutOff === undefined ? "" : ` cut off after ${cutOff} requests`}`);
      // Another process each time, which knows nothing of the one before.
      const driver = new RocksDriver(site.settings);
      record = await wish(driver, name, computes);
      await site.backend.interruptAfter(cutOff);
      await up(driver, record).catch((error) => {
        if (cutOff === undefined) {
          throw error;
        }
      });
      await site.backend.interruptAfter(undefined);
    }
    const driver = new RocksDriver(site.settings);
    const present = (await driver.find(name)) ?? record;
    if (present) {
      const nodes = [...(await driver.read(name)).keys()];
      await Promise.all(nodes.map((node) => driver.remove({ cluster: present, node }, AT_ONCE)));
      await driver.release(present, { keepBaseImage: false });
    }
  }

  async function wish(driver: RocksDriver, name: string, computes: number): Promise<ClusterRecord> {
    const [description, held] = await Promise.all([driver.describe(), driver.find(name)]);
    const dealt = held && {
      privateCidr: held.plan.privateNetwork.cidr,
      publicIp: held.plan.frontend.publicIp,
      macs: macsOf(held.plan),
    };
    const frontend = { cpus: 1, memory: 64 };
    const wished = { name, numCpus: computes, cpusPerNode: 1, memoryPerNode: 64, frontend };
    const mark = { owner: "tester@example", organization: "o", project: "p", stack: "s", cluster: name };
    return {
      name,
      mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
      site: site.settings,
      plan: planCluster(wished, description, dealt, "site"),
      image: site.backend.image,
      publicKeys: ["ssh-ed25519 AAAA"],
    };
  }

  /** What an `up` does: the cluster, the frontend, the computes, and those that leave. */
  async function up(driver: RocksDriver, wished: ClusterRecord): Promise<void> {
    await driver.allocate(wished);
    await driver.fixImages(wished, SILENT);
    const cluster = (await driver.find(wished.name)) as ClusterRecord;
    const { frontend, computes } = cluster.plan;
    const boot = (node: string, plan: ClusterRecord["plan"]["frontend"]) =>
      driver.boot({ cluster, node } as NodeRef<ClusterRecord>, {
        role: node === "frontend" ? "frontend" : "compute",
        plan,
        ...{ vcOut: "<vc/>", keepDisk: true, power: "on", stop: AT_ONCE, progress: SILENT },
      });
    await boot("frontend", frontend);
    for (const compute of computes) {
      await boot(compute.name, compute as ClusterRecord["plan"]["frontend"]);
    }
    const listed = new Set(["frontend", ...computes.map(({ name }) => name)]);
    for (const node of (await driver.read(wished.name)).keys()) {
      if (!listed.has(node)) {
        await driver.remove({ cluster, node }, AT_ONCE);
      }
    }
  }
});
