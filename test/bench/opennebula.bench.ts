// What clusters of 1+8, 1+32 and 1+128 cost at an OpenNebula, against a stand-in that takes its time: requests, seconds,
// and how both grow. The delays are those that a real oned had (its scheduler's window aside, which is the site's).
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pLimit from "p-limit";
import type { ClusterRecord } from "../../provider/src/drivers/driver";
import { OpenNebulaDriver } from "../../provider/src/drivers/opennebula";
import { configureOneAuth } from "../../provider/src/drivers/opennebula/credentials";
import { planCluster } from "../../provider/src/plan/plan";
import { sha256 } from "../../provider/src/vc-out/digest";
import { standInSite } from "../stand-ins/opennebula/site";

const SIZES = [8, 32, 128];
const DELAYS = { call: 20, network: 100, image: 500, schedule: 2000, prolog: 300, boot: 300, stop: 300, guest: 1000 };
const SILENT = () => undefined;

async function main(): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "vc-one-bench-"));
  process.env.VIRTUAL_CLUSTER_HOME = folder;
  process.stdout.write("computes  requests: create  wait  destroy    seconds: create  wait  destroy\n");
  try {
    for (const computes of SIZES) {
      await measure(computes);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function measure(computes: number): Promise<void> {
  const site = await standInSite(DELAYS);
  configureOneAuth(site.session);
  const settings = {
    driver: "opennebula",
    endpoint: site.endpoint,
    privateTemplate: "vc-private",
    datastore: "images",
    images: "/images",
    readiness: "oneGate",
  } as const;
  const driver = new OpenNebulaDriver(settings);
  const limit = pLimit(driver.capabilities.parallelNodes);
  const steps: Array<{ requests: number; seconds: number }> = [];
  const step = async <T>(work: () => Promise<T>): Promise<T> => {
    const [requests, started] = [site.oned.requests, performance.now()];
    const result = await work();
    steps.push({ requests: site.oned.requests - requests, seconds: (performance.now() - started) / 1000 });
    return result;
  };
  try {
    const disk = (role: string) => ({
      digest: sha256(role),
      size: 16 * 1024 * 1024,
      devices: "virtio" as const,
      rootOffset: 1024 * 1024,
      takesContext: true as const,
      reportsReady: true as const,
    });
    const wish = {
      name: "bench",
      numCpus: computes,
      cpusPerNode: 1,
      memoryPerNode: 64,
      frontend: { cpus: 1, memory: 64 },
    };
    const cluster = await step(async () => {
      const record: ClusterRecord = {
        name: "bench",
        mark: {
          version: 1,
          owner: "o",
          organization: "o",
          project: "p",
          stack: "s",
          cluster: "c",
          createdAt: new Date().toISOString(),
        },
        site: settings,
        plan: planCluster(wish, await driver.describe()),
        image: { vcName: "bench", frontend: disk("frontend"), compute: disk("compute") },
        publicKeys: ["ssh-ed25519 AAAA bench"],
      };
      await driver.allocate(record);
      await driver.fixImages(record, SILENT);
      const held = (await driver.find("bench")) as ClusterRecord;
      const boot = (
        role: "frontend" | "compute",
        plan: ClusterRecord["plan"]["frontend"] | ClusterRecord["plan"]["computes"][number],
        node: string,
      ) =>
        driver.boot(
          { cluster: held, node },
          { role, plan, vcOut: "<vc/>", keepDisk: false, power: "on", stop: { graceSeconds: 0 }, progress: SILENT },
        );
      await boot("frontend", held.plan.frontend, "frontend");
      await Promise.all(held.plan.computes.map((plan) => limit(() => boot("compute", plan, plan.name))));
      return held;
    });
    const nodes = ["frontend", ...cluster.plan.computes.map(({ name }) => name)];
    await step(() =>
      Promise.all(nodes.map((node) => driver.waitFor({ cluster, node }, "ready", { seconds: 120, progress: SILENT }))),
    );
    await step(async () => {
      await Promise.all(nodes.map((node) => limit(() => driver.remove({ cluster, node }, { graceSeconds: 0 }))));
      await driver.release(cluster, { keepBaseImage: false });
    });
  } finally {
    await site.oned.stop();
  }
  const [made, waited, gone] = steps.map(({ requests, seconds }) => [String(requests), seconds.toFixed(1)]) as [
    string[],
    string[],
    string[],
  ];
  const cells = [made[0], waited[0], gone[0], made[1], waited[1], gone[1]].map((cell) => String(cell).padStart(10));
  process.stdout.write(`1+${String(computes).padEnd(6)}${cells.join("")}\n`);
}

main().catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
});
