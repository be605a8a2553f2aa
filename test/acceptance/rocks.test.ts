import { access, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { expect } from "chai";
import { execa } from "execa";
import type { ClusterRecord, NodeRef } from "../../provider/src/drivers/driver";
import { Unreachable } from "../../provider/src/drivers/errors";
import { RocksDriver } from "../../provider/src/drivers/rocks";
import { macsOf, planCluster } from "../../provider/src/plan/plan";
import { differences, type RocksSite, rocksSite } from "../conformance/rocks";
import { RemoteFrontend } from "./rocks-frontend";

const SILENT = () => undefined;
const AT_ONCE = { graceSeconds: 0 };

describe("a Rocks site over ssh, whose containers have disks of their own", function () {
  this.timeout(240_000);
  let site: RocksSite;
  let frontend: RemoteFrontend | undefined;
  let driver: RocksDriver;
  let clean: string;

  before(async function () {
    const programs = ["sshd", "unshare", "ssh-keygen"];
    const path = `${process.env.PATH}:/usr/sbin:/sbin`;
    const found = await Promise.all(
      programs.map((one) => execa("which", [one], { env: { PATH: path }, reject: false })),
    );
    if (process.getuid?.() !== 0 || found.some(({ failed }) => failed)) {
      console.log("    A Rocks site over ssh isn't tested: it takes root, sshd and unshare.");
      this.skip();
    }
    site = await rocksSite(this, { settings: { ssh: "rocks-frontend", sharedDisks: false } });
    clean = JSON.stringify(site.rocks.state);
    frontend = await RemoteFrontend.start(dirname(site.folder), site.folder);
    process.env.PATH = `${frontend.path}:${process.env.PATH}`;
    driver = new RocksDriver(site.settings);
  });

  after(async () => {
    await frontend?.[Symbol.asyncDispose]();
    await site?.backend.tearDown();
  });

  const filesOf = async (container: string) =>
    (await readdir(join(frontend?.containers ?? "", container)).catch(() => [])).sort();

  async function wished(computes: number, dealt = {}): Promise<ClusterRecord> {
    const wish = { numCpus: computes, cpusPerNode: 8, memoryPerNode: 64, frontend: { cpus: 1, memory: 64 } };
    const mark = { owner: "tester@example", organization: "o", project: "p", stack: "s", cluster: "far" };
    return {
      name: "far",
      mark: { version: 1, ...mark, createdAt: "2024-02-29T12:00:00.000Z" },
      site: site.settings,
      plan: planCluster({ ...wish, name: "far" }, await driver.describe(), dealt, "site"),
      image: site.backend.image,
      publicKeys: ["ssh-ed25519 AAAA it's mine"],
    };
  }

  const nodesOf = ({ plan }: ClusterRecord) => ["frontend", ...plan.computes.map(({ name }) => name)];

  it("lives, grows onto another container, and goes", async () => {
    const record = await wished(8);
    await driver.allocate(record);
    const said: string[] = [];
    await driver.fixImages(record, (line) => said.push(line));
    const first = (await driver.find("far")) as ClusterRecord;
    expect(first.plan.frontend.privateMac).to.match(/^0a:64:33/);
    const { frontend: fe, privateNetwork } = first.plan;
    const dealt = { privateCidr: privateNetwork.cidr, publicIp: fe.publicIp, macs: macsOf(first.plan) };
    const grown = await wished(24, dealt);
    await driver.allocate(grown);
    await driver.fixImages(grown, (line) => said.push(line));
    expect(
      said.filter((line) => /^copying the base image to/.test(line)),
      "sent from here",
    ).to.have.length(1);
    const cluster = (await driver.find("far")) as ClusterRecord;
    await Promise.all(
      nodesOf(cluster).map((node) => {
        const plan = [cluster.plan.frontend, ...cluster.plan.computes].find(
          ({ name }) => name === (node === "frontend" ? "far" : node),
        ) as ClusterRecord["plan"]["frontend"];
        const role = node === "frontend" ? "frontend" : "compute";
        const how = {
          vcOut: `<vc>${node}</vc>`,
          keepDisk: false,
          power: "on",
          stop: AT_ONCE,
          progress: SILENT,
        } as const;
        return driver.boot({ cluster, node } as NodeRef<ClusterRecord>, { role, plan, ...how });
      }),
    );
    const machines = await driver.read("far");
    expect([...machines.values()].map(({ state }) => state)).to.deep.equal(Array(4).fill("running"));
    expect([...machines.values()].map(({ diskSize }) => diskSize)).to.deep.equal(Array(4).fill(16));
    const all = [...(await filesOf("vm-container-0-0")), ...(await filesOf("vm-container-0-1"))];
    expect(all.filter((file) => file.endsWith(".vda"))).to.have.length(4);
    expect(
      all.filter((file) => file.endsWith(".raw")),
      "a base on each",
    ).to.have.length(2);
    expect(await driver.inspect(cluster)).to.deep.equal([]);

    await Promise.all(nodesOf(cluster).map((node) => driver.remove({ cluster, node }, AT_ONCE)));
    await driver.release(cluster, { keepBaseImage: false });
    expect([...(await filesOf("vm-container-0-0")), ...(await filesOf("vm-container-0-1"))]).to.deep.equal([]);
    expect(await readdir(site.folder)).to.deep.equal([]);
    expect(differences(JSON.parse(clean), site.rocks.state)).to.deep.equal([]);
  });

  it("gives the lock of a client that was killed to the next", async () => {
    const record = await wished(0);
    const dist = require.resolve("../../provider/dist/drivers/rocks");
    const script = `
      const { RocksDriver } = require(${JSON.stringify(dist)});
      new RocksDriver(${JSON.stringify(site.settings)})
        .lock(${JSON.stringify(record)}, { seconds: 5, progress() {} })
        .then(() => process.kill(process.pid, "SIGKILL"));`;
    const { signal } = await execa(process.execPath, ["-e", script], { reject: false });
    expect(signal).to.equal("SIGKILL");
    const lock = await driver.lock(record, { seconds: 10, progress: SILENT });
    await lock[Symbol.asyncDispose]();
  });

  it("says so when nobody lets it in", async () => {
    const stranger = new RocksDriver({ ...site.settings, ssh: "root@nobody.invalid" });
    const error = await stranger.siteId().catch((error: Error) => error);
    expect(error).to.be.instanceOf(Unreachable);
    await access(site.folder);
  });
});
